"""Embedded data: light fields of two scenes and a multi-view scene, written like the published data.

    light field   the HCI layout: 9 x 9 views, parameters.cfg, gt_disp_lowres.pfm, gt_depth_lowres.pfm; of the
                  still life or of things on a desk
    multi-view    a COLMAP text model of five unstructured views, images/, depth/ with the true depth

Made on first use, seeded, complete or not at all. Ray casting makes the pictures; training only warps them.
"""

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffdiffdepth.config import LightFieldScene
from diffdiffdepth.datasets.sparse_model import sparse_model
from diffdiffdepth.scene import GridCamera
from shared.files.colmap import write_colmap_model
from shared.files.disk import made_once, write_bytes
from shared.files.images import write_image
from shared.files.maps import write_pfm
from shared.geometry.camera import intrinsics_matrix, look_at
from shared.runs.command import rendering

if TYPE_CHECKING:
    from scenes import Scene

__all__ = ["make_embedded_light_field", "make_embedded_multi_view", "write_light_field"]

# focal length, sensor and distance between neighbouring views in mm; distance of the plane of focus in m
CAMERAS = {
    "still_life": (100.0, 35.0, 70.0, 5.46),
    "tabletop": (100.0, 100.0, 13.0, 1.0),
}
EMBEDDED_VERSION = 1
LOOK_AT = (0.03, 0.0, -0.08)
TABLE_Z = -0.49  # the vase is on it


def make_embedded_light_field(
    folder: str | os.PathLike,
    size: tuple[int, int] = (128, 160),
    side: int = 9,
    seed: int = 0,
    antialias: int = 2,
    say: Callable[[str], None] = lambda text: None,
    scene: LightFieldScene = "still_life",
) -> Path:
    """The folder next to `folder` with the embedded light field of these options, rendered on first use.

    `size` (H, W); `side` x `side` views, odd. Disparities reach from about -1.3 to 1.3 px at 160 px width and
    grow with it. `say` is told before rendering starts. Raises DataError when it cannot be written.
    """
    height, width = size
    record = {"kind": "light field", "size": [*size], "side": side, "seed": seed, "antialias": antialias}
    record |= {} if scene == "still_life" else {"scene": scene}
    focal, sensor, baseline, focus = CAMERAS[scene]
    camera = GridCamera(width, height, focal, sensor, side, side, baseline, focus)

    def write(folder: Path) -> None:
        things, pose = _scene_and_pose(scene, seed)
        write_light_field(folder, things, pose, camera, scene.replace("_", " "), antialias)

    return made_once(folder, _versions() | record, write, say)


def make_embedded_multi_view(
    folder: str | os.PathLike,
    size: tuple[int, int] = (144, 192),
    views: int = 5,
    points: int = 500,
    seed: int = 0,
    antialias: int = 2,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """The folder next to `folder` with the embedded multi-view scene of these options, rendered on first use.

    The cameras are about a tenth of the scene's distance apart, like the paper's 25 cm. The model's points
    are triangulated from corners with half a pixel of noise, some from wrong matches.
    """
    options = {"size": [*size], "views": views, "points": points, "seed": seed, "antialias": antialias}
    write = partial(_write_multi_view, **options)
    return made_once(folder, _versions() | {"kind": "multi-view"} | options, write, say)


def _versions() -> dict[str, list[int]]:
    from scenes import SCENES_VERSION

    return {"versions": [SCENES_VERSION, EMBEDDED_VERSION]}


def write_light_field(
    folder: Path, scene: "Scene", world_from_centre: Tensor, parameters: GridCamera, name: str, antialias: int
) -> None:
    """A scene in the HCI layout, seen around the pose [4, 4]; its units are taken for metres.

    The cameras are parallel, their sensors shifted so that the plane of focus has no parallax.
    """
    from scenes import render

    side = parameters.num_cams_x
    step_m = parameters.baseline_mm / 1000
    shift_px = parameters.focal_px * step_m / parameters.focus_distance_m
    for row in rendering(range(side), side, "row of views"):
        for column in range(side):
            across, down = column - side // 2, row - side // 2
            pose = world_from_centre.clone()
            pose[:3, 3] += step_m * (across * pose[:3, 0] + down * pose[:3, 1])
            K = parameters.K.clone()
            K[0, 2] += shift_px * across
            K[1, 2] += shift_px * down
            view = render(scene, K, pose, parameters.height, parameters.width, antialias)
            write_image(folder / f"input_Cam{row * side + column:03d}.png", view.image)
            if across == down == 0:
                truth = torch.where(view.mask, parameters.disparity_from_depth(view.depth), torch.nan)
                write_pfm(folder / "gt_disp_lowres.pfm", truth)
                write_pfm(folder / "gt_depth_lowres.pfm", torch.where(view.mask, view.depth, torch.inf))
    known = truth[truth.isfinite()]
    low, high = math.floor(10 * known.min().item()) / 10 - 0.1, math.ceil(10 * known.max().item()) / 10 + 0.1
    text = _PARAMETERS.format(name=name, camera=parameters, low=low, high=high)
    write_bytes(folder / "parameters.cfg", text.encode())


_PARAMETERS = """[intrinsics]
focal_length_mm = {camera.focal_length_mm:.6g}
image_resolution_x_px = {camera.width}
image_resolution_y_px = {camera.height}
sensor_size_mm = {camera.sensor_size_mm:.6g}
fstop = 100

[extrinsics]
num_cams_x = {camera.num_cams_x}
num_cams_y = {camera.num_cams_y}
baseline_mm = {camera.baseline_mm:.6g}
focus_distance_m = {camera.focus_distance_m:.6g}

[meta]
scene = {name}
category = embedded
disp_min = {low:.6g}
disp_max = {high:.6g}
"""


def _write_multi_view(
    folder: Path, size: Sequence[int], views: int, points: int, seed: int, antialias: int
) -> None:
    from scenes import render

    scene, (height, width) = still_life(seed), size
    generator = torch.Generator().manual_seed(seed + 1)
    focal = 1.1 * width
    K = intrinsics_matrix(focal, focal, (width - 1) / 2, (height - 1) / 2, torch.float64)
    poses, renders = [], []
    for index in rendering(range(views), views):
        yaw, pitch, distance = 0.0, 16.0, 2.6
        if index:  # around the first view, at uneven angles and distances
            angle = 2 * math.pi * (index + 0.6 * float(torch.rand((), generator=generator))) / (views - 1)
            reach = 4.0 + 2.5 * float(torch.rand((), generator=generator))
            yaw, pitch = yaw + reach * math.cos(angle), pitch + 0.8 * reach * math.sin(angle)
            distance += 0.3 * float(torch.rand((), generator=generator)) - 0.15
        poses.append(_pose_at(distance, yaw, pitch))
        view = render(scene, K.float(), poses[-1], height, width, antialias)
        renders.append(view)
        write_image(folder / "images" / f"view_{index:02d}.png", view.image)
        depth = torch.where(view.mask, view.depth, torch.inf)
        write_pfm(folder / "depth" / f"view_{index:02d}.pfm", depth)
    names = [f"view_{index:02d}.png" for index in range(views)]
    images, depths = (torch.stack([getattr(v, name) for v in renders]) for name in ("image", "depth"))
    model = sparse_model(names, K, torch.stack(poses).double(), images, depths, points, generator)
    write_colmap_model(folder / "sparse" / "0", model)


def _scene_and_pose(scene: LightFieldScene, seed: int) -> tuple["Scene", Tensor]:
    """The things, and world_from_cam [4, 4] of the centre view."""
    from scenes.tabletop import tabletop

    if scene == "still_life":
        return still_life(seed), _pose_at(5.2, 0.0, 14.0)
    things = tabletop(seed)
    return things, things.cameras[0]


def _pose_at(distance: float, yaw_deg: float, pitch_deg: float) -> Tensor:
    """world_from_cam [4, 4] of a camera in front of the still life, looking at it from above."""
    yaw, pitch = math.radians(yaw_deg), math.radians(pitch_deg)
    level = distance * math.cos(pitch)
    position = [level * math.sin(yaw), -level * math.cos(yaw), distance * math.sin(pitch)]
    return look_at(*torch.tensor([position, LOOK_AT], dtype=torch.float64)).float()


def still_life(seed: int = 0) -> "Scene":
    """About 1.7 units wide and 1.1 tall around the origin, seen from -y; z is up.

    The plain ball has no texture: its depth must come from its outline and its surroundings.
    """
    from scenes import Item, Light, Scene, make_object
    from scenes.furniture import strut
    from scenes.patterns import bricks, cloth, planks, stripes, wood
    from scenes.scene import moved
    from scenes.shapes import Box, Quad, RoundedBox, Sphere, placed
    from scenes.textures import Texture, solid

    rng = np.random.default_rng(seed)
    table = Texture(planks(512, rng), (1.3, 1.3))
    wall = Texture(bricks(512, rng), (1.1, 1.1))
    bands = ((0.16, 0.3, 0.5), (0.9, 0.86, 0.7), (0.7, 0.25, 0.16))
    painting = Texture(stripes(256, rng, bands, 6), (0.5, 0.5))
    fabric = Texture(cloth(256, rng, (0.2, 0.42, 0.3), (0.9, 0.86, 0.72)), (0.35, 0.35))
    oak, dark = Texture(wood(256, rng), (0.5, 0.5)), Texture(wood(256, rng, (0.4, 0.25, 0.16)), (0.4, 0.4))
    vase = moved(make_object("vase", seed).items, placed((-0.42, 0.25, 0.0), yaw_deg=25))
    items = [
        Item(Quad((3.0, 3.0), placed((0, 0.8, TABLE_Z))), table),
        Item(Quad((4.0, 3.0), placed((0, 1.5, 0.5), roll_deg=90, yaw_deg=12)), wall),
        Item(Box((0.34, 0.02, 0.3), placed((0.62, 1.1, 0.2), yaw_deg=-20)), painting),
        Item(Box((0.26, 0.02, 0.3), placed((-0.95, 0.75, -0.2), yaw_deg=30, roll_deg=-18)), oak),
        Item(RoundedBox((0.22, 0.16, 0.17), 0.05, placed((0.33, 0.1, TABLE_Z + 0.17), yaw_deg=-28)), fabric),
        Item(Sphere(0.16, placed((0.05, -0.35, TABLE_Z + 0.16))), solid(0.82, 0.72, 0.62)),
        Item(
            Sphere(0.13, placed((0.62, -0.25, TABLE_Z + 0.13))),
            Texture(stripes(128, rng, ((0.75, 0.2, 0.16), (0.95, 0.9, 0.8)), 8), (0.4, 0.4)),
        ),
        Item(Box((0.2, 0.14, 0.035), placed((-0.36, -0.42, TABLE_Z + 0.035), yaw_deg=18)), dark),
    ]
    for index in range(5):  # pencils in a jar: thin, overlapping, slanted
        angle = 2 * math.pi * index / 5 + rng.uniform(-0.3, 0.3)
        top = (0.8 + 0.1 * math.cos(angle), 0.45 + 0.1 * math.sin(angle), 0.08 + 0.06 * rng.uniform())
        foot = (0.8, 0.45, TABLE_Z)
        items.append(Item(strut(foot, top, 0.013, 0.013), solid(*rng.uniform(0.15, 0.95, 3))))
    light = Light(to_sun=(-0.35, -0.6, 0.75), shadows=True)
    return Scene(items + vase, light)
