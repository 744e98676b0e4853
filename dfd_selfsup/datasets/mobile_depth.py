"""Mobile Depth (Suwajanakorn et al. 2015): hand-held phone stacks, aligned by their authors, without truth.

    <root>/<scene>/a*.jpg               aligned frames, 14 to 33
    <root>/<scene>/calibrated.txt       a row per frame, "focal_depth aperture"; last row: the focal length
    <root>/<scene>/focus_dpth.txt       or this: the focal depths alone, one per line

The scale of the calibration is arbitrary. The released code divides the focal depths by 39.37, taking them
for inches, and invents 50 mm, f/24 and 5.6 um: that is `lens="released"`. With `unknown` only the order of
the focus is trusted, and depth comes out ordered, not metric.
"""

import math
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.folder import list_slices
from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader, read_slices
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.errors import DataError
from shared.files.disk import read_text

__all__ = ["is_mobile_depth", "load_mobile_depth", "mobile_depth_splits", "read_focal_depths"]

CALIBRATIONS = ("focus_dpth.txt", "calibrated.txt")
RELEASED_LENS = Lens(focal_length_mm=50, f_number=24, pixel_pitch_um=5.6)
INCHES_PER_METRE = 39.37
BACK_TO_FRONT = ("metals",)  # frames of these scenes run the other way
UNRELIABLE_RATIO = 10.0  # a calibration that spans more is not believed, as in DFV's loader


def mobile_depth_splits(root: Path, config: DataConfig) -> dict[str, list[Loader]]:
    """Loaders of all scenes, in every split alike: there is no truth, and each is trained on itself."""
    scenes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not scenes:
        raise DataError(root, "holds no folder of a scene", "Unpack the Mobile Depth data there")
    return {split: [partial(load_mobile_depth, scene, config.lens) for scene in scenes] for split in SPLITS}


def is_mobile_depth(folder: str | Path) -> bool:
    """Whether a folder holds a scene with its calibration."""
    return any((Path(folder) / name).is_file() for name in CALIBRATIONS)


def load_mobile_depth(folder: str | Path, lens: Literal["unknown", "released"] = "unknown") -> FocalStack:
    """One scene's stack, nearest focus first."""
    folder = Path(folder)
    paths, _ = list_slices(folder)
    paths = [path for path in paths if path.name.startswith("a")] or paths
    if len(paths) < 2:
        raise DataError(folder, f"holds {len(paths)} frames", "Name the folder of one aligned scene (a*.jpg)")
    depths = read_focal_depths(folder)
    if depths is not None and len(depths) != len(paths):
        reason = f"the calibration has {len(depths)} focal depths for {len(paths)} frames"
        raise DataError(folder, reason, "Unpack frames and calibration of the same scene")
    images = read_slices(paths)
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


def _released_stack(folder: Path, images: torch.Tensor, depths: list[float] | None) -> FocalStack:
    if depths is None:
        reason = "holds neither focus_dpth.txt nor calibrated.txt"
        raise DataError(folder, reason, "Use data.lens=unknown, which needs no calibration")
    try:
        defocus, order = Defocus.by_distance([value / INCHES_PER_METRE for value in depths], RELEASED_LENS)
    except ValueError as error:
        remedy = "Use data.lens=unknown, which does not trust the calibration"
        raise DataError(folder, str(error), remedy) from None
    notes = ("lens and unit of the focus distances are the released code's guesses",)
    return FocalStack(folder.name, images[order], defocus, RELEASED_LENS, notes=notes)
