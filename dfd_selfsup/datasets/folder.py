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

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import ExifTags, Image
from torch import Tensor

from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader, read_slices
from dfd_selfsup.models.thin_lens import ORDER_GAIN_PX, Defocus, Lens
from shared.errors import DataError
from shared.files.disk import read_text
from shared.files.images import left_out_note, list_images, read_image, read_pfm

__all__ = [
    "AIF_NAMES",
    "folder_splits",
    "list_slices",
    "load_stack",
    "read_exif",
    "read_info",
]

AIF_NAMES = {"aif", "all_in_focus"}
NUMBERS = ("focal_length_mm", "f_number", "pixel_pitch_um", "sensor_width_mm", "blur_px_per_disparity")
LISTS = ("focus_m", "focus_disparity_px")
KNOWN = (*NUMBERS, *LISTS, "breathing_corrected", "order", "images")


def load_stack(folder: str | Path) -> FocalStack:
    """Read one folder; slices come out nearest first.

    Raises DataError for a focus list that does not fit the photos (length, zero, equal, below the focal
    length), for photos of different sizes or that cannot be read, and for a YAML that is not what is
    described above.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(folder, "there is no such folder", "Name a folder with the photos of one focal stack")
    info = read_info(folder / "stack.yaml")
    paths = _slice_paths(folder, info.get("images"))
    images, notes = _read_slices(paths)
    left_out = [] if "images" in info else list_images(folder)[1]
    notes += [left_out_note(left_out)] if left_out else []
    for key, value in read_exif(paths).items():
        if key not in info and not (key == "focus_m" and "focus_disparity_px" in info):
            info[key] = value
            notes.append(f"{key} was taken from EXIF")
    lens = _lens(info, images.shape[-1], folder)
    if "focus_m" in info and lens is None:
        notes.append("no lens in stack.yaml: depth will be ordered, not metric")
    defocus, order = _defocus(folder, info, lens, len(paths))
    stack = FocalStack(folder.name, images[order], defocus, lens, notes=tuple(notes))
    return _with_truth(stack, folder)


def list_slices(folder: Path) -> list[Path]:
    """The photos of a folder in natural order, without the truth beside them."""
    return [path for path in list_images(folder)[0] if path.stem.lower() not in AIF_NAMES]


def folder_splits(root: Path, config: Any = None) -> dict[str, list[Loader]]:
    """<root>/{train,validation,test}/<stack>/; without validation the test stacks stand in for it."""
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
    found: dict[str, Any] = {}
    distances = [row.get("SubjectDistance", 0.0) for row in rows]
    if all(0 < value < math.inf for value in distances) and len(set(distances)) == len(distances):
        found["focus_m"] = distances
    for key, tag in (("focal_length_mm", "FocalLength"), ("f_number", "FNumber")):
        values = {row.get(tag) for row in rows}
        if len(values) == 1 and (value := values.pop()) is not None and value > 0:
            found[key] = value
    return found


def _exif_numbers(path: Path) -> dict[str, float]:
    numbers = {}
    try:
        with Image.open(path) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
        for tag, value in tags.items():
            name = ExifTags.TAGS.get(tag)
            if name in ("SubjectDistance", "FocalLength", "FNumber"):
                numbers[name] = float(value)
    except Exception:
        return {}
    return numbers


def read_info(path: Path) -> dict[str, Any]:
    """The YAML's values with their types checked; empty without the file."""
    if not path.exists():
        return {}
    remedy = f"Known keys: {', '.join(KNOWN)}"
    try:
        info = yaml.safe_load(read_text(path)) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(path, f"is not valid YAML ({getattr(error, 'problem', error)})", remedy) from None
    if not isinstance(info, dict):
        raise DataError(path, "must hold lines of the form `key: value`", remedy)
    for key, value in info.items():
        if key not in KNOWN:
            raise DataError(path, f"unknown key {key!r}", remedy)
        if key in NUMBERS and not _is_number(value):
            raise DataError(path, f"{key} must be a number, got {value!r}", remedy)
        if key in LISTS and not (isinstance(value, list) and all(map(_is_number, value))):
            raise DataError(path, f"{key} must be a list of numbers, got {value!r}", remedy)
    if not isinstance(info.get("breathing_corrected", False), bool):
        raise DataError(path, "breathing_corrected must be true or false", remedy)
    if info.get("order", "near_to_far") not in ("near_to_far", "far_to_near"):
        raise DataError(path, f"order is {info['order']!r}", "Write near_to_far or far_to_near")
    return info


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _slice_paths(folder: Path, names: Any) -> list[Path]:
    if names is not None:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(folder / "stack.yaml", "images must be a list of file names", "Or leave it out")
        paths = [folder / name for name in names]
    else:
        paths = list_slices(folder)
    if len(paths) < 2:
        reason = f"holds {len(paths)} photo(s)"
        raise DataError(folder, reason, "A focal stack needs two or more, focused at different distances")
    return paths


def _read_slices(paths: Sequence[Path]) -> tuple[Tensor, list[str]]:
    """[S, 3, H, W] in the order of the names, and notes on slices without content."""
    images = read_slices(paths)
    flat = [path.name for path, image in zip(paths, images, strict=True) if image.max() == image.min()]
    notes = [f"{', '.join(flat)}: of one colour throughout, tells nothing about depth"] if flat else []
    if len(flat) == len(paths):
        raise DataError(
            paths[0].parent, "every slice is of one colour throughout", "Give photos with content"
        )
    return images, notes


def _lens(info: dict[str, Any], width: int, folder: Path) -> Lens | None:
    pitch = info.get("pixel_pitch_um")
    if pitch is None and "sensor_width_mm" in info:
        pitch = info["sensor_width_mm"] * 1000 / width
    values = (info.get("focal_length_mm"), info.get("f_number"), pitch)
    if any(value is None for value in values):
        return None
    try:
        return Lens(*map(float, values))
    except ValueError as error:
        raise DataError(folder / "stack.yaml", str(error), "Give them as positive numbers") from None


def _defocus(folder: Path, info: dict[str, Any], lens: Lens | None, count: int) -> tuple[Defocus, list[int]]:
    """The stack's defocus and the order that puts the nearest slice first."""
    given = next((key for key in LISTS if key in info), None)
    values = [float(value) for value in info[given]] if given else []
    if given and len(values) != count:
        reason = f"{given} has {len(values)} entries for {count} photos"
        raise DataError(folder / "stack.yaml", reason, "Give one for each photo, in the order of the names")
    if given == "focus_disparity_px":
        if len(set(values)) < count:
            raise DataError(
                folder / "stack.yaml", f"two entries of {given} are equal", "Drop one of the photos"
            )
        order = sorted(range(count), key=lambda index: -values[index])
        gain = float(info.get("blur_px_per_disparity", ORDER_GAIN_PX))
        if gain <= 0:
            reason = f"blur_px_per_disparity must be positive, got {gain:g}"
            raise DataError(folder / "stack.yaml", reason, "It is how many pixels of radius one unit makes")
        focus = torch.tensor([values[index] for index in order])
        return Defocus(focus, torch.full((count,), gain), "disparity"), order
    if given:
        try:
            return Defocus.by_distance(values, lens, info.get("breathing_corrected", False))
        except ValueError as error:
            remedy = "Distances are metres, from the lens to the plane in focus, one for each photo"
            raise DataError(folder / "stack.yaml", str(error), remedy) from None
    order = list(range(count))
    return Defocus.ordered(count), order[::-1] if info.get("order") == "far_to_near" else order


def _with_truth(stack: FocalStack, folder: Path) -> FocalStack:
    found: dict[str, Tensor] = {}
    for name in sorted(AIF_NAMES):
        if (path := folder / f"{name}.png").exists():
            found["aif"] = read_image(path)
    if (path := folder / "depth.pfm").exists():
        depth = read_pfm(path)
        found["depth"] = depth
        if not bool(((depth > 0) & depth.isfinite()).any()):
            raise DataError(path, "holds no valid depth", "It is z-depth in metres; remove it if unknown")
    for name, value in found.items():
        if value.shape != (stack.size if name == "depth" else (3, *stack.size)):
            reason = f"the truth ({name}) is {list(value.shape)}, the slices are {list(stack.size)}"
            raise DataError(folder, reason, "They must have one size, and depth one channel")
    if "depth" in found:
        found["valid"] = found["depth"].isfinite() & (found["depth"] > 0)
        found["depth"] = torch.where(found["valid"], found["depth"], 0.0)
    return FocalStack(**{**vars(stack), **found})
