"""One focal stack in one folder: photos, and a small YAML file that says where they were focused.

    my_stack/
        slice_00.jpg ...       the photos, in natural order of their names (2 before 10)
        stack.yaml             see below; without it the names tell the order, but not which end is near
        aif.png                all-in-focus truth, if there is any
        depth.pfm              z-depth truth in metres, if there is any; NaN, infinite or <= 0 is invalid

    # stack.yaml
    focus_m: [0.3, 0.5, .inf]  focus distance of each photo in metres, in the order of the names
    focal_length_mm: 50
    f_number: 2.8
    pixel_pitch_um: 24         of the pictures as they are; or sensor_width_mm: 36
    breathing_corrected: true  the photos were scaled to one field of view, as prepare.py align does
    order: near_to_far         or far_to_near, when focus_m is not known
    focus_disparity_px: [...]  instead of focus_m: any coordinate that grows towards the camera ...
    blur_px_per_disparity: 4   ... and how many pixels of blur radius one unit of it makes

What the YAML leaves out is taken from EXIF where every photo has it (SubjectDistance, FocalLength, FNumber,
FocalLengthIn35mmFilm). Without focus distances, or without a lens, depth is known by its order only; which
end of it is near must be told, by `order` or by `--order`, where nothing else does.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pydantic
import torch
import yaml
from pydantic import PositiveFloat
from torch import Tensor

from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader, PhotoFiles, open_slices
from dfd_selfsup.datasets.watch import watched
from dfd_selfsup.models.thin_lens import ORDER_GAIN_PX, Defocus, Lens
from shared.errors import DataError
from shared.files.disk import read_yaml, visible, write_bytes
from shared.files.images import read_image, write_image
from shared.files.listing import left_out_note, list_images
from shared.files.maps import read_pfm, write_pfm

__all__ = ["NO_DIRECTION", "StackInfo", "folder_splits", "list_slices", "load_stack", "open_stack"]
__all__ += ["complete_info", "read_info", "stack_folders", "write_stack"]

AIF_NAMES = {"aif", "all_in_focus"}
EXIF_TAGS = {
    "focus_m": "SubjectDistance",
    "focal_length_mm": "FocalLength",
    "f_number": "FNumber",
    "focal_length_35mm": "FocalLengthIn35mmFilm",
}
FILM_WIDTH_UM = 36_000
NO_DIRECTION = (
    "which end of the stack is near is not known: say it by --order near_to_far or far_to_near, or by order: "
    "in stack.yaml"
)
Order = Literal["near_to_far", "far_to_near"]
Distance = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=True)]


class StackInfo(pydantic.BaseModel, extra="forbid", strict=True, allow_inf_nan=False):
    """What stack.yaml may hold, as described above."""

    focus_m: list[Distance] | None = None
    focus_disparity_px: list[float] | None = None
    focal_length_mm: PositiveFloat | None = None
    f_number: PositiveFloat | None = None
    pixel_pitch_um: PositiveFloat | None = None
    sensor_width_mm: PositiveFloat | None = None
    blur_px_per_disparity: PositiveFloat = ORDER_GAIN_PX
    breathing_corrected: bool = False
    order: Order | None = None

    def lens(self, width: int) -> Lens | None:
        """The lens of pictures of this width, if all of it is known."""
        pitch = self.pixel_pitch_um
        if pitch is None and self.sensor_width_mm is not None:
            pitch = self.sensor_width_mm * 1000 / width
        if self.focal_length_mm is None or self.f_number is None or pitch is None:
            return None
        return Lens(float(self.focal_length_mm), float(self.f_number), float(pitch))


def load_stack(folder: str | Path) -> FocalStack:
    """Read one folder; slices come out nearest first. Raises DataError as `open_stack`."""
    return watched(open_stack(folder))


def open_stack(folder: str | Path, order: Order | None = None) -> FocalStack:
    """One folder's stack, nearest focus first, its photos not yet read (`PhotoFiles`).

    order: of the names, where no focus distances are known; over that of stack.yaml. Raises DataError for a
    focus list that does not fit the photos (length, zero, equal, below the focal length), for photos of
    different sizes or that are no pictures, and for a YAML that is not what is described above.
    """
    folder = Path(folder).expanduser()
    paths, notes = list_slices(folder)
    photos, more = open_slices(paths)
    info, told = complete_info(folder, photos, order)
    lens = info.lens(photos.size[1])
    defocus, sequence = _defocus(folder / "stack.yaml", info, lens, len(paths))
    notes += [*more, *told, *_what_is_missing(info, defocus)]
    photos = dataclasses.replace(photos, paths=tuple(paths[index] for index in sequence))
    lens = lens if defocus.kind == "metric" else None
    stack = FocalStack(folder.resolve().name, cast("Tensor", photos), defocus, lens, notes=tuple(notes))
    return _with_truth(stack, folder)


def complete_info(folder: Path, photos: PhotoFiles, order: Order | None) -> tuple[StackInfo, list[str]]:
    """stack.yaml with what EXIF and --order add, and notes that say so; photos in the order of the names."""
    info, notes = read_info(folder / "stack.yaml"), []
    source, info.order = ("--order", order) if order else ("stack.yaml", info.order)
    for key, value in read_exif(photos.paths, photos.size).items():
        known = {"focus_m": info.focus_disparity_px, "pixel_pitch_um": info.sensor_width_mm}.get(key)
        if getattr(info, key) is None and not known:
            setattr(info, key, value)
            notes.append(f"{key} was taken from EXIF")
            source = "EXIF" if key == "order" else source
    if info.order and not info.focus_m and not info.focus_disparity_px:
        notes.append(f"which end is near was taken from {source}: {info.order.replace('_', ' ')}")
    return info, notes


def list_slices(folder: Path) -> tuple[list[Path], list[str]]:
    """The photos of a folder in natural order, two at least, without the truth; notes on what is special."""
    paths, left_out = list_images(folder)
    slices = [path for path in paths if path.stem.lower() not in AIF_NAMES]
    notes = [left_out_note(left_out)] if left_out else []
    if len(slices) < 2:
        reason = "; ".join([f"holds {len(slices)} photo(s)", *notes])
        raise DataError(folder, reason, "A focal stack needs two or more, focused at different distances")
    return slices, notes


def _what_is_missing(info: StackInfo, defocus: Defocus) -> list[str]:
    """A note on what depth in metres, or its direction, lacks; empty if nothing."""
    if defocus.kind in ("metric", "disparity"):
        return []
    wanted = {name: getattr(info, name) for name in ("focus_m", "focal_length_mm", "f_number")}
    wanted["sensor_width_mm"] = info.sensor_width_mm or info.pixel_pitch_um
    missing = [name for name, value in wanted.items() if not value]
    notes = []
    if len(missing) < len(wanted):
        only = f"only {missing[0]} is" if len(missing) == 1 else f"{', '.join(missing)} are"
        notes.append(f"{only} missing in stack.yaml for depth in metres: it will be ordered, not metric")
    if defocus.kind == "place":
        notes.append(NO_DIRECTION)
    return notes


def folder_splits(root: Path, config: Any = None) -> dict[str, list[Loader]]:
    """<root>/{train,validation,test}/<stack>/; without validation the test stacks serve for it."""
    loaders = {split: [partial(load_stack, path) for path in stack_folders(root / split)] for split in SPLITS}
    for split in ("train", "test"):
        if not loaders[split]:
            remedy = "Put one folder per stack there; prepare.py check tells more"
            raise DataError(root / split, "holds no folder of a focal stack", remedy)
    loaders["validation"] = loaders["validation"] or loaders["test"]
    return loaders


def stack_folders(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden and system ones."""
    return [path for path in visible(folder) if path.is_dir()] if folder.is_dir() else []


def read_exif(paths: Sequence[Path], size: tuple[int, int]) -> dict[str, Any]:
    """Focus distances, focal length, f-number and pixel pitch where all photos of a size agree in EXIF.

    Where some distances are missing or equal, but the others only grow or only fall, they tell the order.
    """
    rows = [_exif_numbers(path) for path in paths]
    columns = {key: [row.get(key, 0.0) for row in rows] for key in EXIF_TAGS}
    distances = [value for value in columns.pop("focus_m") if value > 0]
    found: dict[str, Any] = {
        key: v[0] for key, v in columns.items() if 0 < v[0] < math.inf and len({*v}) == 1
    }
    film_mm = found.pop("focal_length_35mm", None)
    if film_mm and "focal_length_mm" in found:
        found["pixel_pitch_um"] = FILM_WIDTH_UM * found["focal_length_mm"] / film_mm / max(size)
    if len(set(distances)) == len(paths):
        found["focus_m"] = distances
    elif len(set(distances)) > 1 and distances in (sorted(distances), sorted(distances)[::-1]):
        found["order"] = "near_to_far" if distances[0] < distances[-1] else "far_to_near"
    return found


def _exif_numbers(path: Path) -> dict[str, float]:
    from PIL import ExifTags, Image

    numbers = {key: ExifTags.Base[name] for key, name in EXIF_TAGS.items()}
    try:
        with Image.open(path) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
        return {key: float(tags[tag]) for key, tag in numbers.items() if tag in tags}
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
    remedy = f"Known keys: {', '.join(StackInfo.model_fields)}; infinity is .inf"
    try:
        return StackInfo.model_validate(read_yaml(path) or {})
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DataError(path, f"{where}: {first['msg']}, got {first['input']!r:.60}", remedy) from None


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
    defocus = Defocus.ordered(count, "order" if info.order else "place")
    return defocus, order[::-1] if info.order == "far_to_near" else order


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
