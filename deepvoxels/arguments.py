"""The arguments of the scripts; importing them does not import PyTorch, so that --help answers at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared.runs.command import (
    add_colmap_command,
    add_download_commands,
    make_parser,
    parse_eval_args,
    parse_table_args,
    parse_train_args,
    user_path,
)

__all__ = ["PATHS", "ROWS", "evaluate", "predict", "prepare", "table", "train"]

CONFIGS = Path(__file__).parent / "configs"
PATHS = ("auto", "orbit", "spiral", "tour")
ROWS = {  # of the paper's table 1: what each changes
    "nearest_neighbour": ["method=nearest_neighbour"],
    "tatarchenko": ["method=tatarchenko"],
    "worrall": ["method=worrall"],
    "pix2pix": ["method=pix2pix"],
    "deepvoxels_no_occlusion": ["method=deepvoxels", "model.occlusion=false"],
    "deepvoxels": ["method=deepvoxels", "model.occlusion=true"],
}


def train(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    return parse_train_args(doc, argv, CONFIGS)


def evaluate(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    def add(parser: argparse.ArgumentParser) -> None:
        data = "where data.root of the run is now, if it moved"
        parser.add_argument("--data", type=user_path, metavar="DIR", help=data)

    return parse_eval_args(doc, argv, add)


def predict(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    def add(parser: argparse.ArgumentParser) -> None:
        out = "default: views_PATH in the run folder"
        parser.add_argument("--out", type=user_path, metavar="DIR", help=out)
        parser.add_argument("--path", choices=PATHS, default="auto", help="camera path (default: auto)")
        frames = "number of views on that path (default: 120)"
        parser.add_argument("--frames", type=int, default=120, help=frames)
        poses = "your own cameras instead of a path"
        parser.add_argument("--poses", type=user_path, metavar="FILE_OR_DIR", help=poses)
        parser.add_argument("--fps", type=float, default=24, help="frames per second (default: 24)")

    return parse_eval_args(doc, argv, add)


def prepare(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(doc)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is there, what is missing and where to get it")
    check.add_argument("folder", type=user_path, metavar="DIR")
    outside = "transforms.json may name images outside of its folder"
    check.add_argument("--images-outside", action="store_true", help=outside)
    one_focal_length = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")  # as intrinsics.txt has
    add_download_commands(commands)
    add_colmap_command(commands, "photos of one thing to a scene in the released layout", one_focal_length)
    return parser.parse_args(argv)


def table(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    out = Path("runs/deepvoxels-table")
    return parse_table_args(doc, argv, config=CONFIGS / "quick.yaml", out=out, rows=ROWS)
