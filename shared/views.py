"""New views on disk, and the cameras they are wanted from: the same files for every paper's `predict.py`."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.camera import check_pose
from shared.camera_files import read_pose
from shared.files import DataError, read_text, write_image, write_pfm
from shared.run_folder import write_json

__all__ = ["read_camera_path", "write_views"]

REMEDY = "Give a 4x4 camera-to-world pose per frame: 16 numbers on a line of a file, or in files of a folder"


def read_camera_path(path: str | os.PathLike) -> Tensor:
    """Poses [N, 4, 4] (float64, OpenCV axes) of a path, one per frame; 16 numbers each, row by row.

    path: a text file with a pose on every line, or a folder of *.txt files with one each, in the order of
    their names. Raises DataError naming file and line for anything but rigid poses of finite numbers.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise DataError(path, "holds no pose files", REMEDY)
        return torch.stack([read_pose(file) for file in files])
    poses = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = torch.tensor([float(word) for word in line.split()], dtype=torch.float64)
            if len(values) != 16:
                raise ValueError(f"line {number}: {len(values)} numbers instead of 16")
            check_pose(values.reshape(4, 4), f"line {number}")
        except ValueError as error:
            raise DataError(path, str(error), REMEDY) from None
        poses.append(values.reshape(4, 4))
    if not poses:
        raise DataError(path, "holds no poses", REMEDY)
    return torch.stack(poses)


def write_views(
    folder: Path, views: Iterable[tuple[Tensor, Tensor | None]], depth_facts: Mapping[str, Any]
) -> None:
    """Write view_NNNN.png, and where there is depth depth_NNNN.pfm and depth.json, which says what it means.

    views: images [3, H, W] in [0, 1], each with its depth [h, w] or None. depth_facts: quantity, unit, scale,
    invalid, and whatever else a reader of the depth has to know.
    """
    with_depth = False
    for index, (image, depth) in enumerate(views):
        write_image(folder / f"view_{index:04d}.png", image)
        if depth is not None:
            write_pfm(folder / f"depth_{index:04d}.pfm", depth)
            with_depth = True
    if with_depth:
        write_json(folder / "depth.json", depth_facts)
