"""Photos whose cameras are not known to a folder of posed images, through COLMAP (extra `colmap`)."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from shared.files.colmap import ColmapImage, ColmapModel
from shared.files.disk import new_folder, write_bytes
from shared.files.sfm import SfmOptions, reconstruct
from shared.geometry.camera import invert_pose, opencv_from_opengl_pose, transform_points

__all__ = ["prepare_photos"]

MEDIAN_DEPTH = 2.0  # scene units: the middle of the depths that the object ranges hold


def prepare_photos(
    photo_dir: str | os.PathLike, out_dir: str | os.PathLike, options: SfmOptions | None = None
) -> list[str]:
    """Find poses, undistort, and write images/ and transforms.json; returns the photos without a pose.

    COLMAP's unit of length is arbitrary: the scene is scaled so that the sparse points lie 2 units before the
    cameras on median. `out_dir` appears only when everything has succeeded. Raises what
    `shared.sfm.reconstruct` raises.
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
