"""Check a scene, or make one from photos.

    python -m deepvoxels.prepare check DIR                  what is there, what is missing, where to get it
    python -m deepvoxels.prepare colmap PHOTOS --out DIR    photos of one thing -> a scene to train on
    python -m deepvoxels.prepare fetch [NAME]               a published data set, or where it is
    python -m deepvoxels.prepare weights                    download what the measure LPIPS takes

DIR may hold one scene (intrinsics.txt, transforms.json, or a COLMAP model next to images/) or the released
data ({train,validation,test}/{armchair,cube,greek,vase}). `colmap` needs the extra of that name.
"""

from deepvoxels import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.prepare, __doc__)  # --help is answered before PyTorch is loaded

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from deepvoxels.datasets.layouts import View, find_layout, list_views
from deepvoxels.datasets.photos import prepare_photos
from deepvoxels.datasets.scene import PosedScene, load_scene
from deepvoxels.datasets.sources import SOURCES
from deepvoxels.datasets.volume_fit import visible_share
from shared.errors import DataError
from shared.files.disk import visible
from shared.files.listing import pictures_among
from shared.files.sfm import find_cameras, sfm_options
from shared.quality.losses import backbone_file
from shared.runs.fetch import download

__all__ = ["main", "report_folder", "report_scene"]

RELEASED_VIEWS = {"train": 479, "validation": None, "test": 1000}  # per scene, as the paper says
RELEASED_SCENES = ("armchair", "cube", "greek", "vase")
WHERE_TO_GET = (
    "`python -m deepvoxels.prepare fetch scenes` says where the released scenes are. Without them, "
    "configs/quick.yaml trains on an embedded scene"
)
CHECKED_SIDE = 64  # pixels; every image is decoded in full anyway


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; bad data end in DataError, a missing extra in RunError."""
    args = arguments.prepare(__doc__, argv)
    if args.command in ("fetch", "weights"):
        download(args, SOURCES, backbone_file)
        return
    if args.command == "check":
        sys.stdout.write(report_folder(args.folder, args.images_outside))
        config = "official" if (args.folder / "train").is_dir() else "photos_cpu"
        embedded = any(args.folder.glob("*/made.json")) or (args.folder / "made.json").is_file()
        choice = "quick" if embedded else f"{config} --set data.root={args.folder}"
        say_done("", f"python -m deepvoxels.train --config {choice}")
        return
    find_cameras(prepare_photos, args.photos, args.out, sfm_options(args))
    sys.stdout.write(report_scene(args.out))
    command = "python -m deepvoxels.train --config photos_cpu --set data.root="
    say_done(args.out, f"{command}{args.out}")


def report_folder(folder: Path, images_outside: bool = False) -> str:
    """The report on one scene, or on each scene of the released data; DataError when there is none."""
    is_nerf = any(folder.glob("transforms*.json"))  # which may have folders of these names, too
    present = [split for split in RELEASED_VIEWS if (folder / split).is_dir() and not is_nerf]
    if not present:
        made = sorted(path.parent for path in folder.glob("*/made.json"))  # embedded scenes
        if made:
            return "".join(report_folder(path) for path in made)
        try:
            layout = find_layout(folder)
        except DataError as error:
            if folder.is_dir() and pictures_among(visible(folder))[0]:
                raise
            raise DataError(folder, error.reason, f"{error.remedy}. {WHERE_TO_GET}") from None
        return report_scene(folder, layout, images_outside)
    lines, missing = [f"{folder}: scenes in the released layout"], []
    for split, expected in RELEASED_VIEWS.items():
        below = visible(folder / split) if (folder / split).is_dir() else []
        scenes = {path.name for path in below if path.is_dir()}
        missing += [f"{split}/{name}" for name in RELEASED_SCENES if name not in scenes]
        lines += [_one_line(folder / split / name, f"{split}/{name}", expected) for name in sorted(scenes)]
    if missing and not (folder / "made.json").exists():
        lines += [f"  not there: {', '.join(missing)}", f"{WHERE_TO_GET}."]
    return "\n".join(lines) + "\n"


def _one_line(folder: Path, label: str, released_views: int | None) -> str:
    try:
        scene = load_scene(folder, image_side=CHECKED_SIDE)
    except DataError as error:
        return f"  {label:20s} UNUSABLE: {error}"
    count = f"{len(scene)} views"
    embedded = (folder.parents[1] / "made.json").exists()
    if folder.name in RELEASED_SCENES and not embedded and released_views not in (None, len(scene)):
        count += f" (the released scene has {released_views})"
    blind = f", {len(scene.blind_views)} VIEWS WITHOUT ANY VOXEL" if scene.blind_views else ""
    return f"  {label:20s} good: {count}, {_percent(_seen(scene).mean())} of the voxels per view{blind}"


def report_scene(folder: str | os.PathLike, layout: str = "auto", images_outside: bool = False) -> str:
    """What is known about one scene, every file of it read; DataError when it cannot be trained on."""
    listing = list_views(Path(folder), layout, images_outside=images_outside)
    scene = load_scene(folder, listing.layout, image_side=CHECKED_SIDE, images_outside=images_outside)
    seen = _seen(scene)
    worst = int(seen.argmin())
    origin = " ".join(f"{value:.4g}" for value in scene.grid_origin)
    tests = len(listing.test_names)
    lines = [
        f"{folder}: a scene in the layout {listing.layout}",
        f"  views        {len(scene)}, of which the split train / test takes {len(scene) - tests} / {tests}",
        f"  images       {_sizes(listing.views)} pixels, used as squares",
        f"  intrinsics   {_intrinsics(listing.views[0])}",
        f"  depth maps   {'yes' if scene.depth is not None else 'none'}",
        f"  grid         middle {origin}, side {scene.grid_side_length:.4g} (scene units)",
        f"  depth        near {scene.near:.4g}, far end of the grid {scene.far:.4g}",
        f"  voxels seen  {_percent(seen.mean())} per view, {_percent(seen[worst])} in {scene.names[worst]}",
    ]
    if scene.blind_views:
        lines.append(f"  NO VOXEL     in {len(scene.blind_views)} views: {', '.join(scene.blind_views)}")
    lines += [f"  note         {note}" for note in scene.notes]
    return "\n".join(lines) + "\n"


def _seen(scene: PosedScene) -> Tensor:
    return visible_share(
        scene.world_from_cam, scene.K, scene.image_side, scene.grid_origin, scene.grid_side_length
    )


def _percent(share: float) -> str:
    return f"{100 * float(share):.0f} %"


def _sizes(views: list[View]) -> str:
    sizes = sorted({f"{view.width} x {view.height}" for view in views})
    return ", ".join(sizes[:4]) + (", ..." if len(sizes) > 4 else "")


def _intrinsics(view: View) -> str:
    K, terms = view.K.tolist(), view.distortion.tolist()
    lens = "k1 k2 p1 p2 " + " ".join(f"{term:.4g}" for term in terms) if any(terms) else "no distortion"
    return f"fx fy {K[0][0]:.2f} {K[1][1]:.2f}, cx cy {K[0][2]:.2f} {K[1][2]:.2f}, {lens} ({view.name})"


if __name__ == "__main__":
    command_line(main)
