"""Your own posed images: a folder with transforms.json (NeRF's layout), made of photos through COLMAP."""

import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from nvs_depth.datasets.views import Framing, ViewSet
from shared.files.cameras import read_nerf_scene
from shared.files.colmap import ColmapImage, ColmapModel
from shared.files.disk import new_folder, write_bytes
from shared.files.sfm import SfmOptions, reconstruct
from shared.geometry.camera import invert_pose, opencv_from_opengl_pose, transform_points

__all__ = ["load_posed", "prepare_photos"]

MEDIAN_DEPTH = 2.0  # scene units: the middle of the depths that the object ranges hold


def load_posed(folder: Path, framing: Framing, units_per_scene_unit: float = 1.0, **options: Any) -> ViewSet:
    """All frames of transforms.json (or transforms_{train,val,test}.json) as one group, in the file's order.

    units_per_scene_unit: factor on all translations, to bring depths into the range of the network (objects:
    about 1 to 3; scenes: 0.1 to 100). options: of `read_nerf_scene`. Lens distortion is undone; depth is not
    read. Of images of several sizes those of the commonest are taken.
    """
    listing = read_nerf_scene(folder, **options)
    ((size, count),) = Counter((frame.height, frame.width) for frame in listing.frames).most_common(1)
    notes = list(listing.notes)
    if listing.missing:
        notes.append(f"{len(listing.missing)} images of transforms.json are missing")
    if count < len(listing.frames):
        others = [frame.name for frame in listing.frames if (frame.height, frame.width) != size]
        names = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        notes.append(f"{len(others)} images are not {size[1]} x {size[0]} like most, left out: {names}")
    if not units_per_scene_unit > 0:
        raise ValueError(f"units_per_scene_unit must be positive, got {units_per_scene_unit}")
    frames = [frame for frame in listing.frames if (frame.height, frame.width) == size]
    poses = torch.stack([frame.world_from_cam for frame in frames])
    poses[:, :3, 3] *= units_per_scene_unit
    return ViewSet(
        path=folder,
        layout="posed",
        framing=framing,
        names=[frame.name for frame in frames],
        groups=["scene"] * len(frames),
        images=[frame.image_path for frame in frames],
        world_from_cam=poses,
        K_stored=torch.stack([frame.K for frame in frames]),
        stored_hw=size,
        coordinates=torch.tensor([(index, 0) for index in range(len(frames))]),
        distortion=torch.stack([frame.distortion for frame in frames]),
        orientations=[frame.orientation for frame in frames],
        held_out=listing.held_out,
        notes=tuple(notes),
    )


def prepare_photos(
    photo_dir: str | os.PathLike, out_dir: str | os.PathLike, options: SfmOptions | None = None
) -> list[str]:
    """Find poses, undistort, and write images/ and transforms.json; returns the photos without a pose.

    COLMAP's unit of length is arbitrary: the scene is scaled so that the sparse points are 2 units before the
    cameras on median. `out_dir` appears only when everything has succeeded. Raises what
    `shared.files.sfm.reconstruct` raises.
    """
    with tempfile.TemporaryDirectory() as temporary, new_folder(out_dir) as folder:
        found = reconstruct(photo_dir, Path(temporary) / "sfm", options)
        shutil.copytree(found.image_dir, folder / "images")
        scale = MEDIAN_DEPTH / _median_depth(found.model)
        images = sorted(found.model.images.values(), key=lambda image: image.name)
        record = {"frames": [_frame(found.model, image, scale) for image in images]}
        write_bytes(folder / "transforms.json", (json.dumps(record, indent=2) + "\n").encode())
    return found.unregistered


def _median_depth(model: ColmapModel) -> float:
    """Median z-depth of all sparse points in all cameras, behind which they are not."""
    depths = [
        transform_points(invert_pose(image.world_from_cam), model.points.xyz)[:, 2]
        for image in model.images.values()
    ]
    joined = torch.cat(depths)
    return joined[joined > 0].median().item()


def _frame(model: ColmapModel, image: ColmapImage, scale: float) -> dict[str, Any]:
    """A frame as transforms.json has it: OpenGL axes, pixels counted from the corner of the image."""
    camera = model.cameras[image.camera_id]
    K = camera.intrinsics()
    pose = image.world_from_cam.clone()
    pose[:3, 3] *= scale
    return {
        "file_path": f"images/{image.name}",
        "transform_matrix": opencv_from_opengl_pose(pose).tolist(),  # its own inverse
        "fl_x": K[0, 0].item(),
        "fl_y": K[1, 1].item(),
        "cx": K[0, 2].item() + 0.5,
        "cy": K[1, 2].item() + 0.5,
        "w": camera.width,
        "h": camera.height,
    }
