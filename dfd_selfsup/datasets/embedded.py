"""Embedded focal stacks: rooms and table-tops seen through a lens, rendered on first use.

    <root>/embedded/*/{train,validation,test}/<scene>_<view>/{slice_0.png ..., aif.png, depth.pfm, stack.yaml}

The blur is not the training's. A camera with an aperture is many pinhole cameras side by side: each point
of the lens sees its own picture, and focusing at F puts these pictures on top of each other shifted by f a /
F pixels (f the focal length in pixels, a the point on the lens), so that everything at distance F meets. All
slices share the pinhole pictures. Shifts are rounded to whole pixels, and no picture is ever interpolated:
what rounding leaves over moves the ray inside its pixel, where the samples of a pixel should be spread
anyway.

With `lenses: many` every view has an f-number, a range of focus and eight slices of its own, for networks
that are to know more than one camera.

The splits share no scene: each room and each table-top, with all its views, belongs to one of them.
"""

import dataclasses
import math
import sys
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.config import DataConfig, EmbeddedConfig
from dfd_selfsup.datasets.folder import folder_splits, write_stack
from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.files.disk import made_once
from shared.geometry.camera import intrinsics_matrix, look_at
from shared.runs.command import rendering
from shared.runs.workers import read_ahead

if TYPE_CHECKING:
    from scenes import Scene

__all__ = [
    "FOCUS_M",
    "View",
    "embedded_splits",
    "make_embedded_stacks",
    "render_stack_views",
    "stack_intrinsics",
    "write_view",
]

FOCUS_M = (1.0, 1.5, 2.5, 4.0, 6.0)  # those of the paper's NYUv2 stacks
FOCAL_LENGTH_MM, F_NUMBER = 100.0, 0.9
SENSOR_WIDTH_MM = 72.0  # with 100 mm a field of view of 40 degrees: lens, sensor and perspective fit together
RAYS_AT_ONCE = 80_000  # a few pinholes share the cost of a call; more would leave the cache
# What `lenses: many` draws from, evenly in logarithms: f-number, nearest and farthest focus.
MANY_SLICES, MANY_F_NUMBERS, MANY_NEAREST_M, MANY_FARTHEST_M = 8, (0.8, 2.4), (0.7, 1.3), (3.5, 10.0)
TABLETOP_SCALE = 2.0  # table-tops at twice life size, so that rooms and tables fall into one range of depth


class View(NamedTuple):
    """A scene, a pose in it [4, 4], and how many metres a unit of the scene is."""

    name: str
    scene: "Scene"
    world_from_cam: Tensor
    metres_per_unit: float


class _SceneOrder(NamedTuple):
    """One scene to render with all its views: enough to build it in another process."""

    split: str
    kind: Literal["room", "table"]
    seed: int


def embedded_splits(root: Path, config: DataConfig) -> dict[str, list[Loader]]:
    """Loaders per split of the stacks below <root>/embedded/."""
    return folder_splits(make_embedded_stacks(root / "embedded", config.embedded))


def make_embedded_stacks(root: str | Path, config: EmbeddedConfig, workers: int | None = None) -> Path:
    """The folder that holds the stacks of these options, rendered unless it is there already.

    Scenes are divided over `workers`, by default one per processor; the result does not depend on it.
    """
    from scenes import SCENES_VERSION

    def write(folder: Path) -> None:
        orders = _scene_orders(config)
        scenes = read_ahead(partial(_write_scene, folder, config), orders, workers)
        list(rendering(scenes, len(orders), "scene"))

    record = {"generator": "scenes", "version": SCENES_VERSION, **dataclasses.asdict(config)}
    name = f"v{SCENES_VERSION}_{config.width}x{config.height}_seed{config.seed}"
    return made_once(Path(root) / name, record, write, lambda text: sys.stderr.write(f"{text}\n"))


def render_stack_views(
    view: View, K: Tensor, height: int, width: int, focus_m: Sequence[float], aperture_m: float, samples: int
) -> Tensor:
    """The slices [S, 3, H, W] of a view through an aperture of this diameter, `samples` rays per pixel.

    K is the same for every slice, so the stack is one with its breathing corrected (`Defocus.thin_lens`).
    """
    from scenes.lens import lens_points

    focal = float(K[0, 0])
    disc, offsets = lens_points(samples, K)
    lens_m = disc * (aperture_m / 2)
    total = K.new_zeros(len(focus_m), 3, height, width)
    margin = math.ceil(focal * aperture_m / 2 / min(focus_m)) + 2
    framed = K.clone()
    framed[:2, 2] += margin
    at_once = max(1, RAYS_AT_ONCE // ((height + 2 * margin) * (width + 2 * margin)))
    for points, shifts in zip(lens_m.split(at_once), offsets.split(at_once), strict=True):
        pictures = _pinholes(view, framed, height + 2 * margin, width + 2 * margin, points, shifts)
        for picture, point, offset in zip(pictures, points, shifts, strict=True):
            for index, focus in enumerate(focus_m):
                # What the axis sees at x, this pinhole sees at x - f a / F if it is in focus.
                shift_x, shift_y = (-focal * point / focus - offset).round().int().tolist()
                top, left = margin + shift_y, margin + shift_x
                total[index] += picture[:, top : top + height, left : left + width]
    return total / samples


def _pinholes(view: View, K: Tensor, height: int, width: int, lens_m: Tensor, offsets: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] of pinholes at lens points [N, 2], rays moved by offsets [N, 2]."""
    from scenes.rendering import pixel_rays
    from scenes.scene import beam_candidates, trace
    from scenes.shading import shade

    x, y = (torch.arange(size, dtype=K.dtype) for size in (width, height))
    rays = [pixel_rays(K, x + offset[0], y + offset[1]) for offset in offsets]  # each [3, H W]
    rotation, centre = view.world_from_cam[:3, :3].to(K), view.world_from_cam[:3, 3:].to(K)
    origins = centre + rotation @ F.pad(lens_m, (0, 1)).T / view.metres_per_unit  # [3, N]
    origins = origins.repeat_interleave(height * width, 1)
    directions = rotation @ torch.cat(rays, 1)
    hits = trace(view.scene, origins, directions, beam_candidates(view.scene, origins, directions))
    colours, _ = shade(view.scene, origins, directions, hits, 1 / float(K[0, 0]))
    return colours.view(3, len(offsets), height, width).transpose(0, 1)


def _scene_orders(config: EmbeddedConfig) -> list[_SceneOrder]:
    """Scenes of each split; seeds count up, so that no scene is in two splits."""
    orders = []
    seeds = {"room": 1000 * config.seed, "table": 1000 * config.seed}
    for split in SPLITS:
        for kind, count in zip(seeds, getattr(config, f"{split}_scenes"), strict=True):
            orders += [_SceneOrder(split, kind, seeds[kind] + i) for i in range(count)]
            seeds[kind] += count
    return orders


def _write_scene(folder: Path, config: EmbeddedConfig, order: _SceneOrder) -> None:
    """Render every view of a scene into <folder>/<split>/<scene>_<view>/."""
    from scenes.rooms import room
    from scenes.tabletop import tabletop

    if order.kind == "room":
        scene = _without_occlusion(room(order.seed, config.views))
        poses, metres_per_unit = scene.cameras, 1.0
    else:
        scene = _without_occlusion(tabletop(order.seed))
        poses, metres_per_unit = _around_table(order.seed, config.views), TABLETOP_SCALE
    for index, pose in enumerate(poses):
        view = View(f"{order.kind}{order.seed:03d}_{index}", scene, pose, metres_per_unit)
        write_view(folder / order.split / view.name, view, config)


def _without_occlusion(scene: "Scene") -> "Scene":
    """The same scene with plain sky light: half the rays, and nothing that defocus could tell."""
    return dataclasses.replace(scene, light=dataclasses.replace(scene.light, occlusion_radius=0.0))


def _around_table(seed: int, count: int) -> Tensor:
    """Poses [count, 4, 4] at the front of the desk, at different places, heights and distances."""
    draw = torch.Generator().manual_seed(seed)
    unit = torch.rand(4, count, generator=draw, dtype=torch.float64)
    position = torch.stack([(unit[0] - 0.5) * 0.7, -0.7 + 0.3 * unit[1], 0.22 + 0.3 * unit[2]], 1)
    target = torch.stack([0.3 * position[:, 0], torch.full_like(unit[0], 0.75), 0.16 * unit[3]], 1)
    return look_at(position, target).float()


def stack_intrinsics(height: int, width: int) -> Tensor:
    """K [3, 3] of the embedded stacks, and of a pinhole in the place of their lens."""
    focal = FOCAL_LENGTH_MM / SENSOR_WIDTH_MM * width
    return intrinsics_matrix(focal, focal, (width - 1) / 2, (height - 1) / 2)


def write_view(folder: Path, view: View, config: EmbeddedConfig) -> None:
    """The focal stack of a view at the size of `config`, with its truth."""
    from scenes import render

    height, width = config.height, config.width
    f_number, focus_m = (F_NUMBER, FOCUS_M) if config.lenses == "one" else _drawn_camera(view.name)
    lens = Lens(FOCAL_LENGTH_MM, f_number, SENSOR_WIDTH_MM * 1000 / width)
    K = stack_intrinsics(height, width)
    slices = render_stack_views(view, K, height, width, focus_m, lens.aperture_m, config.lens_samples)
    # The same camera with its aperture closed, so that image and slices differ by the defocus alone.
    aif = render_stack_views(view, K, height, width, focus_m[:1], 0.0, config.lens_samples)[0]
    sharp = render(view.scene, K, view.world_from_cam, height, width, antialias=1)
    defocus = Defocus.thin_lens(lens, focus_m, breathing_corrected=True)
    depth = sharp.depth * view.metres_per_unit
    stack = FocalStack(view.name, slices, defocus, lens, aif, depth, sharp.mask)
    write_stack(folder, stack, focus_m, breathing_corrected=True)


def _drawn_camera(name: str) -> tuple[float, list[float]]:
    """f-number and focus distances (m) of one of many cameras, the same for the same name."""
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def between(low: float, high: float) -> float:
        return low * (high / low) ** float(torch.rand((), generator=draw))

    f_number = between(*MANY_F_NUMBERS)
    nearest, farthest = between(*MANY_NEAREST_M), between(*MANY_FARTHEST_M)
    inverse = torch.linspace(1 / nearest, 1 / farthest, MANY_SLICES, dtype=torch.float64)
    step = (1 / nearest - 1 / farthest) / (MANY_SLICES - 1)
    inverse[1:-1] += step * (0.6 * torch.rand(MANY_SLICES - 2, generator=draw) - 0.3)
    return round(f_number, 3), [round(value, 3) for value in (1 / inverse).tolist()]
