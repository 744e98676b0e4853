"""Depth for your pictures: a light field, a COLMAP scene, or a folder of photos.

    python predict.py my_light_field --out depth
    python predict.py my_scene --out depth                        every image of a COLMAP scene in turn
    python predict.py my_scene --out depth --image IMG_0042.jpg   only these
    python predict.py my_photos --out depth                       finds the poses first (extra `colmap`)
    python predict.py my_light_field --out look --preview         from the points alone, without optimisation

Each map is optimised in its run folder below DIR/runs. What is finished is not done again and what was
interrupted goes on, so the command can be repeated; other settings or pictures need another --out. Writes

    NAME_disparity.pfm/.npy   light field: px between neighbouring views
    NAME_depth.pfm/.npy       z-depth: metres where the camera is known, else scene units of the poses
    NAME_valid.png            white where another view sees the pixel, so that the map could be checked there
    NAME_confidence.png       how far to trust each pixel: white fully, black not at all
    NAME.png  NAME.ply        in colour with legend; as coloured points; of several images also cloud.ply
    NAME.json                 what the numbers mean
    NAME/                     what every paper's predict.py writes, see shared/show/export.py
    NAME_full_depth.pfm       with --full-size: z-depth at the size of the photo, its edges by the photo's
"""

from diffdiffdepth import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.predict, __doc__)  # --help is answered before PyTorch is loaded

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffdiffdepth import train
from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.config import TrainConfig
from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.datasets.signs import NO_LIGHT_FIELD
from diffdiffdepth.inputs import data_kind, load_light_field
from diffdiffdepth.models.edges import median_at_edges
from diffdiffdepth.models.point_depth import LabelScale
from diffdiffdepth.prepare import prepare_photos
from shared.errors import DataError, RunError
from shared.files.disk import write_bytes, write_json
from shared.files.images import encode_png, write_image
from shared.files.listing import distinct_stems
from shared.files.maps import write_npy, write_pfm, write_ply
from shared.files.sfm import find_cameras, list_photos
from shared.geometry.camera import pixel_grid
from shared.results import Views
from shared.runs.config import config_differences, config_to_dict, load_config
from shared.show.export import export_views
from shared.show.pictures import depth_picture

__all__ = ["export_map", "main"]

CLOUD_POINTS = 2_000_000  # at most, in cloud.ply
CLOUD_CONFIDENCE = 0.1  # at least, of the points of a cloud
PREVIEW = ("schedule.passes=0", "schedule.preliminary=0", "schedule.densify=1")


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.predict(__doc__, argv)
    root = _scene_folder(args.source, args.out, args.kind)
    is_colmap = data_kind(root) == "colmap"
    scenes = ColmapScenes(root) if is_colmap else None
    names = args.image or (scenes.names if is_colmap else [""])
    if args.image and not is_colmap:
        raise DataError(root, "is a light field: it has one centre view", "Leave --image out")
    for name in args.image or []:
        scenes.index(name)  # a wrong name must not surface after an hour
    config = args.config or Path(__file__).parent / "configs" / ("mvs.yaml" if is_colmap else "hci.yaml")
    settings = [*(PREVIEW if args.preview else ()), *args.set]
    if is_colmap:
        settings = [f"data.max_side={args.max_side}", *settings]
        _say_size(scenes, args.max_side, args.full_size)
    elif args.full_size:
        raise DataError(root, "is a light field: its map has the size of its views", "Leave --full-size out")
    stems = distinct_stems(scenes.names) if is_colmap else {"": root.resolve().name}
    if len(names) > 1:
        sys.stderr.write(f"{len(names)} maps in turn; each takes about as long as the first says\n")
    clouds = []
    for name in names:
        fitted = DiffusedDepth.load(_optimised(args, config, settings, root, name, stems[name]))
        clouds.append(export_map(args.out, stems[name], fitted))
        if args.full_size:
            _write_full_size(args.out / f"{stems[name]}_full_depth.pfm", fitted, scenes.photo(name))
    if len(clouds) > 1:
        _write_cloud(args.out / "cloud.ply", clouds)
    shown = args.out / stems[names[0]]
    say_done(args.out, f"look at {shown}.png, or around: python -m shared.show.viewer {shown}")


def _scene_folder(source: Path, out: Path, kind: str | None) -> Path:
    """The folder itself if it holds a scene; for plain photos the scene made of them, in DIR/scene."""
    if kind != "photos":
        try:
            found = data_kind(source)
        except DataError:
            if kind is not None or not source.is_dir():
                raise
        else:
            if kind is not None and found == "colmap":
                raise DataError(source, "holds a COLMAP scene, not a light field", "Leave --kind out")
            doubtful = kind is None and found == "crosshair"  # a name such as walk_17_01.jpg says little
            if not doubtful or NO_LIGHT_FIELD not in load_light_field(source).notes:
                return source
            remedy = "--kind light-field if it is one all the same"
            sys.stderr.write(f"NOTE: {source} is taken for photos: {NO_LIGHT_FIELD} ({remedy})\n")
    list_photos(source)  # DataError if there are none
    scene = out / "scene"
    if not scene.exists():
        find_cameras(prepare_photos, source, scene)
    return scene


def _say_size(scenes: ColmapScenes, max_side: int, full_size: bool) -> None:
    """Say how large photos are made smaller, before a long run."""
    largest = max(max(camera.width, camera.height) for camera in scenes.model.cameras.values())
    if largest > max_side:
        more = "" if full_size else "; --full-size brings the map back to the photo's size"
        sys.stderr.write(f"NOTE: photos of up to {largest} px are reduced to {max_side} (--max-side){more}\n")


def _write_full_size(path: Path, fitted: DiffusedDepth, photo: Tensor) -> None:
    """The map at the size of its undistorted photo [3, H, W], its edges by the photo's."""
    unit, values = LabelScale.of(fitted.scene.points).unit, fitted.depth.values
    write_pfm(path, median_at_edges(values, fitted.scene.centre, unit, photo=photo))


def _optimised(
    args: argparse.Namespace, config: Path, settings: list[str], root: Path, name: str, stem: str
) -> Path:
    """The run folder of one map, trained to the end; RunError if it holds the finished run of another."""
    folder = args.out / "runs" / stem
    settings = [f"data.root={root}", f"data.image={name}", "data.embedded=null", *settings]
    if (folder / "eval.json").exists():  # a run's last file
        _refuse_other_run(folder, load_config(TrainConfig, config, settings))
        return folder
    command = ["--config", str(config), "--out", str(folder), "--device", args.device, "--set", *settings]
    train.main([*command, "--resume"] if folder.exists() else command)
    return folder


def _refuse_other_run(folder: Path, wanted: TrainConfig) -> None:
    plain = [config_to_dict(config) for config in (load_config(TrainConfig, folder / "config.yaml"), wanted)]
    for config in plain:
        config["data"]["root"] = str(Path(config["data"]["root"]).resolve())
    for key, (old, new) in config_differences(*plain).items():
        raise RunError(
            f"{folder}: this map was made with {key} {old}, not {new}; choose another --out or remove it"
        )


def export_map(folder: Path, name: str, fitted: DiffusedDepth) -> tuple[Tensor, Tensor]:
    """Write all files of a result and return its point cloud [n, 3] with colours [n, 3].

    The cloud is in the camera's coordinates, or in those of the model where the scene has a pose in it; of a
    light field without a camera it is a relief, which claims none.
    """
    scene, depth, z_depth = fitted.scene, fitted.depth, fitted.z_depth
    record = {"name": scene.name, "size": list(depth.values.shape)}
    record["valid"] = "seen by at least one other view"
    if scene.notes:
        record["notes"] = list(scene.notes)
    maps = {"disparity": depth if depth.kind == "disparity_px" else None, "depth": z_depth}
    for what, held in maps.items():
        if held is not None:
            write_pfm(folder / f"{name}_{what}.pfm", held.values)
            write_npy(folder / f"{name}_{what}.npy", held.values.numpy())
            record[what] = held.meaning
    trusted = depth.valid & (fitted.confidence >= CLOUD_CONFIDENCE)
    if z_depth is not None:
        pose, keep = getattr(scene, "world_from_centre", None), z_depth.valid & trusted
        points = replace(z_depth, valid=keep).points(pose)
        axes = "camera coordinates, x right, y down, z forward"
        record["cloud"] = axes if pose is None else "coordinates of the model"
    else:
        unknown = "disparity fixes depth only up to scale and offset of 1 / depth"
        record["depth"] = f"unknown: without parameters.cfg {unknown}"
        height, width = depth.values.shape
        relief = torch.cat([pixel_grid(height, width), -depth.values[..., None] * width / 20], dim=-1)
        points, keep = relief[trusted], trusted
        record["cloud"] = "relief: x, y in px, z = -disparity times a twentieth of the width"
    write_bytes(folder / f"{name}.png", encode_png(depth_picture(depth, grey=depth.invalid)))
    write_image(folder / f"{name}_valid.png", depth.valid[None].float().expand(3, -1, -1))
    write_image(folder / f"{name}_confidence.png", fitted.confidence[None])
    record["confidence"] = f"0 to 1 in {name}_confidence.png; the cloud leaves out what is below 0.1"
    colours = scene.centre.permute(1, 2, 0)[keep]
    write_ply(folder / f"{name}.ply", points, colours)
    held = z_depth if z_depth is not None else depth
    pose = getattr(scene, "world_from_centre", None)
    export_views(folder / name, Views.of_one(scene.centre, held), None if pose is None else pose[None])
    write_json(folder / f"{name}.json", record | {"valid_share": depth.valid.float().mean().item()})
    return points, colours


def _write_cloud(path: Path, clouds: list[tuple[Tensor, Tensor]]) -> None:
    points, colours = (torch.cat(parts) for parts in zip(*clouds, strict=True))
    if len(points) > CLOUD_POINTS:
        chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:CLOUD_POINTS]
        points, colours = points[chosen], colours[chosen]
    write_ply(path, points, colours)


if __name__ == "__main__":
    command_line(main)
