"""A moving camera out of one picture: new views, their depth, and a video of both.

    python predict.py --run runs/nvs_depth-quick chair.png
    python predict.py --run runs/nvs_depth-quick chair.png --path orbit --amount 30 --frames 60 --out turned
    python predict.py --run runs/my_drive street.png --path forward --amount 3 --focal-px 900
    python predict.py --run runs/nvs_depth-quick chair.png --poses poses.txt

The picture's middle square is used, transparency becomes black. `--poses` takes poses of the new cameras
in the coordinates of the given one: 16 numbers each, in a file with one on each line or a folder of
files; x right, y down, z forward; in metres for networks trained on KITTI, else in the units of training,
where objects are 2 away. `--amount` is in degrees for orbit and swing, else in that unit. The picture is
encoded once, however many views are made. --out gets view_NNNN.png, depth_NNNN.pfm (z-depth),
source_depth.pfm, depth.json, which names the unit, and moving_camera.mp4.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nvs_depth.config import TrainConfig
from nvs_depth.datasets.views import BLACK, Framing
from nvs_depth.eval import load_network
from nvs_depth.paths import PATHS, relative_path
from nvs_depth.report import depth_spread, render_path, view_frames
from shared.errors import DataError, RunError
from shared.files.cameras import read_camera_path, write_views
from shared.files.images import read_image, write_pfm
from shared.geometry.camera import intrinsics_matrix, invert_pose
from shared.runs.command import command_line, parse_eval_args, select_device
from shared.runs.run import keep_large_buffers
from shared.show.video import write_video

__all__ = ["main", "picture_camera"]

DEFAULT_AMOUNT = {"orbit": 30.0, "swing": 30.0, "forward": 1.0, "sway": 0.3}  # degrees or units


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_eval_args(__doc__, argv, add_arguments)
    if args.frames < 1 or not 0 < args.fps <= 240:
        raise RunError(f"--frames {args.frames} --fps {args.fps:g}: at least one frame, fps in (0, 240]")
    if not math.isfinite(args.amount or 0) or not math.isfinite(args.distance):
        raise RunError(f"--amount {args.amount} --distance {args.distance}: both must be finite")
    keep_large_buffers()
    config, network, facts = load_network(args.run, args.checkpoint, select_device(args.device))
    image, K, notes = picture_camera(args.image, config, facts, args.focal_px)
    unit_m = facts.get("unit_m")
    if args.poses:
        poses = invert_pose(read_camera_path(args.poses)).float()  # target_from_source
    else:
        kind = args.path or ("sway" if config.model.depth_range == "scene" else "swing")
        amount = DEFAULT_AMOUNT[kind] if args.amount is None else args.amount
        poses = relative_path(kind, args.frames, amount, args.distance)
    if unit_m:
        poses[:, :3, 3] /= unit_m
    folder = args.out or args.image.with_name(f"{args.image.stem}_views")

    device = next(network.parameters()).device
    scale = unit_m or 1.0
    with torch.no_grad():
        source = network.encode(image[None].to(device), K[None].to(device))  # once
    views = [(view, scale * depth) for view, depth in render_path(network, source, K, poses)]
    write_pfm(folder / "source_depth.pfm", scale * source.depth.full[0, 0].cpu())
    write_views(folder, [(view, depth[0]) for view, depth in views], depth_facts(unit_m, K, notes))
    limits, unit = depth_spread(scale * source.depth.full), "m" if unit_m else "training units"
    frames = view_frames(image, views, limits, unit, "scale of the training poses")
    video = write_video(folder / "moving_camera.mp4", frames, args.fps)
    for note in notes:
        print(f"note: {note}")  # noqa: T201
    print(f"{len(poses)} views and their depth: {folder}; video: {video}")  # noqa: T201


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the one picture")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: IMAGE_views beside the picture")
    parser.add_argument("--path", choices=PATHS, help="default: swing for objects, sway for scenes")
    parser.add_argument("--amount", type=float, help="how far, in degrees or units (see above)")
    orbit = "of the point that an orbit turns about (default: 2)"
    parser.add_argument("--distance", type=float, default=2.0, help=orbit)
    parser.add_argument("--frames", type=int, default=48, help="number of views on the path (default: 48)")
    poses = "cameras of one's own instead of a path"
    parser.add_argument("--poses", type=Path, metavar="FILE_OR_DIR", help=poses)
    parser.add_argument(
        "--focal-px", type=float, help="of the picture, in its own pixels; default: as trained"
    )
    parser.add_argument("--fps", type=float, default=24, help="frames per second (default: 24)")


def picture_camera(
    path: Path, config: TrainConfig, facts: dict[str, Any], focal_px: float | None
) -> tuple[Tensor, Tensor, list[str]]:
    """The picture [3, S, S] as the network takes it, its K [3, 3], and what was assumed about it."""
    image = read_image(path, background=BLACK)
    hw = tuple(image.shape[-2:])
    framing = Framing(config.model.image_side)
    notes = []
    if focal_px is not None:
        if not focal_px > 0:
            raise DataError(path, f"the focal length {focal_px} is not positive", "Give --focal-px in pixels")
        K = intrinsics_matrix(focal_px, focal_px, (hw[1] - 1) / 2, (hw[0] - 1) / 2)
        K = framing.K(K, hw)
    elif "K" in facts:
        K = torch.tensor(facts["K"])
        notes.append(
            "no --focal-px: the picture's square is taken to have the training images' field of view"
        )
    else:
        raise DataError(path, "its focal length is not known", "Give --focal-px, in pixels of the picture")
    if min(hw) < config.model.image_side:
        notes.append(
            f"the picture is smaller than the network's {config.model.image_side} px and was enlarged"
        )
    if hw[0] != hw[1]:
        notes.append(f"only the square in the middle of {hw[1]} x {hw[0]} pixels is used")
    return framing.image(image), K, notes


def depth_facts(unit_m: float | None, K: Tensor, notes: list[str]) -> dict[str, Any]:
    """What a reader of the depth files has to know."""
    return {
        "quantity": "z-depth, along the optical axis",
        "unit": "m" if unit_m else "units of the training poses (objects: their middle is 2 away)",
        "scale": "learned from the training poses; right only for pictures like the training images",
        "invalid": "none marked; the black background of objects has no meaningful depth",
        "K": K.tolist(),
        "notes": notes,
    }


if __name__ == "__main__":
    command_line(main)
