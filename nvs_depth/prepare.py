"""Check a data set, or make one from KITTI raw drives or from photos.

    python -m nvs_depth.prepare check DIR             what is there, what is missing, where to get it
    python -m nvs_depth.prepare kitti RAW --out DIR   images, poses and LiDAR depth of raw drives
    python -m nvs_depth.prepare colmap PHOTOS --out DIR    photos -> posed images (extra `colmap`)
    python -m nvs_depth.prepare fetch [NAME]          a published data set, or where it is
    python -m nvs_depth.prepare weights [NETWORK]     what the measure LPIPS takes, or vgg16, resnet18

DIR is <root>/<category> of this paper's ShapeNet renders, a folder of <model>_<azimuth>_<elevation>.png,
prepared KITTI drives, KITTI odometry sequences, or a folder with transforms.json. Where true depth is known,
the check carries views onto each other with it: a wrong pose convention, principal point or depth unit shows
at once.
"""

from nvs_depth import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.prepare, __doc__)  # --help is answered before PyTorch is loaded

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nvs_depth.datasets.kitti_convert import convert_drive
from nvs_depth.datasets.options import DataConfig, PairOptions
from nvs_depth.datasets.pairs import PairBatch, find_pairs, load_pairs
from nvs_depth.datasets.posed import prepare_photos
from nvs_depth.datasets.select import load_views, where_to_get
from nvs_depth.datasets.shapenet import FLAT_NAME, FOLDER_NAME
from nvs_depth.datasets.sources import SOURCES
from nvs_depth.datasets.views import ViewSet
from shared.errors import DataError
from shared.files.disk import visible
from shared.files.listing import pictures_among
from shared.files.sfm import find_cameras, sfm_options
from shared.geometry.camera import invert_pose, pixel_grid, project, transform_points, unproject
from shared.geometry.warp import sample_pixels
from shared.quality.losses import backbone_file
from shared.runs.fetch import download
from shared.runs.seeds import step_generator

__all__ = ["detect_layout", "main", "report", "reprojection_gap"]

CHECKED_SIDE = 128
CHECKED_PAIRS = 24
CONFIGS = {  # by layout
    "shapenet": "shapenet_chairs",
    "shapenet_flat": "shapenet_flat_chairs",
    "kitti_raw": "kitti_eigen",
    "kitti_odometry": "odometry_sequence",
    "kitti_odometry_flat": "kitti_odometry_flat",
    "posed": "posed_images",
}
GOOD_GAP = 0.03  # median relative gap of depths that poses, intrinsics and depth explain


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.prepare(__doc__, argv)
    if args.command in ("fetch", "weights"):
        download(args, SOURCES, backbone_file)
        return
    if args.command == "check":
        layout = detect_layout(args.folder) if args.layout == "auto" else args.layout
        sys.stdout.write(report(args.folder, layout, args.images_outside))
        embedded = (args.folder / "made.json").is_file()
        choice = "quick" if embedded else f"{CONFIGS[layout]} --set data.root={args.folder}"
        say_done("", f"python -m nvs_depth.train --config {choice}")
        return
    if args.command == "colmap":
        find_cameras(prepare_photos, args.photos, args.out, sfm_options(args))
        sys.stdout.write(report(args.out, "posed"))
        say_done(args.out, f"python -m nvs_depth.train --config posed_images --set data.root={args.out}")
        return
    drives = args.drives or sorted(p.name for p in args.raw.glob("*/*_sync") if p.is_dir())
    if not drives:
        raise DataError(args.raw, "holds no <date>/<drive>_sync", where_to_get("kitti_raw"))
    for drive in drives:
        for camera in args.cameras:
            if (args.out / f"{drive}_{camera}" / "poses.txt").is_file():
                sys.stdout.write(f"{drive}_{camera}: there already\n")
                continue
            count = convert_drive(args.raw / drive[:10], drive, camera, args.out)
            sys.stdout.write(f"{drive}_{camera}: {count} frames\n")
            sys.stdout.flush()
    say_done(args.out, f"python -m nvs_depth.prepare check {args.out}")


def detect_layout(folder: Path) -> str:
    """The layout a folder looks like; DataError, with where to get each, when it looks like none."""
    where = "`python -m nvs_depth.prepare fetch` lists them, and says where the data are"
    if not folder.is_dir():
        raise DataError(folder, "the folder does not exist", f"Check the path, or get a data set: {where}")
    if (folder.parent / "camera_settings").is_dir():
        return "shapenet"
    if any((folder / f"transforms{split}.json").is_file() for split in ("", "_train")):
        return "posed"
    if any(folder.glob("*/cam.txt")):
        return "kitti_raw"
    if (folder / "calib.txt").is_file() or any(folder.glob("*/calib.txt")):
        return "kitti_odometry"
    if (folder / "poses.txt").is_file() and (folder / "images").is_dir():
        return "kitti_odometry_flat"
    inner = [path for path in visible(folder) if path.is_dir()]
    if any(_holds(path, FLAT_NAME if path.name == "images" else FOLDER_NAME) for path in inner):
        return "shapenet_flat"
    if pictures_among(visible(folder, recursive=True))[0]:
        remedy = "For photos without poses: python -m nvs_depth.prepare colmap DIR --out NEW_DIR"
        raise DataError(folder, "holds photos, but no transforms.json and no known layout", remedy)
    raise DataError(folder, "looks like none of the known layouts", where)


def _holds(folder: Path, name: re.Pattern) -> bool:
    return any(name.fullmatch(path.stem) for path in pictures_among(visible(folder))[0])


def report(folder: Path, layout: str = "auto", images_outside: bool = False) -> str:
    """What is known about a data set, some of its files read; DataError when it cannot be trained on."""
    layout = detect_layout(folder) if layout == "auto" else layout
    try:
        config = DataConfig(layout=layout, root=str(folder), images_outside=images_outside)
        views = load_views(config, CHECKED_SIDE)
        side = views.framing.window(views.stored_hw)[2]
        if side < CHECKED_SIDE:  # sparse depth that is enlarged has gaps everywhere
            views = load_views(config, side)
        lines = _facts(folder, layout, views)
    except DataError as error:
        if layout == "posed" or Path(error.path).is_file() or not folder.is_dir():  # said, or not the reason
            raise
        raise DataError(error.path, error.reason, f"{error.remedy}. {where_to_get(layout)}") from None
    return "\n".join(lines) + "\n"


def _facts(folder: Path, layout: str, views: ViewSet) -> list[str]:
    groups = sorted(set(views.groups))
    height, width = views.stored_hw
    K = views.K_stored[0].tolist()
    centres = views.world_from_cam[:, :3, 3] * (views.unit_m or 1.0)
    missing = [image for image in views.images if not image.is_file()]
    if missing:
        raise DataError(missing[0], f"is missing, with {len(missing) - 1} others", "Restore or remove them")
    depths = sum(path is not None for path in views.depths) if views.depths else 0
    unit = "m" if views.unit_m else "scene units"
    shown = ", ".join(groups[:3]) + (", ..." if groups[3:] else "")
    pairs = find_pairs(views, PairOptions(symmetric=True))
    lines = [
        f"{folder}: layout {layout}",
        f"  views        {len(views)} in {len(groups)} groups ({shown})",
        f"  images       {width} x {height} pixels",
        f"  intrinsics   fx fy {K[0][0]:.2f} {K[1][1]:.2f}, cx cy {K[0][2]:.2f} {K[1][2]:.2f}",
        f"  cameras      {(centres.amax(0) - centres.amin(0)).norm():.3g} {unit} between the outermost",
        f"  depth maps   {depths} of {len(views)}",
        f"  sources      {len(pairs)} of the views have a target",
    ]
    if views.layout.startswith("shapenet"):
        lines.append(f"  grid         {_grid(views)}")
    lines.append(f"  geometry     {_geometry(views, pairs.draw(step_generator(0, 0, 'check')))}")
    return lines + [f"  note         {note}" for note in views.notes]


def _grid(views: ViewSet) -> str:
    azimuths, elevations = (sorted(set(values)) for values in views.coordinates.T.tolist())
    counts = {group: views.groups.count(group) for group in set(views.groups)}
    complete = len(azimuths) * len(elevations)
    short = [group for group, count in counts.items() if count < complete]
    text = f"{len(azimuths)} azimuths, elevations {', '.join(map(str, elevations))}"
    return text + (f"; {len(short)} objects have fewer views, such as {sorted(short)[0]}" if short else "")


def _geometry(views: ViewSet, pairs: Tensor) -> str:
    """One sentence on whether true depth carries views onto each other; the images of the pairs are read."""
    chosen = pairs[torch.linspace(0, len(pairs) - 1, min(CHECKED_PAIRS, len(pairs))).long()]
    batch = load_pairs(views, chosen)
    if not bool(batch.valid_target.any()):
        return "not checked: no depth maps"
    gap, count = reprojection_gap(batch, views.depth_format.sparse)
    if count < 20:
        return f"not checked: only {count} pixels are seen with depth in both views of a pair"
    verdict = (
        "good" if gap < GOOD_GAP else "BAD: poses, intrinsics or the kind of depth do not fit each other"
    )
    return f"{verdict} (depth off by {gap:.2%} in the other view, median of {count} pixels)"


def reprojection_gap(batch: PairBatch, sparse: bool = False) -> tuple[float, int]:
    """Median relative gap between target points in the source and the depth there; and how many.

    Only pixels whose four neighbours in the source have depth, or for sparse depth the nearest one; hidden
    points make up less than half, so the median is that of the visible ones.
    """
    side = batch.image_source.shape[-1]
    points = unproject(pixel_grid(side, side), batch.depth_target[:, 0], batch.K_target)
    pixels, depth = project(transform_points(invert_pose(batch.target_from_source), points), batch.K_source)
    pixels = pixels.round() if sparse else pixels
    maps = torch.cat([batch.depth_source, batch.valid_source.float()], dim=1)
    there, known = sample_pixels(maps, pixels, padding="zeros").unbind(1)
    usable = batch.valid_target[:, 0] & (known > 0.999) & (depth > 0)
    gaps = ((there - depth) / depth)[usable].abs()
    return (gaps.median().item() if len(gaps) else float("nan")), len(gaps)


if __name__ == "__main__":
    command_line(main)
