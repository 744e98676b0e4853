"""Embedded scenes: rendered on first use and written in the official layout of the DeepVoxels data set.

    <out_dir>/{train,validation,test}/<name>/
        intrinsics.txt  rgb/NNNNNN.png  pose/NNNNNN.txt  depth/NNNNNN.png  embedded.json

Like the released scenes: an object in the unit cube on white, cameras that look at the origin from a fixed
distance above the ground plane, training views spread evenly over the northern hemisphere, test views on the
paper's Archimedean spiral, depth as uint16 * 1e-4 z-depth with the background at exactly 1.0 (10000).
Unlike them, the intrinsics refer to the image's own size, so K is exact with pixel centres at integers.
"""

import json
import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from scenes import SCENES_VERSION, Scene, make_object, render
from shared.errors import DataError
from shared.files.disk import temporary_neighbour, write_bytes
from shared.files.images import write_depth_png, write_image
from shared.geometry.camera import look_at
from shared.geometry.trajectories import spiral_trajectory

__all__ = ["EMBEDDED_NAMES", "EmbeddedScene", "hemisphere_poses", "make_embedded_scene"]

EMBEDDED_NAMES = ("cube", "vase", "pedestal", "chair")
CAMERA_RADIUS = 1.7
GRID_SCALE = 1.0
DEPTH_UNIT = 1e-4
DEPTH_BACKGROUND = 10000
_FOCAL_PER_SIDE = 525 / 480  # the released scenes' vertical field of view, as far as it is known
_MARKER = "embedded.json"
_SPLITS = ("train", "validation", "test")


class EmbeddedScene(NamedTuple):
    """Folders of the three splits of one scene."""

    train: Path
    validation: Path
    test: Path


def make_embedded_scene(
    out_dir: str | os.PathLike,
    name: str = "cube",
    image_side: int = 128,
    train_views: int = 128,
    validation_views: int = 8,
    test_views: int = 64,
    seed: int = 0,
    antialias: int = 3,
) -> EmbeddedScene:
    """Render one of `EMBEDDED_NAMES` into `out_dir`, unless it is there already with the same options.

    Each split is made in a temporary folder and moved into place whole, with its options in `embedded.json`.
    A folder of the same name without that file is never touched. Raises ValueError for an unknown name or
    sizes below 1, and DataError when such a folder is in the way or nothing can be written.
    """
    out_dir = Path(out_dir)
    counts = {"train": train_views, "validation": validation_views, "test": test_views}
    if name not in EMBEDDED_NAMES:
        raise ValueError(f"unknown embedded scene {name!r}; there are {', '.join(EMBEDDED_NAMES)}")
    if image_side < 8 or antialias < 1 or min(counts.values()) < 1:
        raise ValueError(f"needs image_side >= 8 and at least one view per split, got {image_side}, {counts}")
    options = {"name": name, "image_side": image_side, "views": counts, "seed": seed, "antialias": antialias}
    record = {"generator": "scenes", "version": SCENES_VERSION, **options}
    folders = EmbeddedScene(*(out_dir / split / name for split in _SPLITS))
    if all(_is_current(folder, record) for folder in folders):
        return folders
    for folder in folders:
        if folder.exists() and not (folder / _MARKER).is_file():
            remedy = "Choose another folder for the embedded scenes: this one is not theirs to replace"
            raise DataError(folder, f"exists already and holds no {_MARKER}", remedy)
    scene, K, poses = make_object(name, seed), intrinsics_of(image_side), _split_poses(counts, seed)
    with temporary_neighbour(out_dir / name) as temporary:
        for split in _SPLITS:
            _write_split(temporary / split, scene, K, poses[split], image_side, antialias)
            write_bytes(temporary / split / _MARKER, (json.dumps(record, indent=2) + "\n").encode())
        for split, folder in zip(_SPLITS, folders, strict=True):
            if _is_current(folder, record):  # another process was faster
                continue
            if folder.exists():
                shutil.rmtree(folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / split, folder)
    return folders


def intrinsics_of(image_side: int) -> Tensor:
    """K [3, 3] float32 of the square images, principal point in their middle."""
    focal, centre = _FOCAL_PER_SIDE * image_side, (image_side - 1) / 2
    return torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1]], dtype=torch.float32)


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


def _split_poses(counts: dict[str, int], seed: int) -> dict[str, Tensor]:
    """World-from-camera poses per split; the seed moves training and validation views along the sequence."""
    start = 1000 * seed
    spiral = spiral_trajectory(1000, CAMERA_RADIUS, dtype=torch.float64)
    chosen = torch.linspace(0, 999, counts["test"]).round().long()
    return {
        "train": hemisphere_poses(counts["train"], start),
        "validation": hemisphere_poses(counts["validation"], start + counts["train"]),
        "test": spiral[chosen],
    }


def _write_split(folder: Path, scene: Scene, K: Tensor, poses: Tensor, side: int, antialias: int) -> None:
    near = CAMERA_RADIUS - math.sqrt(3) / 2 * GRID_SCALE
    focal, centre = float(K[0, 0]), float(K[0, 2])
    lines = [f"{focal:.17g} {centre:.17g} {centre:.17g} 0", "0 0 0", f"{near:.17g}", f"{GRID_SCALE:g}"]
    write_bytes(folder / "intrinsics.txt", ("\n".join([*lines, f"{side} {side}"]) + "\n").encode())
    for index, pose in enumerate(poses.float()):
        view = render(scene, K, pose, side, side, antialias)
        stem = f"{index:06d}"
        numbers = " ".join(f"{number:.9g}" for number in pose.flatten().tolist())
        write_bytes(folder / "pose" / f"{stem}.txt", (numbers + "\n").encode())
        write_image(folder / "rgb" / f"{stem}.png", view.image)
        depth = folder / "depth" / f"{stem}.png"
        write_depth_png(depth, view.depth, view.mask, unit_m=DEPTH_UNIT, invalid=DEPTH_BACKGROUND)


def _is_current(folder: Path, record: dict) -> bool:
    """True when the folder was made with exactly these options and still holds all its pictures."""
    try:
        made = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return made == record and len(list((folder / "rgb").glob("*.png"))) == record["views"][folder.parent.name]
