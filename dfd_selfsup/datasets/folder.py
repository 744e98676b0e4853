"""One focal stack in one folder: photos, and a small YAML file that says where they were focused.

    my_stack/
        slice_00.jpg ...       the photos, in natural order of their names (2 before 10)
        stack.yaml             see below; without it the order of the names is taken as near to far
        aif.png                all-in-focus truth, if there is any
        depth.pfm              z-depth truth in metres, if there is any; NaN, infinite or <= 0 is invalid

    # stack.yaml
    focus_m: [0.3, 0.5, 1.0]   focus distance of each photo in metres, in the order of the names
    focal_length_mm: 50
    f_number: 2.8
    pixel_pitch_um: 24         of the pictures as they are; or sensor_width_mm: 36
    breathing_corrected: true  the photos were scaled to one field of view, as prepare.py align does
    order: near_to_far         or far_to_near, when focus_m is not known
    focus_disparity_px: [...]  instead of focus_m: any coordinate that grows towards the camera ...
    blur_px_per_disparity: 4   ... and how many pixels of blur radius one unit of it makes

What the YAML leaves out is taken from EXIF where every photo has it (SubjectDistance, FocalLength,
FNumber). Without focus distances, or without a lens, depth is known by its order only.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch
import yaml
from PIL import ExifTags, Image
from pydantic import PositiveFloat

from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader, read_slices
from dfd_selfsup.models.thin_lens import ORDER_GAIN_PX, Defocus, Lens
from shared.errors import DataError
from shared.files.disk import read_text, write_bytes
from shared.files.images import left_out_note, list_images, read_image, read_pfm, write_image, write_pfm

__all__ = ["StackInfo", "folder_splits", "list_slices", "load_stack", "read_info", "write_stack"]

AIF_NAMES = {"aif", "all_in_focus"}
EXIF_TAGS = {
    "focus_m": ExifTags.Base.SubjectDistance,
    "focal_length_mm": ExifTags.Base.FocalLength,
    "f_number": ExifTags.Base.FNumber,
}


class StackInfo(pydantic.BaseModel, extra="forbid", strict=True, allow_inf_nan=False):
    """What stack.yaml may hold, as described above."""

    focus_m: list[float] | None = None
    focus_disparity_px: list[float] | None = None
    focal_length_mm: PositiveFloat | None = None
    f_number: PositiveFloat | None = None
    pixel_pitch_um: PositiveFloat | None = None
    sensor_width_mm: PositiveFloat | None = None
    blur_px_per_disparity: PositiveFloat = ORDER_GAIN_PX
    breathing_corrected: bool = False
    order: Literal["near_to_far", "far_to_near"] = "near_to_far"

    def lens(self, width: int) -> Lens | None:
        """The lens of pictures of this width, if all of it is known."""
        pitch = self.pixel_pitch_um
        if pitch is None and self.sensor_width_mm is not None:
            pitch = self.sensor_width_mm * 1000 / width
        if self.focal_length_mm is None or self.f_number is None or pitch is None:
            return None
        return Lens(float(self.focal_length_mm), float(self.f_number), float(pitch))


def load_stack(folder: str | Path) -> FocalStack:
    """Read one folder; slices come out nearest first.

    Raises DataError for a focus list that does not fit the photos (length, zero, equal, below the focal
    length), for photos of different sizes or that cannot be read, and for a YAML that is not what is
    described above.
    """
    folder = Path(folder)
    info = read_info(folder / "stack.yaml")
    paths, notes = list_slices(folder)
    if len(paths) < 2:
        reason = f"holds {len(paths)} photo(s)"
        raise DataError(folder, reason, "A focal stack needs two or more, focused at different distances")
    images = read_slices(paths)
    flat = [path.name for path, image in zip(paths, images, strict=True) if image.max() == image.min()]
    if len(flat) == len(paths):
        raise DataError(folder, "every slice is of one colour throughout", "Give photos with content")
    if flat:
        notes.append(f"{', '.join(flat)}: of one colour throughout, tells nothing about depth")
    for key, value in read_exif(paths).items():
        if getattr(info, key) is None and not (key == "focus_m" and info.focus_disparity_px):
            setattr(info, key, value)
            notes.append(f"{key} was taken from EXIF")
    lens = info.lens(images.shape[-1])
    if info.focus_m and lens is None:
        notes.append("no lens in stack.yaml: depth will be ordered, not metric")
    defocus, order = _defocus(folder / "stack.yaml", info, lens, len(paths))
    return _with_truth(FocalStack(folder.name, images[order], defocus, lens, notes=tuple(notes)), folder)


def list_slices(folder: Path) -> tuple[list[Path], list[str]]:
    """The photos of a folder in natural order, without the truth, and a note on those of kinds not read."""
    paths, left_out = list_images(folder)
    slices = [path for path in paths if path.stem.lower() not in AIF_NAMES]
    return slices, [left_out_note(left_out)] if left_out else []


def folder_splits(root: Path, config: Any = None) -> dict[str, list[Loader]]:
    """<root>/{train,validation,test}/<stack>/; without validation the test stacks serve for it."""
    loaders = {split: [partial(load_stack, path) for path in _folders(root / split)] for split in SPLITS}
    for split in ("train", "test"):
        if not loaders[split]:
            remedy = "Put one folder per stack there; prepare.py check tells more"
            raise DataError(root / split, "holds no folder of a focal stack", remedy)
    loaders["validation"] = loaders["validation"] or loaders["test"]
    return loaders


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def read_exif(paths: Sequence[Path]) -> dict[str, Any]:
    """Focus distances, focal length and f-number, where all photos have them in EXIF and agree."""
    rows = [_exif_numbers(path) for path in paths]
    columns = {key: [row.get(key, 0.0) for row in rows] for key in EXIF_TAGS}
    columns = {key: values for key, values in columns.items() if all(0 < v < math.inf for v in values)}
    distances = columns.pop("focus_m", [])
    found = {"focus_m": distances} if len(set(distances)) == len(paths) else {}
    return found | {key: values[0] for key, values in columns.items() if len(set(values)) == 1}


def _exif_numbers(path: Path) -> dict[str, float]:
    try:
        with Image.open(path) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
        return {key: float(tags[tag]) for key, tag in EXIF_TAGS.items() if tag in tags}
    except Exception:
        return {}


def write_stack(folder: Path, stack: FocalStack, focus_m: Sequence[float], **info: Any) -> None:
    """Write slices, truth and stack.yaml as `load_stack` reads them; `info`: more keys of the YAML."""
    for index, image in enumerate(stack.images):
        write_image(folder / f"slice_{index}.png", image)
    write_image(folder / "aif.png", stack.aif)
    write_pfm(folder / "depth.pfm", torch.where(stack.valid, stack.depth, torch.inf))
    info = {"focus_m": list(focus_m), **dataclasses.asdict(stack.lens), **info}
    write_bytes(folder / "stack.yaml", yaml.safe_dump(info, sort_keys=False).encode())


def read_info(path: Path) -> StackInfo:
    """The YAML's values, checked; the defaults without the file."""
    if not path.exists():
        return StackInfo()
    remedy = f"Known keys: {', '.join(StackInfo.model_fields)}"
    try:
        return StackInfo.model_validate(yaml.safe_load(read_text(path)) or {})
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DataError(path, f"{where}: {first['msg']}, got {first['input']!r:.60}", remedy) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(path, f"is not valid YAML ({getattr(error, 'problem', error)})", remedy) from None


def _defocus(path: Path, info: StackInfo, lens: Lens | None, count: int) -> tuple[Defocus, list[int]]:
    """The stack's defocus and the order that puts the nearest slice first."""
    values = info.focus_m or info.focus_disparity_px
    if values and len(values) != count:
        reason = f"{len(values)} focus distances for {count} photos"
        raise DataError(path, reason, "Give one for each photo, in the order of the names")
    if info.focus_m:
        try:
            return Defocus.by_distance(info.focus_m, lens, info.breathing_corrected)
        except ValueError as error:
            remedy = "Distances are metres, from the lens to the plane in focus, one for each photo"
            raise DataError(path, str(error), remedy) from None
    order = list(range(count))
    if values:
        if len(set(values)) < count:
            raise DataError(path, "two entries of focus_disparity_px are equal", "Drop one of the photos")
        order.sort(key=lambda index: -values[index])
        gain = torch.full((count,), float(info.blur_px_per_disparity))
        return Defocus(torch.tensor([float(values[index]) for index in order]), gain, "disparity"), order
    return Defocus.ordered(count), order[::-1] if info.order == "far_to_near" else order


def _with_truth(stack: FocalStack, folder: Path) -> FocalStack:
    found = {}
    for name in sorted(AIF_NAMES):
        if (path := folder / f"{name}.png").exists():
            found["aif"] = read_image(path)
    if (path := folder / "depth.pfm").exists():
        depth = read_pfm(path)
        valid = depth.isfinite() & (depth > 0)
        if not bool(valid.any()):
            raise DataError(path, "holds no valid depth", "It is z-depth in metres; remove it if unknown")
        found |= {"depth": torch.where(valid, depth, 0.0), "valid": valid}
    for name, value in found.items():
        if value.shape != ((3, *stack.size) if name == "aif" else stack.size):
            reason = f"the truth ({name}) is {list(value.shape)}, the slices are {list(stack.size)}"
            raise DataError(folder, reason, "They must have one size, and depth one channel")
    return dataclasses.replace(stack, **found)
