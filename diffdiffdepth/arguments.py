"""The arguments of the scripts; importing them does not import PyTorch, so that --help answers at once."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shared.errors import RunError, explain
from shared.runs.command import (
    add_colmap_command,
    add_device_argument,
    add_download_commands,
    find_config,
    make_parser,
    parse_eval_args,
    parse_table_args,
    parse_train_args,
    user_path,
)

__all__ = ["ROWS", "evaluate", "predict", "prepare", "table", "train"]

CONFIGS = Path(__file__).parent / "configs"
ROWS = ("light_field", "multi_view", "ablation")


def train(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    return _checked(parse_train_args(doc, argv, CONFIGS))


def evaluate(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", type=user_path, metavar="DIR", help="the data set, where it has moved")

    return _checked(parse_eval_args(doc, argv, add, has_checkpoints=False))


def predict(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(doc)
    parser.add_argument(
        "source", type=user_path, metavar="FOLDER", help="light field, COLMAP scene or photos"
    )
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--image", nargs="+", metavar="NAME", help="only these images of a COLMAP scene")
    kind = {"choices": ("photos", "light-field"), "help": "where names mislead; by default names and content"}
    parser.add_argument("--kind", **kind)
    parser.add_argument("--preview", action="store_true", help="from the points alone, without optimisation")
    side = {"type": int, "default": 1024, "metavar": "PX", "help": "photos are reduced to it (default 1024)"}
    parser.add_argument("--max-side", **side)
    parser.add_argument("--full-size", action="store_true", help="also bring the map to the photo's own size")
    config = "default: configs/hci.yaml or mvs.yaml"
    parser.add_argument("--config", type=find_config(CONFIGS), metavar="FILE", help=config)
    settings = {"nargs": "+", "action": "extend", "default": [], "metavar": "KEY=VALUE"}
    parser.add_argument("--set", **settings, help="as in train.py")
    add_device_argument(parser)
    return _checked(parser.parse_args(argv))


def prepare(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(doc)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is there and whether it can be used")
    check.add_argument("folder", type=user_path, metavar="DIR")
    points = commands.add_parser("points", help="find the initial points of a light field")
    points.add_argument("folder", type=user_path, metavar="DIR")
    points.add_argument("--out", type=user_path, required=True, metavar="FILE.npz")
    add_download_commands(commands)
    add_colmap_command(commands, "photos of one thing to a COLMAP scene")
    return parser.parse_args(argv)


def table(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    def add(parser: argparse.ArgumentParser) -> None:
        text = "folder of HCI scene folders, run as well"
        parser.add_argument("--hci", type=user_path, metavar="DIR", help=text)

    out, config = Path("runs/diffdiffdepth-table"), CONFIGS / "quick.yaml"
    return _checked(parse_table_args(doc, argv, config=config, out=out, rows=ROWS, add_arguments=add))


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments; the program ends where the solver's float64 would be missing."""
    if args.device == "mps":
        reason = "--device mps: the solver takes float64, which Apple GPUs do not have; use --device cpu"
        sys.stderr.write(explain(RunError(reason)))
        sys.exit(2)
    return args
