"""Mobile Depth (Suwajanakorn et al. 2015): hand-held phone stacks, aligned by their authors, without truth.

    <root>/<scene>/a*.jpg               aligned frames, 14 to 33
    <root>/<scene>/calibrated.txt       a row per frame, "focal_depth aperture"; last row: the focal length
    <root>/<scene>/focus_dpth.txt       or this: the focal depths alone, one per line

The scale of the calibration is arbitrary. The released code divides the focal depths by 39.37, taking them
for inches, and invents 50 mm, f/24 and 5.6 um: that is `lens="released"`. With `unknown` only the order of
the focus is trusted, and depth comes out ordered, not metric.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

from torch import Tensor

from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.folder import Order, list_slices, stack_folders
from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader, open_slices
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.errors import DataError
from shared.files.disk import read_text

__all__ = ["is_mobile_depth", "load_mobile_depth", "mobile_depth_splits", "open_mobile_depth"]
__all__ += ["read_focal_depths"]

CALIBRATIONS = ("focus_dpth.txt", "calibrated.txt")
RELEASED_LENS = Lens(focal_length_mm=50, f_number=24, pixel_pitch_um=5.6)
INCHES_PER_METRE = 39.37
BACK_TO_FRONT = ("metals",)  # frames of these scenes run the other way
UNRELIABLE_RATIO = 10.0  # a calibration that spans more is not believed, as in DFV's loader


def mobile_depth_splits(root: Path, config: DataConfig) -> dict[str, list[Loader]]:
    """Loaders of all scenes, in every split alike: there is no truth, and each is trained on itself."""
    scenes = stack_folders(root)
    if not scenes:
        raise DataError(root, "holds no folder of a scene", "Unpack the Mobile Depth data there")
    return {split: [partial(load_mobile_depth, scene, config.lens) for scene in scenes] for split in SPLITS}


def is_mobile_depth(folder: str | Path) -> bool:
    """Whether a folder holds a scene with its calibration."""
    return any((Path(folder) / name).is_file() for name in CALIBRATIONS)


def load_mobile_depth(folder: str | Path, lens: Literal["unknown", "released"] = "unknown") -> FocalStack:
    """One scene's stack, nearest focus first, in memory."""
    return open_mobile_depth(folder, lens=lens).loaded()


def open_mobile_depth(
    folder: str | Path, order: Order | None = None, lens: Literal["unknown", "released"] = "unknown"
) -> FocalStack:
    """One scene's stack, nearest focus first, its frames not yet read; order: if no calibration tells it."""
    folder = Path(folder)
    paths, notes = list_slices(folder)
    aligned = [path for path in paths if path.name.startswith("a")]
    photos, more = open_slices(aligned if len(aligned) > 1 else paths)
    depths = read_focal_depths(folder)
    if depths is not None and len(depths) != len(photos):
        reason = f"the calibration has {len(depths)} focal depths for {len(photos)} frames"
        raise DataError(folder, reason, "Unpack frames and calibration of the same scene")
    notes += more
    if lens == "released":
        defocus, sequence = _released_defocus(folder, depths)
        notes.append("lens and unit of the focus distances are the released code's guesses")
    else:
        sequence, defocus = list(range(len(photos))), Defocus.ordered(len(photos))
        trusted = depths is not None and min(depths) > 0 and max(depths) / min(depths) <= UNRELIABLE_RATIO
        if trusted and len(set(depths)) == len(depths):
            sequence.sort(key=lambda index: depths[index])
        elif order == "far_to_near" or (order is None and folder.name in BACK_TO_FRONT):
            sequence.reverse()
    photos = replace(photos, paths=tuple(photos.paths[index] for index in sequence))
    known = RELEASED_LENS if lens == "released" else None
    return FocalStack(folder.resolve().name, cast("Tensor", photos), defocus, known, notes=tuple(notes))


def read_focal_depths(folder: Path) -> list[float] | None:
    """Focal depths in the calibration's own unit, in the frames' order; None without a calibration."""
    for name in CALIBRATIONS:
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
        return values[:-1] if name == "calibrated.txt" else values  # its last row is the focal length
    return None


def _released_defocus(folder: Path, depths: list[float] | None) -> tuple[Defocus, list[int]]:
    if depths is None:
        reason = "holds neither focus_dpth.txt nor calibrated.txt"
        raise DataError(folder, reason, "Use data.lens=unknown, which needs no calibration")
    try:
        return Defocus.by_distance([value / INCHES_PER_METRE for value in depths], RELEASED_LENS)
    except ValueError as error:
        remedy = "Use data.lens=unknown, which does not trust the calibration"
        raise DataError(folder, str(error), remedy) from None
