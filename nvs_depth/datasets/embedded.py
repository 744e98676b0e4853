"""Embedded data: random chairs and cars on the view grid, and street drives, in the real sets' layouts.

Rendered on first use by ray casting, with exact depth; the real loaders read them back. The objects come in
this paper's layout or its predecessors', the drives as prepared KITTI raw. `made.json` holds the options and
is written last, so that a broken run never looks complete.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nvs_depth.datasets.shapenet import AZIMUTHS, ELEVATIONS, FOCAL_SHARE, grid_pose, view_number
from scenes import SCENES_VERSION, Background, Render, Scene, render
from scenes.objects import random_car, random_chair
from scenes.streets import street
from shared.errors import DataError, FieldError
from shared.files.disk import temporary_neighbour, write_bytes
from shared.files.images import write_depth_png, write_exr, write_image
from shared.geometry.camera import intrinsics_matrix, invert_pose, ray_distance_from_depth
from shared.runs.config import check_ranges
from shared.runs.seeds import LARGEST_SEED

__all__ = ["EmbeddedConfig", "check_layout", "make_embedded", "street_crop"]

OBJECT_DISTANCE = 2.0
PAPER_FOCAL_SHARE = 280 / 256
STREET_FOCAL_SHARE = 0.9  # of the crop's side; KITTI's 718.9 over 256 px sees too little of a short street
STREET_MARGIN = (0.125, 0.5)  # rows and columns beside the crop, as shares of its side
BLACK = Background((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
# The grid's world has y down, the scenes' z up.
ZUP_FROM_YDOWN = torch.tensor(
    [[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64
)


@dataclass
class EmbeddedConfig:
    """What is rendered. Objects have numbers 0, 1, ...; the last `test_groups` are held out."""

    kind: Literal["chairs", "cars", "street"] = "chairs"
    train_groups: int = 24
    test_groups: int = 6
    image_side: int = 64
    frames: int = 24  # street: of each drive
    step_m: float = 0.8  # street: distance between frames
    seed: int = 0
    antialias: int = 2  # rays per pixel along each side

    def __post_init__(self) -> None:
        groups = (1, 10_000)
        check_ranges(self, train_groups=groups, test_groups=groups, image_side=(16, 4096), antialias=(1, 16))
        check_ranges(self, frames=(2, 10_000), step_m=(1e-3, 100), seed=(0, LARGEST_SEED))

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Groups to train on and groups held out."""
        form = {"chairs": "chair_{:03d}", "cars": "car_{:03d}", "street": "street_{:04d}_02"}[self.kind]
        names = [form.format(index) for index in range(self.train_groups + self.test_groups)]
        return names[: self.train_groups], names[self.train_groups :]


def check_layout(config: EmbeddedConfig, layout: str) -> None:
    """FieldError unless such data are written in this layout."""
    fitting = ("kitti_raw",) if config.kind == "street" else ("shapenet", "shapenet_flat")
    if layout not in fitting:
        raise FieldError("layout", f"must be {' or '.join(fitting)} for embedded {config.kind}, got {layout}")


def make_embedded(
    folder: Path, config: EmbeddedConfig, layout: str, say: Callable[[str], None] = lambda text: None
) -> Path:
    """Render the data into `folder` unless the same are there already; returns the path for the loader.

    `layout` is shapenet or shapenet_flat for objects and kitti_raw for drives. Two processes share the work.
    Raises FieldError for another combination and DataError when the folder cannot be written.
    """
    check_layout(config, layout)
    record = {"generator": "scenes", "version": SCENES_VERSION, "layout": layout}
    record |= dataclasses.asdict(config)
    record_path = folder / "made.json"
    data = folder / config.kind if layout == "shapenet" else folder
    if _is_current(record_path, record):
        return data
    names = [name for split in config.names for name in split]
    say(f"rendering {len(names)} embedded {config.kind} into {folder} (once)")
    writer = {
        "shapenet": _write_paper_object,
        "shapenet_flat": _write_flat_object,
        "kitti_raw": _write_drive,
    }[layout]
    with temporary_neighbour(folder) as temporary:
        jobs = [(writer, temporary, config, index, name) for index, name in enumerate(names)]
        if layout == "shapenet":
            _write_paper_cameras(temporary, config.image_side)
        if len(jobs) > 2 and (os.cpu_count() or 1) > 1:
            with ProcessPoolExecutor(2, get_context("spawn")) as pool:
                list(pool.map(_work, jobs))
        else:
            for job in jobs:
                _work(job)
        write_bytes(temporary / "made.json", (json.dumps(record, indent=2) + "\n").encode())
        if _is_current(record_path, record):  # another process was faster
            return data
        if folder.exists():
            if not record_path.is_file() and any(folder.iterdir()):
                raise DataError(folder, "exists and was not made by this program", "Name another data.root")
            shutil.rmtree(folder)
        temporary.rename(folder)
    return data


def _work(job: tuple) -> None:
    writer, *arguments = job
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        writer(*arguments)
    finally:
        torch.set_num_threads(threads)


def _is_current(record_path: Path, record: dict) -> bool:
    try:
        return json.loads(record_path.read_text(encoding="utf-8")) == json.loads(json.dumps(record))
    except (OSError, ValueError):
        return False


# ---- objects -----------------------------------------------------------------------------------------------


def object_scene(config: EmbeddedConfig, index: int) -> Scene:
    """Object number `index` on black, without cast shadows: their rays would be most of the work."""
    maker = random_chair if config.kind == "chairs" else random_car
    scene = maker(1000 * config.seed + index)
    light = dataclasses.replace(scene.light, shadows=False, occlusion_radius=0.0)
    return dataclasses.replace(scene, light=light, background=BLACK)


def object_intrinsics(side: int, focal_share: float) -> Tensor:
    """K [3, 3] of a square image with the principal point in its middle."""
    focal = focal_share * side
    return intrinsics_matrix(focal, focal, (side - 1) / 2, (side - 1) / 2)


def _write_paper_cameras(root: Path, side: int) -> None:
    K = object_intrinsics(side, PAPER_FOCAL_SHARE).double()
    K[:2, 2] += 0.5  # the files count pixels from the corner
    write_bytes(root / "camera_settings" / "cam_K" / "cam_K.txt", _text(K))
    for azimuth in AZIMUTHS:
        for elevation in ELEVATIONS:
            cam_from_world = invert_pose(grid_pose(azimuth, elevation, OBJECT_DISTANCE))
            name = f"cam_RT_{view_number(azimuth, elevation):03d}.txt"
            write_bytes(root / "camera_settings" / "cam_RT" / name, _text(cam_from_world[:3]))


def _write_paper_object(root: Path, config: EmbeddedConfig, index: int, name: str) -> None:
    scene, K = object_scene(config, index), object_intrinsics(config.image_side, PAPER_FOCAL_SHARE)
    for azimuth in AZIMUTHS:
        for elevation in ELEVATIONS:
            view = _render_object(scene, K, config, azimuth, elevation)
            number = view_number(azimuth, elevation)
            folder = root / config.kind / name
            write_image(folder / f"color_{number:03d}.png", view.image)
            write_exr(folder / f"depth_{number:03d}.exr", ray_distance_from_depth(view.depth, K))


def _write_flat_object(root: Path, config: EmbeddedConfig, index: int, name: str) -> None:
    scene, K = object_scene(config, index), object_intrinsics(config.image_side, FOCAL_SHARE)
    for azimuth in AZIMUTHS:
        for elevation in ELEVATIONS[:3]:
            view = _render_object(scene, K, config, azimuth, elevation)
            stem = f"{name}_{azimuth}_{elevation}"
            write_image(root / "images" / f"{stem}.png", view.image)
            write_exr(root / "depth" / f"{stem}.exr", view.depth)


def _render_object(scene: Scene, K: Tensor, config: EmbeddedConfig, azimuth: int, elevation: int) -> Render:
    pose = ZUP_FROM_YDOWN @ grid_pose(azimuth, elevation, OBJECT_DISTANCE)
    return render(scene, K, pose.float(), config.image_side, config.image_side, config.antialias)


# ---- drives ------------------------------------------------------------------------------------------------


def street_crop(side: int) -> tuple[int, int, int]:
    """(top, left, side) of the square of the stored images that is used."""
    return round(STREET_MARGIN[0] * side), round(STREET_MARGIN[1] * side), side


def street_camera(side: int) -> tuple[int, int, Tensor]:
    """Height, width and K of the stored images; as in KITTI, the crop is not about the principal point."""
    top, left, _ = street_crop(side)
    height, width = side + 2 * top, side + 2 * left
    focal = STREET_FOCAL_SHARE * side
    cx, cy = (width - 1) / 2 - 0.045 * side, (height - 1) / 2 - 0.055 * side
    return height, width, intrinsics_matrix(focal, focal, cx, cy)


def _write_drive(root: Path, config: EmbeddedConfig, index: int, name: str) -> None:
    scene = street(1000 * config.seed + index, views=config.frames, step_m=config.step_m)
    scene = dataclasses.replace(
        scene, light=dataclasses.replace(scene.light, shadows=False, occlusion_radius=0.0)
    )
    height, width, K = street_camera(config.image_side)
    folder = root / name
    write_bytes(folder / "cam.txt", _text(K))
    lines = []
    for frame, pose in enumerate(scene.cameras):
        view = render(scene, K, pose, height, width, config.antialias)
        write_image(folder / f"{frame:010d}.png", view.image)
        near = view.mask & (view.depth < 250)
        write_depth_png(
            folder / f"{frame:010d}_depth.png", torch.where(near, view.depth, 0.0), near, unit_m=1 / 256
        )
        lines.append(f"{frame} " + " ".join(f"{number:.9g}" for number in pose.flatten().tolist()))
    write_bytes(folder / "poses.txt", ("\n".join(lines) + "\n").encode())


def _text(matrix: Tensor) -> bytes:
    rows = [" ".join(f"{number:.12g}" for number in row) for row in matrix.tolist()]
    return ("\n".join(rows) + "\n").encode()
