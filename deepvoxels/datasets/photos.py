"""A folder of photos to a scene in the released layout.

The released COLMAP wrapper leaves origin, scale and near plane to the user, ignores lens distortion,
and lets a photo without pose shift the pairing of all that follow; here all of that is taken care of.
"""

import json
import os
import tempfile
from pathlib import Path

import cv2
import torch
from torch import Tensor

from deepvoxels.datasets.volume_fit import fit_volume
from shared.errors import DataError
from shared.files.cameras import DeepVoxelsIntrinsics, write_deepvoxels_intrinsics, write_pose
from shared.files.colmap import ColmapCamera
from shared.files.disk import new_folder, write_bytes
from shared.files.images import read_image, undistort_image, write_image
from shared.files.listing import distinct_stems
from shared.files.maps import write_ply
from shared.files.sfm import SfmOptions, SfmScene, reconstruct
from shared.geometry.camera import crop_intrinsics, resize_intrinsics

__all__ = ["prepare_photos"]


def prepare_photos(
    photo_dir: str | os.PathLike, out_dir: str | os.PathLike, options: SfmOptions | None = None
) -> list[str]:
    """Find poses, undistort, and write a scene whose grid origin, scale and near plane are fitted.

    Writes rgb/ (the square in the middle of each photo), pose/, intrinsics.txt, sparse.ply (COLMAP's points)
    and photos.json (which photo became which view). `out_dir` appears only when everything has succeeded.
    World units are COLMAP's, which are arbitrary. Returns the photos that no pose was found for; raises what
    `shared.files.sfm.reconstruct` raises, and DataError when the cameras look at nothing in common.
    """
    with new_folder(out_dir) as folder, tempfile.TemporaryDirectory() as temporary:
        found = reconstruct(photo_dir, Path(temporary) / "sfm", options)
        side, K = _common_camera(list(found.model.cameras.values()))
        names = distinct_stems(sorted(image.name for image in found.model.images.values()))
        for image in found.model.images.values():
            photo = read_image(found.image_dir / image.name, background=(1.0, 1.0, 1.0))
            view = _seen_by(photo, found.model.cameras[image.camera_id].intrinsics(), K, side)
            write_image(folder / "rgb" / f"{names[image.name]}.png", view)
            write_pose(folder / "pose" / f"{names[image.name]}.txt", image.world_from_cam)
        write_deepvoxels_intrinsics(folder / "intrinsics.txt", _intrinsics(photo_dir, found, K, side))
        write_ply(folder / "sparse.ply", found.model.points.xyz, found.model.points.rgb)
        record = {"photos": {names[name]: name for name in sorted(names)}, "unregistered": found.unregistered}
        write_bytes(folder / "photos.json", (json.dumps(record, indent=2) + "\n").encode())
    return found.unregistered


def _common_camera(cameras: list[ColmapCamera]) -> tuple[int, Tensor]:
    """Side and K [3, 3] of the square camera that all views get: the format has one intrinsics.txt for all.

    With one camera it is the square in the middle of the photos. With several, it has the narrowest view and
    the fewest pixels among them, so that every photo fills it.
    """
    sides = [min(camera.height, camera.width) for camera in cameras]
    if len(cameras) == 1:
        camera, side = cameras[0], sides[0]
        left, top = (camera.width - side) // 2, (camera.height - side) // 2
        return side, crop_intrinsics(camera.intrinsics(), left, top)
    side = min(sides)
    pairs = zip(cameras, sides, strict=True)
    focal = max(camera.intrinsics()[0, 0].item() / camera_side for camera, camera_side in pairs) * side
    centre = (side - 1) / 2
    return side, torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1]], dtype=torch.float64)


def _seen_by(photo: Tensor, K_photo: Tensor, K: Tensor, side: int) -> Tensor:
    """The undistorted photo [3, H, W] as the common camera sees it, [3, side, side]."""
    shift = K_photo - K
    left, top = round(shift[0, 2].item()), round(shift[1, 2].item())
    if torch.allclose(crop_intrinsics(K_photo, left, top), K, atol=1e-6):
        return photo[:, top : top + side, left : left + side]  # a plain cut, no resampling
    height, width = photo.shape[1:]
    scale = K[0, 0].item() / K_photo[0, 0].item()
    size = round(height * scale), round(width * scale)
    smaller = cv2.resize(photo.permute(1, 2, 0).numpy(), size[::-1], interpolation=cv2.INTER_AREA)
    K_smaller = resize_intrinsics(K_photo, (height, width), size)
    image = torch.from_numpy(smaller).permute(2, 0, 1)
    return undistort_image(image, K_smaller, torch.zeros(4), K, (side, side))[0]


def _intrinsics(photo_dir: str | os.PathLike, found: SfmScene, K: Tensor, side: int) -> DeepVoxelsIntrinsics:
    poses = torch.stack([image.world_from_cam for image in found.model.images.values()])
    try:
        volume = fit_volume(poses, K.expand(len(poses), -1, -1), side, found.model.points.xyz)
    except ValueError as error:
        raise DataError(photo_dir, str(error), "Take photos from all round one thing, facing it") from None
    return DeepVoxelsIntrinsics(
        focal_px=K[0, 0].item(),
        cx_px=K[0, 2].item(),
        cy_px=K[1, 2].item(),
        grid_origin=volume.origin,
        near=volume.near,
        grid_side_length=volume.side_length,
        sensor_height=side,
        sensor_width=side,
    )
