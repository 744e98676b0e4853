"""Check data, or make a scene from photos.

    python -m diffdiffdepth.prepare check DIR                    what is there, and whether it can be used
    python -m diffdiffdepth.prepare points DIR --out FILE.npz    the initial points of a light field
    python -m diffdiffdepth.prepare colmap PHOTOS --out DIR      photos -> a COLMAP scene (extra `colmap`)
    python -m diffdiffdepth.prepare fetch [NAME]                 a published data set, or where it is
    python -m diffdiffdepth.prepare weights vgg16                download the network of hci_vgg.yaml

DIR is a light field (HCI, Stanford or cross-hair), a COLMAP scene, or a folder of several of them.
"""

from diffdiffdepth import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.prepare, __doc__)  # --help is answered before PyTorch is loaded

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.datasets.signs import find_offset_signs
from diffdiffdepth.datasets.sources import SOURCES
from diffdiffdepth.evaluation import label_errors
from diffdiffdepth.inputs import data_kind, load_light_field
from diffdiffdepth.points.epi import epi_points
from diffdiffdepth.points.store import save_points
from diffdiffdepth.scene import LightField, SparsePoints
from shared.errors import DataError
from shared.files.disk import visible
from shared.files.sfm import SfmOptions, find_cameras, reconstruct, sfm_options
from shared.quality.losses import backbone_file
from shared.runs.fetch import download

__all__ = ["main", "prepare_photos", "report_folder"]

WHERE_TO_GET = (
    "`python -m diffdiffdepth.prepare fetch` lists published light fields and says where they are. Without "
    "any, configs/quick.yaml and quick_mvs.yaml train on embedded scenes"
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; bad data end in DataError, a missing extra in RunError."""
    args = arguments.prepare(__doc__, argv)
    if args.command in ("fetch", "weights"):
        download(args, SOURCES, backbone_file)
    elif args.command == "check":
        sys.stdout.write(report_folder(args.folder))
        say_done("", f"python -m diffdiffdepth.predict {args.folder} --out my_depth")
    elif args.command == "points":
        light_field = load_light_field(args.folder)
        points = epi_points(light_field)
        save_points(args.out, points)
        sys.stdout.write(f"{args.out}: {_accuracy(points, light_field)}\n")
        command = f"python -m diffdiffdepth.train --config hci --set data.root={args.folder}"
        say_done(args.out, f"{command} points.source=file points.file={args.out}")
    else:
        find_cameras(prepare_photos, args.photos, args.out, sfm_options(args))
        sys.stdout.write(report_folder(args.out))
        say_done(args.out, f"python -m diffdiffdepth.predict {args.out} --out my_depth")


def _accuracy(points: SparsePoints, light_field: LightField) -> str:
    low, high = points.labels.min().item(), points.labels.max().item()
    text = f"{len(points)} points, disparity {low:.3g} to {high:.3g} px"
    if light_field.truth is None:
        return text
    errors = label_errors(points, light_field.truth, light_field.valid)
    close = (errors < 0.1).float().mean().item()
    return f"{text}; median error {errors.median().item():.3g} px, {close:.1%} within 0.1 px of the truth"


def prepare_photos(photos: Path, out: Path, options: SfmOptions | None = None) -> list[str]:
    """Make a COLMAP scene of photos; returns the names of those that got no pose."""
    return reconstruct(photos, out, options).unregistered


def report_folder(folder: Path) -> str:
    """The report on one scene, or on each of the folders below; DataError if none of them holds one."""
    try:
        kind = data_kind(folder)
    except DataError as error:
        below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        lines = [line for path in below if (line := _one_line(path))]
        if not lines:
            if folder.is_dir() and visible(folder):
                raise  # own files need no advice on where to find published ones
            raise DataError(folder, error.reason, f"{error.remedy}. {WHERE_TO_GET}") from None
        return "\n".join([f"{folder}: {len(lines)} scenes", *lines]) + "\n"
    lines = _colmap_lines(folder) if kind == "colmap" else _light_field_lines(folder, kind)
    return "\n".join(lines) + "\n"


def _one_line(folder: Path) -> str | None:
    """A scene in one line; None for folders of something else."""
    try:
        kind = data_kind(folder)
    except DataError:
        return None
    try:
        text = report_folder(folder).splitlines()[1].split(maxsplit=1)[1]
    except DataError as error:
        return f"  {folder.name:20s} UNUSABLE: {error}"
    return f"  {folder.name:20s} good: {kind}, {text}"


def _light_field_lines(folder: Path, kind: str) -> list[str]:
    light_field = load_light_field(folder)
    height, width = light_field.centre.shape[-2:]
    du, dv = light_field.offsets.unbind(1)
    camera, parameters = "unknown: disparity in pixels only, no depth in metres", light_field.camera
    if parameters is not None:
        lens = f"{parameters.focal_px:.1f} px, baseline {parameters.baseline_mm:g} mm"
        camera = f"{lens}, focus {parameters.focus_distance_m:g} m: depth in metres"
    order = "order        nearer points have larger disparities, as they should"
    signs = zip(("columns", "rows"), find_offset_signs(light_field), strict=True)
    if turned := " and ".join(axis for axis, sign in signs if sign < 0):
        order = f"ORDER        the {turned} of the views seem to run the other way: check the file names"
    count = len(light_field.views) + 1
    return [
        f"{folder}: a light field in the layout {kind}",
        f"  views        {count} of {width} x {height}, offsets {_span(du)} x {_span(dv)}",
        f"  camera       {camera}",
        f"  truth        {_truth(light_field)}",
        f"  {order}",
        *(f"  VIEWS        {note}" for note in light_field.notes),
    ]


def _span(offsets: torch.Tensor) -> str:
    return f"{offsets.min().item():+.3g}..{offsets.max().item():+.3g}"


def _truth(light_field: LightField) -> str:
    if light_field.truth is None:
        return "none: results can be judged by reprojection only"
    values = light_field.truth if light_field.valid is None else light_field.truth[light_field.valid]
    share = "" if light_field.valid is None else f", valid at {light_field.valid.float().mean().item():.0%}"
    return f"disparity {values.min().item():.2f} to {values.max().item():.2f} px{share}"


def _colmap_lines(folder: Path) -> list[str]:
    """Every image is loaded as a centre once, so that a bad one is found now and not after hours."""
    scenes = ColmapScenes(folder)
    counts, unusable, truths = [], [], 0
    for index, name in enumerate(scenes.names):
        try:
            scene = scenes[index]
        except DataError as error:
            unusable.append(f"  UNUSABLE     {name} as centre: {error}")
            continue
        counts.append((len(scene.points), name))
        truths += scene.truth is not None
    if not counts:
        raise DataError(folder, f"none of {len(scenes)} images can be a centre", unusable[0].strip())
    cameras = sorted({f"{c.model} {c.width} x {c.height}" for c in scenes.model.cameras.values()})
    least = min(counts)
    mean = sum(count for count, _ in counts) / len(counts)
    return [
        f"{folder}: a COLMAP scene",
        f"  images       {len(scenes)} with poses, cameras {', '.join(cameras)}",
        f"  points       {mean:.0f} visible per image, fewest {least[0]} in {least[1]}",
        "  scale        that of the poses: metres only if those are",
        f"  truth        {f'depth of {truths} images' if truths else 'none'}",
        *unusable,
        *(f"  note         {note}" for note in scenes.notes),
    ]


if __name__ == "__main__":
    command_line(main)
