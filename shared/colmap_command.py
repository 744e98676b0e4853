"""The command `colmap` of the `prepare.py` scripts: photos whose cameras are still to be found."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared.command import RunError
from shared.config import FieldError
from shared.sfm import CAMERA_MODELS, SfmOptions

__all__ = ["add_colmap_command", "find_cameras", "sfm_options"]


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
            camera_model=args.camera_model,
            matching=args.matching,
            max_image_side=args.max_image_side,
            num_threads=args.threads,
            seed=args.seed,
        )
    except FieldError as error:
        raise RunError(f"colmap: {error}") from None


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
