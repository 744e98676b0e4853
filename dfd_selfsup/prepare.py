"""Check focal stacks, align hand-held ones, and bring published data into the layout the loaders read.

python prepare.py check my_stack/                            one stack, or a folder of splits
python prepare.py check data/nyuv2 --kind nyuv2              a published data set, as training reads it
python prepare.py align my_photos/ --out my_stack/           register photos by scale and translation
python prepare.py nyuv2 labeled.mat splits.mat --out data/nyuv2     make the five-slice stacks (needs h5py)
python prepare.py rgbd rgb.png depth.png --unit-m 1e-4 --out my_stack/   a stack from one RGB-D frame
python prepare.py defocusnet data/defocusnet                 .exr depth to .npy, once (needs OpenEXR)
"""

from dfd_selfsup import arguments
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.prepare, __doc__)  # --help is answered before PyTorch is loaded

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml

from dfd_selfsup.alignment import align_stack, scale_and_shift
from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.defocusnet import convert_depth
from dfd_selfsup.datasets.folder import list_slices, read_info, write_stack
from dfd_selfsup.datasets.nyuv2 import NYU_FOCUS_M, read_labeled_frames, rgbd_stack, write_nyuv2_frame
from dfd_selfsup.datasets.splits import KINDS, read_folder
from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader, read_slices
from shared.errors import ConfigError, DataError, RunError
from shared.files.disk import new_folder, write_bytes
from shared.files.images import read_depth_png, read_image, write_image

__all__ = ["main", "report_folder", "report_stack"]

WHERE_TO_GET = (
    "NYUv2: nyu_depth_v2_labeled.mat (2.8 GB) and splits.mat from cs.nyu.edu/~silberman/datasets (research "
    "use). DefocusNet: the original data from the repository dvl-tum/defocus-net; the paper's re-rendering "
    "was never released. Mobile Depth: from the project page of Suwajanakorn et al. 2015. Without any of "
    "them, configs/quick.yaml trains on embedded stacks"
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; bad data end in DataError, a missing package in RunError."""
    args = arguments.prepare(__doc__, argv)
    commands = {"check": _check, "align": _align, "nyuv2": _nyuv2, "rgbd": _rgbd, "defocusnet": _defocusnet}
    sys.stdout.write(commands[args.command](args))


def report_folder(folder: Path) -> str:
    """The report on one stack, or on all stacks below {train,validation,test}/, at most two folders down."""
    levels = ("", "*/", "*/*/")
    roots = {path.parent for level in levels for split in SPLITS for path in folder.glob(f"{level}{split}/")}
    if not roots:
        return report_stack(read_folder(folder))
    return "".join(
        f"{root}\n" + report_splits({split: _loaders(root / split) for split in SPLITS})
        for root in sorted(roots)
    )


def _loaders(folder: Path) -> list[Loader]:
    return [partial(read_folder, path) for path in sorted(folder.glob("*/"))]


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


def report_stack(stack: FocalStack) -> str:
    """What is known about one stack, and how much blur its lens can make."""
    q, lens = stack.defocus.focus_q, stack.lens
    quantity, focus = {
        "metric": ("focus (m)", 1 / q),
        "disparity": ("focus (disparity, px)", q),
        "order": ("focus (place in the stack)", q),
    }[stack.defocus.kind]
    facts = {quantity: ", ".join(f"{value:.4g}" for value in focus)}
    if lens is not None:
        pixel = f"pixel {lens.pixel_pitch_um:g} um"
        facts["lens"] = f"{lens.focal_length_mm:g} mm, f/{lens.f_number:g}, {pixel}"
    if stack.defocus.kind == "order":
        lacking = "lens" if lens is None else "focus distances"
        facts[lacking] = "unknown: depth will be ordered, not metric"
    else:
        widest = float((stack.defocus.gain_px * (q - q[[0, -1]][:, None]).abs().amax(0)).max())
        facts["largest blur radius"] = f"{widest:.1f} px, between the ends of the focus range"
        if widest < 2:
            facts["WEAK BLUR"] = "below 2 px: depth will be hard to tell; check lens and pitch"
    lines = [f"{stack.name}: {stack.in_words}"]
    lines += [f"  {name:27s}{text}" for name, text in [*facts.items(), *(("note", n) for n in stack.notes)]]
    return "\n".join(lines) + "\n"


def _check(args: argparse.Namespace) -> str:
    try:
        if args.kind is None:
            return report_folder(args.folder)
        if args.kind not in KINDS:
            raise ConfigError("--kind", f"{args.kind} is unknown; choose one of {', '.join(KINDS)}")
        return report_splits(KINDS[args.kind](args.folder, DataConfig(kind=args.kind)))
    except DataError as error:
        raise DataError(error.path, error.reason, f"{error.remedy}. {WHERE_TO_GET}") from None


def _align(args: argparse.Namespace) -> str:
    paths, _ = list_slices(args.photos)
    if len(paths) < 2:
        raise DataError(args.photos, f"holds {len(paths)} photo(s)", "Name the folder of one focal stack")
    images = read_slices(paths)
    info = read_info(args.photos / "stack.yaml")
    known = info.focus_m and len(info.focus_m) == len(paths)
    order = sorted(range(len(paths)), key=info.focus_m.__getitem__) if known else None
    aligned, motions = align_stack(images, order)
    if min(aligned.shape[-2:]) < 16:
        raise DataError(args.photos, "the photos hardly overlap once aligned", "Are they of one scene?")
    if info.sensor_width_mm:  # the pitch stays, the picture becomes narrower
        info.pixel_pitch_um = info.pixel_pitch_um or info.sensor_width_mm * 1000 / images.shape[-1]
    info.breathing_corrected = True
    text = yaml.safe_dump(info.model_dump(exclude_defaults=True, exclude={"sensor_width_mm"}))
    with new_folder(args.out) as out:
        for path, image in zip(paths, aligned, strict=True):
            write_image(out / f"{path.stem}.png", image)
        write_bytes(out / "stack.yaml", text.encode())
    lines = [f"aligned {len(paths)} photos to the middle one; the motion of each was"]
    for path, motion in zip(paths, motions, strict=True):
        scale, x, y = scale_and_shift(motion, images.shape[-2:])
        lines.append(f"  {path.name:24s} scale {scale:.5f}, shift {x:+.2f} {y:+.2f} px")
    sizes = [f"{image.shape[-1]} x {image.shape[-2]}" for image in (images, aligned)]
    lines.append(f"cut from {sizes[0]} to {sizes[1]}, which all of them show; check the result by eye")
    return "\n".join(lines) + "\n"


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
