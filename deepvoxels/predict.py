"""Render a trained scene along any camera path: views, their depth, and a video of both.

    python predict.py --run runs/deepvoxels-quick --path orbit --frames 120
    python predict.py --run runs/deepvoxels-quick --poses my_poses/ --out frames

`--poses` takes camera-to-world poses (16 numbers each, OpenCV axes), one per frame: a file with a pose on
each line, or a folder of pose files in the order of their names. --out gets view_NNNN.png, depth_NNNN.pfm
(z-depth), depth.json, which names the unit, and moving_camera.mp4.
"""

if __name__ == "__main__":
    import shared.interrupt  # noqa: F401 - Ctrl-C ends in one line during the imports, too

import argparse
from collections.abc import Sequence
from pathlib import Path

from deepvoxels.api import TrainedScene
from deepvoxels.paths import PATHS, camera_path
from deepvoxels.report import write_view_video
from shared.errors import RunError
from shared.files.cameras import read_poses
from shared.runs.command import command_line, parse_eval_args

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_eval_args(__doc__, argv, add_arguments)
    if args.frames < 1 or not 0 < args.fps <= 240:
        raise RunError(f"--frames {args.frames} --fps {args.fps:g}: at least one frame, fps in (0, 240]")
    scene = TrainedScene.load(args.run, args.device, args.checkpoint)
    if args.poses:
        world_from_cam, name = read_poses(args.poses), args.poses.stem
    else:
        world_from_cam, name = camera_path(scene, args.frames, args.path), args.path
    views = scene.render(world_from_cam)
    folder = args.out or (args.run if args.run.is_dir() else Path()) / f"views_{name}"
    views.save(folder)
    video = write_view_video(folder / "moving_camera.mp4", views, fps=args.fps)
    what = "views" if views.depth is None else "views and their depth"
    print(f"{len(views)} {what}: {folder}; video: {video}")  # noqa: T201


def add_arguments(parser: argparse.ArgumentParser) -> None:
    out = "default: views_PATH in the run folder"
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)
    parser.add_argument("--path", choices=PATHS, default="auto", help="camera path (default: auto)")
    parser.add_argument("--frames", type=int, default=120, help="number of views on that path (default: 120)")
    poses = "your own cameras instead of a path"
    parser.add_argument("--poses", type=Path, metavar="FILE_OR_DIR", help=poses)
    parser.add_argument("--fps", type=float, default=24, help="frames per second (default: 24)")


if __name__ == "__main__":
    command_line(main)
