"""Camera poses of a folder of photos by structure from motion, through pycolmap (extra `colmap`, CPU)."""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import imageio_ffmpeg
import pydantic
from pydantic import Field, ValidationError

from shared.errors import DataError, RunError
from shared.files.colmap import ColmapModel, read_colmap_model
from shared.files.disk import new_folder, opened, visible
from shared.files.images import copy_upright, survey_photos
from shared.files.listing import is_film, left_out_note, list_images, pictures_among

__all__ = [
    "SfmOptions",
    "SfmScene",
    "find_cameras",
    "list_photos",
    "reconstruct",
    "sfm_options",
]


CameraModel = Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"]
JPEG_QUALITY = 97  # of the written images: they are encoded a second time


@pydantic.dataclasses.dataclass(frozen=True)
class SfmOptions:
    """How poses are searched; the defaults suit up to about 200 photos of one thing."""

    camera_model: CameraModel = "RADIAL"
    matching: Literal["exhaustive", "sequential"] = "exhaustive"  # sequential: video frames, ordered by name
    max_image_side: Annotated[int, Field(ge=32)] = 1600  # for SIFT; the written images keep their size
    min_registered_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # fewer posed photos are an error
    every_s: Annotated[float, Field(ge=0.01, le=3600)] = 0.5  # of a film: seconds from frame to frame
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
    EXIF orientations are applied first, transparent pixels become white. `photo_dir` may be a film, of which
    a frame is taken every `options.every_s`. `out_dir` appears only when everything has succeeded.
    Raises DataError for an unusable folder or film and when too few photos get a pose; without pycolmap
    ModuleNotFoundError, which names the extra to install.
    """
    options = options or SfmOptions()
    pycolmap = _import_pycolmap()
    photo_dir, out_dir = Path(photo_dir), Path(out_dir)
    with new_folder(out_dir) as scene, tempfile.TemporaryDirectory() as temporary, _quiet(pycolmap):
        workspace = Path(temporary)
        photos = photo_dir
        if is_film(photo_dir):
            photos = workspace / "frames"
            _take_frames(photo_dir, photos, options.every_s)
        names = list_photos(photos)
        groups = _stage_upright(photos, names, workspace / "photos")
        found = _match_and_map(pycolmap, workspace, groups, options)
        best = _largest(photo_dir, found, len(names), options.min_registered_share)
        _undistort(pycolmap, workspace, best, scene, options.num_threads)
        model = read_colmap_model(scene / "sparse")
    registered = {image.name for image in model.images.values()}
    unregistered = [name for name in names if _staged_name(name) not in registered]
    return SfmScene(out_dir / "images", out_dir / "sparse", model, unregistered)


def _take_frames(film: Path, folder: Path, every_s: float) -> None:
    """Write a frame of a film every so many seconds, upright; DataError where there are fewer than three."""
    with opened(film):  # no pipe, no device, not empty
        folder.mkdir()
    source = ["-nostdin", "-loglevel", "error", "-i", str(film), "-vf", f"fps=1/{every_s}"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *source, "-qscale:v", "2", str(folder / "%06d.jpg")]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    count = len(list(folder.iterdir()))
    if result.returncode or not count:
        line = (result.stderr.strip().splitlines() or ["no frames"])[-1]
        raise DataError(film, f"ffmpeg cannot read the film ({line})", "Copy it again, or give photos")
    if count < 3:
        remedy = "Take frames more often (--every 0.1s), or film for longer"
        raise DataError(film, f"gives {count} frames, one every {every_s:g} s", remedy)


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
    """COLMAP passes over WebP and HEIC files without a word, so these become PNG."""
    known = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
    return name if name.lower().endswith(known) else f"{name}.png"


def _stage_upright(photo_dir: Path, names: list[str], staged: Path) -> list[list[str]]:
    """Copy the photos, turned as EXIF says (COLMAP ignores that); returns their names by size.

    Every photo is decoded here, so that a damaged one is named before the long computation.
    """
    by_size: dict[tuple[int, int], list[str]] = {}
    for name, size in zip(names, survey_photos([photo_dir / name for name in names]).sizes, strict=True):
        copy_upright(photo_dir / name, staged / _staged_name(name), JPEG_QUALITY)
        by_size.setdefault(size, []).append(_staged_name(name))
    return list(by_size.values())


def _match_and_map(
    pycolmap: ModuleType, workspace: Path, groups: list[list[str]], options: SfmOptions
) -> dict[int, Any]:
    """Features, matches, and all the models that incremental mapping finds; a camera for each group."""
    photos, database, models = workspace / "photos", workspace / "database.db", workspace / "models"
    pycolmap.set_random_seed(options.seed)
    cpu = {"device": pycolmap.Device.cpu}
    for names in groups:
        pycolmap.extract_features(
            database,
            photos,
            image_names=names,
            camera_mode=pycolmap.CameraMode.SINGLE,
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


def sfm_options(args: argparse.Namespace) -> SfmOptions:
    """The options that the sub-command's arguments ask for; RunError for a number that makes no sense."""
    try:
        return SfmOptions(
            args.camera_model,
            args.matching,
            args.max_image_side,
            every_s=re.sub(r"\s*s$", "", args.every),  # 0.5s is 0.5
            num_threads=args.threads,
            seed=args.seed,
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).removeprefix("num_").removesuffix("_s").replace("_", "-")
        raise RunError(f"colmap: --{option}: {first['msg']}, got {first['input']!r}") from None


def find_cameras(
    search: Callable[[Path, Path, SfmOptions], Sequence[str]],
    photos: Path,
    out: Path,
    options: SfmOptions | None = None,
) -> None:
    """Call `search(photos, out, options)` and say on stderr what it does and which photos are left out.

    `search` returns the names of those without pose. Raises RunError, with the remedy, without pycolmap.
    """
    sys.stderr.write(f"Finding the cameras of {photos}: about a minute for 50 photos of 360 x 640 ...\n")
    try:
        unregistered = search(photos, out, options or SfmOptions())
    except ModuleNotFoundError as error:
        raise RunError(str(error)) from None
    read, unread = pictures_among(visible(photos, recursive=True)) if photos.is_dir() else ([], [])
    for note in filter(None, [*survey_photos(read, background="white").notes, left_out_note(unread)]):
        sys.stderr.write(f"NOTE: {note}\n")
    if unregistered:
        names = ", ".join(unregistered)
        sys.stderr.write(f"WITHOUT POSE, left out: {len(unregistered)} photos: {names}\n")
