"""Mobile Depth (Suwajanakorn et al. 2015): hand-held phone stacks, aligned by their authors, without truth.

    <root>/<scene>/a*.jpg               aligned frames, 14 to 33
    <root>/<scene>/calibrated.txt       a row per frame, "focal_depth aperture"; last row: the focal length
    <root>/<scene>/focus_dpth.txt       or this: the focal depths alone, one per line

The scale of the calibration is arbitrary. The released code divides the focal depths by 39.37, taking them
for inches, and invents 50 mm, f/24 and 5.6 um; both are kept as the named switch `released`. By default
only the order and spacing of the focus is trusted, and depth comes out ordered, not metric.
"""

import math
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from dfd_selfsup.datasets.folder import list_slices
from dfd_selfsup.datasets.stack import FocalStack, read_slices
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.errors import DataError
from shared.files.disk import read_text

__all__ = ["load_mobile_depth", "read_focal_depths"]

RELEASED_LENS = Lens(focal_length_mm=50, f_number=24, pixel_pitch_um=5.6)
INCHES_PER_METRE = 39.37
BACK_TO_FRONT = ("metals",)  # frames of these scenes run the other way
UNRELIABLE_RATIO = 10.0  # a calibration that spans more is not believed, as in DFV's loader


def load_mobile_depth(
    folder: str | Path, lens: Literal["unknown", "released"] = "unknown", max_side: int = 0
) -> FocalStack:
    """One scene's stack, nearest focus first, shrunk to `max_side` pixels if that is given (0: as it is)."""
    folder = Path(folder)
    paths = list_slices(folder) if folder.is_dir() else []
    paths = [path for path in paths if path.name.startswith("a")] or paths
    if len(paths) < 2:
        raise DataError(folder, f"holds {len(paths)} frames", "Name the folder of one aligned scene (a*.jpg)")
    depths = read_focal_depths(folder)
    if depths is not None and len(depths) != len(paths):
        reason = f"the calibration has {len(depths)} focal depths for {len(paths)} frames"
        raise DataError(folder, reason, "Unpack frames and calibration of the same scene")
    images = read_slices(paths)
    if max_side and max(images.shape[-2:]) > max_side:
        scale = max_side / max(images.shape[-2:])
        size = [max(16, round(side * scale)) for side in images.shape[-2:]]
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
    if lens == "released":
        return _released_stack(folder, images, depths)
    order = list(range(len(paths)))
    trusted = depths is not None and min(depths) > 0 and max(depths) / min(depths) <= UNRELIABLE_RATIO
    if trusted and len(set(depths)) == len(depths):
        order.sort(key=lambda index: depths[index])
    elif folder.name in BACK_TO_FRONT:
        order.reverse()
    return FocalStack(folder.name, images[order], Defocus.ordered(len(order)))


def read_focal_depths(folder: Path) -> list[float] | None:
    """Focal depths in the calibration's own unit, in the frames' order; None without a calibration."""
    for name, first_only in (("focus_dpth.txt", False), ("calibrated.txt", True)):
        path = folder / name
        if not path.exists():
            continue
        rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
        try:
            values = [float(row[0]) for row in rows]
        except ValueError as error:
            raise DataError(path, f"holds something else than numbers ({error})", "Unpack it again") from None
        if not all(map(math.isfinite, values)):
            raise DataError(path, "holds focal depths that are not finite", "Unpack it again")
        return values[:-1] if first_only else values  # the last row of calibrated.txt is the focal length
    return None


def _released_stack(folder: Path, images: torch.Tensor, depths: list[float] | None) -> FocalStack:
    if depths is None:
        reason = "holds neither focus_dpth.txt nor calibrated.txt"
        raise DataError(folder, reason, "Use lens=unknown, which needs no calibration")
    focus = [value / INCHES_PER_METRE for value in depths]
    order = sorted(range(len(focus)), key=lambda index: focus[index])
    try:
        defocus = Defocus.thin_lens(RELEASED_LENS, [focus[index] for index in order])
    except ValueError as error:
        raise DataError(
            folder, str(error), "Use lens=unknown, which does not trust the calibration"
        ) from None
    notes = ("lens and unit of the focus distances are the released code's guesses",)
    return FocalStack(folder.name, images[order], defocus, RELEASED_LENS, notes=notes)
