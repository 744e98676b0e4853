"""Embedded scenes: rendered on first use and written in the official layout of the DeepVoxels data set.

    ROOT/NAME-HASH/{train,validation,test}/NAME/
        intrinsics.txt  rgb/NNNNNN.png  pose/NNNNNN.txt  depth/NNNNNN.png

Like the released scenes: an object in the unit cube on white, cameras that look at the origin from a fixed
distance above the ground plane, training views spread evenly over the northern hemisphere, test views on the
paper's Archimedean spiral, depth as uint16 * 1e-4 z-depth with the background at exactly 1.0 (10000).
Unlike them, the intrinsics refer to the image's own size, so K is exact with pixel centres at integers.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepvoxels.config import EmbeddedConfig
from shared.files.cameras import DeepVoxelsIntrinsics, write_deepvoxels_intrinsics, write_pose
from shared.files.disk import made_once
from shared.files.images import write_image
from shared.files.maps import write_depth_png
from shared.geometry.camera import intrinsics_matrix, look_at
from shared.geometry.trajectories import spiral_trajectory
from shared.runs.command import rendering

__all__ = ["DEPTH_BACKGROUND", "DEPTH_UNIT", "EmbeddedScene", "hemisphere_poses", "make_embedded_scene"]

CAMERA_RADIUS = 1.7
GRID_SCALE = 1.0
DEPTH_UNIT = 1e-4  # of the released depth maps, in scene units
DEPTH_BACKGROUND = 10000
ANTIALIAS = 3  # rays per pixel and axis
_FOCAL_PER_SIDE = 525 / 480  # the released scenes' vertical field of view, as far as it is known


class EmbeddedScene(NamedTuple):
    """Folders of the three splits of one scene."""

    train: Path
    validation: Path
    test: Path


def make_embedded_scene(
    root: Path, name: str, options: EmbeddedConfig, say: Callable[[str], None] = lambda text: None
) -> EmbeddedScene:
    """Render the scene `name` below `root`, unless it is there already with the same options.

    Raises DataError when nothing can be written there.
    """
    from scenes import SCENES_VERSION, make_object, render  # here, as only embedded data need it

    record = {"generator": "scenes", "version": SCENES_VERSION, "name": name, "antialias": ANTIALIAS}

    def write(folder: Path) -> None:
        picture = partial(render, make_object(name, options.seed))
        for split, poses in _split_poses(options).items():
            _write_split(folder / split / name, picture, poses, options.image_side)

    made = made_once(root / name, record | dataclasses.asdict(options), write, say)
    return EmbeddedScene(*(made / split / name for split in ("train", "validation", "test")))


def hemisphere_poses(count: int, offset: int = 0) -> Tensor:
    """`world_from_cam` [count, 4, 4] float64, evenly over the northern hemisphere, looking at the origin.

    Points `offset`, `offset` + 1, ... of the R2 low-discrepancy sequence (Roberts 2018) mapped with equal
    area, so every prefix is spread evenly as well.
    """
    golden = 1.32471795724474602596  # the real root of x^3 = x + 1
    index = torch.arange(offset + 1, offset + count + 1, dtype=torch.float64)
    height = (0.5 + index / golden) % 1.0
    azimuth = 2 * math.pi * ((0.5 + index / golden**2) % 1.0)
    level = (1 - height**2).sqrt()
    position = CAMERA_RADIUS * torch.stack([level * azimuth.cos(), level * azimuth.sin(), height], 1)
    return look_at(position)


def _split_poses(options: EmbeddedConfig) -> dict[str, Tensor]:
    """World-from-camera poses per split; the seed moves training and validation views along the sequence."""
    start = 1000 * options.seed
    spiral = spiral_trajectory(1000, CAMERA_RADIUS, dtype=torch.float64)
    chosen = torch.linspace(0, 999, options.test_views).round().long()
    return {
        "train": hemisphere_poses(options.train_views, start),
        "validation": hemisphere_poses(options.validation_views, start + options.train_views),
        "test": spiral[chosen],
    }


def _write_split(folder: Path, picture: Callable[..., Any], poses: Tensor, side: int) -> None:
    focal, centre = _FOCAL_PER_SIDE * side, (side - 1) / 2
    K = intrinsics_matrix(focal, focal, centre, centre)
    near = CAMERA_RADIUS - math.sqrt(3) / 2 * GRID_SCALE
    camera = DeepVoxelsIntrinsics(focal, centre, centre, (0.0, 0.0, 0.0), near, GRID_SCALE, side, side)
    write_deepvoxels_intrinsics(folder / "intrinsics.txt", camera)
    for index, pose in enumerate(rendering(poses.float(), len(poses))):
        view = picture(K, pose, side, side, ANTIALIAS)
        write_pose(folder / "pose" / f"{index:06d}.txt", pose)
        write_image(folder / "rgb" / f"{index:06d}.png", view.image)
        depth = folder / "depth" / f"{index:06d}.png"
        write_depth_png(depth, view.depth, view.mask, unit_m=DEPTH_UNIT, invalid=DEPTH_BACKGROUND)
