"""The HCI 4D light field benchmark (Honauer et al., ACCV 2016) and everything in its layout.

input_Cam000.png ... input_Cam080.png   index = row * 9 + column; rows downwards, columns to the right
parameters.cfg                          camera; without it depth in metres is unknown
gt_disp_lowres.pfm, gt_depth_lowres.pfm truth of the centre view: px between adjacent views, metres
"""

import configparser
import math
import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffdiffdepth.datasets.grid import ViewChoice, read_grid
from diffdiffdepth.scene import GridCamera, LightField
from shared.errors import DataError
from shared.files.disk import read_text, visible
from shared.files.maps import read_pfm

__all__ = ["is_hci_folder", "load_hci"]

VIEW_NAME = re.compile(r"^input_Cam(?P<number>\d+)\.(png|jpe?g|tiff?|bmp|webp)$", re.I)


def _views(folder: str | os.PathLike) -> dict[int, Path]:
    """The views by their numbers; of two files with one number, a PNG."""
    found = sorted(visible(folder), key=lambda path: path.suffix.lower() == ".png")
    return {int(match["number"]): path for path in found if (match := VIEW_NAME.match(path.name))}


def is_hci_folder(folder: str | os.PathLike) -> bool:
    """Tell whether the folder holds views named as in the benchmark."""
    return bool(_views(folder))


def _read_camera(folder: str | os.PathLike) -> GridCamera | None:
    """Read `parameters.cfg`; None if the folder has none. Raises DataError for a missing or wrong value."""
    path = Path(folder) / "parameters.cfg"
    if not path.exists():
        return None
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path))
    except configparser.Error as error:
        raise DataError(path, f"is not an INI file ({str(error).splitlines()[0]})", "Copy it again") from None

    def number(section: str, key: str, kind: type = float):
        if not parser.has_option(section, key):
            remedy = "Copy the file again, from lightfield-analysis.uni-konstanz.de"
            raise DataError(path, f"has no {key} in [{section}]", remedy)
        text = parser.get(section, key)
        try:
            value = kind(float(text))
        except (ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value) or value <= 0:
            raise DataError(path, f"{key} is {text!r}, not a positive number", "Correct the value")
        return value

    return GridCamera(
        width=number("intrinsics", "image_resolution_x_px", int),
        height=number("intrinsics", "image_resolution_y_px", int),
        focal_length_mm=number("intrinsics", "focal_length_mm"),
        sensor_size_mm=number("intrinsics", "sensor_size_mm"),
        num_cams_x=number("extrinsics", "num_cams_x", int),
        num_cams_y=number("extrinsics", "num_cams_y", int),
        baseline_mm=number("extrinsics", "baseline_mm"),
        focus_distance_m=number("extrinsics", "focus_distance_m"),
    )


def load_hci(folder: str | os.PathLike, views: ViewChoice = "all") -> LightField:
    """Load a light field in the benchmark's layout, with its truth if the folder holds it.

    `views`: all, or only the row and the column of the centre view. Raises DataError for missing views, a
    grid that is not square with an odd side, mixed sizes, and truth or parameters that do not fit.
    """
    folder = Path(folder)
    camera = _read_camera(folder)
    numbered = _views(folder)
    side = _grid_side(folder, camera, numbered.keys())
    paths = {divmod(number, side): numbered[number] for number in range(side * side)}
    light_field = read_grid(folder, paths, (side // 2, side // 2), views)
    size = tuple(light_field.centre.shape[-2:])
    if camera is not None and size != (camera.height, camera.width):
        found = f"{size[1]} x {size[0]}, parameters.cfg says {camera.width} x {camera.height}"
        raise DataError(folder, f"the views have {found}", "Both must come from the same scene")
    truth, valid = _read_truth(folder, camera, size)
    return replace(light_field, truth=truth, valid=valid, camera=camera)


def _grid_side(folder: Path, camera: GridCamera | None, numbers: Collection[int]) -> int:
    """Views along each side of the grid, after a look at which of them are there."""
    count = max(numbers, default=-1) + 1
    side = math.isqrt(count) if camera is None else camera.num_cams_x
    if camera is None and side * side != count:
        reason = f"{len(numbers)} views, the last of them number {count - 1}, do not fill a square grid"
        remedy = "The grid must be square, e.g. 9 x 9: input_Cam000 to input_Cam080"
        raise DataError(folder, reason, remedy)
    if camera is not None and side != camera.num_cams_y:
        reason = f"the grid is {side} x {camera.num_cams_y}, not square"
        raise DataError(folder / "parameters.cfg", reason, "Use a square one, e.g. 9 x 9")
    first = next((number for number in range(side * side) if number not in numbers), None)
    if first is not None:  # a header may claim millions of views: only the first is looked for
        lacking = side * side - sum(number < side * side for number in numbers)
        reason = f"{lacking} of {side * side} views are missing, first input_Cam{first:03d}.png"
        raise DataError(folder, reason, "Copy them")
    if side % 2 == 0 or side < 3:
        raise DataError(folder, f"a {side} x {side} grid has no centre view", "It must be odd: 3, 5, 7, 9")
    return side


def _read_truth(
    folder: Path, camera: GridCamera | None, size: tuple[int, int]
) -> tuple[Tensor | None, Tensor | None]:
    """Disparity of the centre view and its validity, from the disparity or the depth file."""
    disparity_file, depth_file = folder / "gt_disp_lowres.pfm", folder / "gt_depth_lowres.pfm"
    if disparity_file.exists():
        path, truth = disparity_file, read_pfm(disparity_file)
    elif depth_file.exists() and camera is not None:
        path, depth = depth_file, read_pfm(depth_file)
        truth = torch.where(depth > 0, camera.disparity_from_depth(depth), torch.nan)
    else:
        return None, None
    if tuple(truth.shape) != size:
        reason = f"has {tuple(truth.shape)} values, the views are {size[1]} x {size[0]}"
        raise DataError(path, reason, "Use the lowres file of the same scene")
    valid = truth.isfinite()
    if not valid.any():
        raise DataError(path, "holds no finite value", "Copy it again")
    return torch.where(valid, truth, 0.0), None if valid.all() else valid
