"""Camera poses of a folder of photos by structure from motion, through pycolmap (extra `colmap`, CPU)."""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args

import pydantic
from PIL import Image, ImageOps
from pydantic import Field, ValidationError

from shared.errors import DataError, RunError
from shared.files.colmap import ColmapModel, read_colmap_model
from shared.files.disk import new_folder, reading
from shared.files.images import exif_orientation, list_images, read_image_size

__all__ = [
    "CAMERA_MODELS",
    "SfmOptions",
    "SfmScene",
    "add_colmap_command",
    "find_cameras",
    "list_photos",
    "reconstruct",
    "sfm_options",
]


CameraModel = Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"]
CAMERA_MODELS = get_args(CameraModel)
JPEG_QUALITY = 97  # of the written images: they are encoded a second time


@pydantic.dataclasses.dataclass(frozen=True)
class SfmOptions:
    """How poses are searched; the defaults suit up to about 200 photos of one thing."""

    camera_model: CameraModel = "RADIAL"
    matching: Literal["exhaustive", "sequential"] = "exhaustive"  # sequential: video frames, ordered by name
    max_image_side: Annotated[int, Field(ge=32)] = 1600  # for SIFT; the written images keep their size
    min_registered_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # fewer posed photos are an error
    num_threads: Annotated[int, Field(ge=-1)] = -1  # -1: all cores; the result is repeatable with 1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


@dataclass(frozen=True)
class SfmScene:
    """What `reconstruct` found: the cameras of `model` have no distortion, like the images."""

    image_dir: Path
    model_dir: Path
    model: ColmapModel
    unregistered: list[str]  # photos that no pose was found for


def list_photos(photo_dir: str | os.PathLike) -> list[str]:
    """Names of the photos in a folder and its sub-folders, relative to it; DataError without any."""
    photos, _ = list_images(photo_dir, recursive=True)
    return [path.relative_to(photo_dir).as_posix() for path in photos]


def reconstruct(
    photo_dir: str | os.PathLike, out_dir: str | os.PathLike, options: SfmOptions | None = None
) -> SfmScene:
    """Find the poses of photos, undistort them, and write `out_dir/images` and `out_dir/sparse`.

    SIFT, matching, incremental mapping and undistortion are COLMAP's. Photos of one size share one camera;
    EXIF orientations are applied first. `out_dir` appears only when everything has succeeded.
    Raises DataError for an unusable folder and when too few photos get a pose; without pycolmap
    ModuleNotFoundError, which names the extra to install.
    """
    options = options or SfmOptions()
    pycolmap = _import_pycolmap()
    photo_dir, out_dir = Path(photo_dir), Path(out_dir)
    names = list_photos(photo_dir)
    with new_folder(out_dir) as scene, tempfile.TemporaryDirectory() as temporary, _quiet(pycolmap):
        workspace = Path(temporary)
        one_size = _stage_upright(photo_dir, names, workspace / "photos")
        found = _match_and_map(pycolmap, workspace, one_size, options)
        best = _largest(photo_dir, found, len(names), options.min_registered_share)
        _undistort(pycolmap, workspace, best, scene, options.num_threads)
        model = read_colmap_model(scene / "sparse")
    registered = {image.name for image in model.images.values()}
    unregistered = [name for name in names if _staged_name(name) not in registered]
    unread = list_images(photo_dir, recursive=True)[1]  # photos of a kind that is not read, such as .heic
    unregistered += [path.relative_to(photo_dir).as_posix() for path in unread]
    return SfmScene(out_dir / "images", out_dir / "sparse", model, unregistered)


# ---- COLMAP, step by step ----------------------------------------------------------------------------------


def _import_pycolmap() -> ModuleType:
    try:
        return importlib.import_module("pycolmap")
    except ModuleNotFoundError:
        message = "poses of photos are found by pycolmap, which is not installed: pip install -e '.[colmap]'"
        raise ModuleNotFoundError(message, name="pycolmap") from None


@contextmanager
def _quiet(pycolmap: ModuleType) -> Iterator[None]:
    """Keep COLMAP's progress log, thousands of lines, off the terminal."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def _staged_name(name: str) -> str:
    """COLMAP passes over WebP files without a word, so these become PNG."""
    return f"{name}.png" if name.lower().endswith(".webp") else name


def _stage_upright(photo_dir: Path, names: list[str], staged: Path) -> bool:
    """Copy the photos, turned as EXIF says (COLMAP ignores that); returns whether all have one size.

    Every photo is decoded here, so that a damaged one is named before the long computation.
    """
    sizes = set()
    for name in names:
        source, copy = photo_dir / name, staged / _staged_name(name)
        sizes.add(read_image_size(source))
        copy.parent.mkdir(parents=True, exist_ok=True)
        with reading(source, "cannot be decoded", "Copy it again or omit it"), Image.open(source) as image:
            image.load()
            if exif_orientation(image) == 1 and source.suffix == copy.suffix:
                shutil.copyfile(source, copy)
            else:
                ImageOps.exif_transpose(image).save(copy, quality=JPEG_QUALITY)  # keeps the focal length
    return len(sizes) == 1


def _match_and_map(
    pycolmap: ModuleType, workspace: Path, one_size: bool, options: SfmOptions
) -> dict[int, Any]:
    """Features, matches, and all the models that incremental mapping finds."""
    photos, database, models = workspace / "photos", workspace / "database.db", workspace / "models"
    pycolmap.set_random_seed(options.seed)
    cpu = {"device": pycolmap.Device.cpu}
    pycolmap.extract_features(
        database,
        photos,
        camera_mode=pycolmap.CameraMode.SINGLE if one_size else pycolmap.CameraMode.PER_IMAGE,
        reader_options={"camera_model": options.camera_model},
        extraction_options={"max_image_size": options.max_image_side, "num_threads": options.num_threads},
        **cpu,
    )
    verification = {"ransac": {"random_seed": options.seed}}
    matching = {"num_threads": options.num_threads}
    match = pycolmap.match_exhaustive if options.matching == "exhaustive" else pycolmap.match_sequential
    match(database, matching_options=matching, verification_options=verification, **cpu)
    mapping = {"num_threads": options.num_threads, "random_seed": options.seed, "min_model_size": 3}
    models.mkdir()
    return pycolmap.incremental_mapping(database, photos, models, options=mapping)


def _largest(photo_dir: Path, found: dict[int, Any], photo_count: int, min_share: float) -> Any:
    best = max(found.values(), key=lambda model: model.num_reg_images(), default=None)
    registered = best.num_reg_images() if best else 0
    if registered < max(3, min_share * photo_count):
        remedy = "Take sharper photos with more overlap (each thing in 5 or more of them, no pure rotation)"
        raise DataError(photo_dir, f"a pose was found for only {registered} of {photo_count} photos", remedy)
    return best


def _undistort(pycolmap: ModuleType, workspace: Path, best: Any, scene: Path, num_threads: int) -> None:
    """Write `scene/images` and `scene/sparse`, both without lens distortion."""
    chosen = workspace / "chosen"
    chosen.mkdir()
    best.write(chosen)
    pycolmap.undistort_images(
        scene, chosen, workspace / "photos", jpeg_quality=JPEG_QUALITY, num_threads=num_threads
    )
    for leftover in scene.iterdir():  # folders and scripts for COLMAP's own dense reconstruction
        if leftover.name not in ("images", "sparse"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def add_colmap_command(commands: Any, text: str, camera_models: Sequence[str] = CAMERA_MODELS) -> None:
    """Add the sub-command with its arguments to `commands`, what `add_subparsers` returned."""
    colmap: argparse.ArgumentParser = commands.add_parser("colmap", help=text)
    colmap.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photos, with sub-folders")
    colmap.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the scene")
    colmap.add_argument("--camera-model", default="RADIAL", choices=camera_models)
    matching = {"default": "exhaustive", "choices": ("exhaustive", "sequential")}
    colmap.add_argument("--matching", **matching, help="sequential: video frames in the order of their names")
    colmap.add_argument("--max-image-side", type=int, default=1600, metavar="PX", help="for finding features")
    colmap.add_argument("--threads", type=int, default=-1, metavar="N", help="all cores by default")
    colmap.add_argument("--seed", type=int, default=0)


def sfm_options(args: argparse.Namespace) -> SfmOptions:
    """The options that the sub-command's arguments ask for; RunError for a number that makes no sense."""
    try:
        return SfmOptions(
            args.camera_model, args.matching, args.max_image_side, num_threads=args.threads, seed=args.seed
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise RunError(f"colmap: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def find_cameras(
    search: Callable[[Path, Path, SfmOptions], Sequence[str]],
    photos: Path,
    out: Path,
    options: SfmOptions | None = None,
) -> None:
    """Call `search(photos, out, options)` and say on stderr what it does and which photos got no pose.

    `search` returns their names. Raises RunError, with the remedy, where pycolmap is missing.
    """
    sys.stderr.write(f"Finding the cameras of {photos}: about a minute for 50 photos of 360 x 640 ...\n")
    try:
        unregistered = search(photos, out, options or SfmOptions())
    except ModuleNotFoundError as error:
        raise RunError(str(error)) from None
    if unregistered:
        names = ", ".join(unregistered)
        sys.stderr.write(f"WITHOUT POSE, left out: {len(unregistered)} photos: {names}\n")
