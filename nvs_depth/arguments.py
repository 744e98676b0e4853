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
PATHS = ("orbit", "swing", "forward", "sway")
LAYOUTS = ("shapenet", "shapenet_flat", "kitti_raw", "kitti_odometry", "kitti_odometry_flat", "posed")

_DEPTH_LOSSES = ("photometric", "consistency", "smoothness")
_NO_DEPTH_LOSS = [f"weights.{name}=0" for name in _DEPTH_LOSSES]
_PREDECESSOR = ["model.depth_from=latent", "model.depth_heads=one", "losses.photometric_on=new_view"]
_PREDECESSOR += ["losses.photometric_scales=full", "losses.smoothness_on=new_view"]
_PREDECESSOR += [f"weights.{name}=10" for name in ("reconstruction", *_DEPTH_LOSSES)]

# row -> its name and what it changes
ROWS: dict[str, tuple[str, list[str]]] = {
    "full": ("Full method", []),
    "views_only": ("Views alone: no depth losses", _NO_DEPTH_LOSS),
    "depth_only": ("Depth alone: no image losses", ["weights.reconstruction=0", "weights.perceptual=0"]),
    "predecessor": ("Predecessor (as Hou et al.): depth from latent, inverse warp", _PREDECESSOR),
    "zeros": ("Target depth without splatted features", ["model.target_features=zeros"]),
    "two_pass": ("Target depth in two passes, inverse warp", ["model.target_features=two_pass"]),
    "no_consistency": ("No consistency", ["weights.consistency=0"]),
    "no_photometric": ("No photometric", ["weights.photometric=0"]),
    "no_smoothness": ("No smoothness", ["weights.smoothness=0"]),
    "no_perceptual": ("No VGG", ["weights.perceptual=0"]),
    "two_decoders": ("A depth decoder of its own for the target", ["model.shared_depth_decoder=false"]),
    "one_head": ("One depth map, shrunk for the coarser scales", ["model.depth_heads=one"]),
    "stop_gradient": ("Consistency does not pull D_b", ["losses.consistency_stop_gradient=true"]),
}
CLAIM = ("full", "views_only", "depth_only", "predecessor")  # what --rows defaults to


def train(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    return parse_train_args(doc, argv, CONFIGS)


def evaluate(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", type=user_path, metavar="DIR", help="instead of the config's data.root")

    return parse_eval_args(doc, argv, add)


def predict(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    return parse_eval_args(doc, argv, _add_predict)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=user_path, metavar="IMAGE", help="the one picture")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", help="default: IMAGE_views next to the picture"
    )
    parser.add_argument("--path", choices=PATHS, help="default: swing for objects, sway for scenes")
    parser.add_argument("--amount", type=float, help="how far, in degrees or units (see above)")
    orbit = "of the point that an orbit turns about (default: 2)"
    parser.add_argument("--distance", type=float, default=2.0, help=orbit)
    parser.add_argument("--frames", type=int, default=48, help="number of views on the path (default: 48)")
    poses = "your own cameras instead of a path"
    parser.add_argument("--poses", type=user_path, metavar="FILE_OR_DIR", help=poses)
    parser.add_argument(
        "--focal-px", type=float, help="of the picture, in its own pixels; default: as trained"
    )
    parser.add_argument("--fps", type=float, default=24, help="frames per second (default: 24)")


def prepare(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(doc)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is there, what is missing and where to get it")
    check.add_argument("folder", type=user_path, metavar="DIR")
    check.add_argument("--layout", choices=("auto", *LAYOUTS), default="auto")
    outside = "transforms.json may name images outside of its folder"
    check.add_argument("--images-outside", action="store_true", help=outside)
    kitti = commands.add_parser("kitti", help="prepare KITTI raw drives")
    kitti.add_argument("raw", type=user_path, metavar="RAW", help="folder with 2011_09_26 and so on")
    kitti.add_argument("--out", type=user_path, required=True, metavar="DIR")
    kitti.add_argument(
        "--drives", nargs="+", metavar="NAME", help="e.g. 2011_09_26_drive_0002_sync; default: all"
    )
    kitti.add_argument("--cameras", nargs="+", choices=("02", "03"), default=["02", "03"])
    add_download_commands(commands)
    add_colmap_command(commands, "photos of one scene to posed images")
    return parser.parse_args(argv)


def table(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    config, out, seeds = CONFIGS / "quick_table.yaml", Path("runs/nvs_depth-table"), (0, 1, 2)
    return parse_table_args(doc, argv, config=config, out=out, rows=ROWS, chosen=CLAIM, seeds=seeds)
