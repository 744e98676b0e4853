"""Render a trained scene along any camera path: views, their depth, and a video of both.

    python predict.py --run runs/deepvoxels-quick --path orbit --frames 120
    python predict.py --run runs/deepvoxels-quick --poses my_poses/ --out frames

`--poses` takes camera-to-world poses (16 numbers each, OpenCV axes), one per frame: a file with a pose on
each line, or a folder of pose files in the order of their names. --out gets views, depth, cameras, points, a
mesh and a video, see shared/show/export.py.
"""

from deepvoxels import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.predict, __doc__)  # --help is answered before PyTorch is loaded

from collections.abc import Sequence
from pathlib import Path

from deepvoxels.api import TrainedScene
from deepvoxels.paths import camera_path
from shared.errors import RunError
from shared.files.cameras import read_poses
from shared.show.export import export_views

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.predict(__doc__, argv)
    if args.frames < 1 or not 0 < args.fps <= 240:
        raise RunError(f"--frames {args.frames} --fps {args.fps:g}: at least one frame, fps in (0, 240]")
    scene = TrainedScene.load(args.run, args.device, args.checkpoint)
    if args.poses:
        world_from_cam, name = read_poses(args.poses), args.poses.stem
    else:
        world_from_cam, name = camera_path(scene, args.frames, args.path), args.path
    views = scene.render(world_from_cam, progress=True)
    folder = args.out or (args.run if args.run.is_dir() else Path()) / f"views_{name}"
    export_views(folder, views, world_from_cam, scene.K, args.fps)
    say_done(folder, f"look at {folder}/moving_camera.mp4, or around: python -m shared.show.viewer {folder}")


if __name__ == "__main__":
    command_line(main)
