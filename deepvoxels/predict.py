"""Render a trained scene along any camera path: a video, and on request every frame and its depth.

    python predict.py --run runs/deepvoxels-quick --path orbit --frames 120
    python predict.py --run runs/deepvoxels-quick --poses my_poses/ --frames-dir frames/

`--poses` takes a folder of pose files (camera to world, 16 numbers each, OpenCV axes), one per frame in the
order of their names. `--frames-dir` gets NNNNN.png, NNNNN_depth.npy (z-depth, float32) and depth.json, which
says its unit.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepvoxels.eval import load_run
from deepvoxels.methods import render_views
from deepvoxels.paths import PATHS, camera_path
from deepvoxels.report import write_view_video
from shared.camera_files import read_pose
from shared.files import DataError, write_bytes, write_image
from shared.run import command_line, parse_eval_args, select_device, write_json

__all__ = ["read_poses", "write_frames"]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_eval_args(__doc__, argv, add_arguments)
    _, method, train_views, _ = load_run(args.run, args.checkpoint, select_device(args.device))
    world_from_cam = (
        read_poses(args.poses) if args.poses else camera_path(train_views, args.frames, args.path)
    )
    views = render_views(method, world_from_cam, train_views.K[:1].expand(len(world_from_cam), 3, 3))
    video = write_view_video(args.out or args.run / f"{args.path}.mp4", train_views, views, fps=args.fps)
    print(f"{len(world_from_cam)} frames: {video}")  # noqa: T201
    if args.frames_dir:
        write_frames(args.frames_dir, views.images, views.depth)
        print(f"frames and depth: {args.frames_dir}")  # noqa: T201


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", choices=PATHS, default="auto", help="camera path (default: auto)")
    parser.add_argument(
        "--frames", type=int, default=120, help="number of frames of that path (default: 120)"
    )
    parser.add_argument("--poses", type=Path, metavar="DIR", help="folder of pose files to follow instead")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="video file (default: PATH.mp4 in the run folder)"
    )
    parser.add_argument("--fps", type=float, default=24, help="frames per second (default: 24)")
    parser.add_argument(
        "--frames-dir", type=Path, metavar="DIR", help="also write every frame and its depth here"
    )


def read_poses(folder: Path) -> Tensor:
    """`world_from_cam` [N, 4, 4] of the pose files in a folder, in the order of their names."""
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        remedy = "Give a folder of NNNNNN.txt files with the 16 numbers of a camera-to-world matrix each"
        raise DataError(folder, "holds no pose files", remedy)
    return torch.stack([read_pose(file) for file in files]).to(torch.float32)


def write_frames(folder: Path, images: Tensor, depth: Tensor | None) -> None:
    """Write images [N, 3, S, S] as PNG and depth [N, h, h], if there is any, as float32 .npy."""
    for index, image in enumerate(images):
        write_image(folder / f"{index:05d}.png", image)
    if depth is None:
        return
    for index, values in enumerate(depth):
        target = folder / f"{index:05d}_depth.npy"
        write_bytes(target, _npy(values))
    record = {
        "quantity": "z-depth: distance along the optical axis, expected over the ray's visibility",
        "unit": "scene units, those of the camera poses",
        "scale": "as the poses: metric only if they are",
        "invalid": "none marked: rays that miss the object have no meaningful depth",
        "size": list(depth.shape[1:]),
    }
    write_json(folder / "depth.json", record)


def _npy(values: Tensor) -> bytes:

    buffer = io.BytesIO()
    np.save(buffer, values.numpy().astype(np.float32))
    return buffer.getvalue()


if __name__ == "__main__":
    command_line(main)
