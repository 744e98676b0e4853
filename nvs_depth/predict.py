"""A moving camera out of one picture: new views, their depth, and a video of both.

    python predict.py --run runs/nvs_depth-quick chair.png
    python predict.py --run runs/nvs_depth-quick chair.png --path orbit --amount 30 --frames 60 --out turned
    python predict.py --run runs/my_drive street.png --path forward --amount 3 --focal-px 900
    python predict.py --run runs/nvs_depth-quick chair.png --poses poses.txt

The picture's middle square is used, transparency becomes black. `--poses` holds 16 numbers per line: the 4x4
pose of the new camera in the coordinates of the given one (x right, y down, z forward; metres for networks
trained on KITTI, else the units of training, where objects are 2 away). `--amount` is in degrees for orbit
and swing, else in that unit. The picture is encoded once, however many views are made. --out gets
view_NNNN.png, depth_NNNN.pfm (z-depth), source_depth.pfm, depth.json, which names the unit, and
moving_camera.mp4.
"""

import argparse
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
from shared.camera import check_pose, intrinsics_matrix, invert_pose
from shared.files import DataError, read_image, read_text, write_image, write_pfm
from shared.memory import keep_large_buffers
from shared.report import write_video
from shared.run import command_line, parse_eval_args, select_device, write_json

__all__ = ["main", "picture_camera", "read_relative_poses"]

DEFAULT_AMOUNT = {"orbit": 30.0, "swing": 30.0, "forward": 1.0, "sway": 0.3}  # degrees or units


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_eval_args(__doc__, argv, add_arguments)
    keep_large_buffers()
    config, network, facts = load_network(args.run, args.checkpoint, select_device(args.device))
    image, K, notes = picture_camera(args.image, config, facts, args.focal_px)
    unit_m = facts.get("unit_m")
    if args.poses:
        poses = read_relative_poses(args.poses)
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
    for index, (view, depth) in enumerate(views):
        write_image(folder / f"view_{index:04d}.png", view)
        write_pfm(folder / f"depth_{index:04d}.pfm", depth[0])
    write_json(folder / "depth.json", depth_facts(unit_m, K, notes))
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
    parser.add_argument("--distance", type=float, default=2.0, help="of the point an orbit turns about")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--poses", type=Path, metavar="FILE", help="cameras of one's own instead of a path")
    parser.add_argument(
        "--focal-px", type=float, help="of the picture, in its own pixels; default: as trained"
    )
    parser.add_argument("--fps", type=float, default=16)


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


def read_relative_poses(path: Path) -> Tensor:
    """`target_from_source` [N, 4, 4] from a file of new cameras' poses in the source camera, one per line.

    Raises DataError naming the line for anything but 16 finite numbers of a rigid pose.
    """
    poses = []
    remedy = (
        "Write the 16 numbers of the 4x4 pose of the new camera in the source camera's frame on each line"
    )
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = torch.tensor([float(word) for word in line.split()], dtype=torch.float64)
            if len(values) != 16:
                raise ValueError(f"line {number}: {len(values)} numbers instead of 16")
            check_pose(values.reshape(4, 4), f"line {number}")
        except ValueError as error:
            raise DataError(path, str(error), remedy) from None
        poses.append(values.reshape(4, 4))
    if not poses:
        raise DataError(path, "holds no poses", remedy)
    return invert_pose(torch.stack(poses)).float()


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
