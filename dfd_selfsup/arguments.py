"""The arguments of the scripts; importing them does not import PyTorch, so that --help answers at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared.runs.command import (
    add_checkpoint_argument,
    add_device_argument,
    add_download_commands,
    make_parser,
    parse_eval_args,
    parse_table_args,
    parse_train_args,
    user_path,
)

__all__ = ["ROWS", "evaluate", "predict", "prepare", "table", "train"]

CONFIGS = Path(__file__).parent / "configs"
ROWS = {  # what each changes
    "selfsup": ["method=selfsup"],
    "supervised_depth": ["method=supervised", "supervise=depth", "compare_slow=false"],
    "supervised_aif": ["method=supervised", "supervise=aif", "compare_slow=false"],
    "supervised_both": ["method=supervised", "supervise=both", "compare_slow=false"],
}


def train(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    return parse_train_args(doc, argv, CONFIGS)


def evaluate(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    def add(parser: argparse.ArgumentParser) -> None:
        data = "where the stacks are now, instead of data.root"
        parser.add_argument("--data", metavar="DIR", help=data)

    return parse_eval_args(doc, argv, add)


def predict(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(doc)
    parser.add_argument("stack", type=user_path, metavar="STACK", help="folder of photos")
    parser.add_argument("--fit", type=int, nargs="?", const=300, metavar="STEPS", help="train on it (300)")
    parser.add_argument("--run", type=user_path, metavar="DIR", help="run folder of train.py to start from")
    add_checkpoint_argument(parser)
    parser.add_argument("--out", type=user_path, metavar="DIR", help="default: runs/dfd_selfsup-STACK")
    parser.add_argument("--max-side", type=int, default=512, metavar="PX", help="for a network: shrink (512)")
    parser.add_argument("--max-slices", type=int, default=12, metavar="N", help="show it so many (12)")
    _add_order(parser)
    parser.add_argument("--psf-window", type=int, metavar="K", help="side of the blur's kernels, odd (15)")
    parser.add_argument("--seed", type=int, default=0)
    add_device_argument(parser)
    args = parser.parse_args(argv)
    if args.fit is not None and args.fit < 1:
        parser.error("--fit needs at least one step")
    if args.psf_window is not None and (args.psf_window < 1 or args.psf_window % 2 == 0):
        parser.error("--psf-window must be odd and positive")
    if args.max_side < 32 or args.max_slices < 2:
        parser.error("--max-side must be at least 32 and --max-slices at least 2")
    return args


def prepare(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(doc)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is there and whether it can be used")
    check.add_argument("folder", type=user_path, metavar="DIR")
    check.add_argument("--kind", metavar="NAME", help="a data.kind of the configs (default: photos)")
    align = commands.add_parser("align", help="register photos taken by hand, or that change with focus")
    align.add_argument(
        "photos", type=user_path, metavar="PHOTOS", help="folder, with stack.yaml if there is one"
    )
    text = "accept what is left of the motion up to this (default: a pixel, or 0.1 %% of the width)"
    align.add_argument("--tolerance", type=float, metavar="PX", help=text)
    for command in (check, align):
        _add_order(command)
    nyuv2 = commands.add_parser("nyuv2", help="stacks from the labelled NYUv2 frames")
    nyuv2.add_argument("labeled", type=user_path, metavar="LABELED.mat")
    nyuv2.add_argument("splits", type=user_path, metavar="SPLITS.mat")
    nyuv2.add_argument("--depth-encoding", choices=("clean", "wrap16"), default="clean")
    rgbd = commands.add_parser("rgbd", help="a stack from one RGB-D frame")
    rgbd.add_argument("image", type=user_path, metavar="RGB")
    rgbd.add_argument("depth", type=user_path, metavar="DEPTH.png", help="16-bit grey")
    rgbd.add_argument("--unit-m", type=float, required=True, help="metres per unit: 1e-3, 1e-4, ...")
    for command in (align, nyuv2, rgbd):
        command.add_argument("--out", type=user_path, required=True, metavar="DIR", help="new folder")
    defocusnet = commands.add_parser("defocusnet", help="convert .exr depth to .npy")
    defocusnet.add_argument("folder", type=user_path, metavar="DIR")
    add_download_commands(commands)
    return parser.parse_args(argv)


def _add_order(parser: argparse.ArgumentParser) -> None:
    text = "which end of the names is near; auto (the default): where distances, EXIF or stack.yaml tell"
    parser.add_argument("--order", choices=("near_to_far", "far_to_near", "auto"), help=text)


def table(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    out = Path("runs/dfd_selfsup-table")
    return parse_table_args(doc, argv, config=CONFIGS / "quick.yaml", out=out, rows=ROWS)
