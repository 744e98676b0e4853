"""Depth for your pictures: a light field, a COLMAP scene, or a folder of photos.

    python predict.py my_light_field --out depth
    python predict.py my_scene --out depth                        every image of a COLMAP scene in turn
    python predict.py my_scene --out depth --image IMG_0042.jpg   only these
    python predict.py my_photos --out depth                       finds the poses first (extra `colmap`)

Each map is optimised in its run folder below DIR/runs. What is finished is not done again and what was
interrupted goes on, so the command can be repeated; other settings or pictures need another --out. Writes

    NAME_disparity.pfm/.npy   light field: px between neighbouring views
    NAME_depth.pfm/.npy       z-depth: metres where the camera is known, else scene units of the poses
    NAME_valid.png            white where another view sees the pixel, so that the map could be checked there
    NAME.png  NAME.ply        in colour with legend; as coloured points; of several images also cloud.ply
    NAME.json                 what the numbers mean
    NAME/                     what every paper's predict.py writes, see shared/show/export.py
"""

from diffdiffdepth import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.predict, __doc__)  # --help is answered before PyTorch is loaded

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffdiffdepth import train
from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.config import TrainConfig
from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.inputs import data_kind
from diffdiffdepth.prepare import prepare_photos
from shared.errors import DataError, RunError
from shared.files.disk import write_bytes, write_json
from shared.files.images import encode_png, write_image, write_npy, write_pfm, write_ply
from shared.files.sfm import find_cameras, list_photos
from shared.geometry.camera import pixel_grid
from shared.results import Views
from shared.runs.config import config_differences, config_to_dict, load_config
from shared.show.export import export_views
from shared.show.pictures import depth_picture

__all__ = ["export_map", "main"]

CLOUD_POINTS = 2_000_000  # at most, in cloud.ply


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.predict(__doc__, argv)
    root = _scene_folder(args.source, args.out)
    is_colmap = data_kind(root) == "colmap"
    scenes = ColmapScenes(root) if is_colmap else None
    names = args.image or (scenes.names if is_colmap else [""])
    if args.image and not is_colmap:
        raise DataError(root, "is a light field: it has one centre view", "Leave --image out")
    for name in args.image or []:
        scenes.index(name)  # a wrong name must not surface after an hour
    config = args.config or Path(__file__).parent / "configs" / ("mvs.yaml" if is_colmap else "hci.yaml")
    stems = _stems(scenes.names) if is_colmap else {"": root.resolve().name}
    clouds = []
    for name in names:
        fitted = DiffusedDepth.load(_optimised(args, config, root, name, stems[name]))
        clouds.append(export_map(args.out, stems[name], fitted))
    if len(clouds) > 1:
        _write_cloud(args.out / "cloud.ply", clouds)
    shown = args.out / stems[names[0]]
    say_done(args.out, f"look at {shown}.png, or around: python -m shared.show.viewer {shown}")


def _scene_folder(source: Path, out: Path) -> Path:
    """The folder itself if it holds a scene; for plain photos the scene made of them, in DIR/scene."""
    try:
        data_kind(source)
    except DataError:
        if not source.is_dir():
            raise
        list_photos(source)  # DataError if there are none
        scene = out / "scene"
        if not scene.exists():
            find_cameras(prepare_photos, source, scene)
        return scene
    return source


def _stems(names: Sequence[str]) -> dict[str, str]:
    """What the files of each image are called: its name without suffix, unless another image has the same."""
    flat = {name: name.replace("/", "_") for name in names}
    short = {name: Path(text).stem for name, text in flat.items()}
    count = Counter(short.values())
    return {name: short[name] if count[short[name]] == 1 else flat[name] for name in names}


def _optimised(args: argparse.Namespace, config: Path, root: Path, name: str, stem: str) -> Path:
    """The run folder of one map, trained to the end; RunError if it holds the finished run of another."""
    folder = args.out / "runs" / stem
    settings = [f"data.root={root}", f"data.image={name}", "data.embedded=null", *args.set]
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
    maps = {"disparity": depth if depth.kind == "disparity_px" else None, "depth": z_depth}
    for what, held in maps.items():
        if held is not None:
            write_pfm(folder / f"{name}_{what}.pfm", held.values)
            write_npy(folder / f"{name}_{what}.npy", held.values.numpy())
            record[what] = held.meaning
    if z_depth is not None:
        pose = getattr(scene, "world_from_centre", None)
        points, keep = z_depth.points(pose), z_depth.valid
        axes = "camera coordinates, x right, y down, z forward"
        record["cloud"] = axes if pose is None else "coordinates of the model"
    else:
        unknown = "disparity fixes depth only up to scale and offset of 1 / depth"
        record["depth"] = f"unknown: without parameters.cfg {unknown}"
        height, width = depth.values.shape
        relief = torch.cat([pixel_grid(height, width), -depth.values[..., None] * width / 20], dim=-1)
        points, keep = relief[depth.valid], depth.valid
        record["cloud"] = "relief: x, y in px, z = -disparity times a twentieth of the width"
    write_bytes(folder / f"{name}.png", encode_png(depth_picture(depth, grey=depth.invalid)))
    write_image(folder / f"{name}_valid.png", depth.valid[None].float().expand(3, -1, -1))
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
