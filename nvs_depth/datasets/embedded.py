"""Embedded data: random chairs and cars on the view grid, and street drives, in the real sets' layouts.

Rendered on first use by ray casting, with exact depth; the real loaders read them back. The objects come in
this paper's layout or its predecessors', the drives as prepared KITTI raw.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nvs_depth.datasets.options import EmbeddedConfig
from nvs_depth.datasets.shapenet import AZIMUTHS, ELEVATIONS, FOCAL_SHARE, grid_pose, view_number
from shared.files.disk import made_once, write_bytes
from shared.files.images import write_image
from shared.files.maps import write_depth_png, write_exr
from shared.geometry.camera import intrinsics_matrix, invert_pose, ray_distance_from_depth
from shared.runs.command import rendering
from shared.runs.workers import read_ahead

if TYPE_CHECKING:
    from scenes import Render, Scene

__all__ = ["make_embedded", "street_crop"]

OBJECT_DISTANCE = 2.0
PAPER_FOCAL_SHARE = 280 / 256
STREET_FOCAL_SHARE = 0.9  # of the crop's side; KITTI's 718.9 over 256 px sees too little of a short street
STREET_MARGIN = (0.125, 0.5)  # rows and columns around the crop, as shares of its side
# The grid's world has y down, the scenes' z up.
ZUP_FROM_YDOWN = torch.tensor(
    [[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64
)


def make_embedded(
    folder: Path, config: EmbeddedConfig, layout: str, say: Callable[[str], None] = lambda text: None
) -> Path:
    """Render the data next to `folder` unless the same are there already; returns the path for the loader.

    `layout` is one of `config.layouts`. All processors share the work. Raises DataError when it cannot be
    written.
    """
    from scenes import SCENES_VERSION

    record = {"generator": "scenes", "version": SCENES_VERSION, "layout": layout}
    record |= dataclasses.asdict(config)
    made = made_once(folder, record, lambda temporary: _render_all(temporary, config, layout), say)
    return made / config.kind if layout == "shapenet" else made


def _render_all(folder: Path, config: EmbeddedConfig, layout: str) -> None:
    writers = {
        "shapenet": _write_paper_object,
        "shapenet_flat": _write_flat_object,
        "kitti_raw": _write_drive,
    }
    train, test = config.names
    jobs = [(writers[layout], folder, config, index, name) for index, name in enumerate(train + test)]
    if layout == "shapenet":
        _write_paper_cameras(folder, config.image_side)
    scenes = read_ahead(_work, jobs, None if len(jobs) > 2 else 0)
    list(rendering(scenes, len(jobs), "scene"))


def _work(job: tuple) -> None:
    writer, *arguments = job
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        writer(*arguments)
    finally:
        torch.set_num_threads(threads)


# ---- objects -----------------------------------------------------------------------------------------------


def object_scene(config: EmbeddedConfig, index: int) -> "Scene":
    """Object number `index` on black, without cast shadows: their rays would be most of the work."""
    from scenes import Background
    from scenes.objects import random_car, random_chair

    maker = random_chair if config.kind == "chairs" else random_car
    scene = maker(1000 * config.seed + index)
    light = dataclasses.replace(scene.light, shadows=False, occlusion_radius=0.0)
    return dataclasses.replace(scene, light=light, background=Background((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))


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
    chosen = config.azimuths_deg if index < config.train_groups else ()
    azimuths = sorted((azimuth + 20 * index) % 360 for azimuth in chosen) or AZIMUTHS
    for azimuth in azimuths:
        for elevation in ELEVATIONS[:3]:
            view = _render_object(scene, K, config, azimuth, elevation)
            stem = f"{name}_{azimuth}_{elevation}"
            write_image(root / "images" / f"{stem}.png", view.image)
            write_exr(root / "depth" / f"{stem}.exr", view.depth)


def _render_object(
    scene: "Scene", K: Tensor, config: EmbeddedConfig, azimuth: int, elevation: int
) -> "Render":
    from scenes import render

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
    from scenes import render
    from scenes.streets import street

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
