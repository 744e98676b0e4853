"""Check focal stacks, align hand-held ones, and bring published data into the layout the loaders read.

python prepare.py check my_stack/                            one stack, or a folder of splits
python prepare.py check data/nyuv2 --kind nyuv2              a published data set, as training reads it
python prepare.py align my_photos/ --out my_stack/           register photos taken by hand
python prepare.py nyuv2 labeled.mat splits.mat --out data/nyuv2     make the five-slice stacks (needs h5py)
python prepare.py rgbd rgb.png depth.png --unit-m 1e-4 --out my_stack/   a stack from one RGB-D frame
python prepare.py defocusnet data/defocusnet                 .exr depth to .npy, once (needs OpenEXR)
python prepare.py fetch [NAME]                               a published data set, or where it is
python prepare.py weights                                    download what the measure LPIPS takes
"""

from dfd_selfsup import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.prepare, __doc__)  # --help is answered before PyTorch is loaded

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import yaml
from torch import Tensor

from dfd_selfsup.alignment import common_part, describe_motion, residuals, stack_motions, warp
from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.defocusnet import convert_depth
from dfd_selfsup.datasets.folder import (
    NO_DIRECTION,
    Order,
    complete_info,
    list_slices,
    stack_folders,
    write_stack,
)
from dfd_selfsup.datasets.nyuv2 import NYU_FOCUS_M, read_labeled_frames, rgbd_stack, write_nyuv2_frame
from dfd_selfsup.datasets.sources import SOURCES
from dfd_selfsup.datasets.splits import KINDS, open_folder
from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader
from dfd_selfsup.datasets.watch import needs, watch
from shared.errors import ConfigError, DataError, RunError
from shared.files.disk import new_folder, write_bytes
from shared.files.images import encode_png, read_image
from shared.files.listing import distinct_stems
from shared.files.maps import read_depth_png
from shared.quality.losses import backbone_file
from shared.runs.fetch import download

__all__ = ["main", "report_folder", "report_stack"]

ALIGN_SIDE = 1000  # px, at which motions are estimated
LARGEST_RESIDUAL = 1e-3  # of the width, and a pixel at least: what may be left of the motion
LEAST_CORRELATION = 0.7  # of an aligned photo with its neighbour, softened
BREATHING = 3e-3  # change of scale through the stack from which it tells the direction


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; bad data end in DataError, a missing package in RunError."""
    args = arguments.prepare(__doc__, argv)
    args.order = None if getattr(args, "order", None) == "auto" else getattr(args, "order", None)
    if args.command in ("fetch", "weights"):
        download(args, SOURCES, backbone_file)
        return
    commands = {"check": _check, "align": _align, "nyuv2": _nyuv2, "rgbd": _rgbd, "defocusnet": _defocusnet}
    sys.stdout.write(commands[args.command](args))
    say_done(getattr(args, "out", ""), _then(args))


def _then(args: argparse.Namespace) -> str:
    """What to do after a command."""
    if args.command in ("align", "rgbd"):
        return f"python -m dfd_selfsup.predict {args.out} --fit"
    folder = args.out if args.command == "nyuv2" else args.folder
    kind = args.kind if args.command == "check" else args.command
    if kind is None and (roots := _roots_of_splits(folder)):
        kind, folder = "folders", roots[0]
    if kind is None:
        return f"python -m dfd_selfsup.predict {folder} --fit"
    return f"python -m dfd_selfsup.train --config {kind} --set data.root={folder}"


def report_folder(folder: Path, order: Order | None = None) -> str:
    """The report on one stack, or on all stacks below {train,validation,test}/, at most two folders down."""
    roots = _roots_of_splits(folder)
    if not roots:
        stack = open_folder(folder, order)
        sys.stderr.write(needs(stack))
        names, images = [path.name for path in stack.images.paths], watch(stack)
        for _ in images:
            pass
        return report_stack(replace(stack, notes=(*stack.notes, *images.notes(str(folder)))), names)
    return "".join(
        f"{root}\n" + report_splits({split: _loaders(root / split) for split in SPLITS}) for root in roots
    )


def _roots_of_splits(folder: Path) -> list[Path]:
    levels = ("", "*/", "*/*/")
    return sorted(
        {path.parent for level in levels for split in SPLITS for path in folder.glob(f"{level}{split}/")}
    )


def _loaders(folder: Path) -> list[Loader]:
    return [lambda path=path: open_folder(path).loaded() for path in stack_folders(folder)]


def report_splits(loaders: dict[str, list[Loader]]) -> str:
    """A line for each split, and one for each stack: what it holds, or why it cannot be used."""
    lines = []
    for split, loads in loaders.items():
        lines.append(f"{split}: {len(loads)} stacks")
        for load in loads:
            try:
                stack = load()
            except DataError as error:
                lines.append(f"  UNUSABLE: {error}")
                continue
            truth = [n for n in ("depth", "aif") if getattr(stack, n) is not None]
            lines.append(f"  {stack.name:20s} {stack.in_words}, truth: {', '.join(truth) or 'none'}")
    return "\n".join(lines) + "\n"


def report_stack(stack: FocalStack, names: Sequence[str] = ()) -> str:
    """What is known about one stack, and how much blur its lens can make; names: those of its slices."""
    q, lens = stack.defocus.focus_q, stack.lens
    quantity, focus = {
        "metric": ("focus (m)", 1 / q),
        "disparity": ("focus (disparity, px)", q),
        "order": ("focus (place in the stack)", q),
        "place": ("focus (place in the stack)", q.flip(0)),
    }[stack.defocus.kind]
    facts = {quantity: ", ".join(f"{value:.4g}" for value in focus)}
    if names:
        ends = "first and last" if stack.defocus.kind == "place" else "nearest and farthest focus"
        facts[ends] = f"{names[0]}, {names[-1]}"
    facts["depth"] = stack.depth_in_words
    if lens is not None:
        pixel = f"pixel {lens.pixel_pitch_um:g} um"
        facts["lens"] = f"{lens.focal_length_mm:g} mm, f/{lens.f_number:g}, {pixel}"
    if stack.defocus.kind in ("metric", "disparity"):
        widest = float((stack.defocus.gain_px * (q - q[[0, -1]][:, None]).abs().amax(0)).max())
        facts["largest blur radius"] = f"{widest:.1f} px, between the ends of the focus range"
        if widest < 2:
            facts["WEAK BLUR"] = "below 2 px: depth will be hard to tell; check lens and pitch"
    lines = [f"{stack.name}: {stack.in_words}"]
    lines += [f"  {name:27s}{text}" for name, text in [*facts.items(), *(("note", n) for n in stack.notes)]]
    return "\n".join(lines) + "\n"


def _check(args: argparse.Namespace) -> str:
    try:
        if args.kind in (None, "folders"):
            return report_folder(args.folder, args.order)
        if args.kind not in KINDS:
            raise ConfigError("--kind", f"{args.kind} is unknown; choose one of {', '.join(KINDS)}")
        return report_splits(KINDS[args.kind](args.folder, DataConfig(kind=args.kind)))
    except DataError as error:
        if args.kind not in SOURCES:
            raise
        where = f"`python -m dfd_selfsup.prepare fetch {args.kind}` says where the data are"
        raise DataError(error.path, error.reason, f"{error.remedy}. {where}") from None


def _align(args: argparse.Namespace) -> str:
    stack = open_folder(args.photos, args.order)
    sys.stderr.write(needs(stack, "align"))
    images, photos = watch(stack), stack.images
    greys = [_small_grey(image) for image in images]
    motions = stack_motions(greys)
    scale = stack.size[1] / greys[0].shape[1]
    allowed_px = args.tolerance or max(1.0, LARGEST_RESIDUAL * stack.size[1])
    rows, columns = common_part(motions, stack.size)
    if min(rows.stop - rows.start, columns.stop - columns.start) < 16:
        raise DataError(args.photos, "the photos hardly overlap once aligned", "Are they of one scene?")
    lines = [f"{len(photos)} photos on the middle one; the motion of each, and what is left at most:"]
    failed = []
    for path, motion, left in zip(photos.paths, motions, residuals(greys, motions), strict=True):
        size, angle, x, y = describe_motion(motion, stack.size)
        left_px = left.px * scale
        moved = f"scale {size:.5f}, turned {angle:+.2f} degrees, shifted {x:+.2f} {y:+.2f} px"
        lines.append(f"  {path.name:24s} {moved}; left {left_px:.2f} px")
        if left_px > allowed_px or left.correlation < LEAST_CORRELATION:
            failed.append(f"{path.name} (by up to {left_px:.1f} px, correlation {left.correlation:.2f})")
    if failed:
        remedy = (
            "The camera moved from its place, or the photos are of different scenes: leave these out, or "
            "accept what is left by --tolerance PX"
        )
        raise DataError(args.photos, f"cannot be aligned: {', '.join(failed)} do not fit", remedy)
    by_name = replace(photos, paths=tuple(list_slices(args.photos)[0]))
    info, _ = complete_info(args.photos, by_name, args.order)
    if info.sensor_width_mm:  # the pitch stays, the picture becomes narrower
        info.pixel_pitch_um = info.pixel_pitch_um or info.sensor_width_mm * 1000 / stack.size[1]
    notes = [*stack.notes, *images.notes(str(args.photos))]
    if stack.defocus.kind == "place":
        info.order, note = _direction([describe_motion(motion, stack.size)[0] for motion in motions])
        notes = [*(each for each in notes if each != NO_DIRECTION or not info.order), *note]
    info.breathing_corrected = True
    names = distinct_stems([path.name for path in by_name.paths])
    text = yaml.safe_dump(info.model_dump(exclude_defaults=True, exclude={"sensor_width_mm"}))
    with new_folder(args.out) as out:
        for index, (path, motion) in enumerate(zip(photos.paths, motions, strict=True)):
            pixels = warp(photos[index].permute(1, 2, 0).numpy(), motion)[rows, columns]
            write_bytes(out / f"{names[path.name]}.png", encode_png(pixels))
        write_bytes(out / "stack.yaml", text.encode())
    sizes = f"{stack.size[1]} x {stack.size[0]} to {columns.stop - columns.start} x {rows.stop - rows.start}"
    lines += [f"cut from {sizes}, which all of them show"]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)]) + "\n"


def _small_grey(image: Tensor) -> np.ndarray:
    grey = image.mean(0).numpy()
    scale = ALIGN_SIDE / max(grey.shape)
    size = tuple(round(side * scale) for side in grey.shape[::-1])
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if scale < 1 else grey


def _direction(scales: Sequence[float]) -> tuple[Order | None, list[str]]:
    """Which end is near, if the photos grow or shrink steadily from the first to the last, and a note."""
    steps = np.diff(scales)
    if abs(steps.sum()) < BREATHING or abs(steps).sum() > 1.2 * abs(steps.sum()):
        return None, []
    order = "near_to_far" if steps.sum() < 0 else "far_to_near"
    note = (
        f"order: {order.replace('_', ' ')}, because the view changes by {abs(steps.sum()):.1%}: a lens that "
        "moves as a whole enlarges what is near; if yours is of another kind, change it in stack.yaml"
    )
    return order, [note]


def _nyuv2(args: argparse.Namespace) -> str:
    if importlib.util.find_spec("h5py") is None:
        raise RunError("prepare.py nyuv2 needs the package h5py; install the optional extra `nyu`")
    count = 0
    with new_folder(args.out) as out:
        for frame in read_labeled_frames(args.labeled, args.splits):
            write_nyuv2_frame(out, frame, args.depth_encoding)
            count += 1
    return f"{count} frames with {len(NYU_FOCUS_M)} slices each, depth {args.depth_encoding}, in {args.out}\n"


def _rgbd(args: argparse.Namespace) -> str:
    image = read_image(args.image)
    depth, valid = read_depth_png(args.depth, unit_m=args.unit_m)
    if image.shape[-2:] != depth.shape:
        raise DataError(
            args.depth, f"is {list(depth.shape)}, the image {list(image.shape[-2:])}", "Give a pair"
        )
    if not bool(valid.any()):
        raise DataError(args.depth, "holds no valid depth", "0 means none")
    stack = rgbd_stack(image, depth, valid, args.image.stem)
    with new_folder(args.out) as out:
        write_stack(out, stack, NYU_FOCUS_M)
    return f"a stack of {len(stack.images)} slices, blurred as the paper's NYUv2 stacks are, in {args.out}\n"


def _defocusnet(args: argparse.Namespace) -> str:
    return f"{convert_depth(args.folder)} depth maps converted in {args.folder}\n"


if __name__ == "__main__":
    command_line(main)
