"""A moving camera out of one picture: new views, their depth, and a video of both.

    python predict.py --run runs/nvs_depth-quick chair.png
    python predict.py --run runs/nvs_depth-quick chair.png --path orbit --amount 30 --frames 60 --out turned
    python predict.py --run runs/my_drive street.png --path forward --amount 3 --focal-px 900
    python predict.py --run runs/nvs_depth-quick chair.png --poses poses.txt

The picture's middle square is used, transparency becomes black. `--poses` takes poses of the new cameras
in the coordinates of the given one: 16 numbers each, in a file with one on each line or a folder of
files; x right, y down, z forward; in metres for networks trained on KITTI, else in the units of training,
where objects are 2 away. `--amount` is in degrees for orbit and swing, else in that unit. The picture is
encoded once, however many views are made. --out gets views, depth, cameras, points, a mesh and a video, see
shared/show/export.py; source/ has the same of the picture itself.
"""

from nvs_depth import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.predict, __doc__)  # --help is answered before PyTorch is loaded

import math
from collections.abc import Sequence
from pathlib import Path

from nvs_depth.api import EncodedImage, ViewSynthesizer
from nvs_depth.datasets.views import BLACK
from nvs_depth.paths import relative_path
from shared.errors import RunError
from shared.files.cameras import read_poses
from shared.files.images import read_image
from shared.geometry.camera import intrinsics_matrix, invert_pose
from shared.results import Views
from shared.runs.command import keep_large_buffers
from shared.show.export import export_views

__all__ = ["main"]

DEFAULT_AMOUNT = {"orbit": 30.0, "swing": 30.0, "forward": 1.0, "sway": 0.3}  # degrees or units


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.predict(__doc__, argv)
    if args.frames < 1 or not 0 < args.fps <= 240:
        raise RunError(f"--frames {args.frames} --fps {args.fps:g}: at least one frame, fps in (0, 240]")
    if not math.isfinite(args.amount or 0) or not math.isfinite(args.distance):
        raise RunError(f"--amount {args.amount} --distance {args.distance}: both must be finite")
    if args.focal_px is not None and not 0 < args.focal_px < math.inf:
        raise RunError(f"--focal-px {args.focal_px}: a focal length is a positive number of pixels")
    keep_large_buffers()
    synthesizer = ViewSynthesizer.load(args.run, args.device, args.checkpoint)
    source = given_picture(synthesizer, args.image, args.focal_px)
    if args.poses:
        poses = invert_pose(read_poses(args.poses)).float()  # target_from_source
    else:
        kind = args.path or ("sway" if synthesizer.config.model.depth_range == "scene" else "swing")
        amount = DEFAULT_AMOUNT[kind] if args.amount is None else args.amount
        poses = relative_path(kind, args.frames, amount, args.distance)
    folder = args.out or args.image.with_name(f"{args.image.stem}_views")

    views = source.views(poses, progress=True)
    export_views(folder, views, invert_pose(poses), fps=args.fps)
    export_views(folder / "source", Views.of_one(source.image, source.depth), fps=args.fps)
    for note in source.notes:
        print(f"note: {note}")  # noqa: T201
    say_done(folder, f"look at {folder}/moving_camera.mp4, or around: python -m shared.show.viewer {folder}")


def given_picture(synthesizer: ViewSynthesizer, path: Path, focal_px: float | None) -> EncodedImage:
    """The picture, encoded once, with the principal point in its middle where a focal length is given."""
    if focal_px is None:
        return synthesizer.encode(path)
    image = read_image(path, background=BLACK)
    height, width = image.shape[-2:]
    K = intrinsics_matrix(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)
    return synthesizer.encode(image, K)


if __name__ == "__main__":
    command_line(main)
