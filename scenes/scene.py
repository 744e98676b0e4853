"""A scene is a flat list of textured shapes, a light and a background; `trace` finds what rays hit first."""

import copy
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scenes.shapes import T_MIN, Shape, length, unit
from scenes.textures import Texture

__all__ = [
    "SCENES_VERSION",
    "Background",
    "Hits",
    "Item",
    "Light",
    "Scene",
    "beam_candidates",
    "moved",
    "trace",
]

SCENES_VERSION = 1  # raised when any scene comes to look different, so that written data sets are made again


@dataclass(frozen=True)
class Light:
    """Lambertian light: a sun, and a sky from above with a bounce from below; colours are linear intensities.

    A surface shows albedo * (sun * cos + open * (sky, ground))^(1 / 2.2), albedo in display values. `open`
    is the part of the hemisphere that is not blocked within `occlusion_radius` (0: not computed).
    """

    to_sun: tuple[float, float, float] = (0.45, -0.55, 0.7)
    sun: tuple[float, float, float] = (0.50, 0.48, 0.44)
    sky: tuple[float, float, float] = (0.52, 0.54, 0.58)
    ground: tuple[float, float, float] = (0.38, 0.36, 0.34)
    shadows: bool = False
    occlusion_radius: float = 0.0


@dataclass(frozen=True)
class Background:
    """Colour of rays that hit nothing: from `horizon` (and below) to `zenith` (straight up, +z)."""

    horizon: tuple[float, float, float] = (1.0, 1.0, 1.0)
    zenith: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(self, directions: Tensor) -> Tensor:
        """Directions [3, N] to colours [3, N]."""
        horizon, zenith = directions.new_tensor([self.horizon, self.zenith])[:, :, None]
        if self.horizon == self.zenith:
            return horizon.expand_as(directions)
        up = (directions[2] / length(directions)).clamp(0.0, 1.0)
        return torch.lerp(horizon, zenith, up.sqrt())


@dataclass(frozen=True)
class Item:
    """One shape with its texture; `blocks_light` is off for walls that a sun outside shines through."""

    shape: Shape
    texture: Texture
    blocks_light: bool = True


def moved(items: list[Item], world_from_group: Tensor) -> list[Item]:
    """The same items carried along by a rigid motion [4, 4] of their group's frame; the originals stay."""
    result = []
    for item in items:
        shape = copy.copy(item.shape)
        shape.world_from_local = world_from_group.to(torch.float64) @ shape.world_from_local
        result.append(replace(item, shape=shape))
    return result


@dataclass(frozen=True)
class Scene:
    """Items, light and background; z is up. `cameras` [V, 4, 4] are suggested `world_from_cam`, if any.

    Not to be changed once made (`dataclasses.replace` makes another): the bounds of the items are kept.
    """

    items: list[Item]
    light: Light = field(default_factory=Light)
    background: Background = field(default_factory=Background)
    cameras: Tensor | None = None

    @cached_property
    def bounding_balls(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres [S, 3] and radii [S] of the items in the world, float64."""
        shapes = [item.shape for item in self.items]
        poses = torch.stack([s.world_from_local for s in shapes])  # [S, 4, 4]
        centres = poses[:, :3, :3] @ torch.stack([s.bounds_middle for s in shapes]) + poses[:, :3, 3:]
        return centres[..., 0].numpy(), np.array([s.bounding_radius for s in shapes]) * (1 + 1e-4)


class Hits(NamedTuple):
    """What rays hit first: parameter t [N] (inf: nothing), item index [N] (-1: nothing) and part [N]."""

    t: Tensor
    item: Tensor
    part: Tensor


def beam_candidates(scene: Scene, origins: Tensor, directions: Tensor) -> list[int]:
    """Indices of the items that any of these rays can meet, nearest first.

    The rays are bounded by a ball around the origins and a cone around the directions; an item is kept when
    its bounding ball, grown by the ball of origins, meets the cone. Never drops an item that a ray hits.
    """
    towards = unit(directions)
    axis = unit(towards.mean(1))
    half_angle = math.acos(min(1.0, max(-1.0, float((axis @ towards).min())))) + 1e-3
    middle = origins.mean(1)
    spread = float(length(origins - middle[:, None]).max())
    centres, radii = scene.bounding_balls
    offset = centres - middle.double().cpu().numpy()
    distance = np.linalg.norm(offset, axis=1)
    reach = radii + spread
    with np.errstate(invalid="ignore", divide="ignore"):
        angle = np.arccos(np.clip(offset @ axis.double().cpu().numpy() / distance, -1.0, 1.0))
        width = np.arcsin(np.clip(reach / distance, 0.0, 1.0))
    keep = (distance <= reach) | (angle <= half_angle + width)
    order = np.argsort(distance - radii, kind="stable")
    return [int(i) for i in order if keep[i]]


def trace(scene: Scene, origins: Tensor, directions: Tensor, candidates: list[int]) -> Hits:
    """First hits of world rays (origins [3, 1] or [3, N], directions [3, N]) among the candidate items."""
    count = directions.shape[1]
    best = Hits(
        directions.new_full((count,), torch.inf),
        torch.full((count,), -1, dtype=torch.int64, device=directions.device),
        torch.zeros(count, dtype=torch.int64, device=directions.device),
    )
    for index in candidates:
        shape = scene.items[index].shape
        rows, t, part = _hit_shape(shape, shape.to_local(origins), shape.rotate_to_local(directions), best.t)
        if rows.numel():
            best.t[rows] = t
            best.item[rows] = index
            if part is not None:
                best.part[rows] = part
    return best


def _hit_shape(
    shape: Shape, origins: Tensor, directions: Tensor, limit: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows of the local rays that hit the shape before `limit` [N], with their t and part."""
    rows = None
    if shape.costly:
        near, far = shape.bounds_interval(origins, directions)
        rows = ((near <= far) & (far > T_MIN) & (near < limit)).nonzero()[:, 0]
        if rows.numel() == 0:
            return rows, limit[:0], None
        origins = origins if origins.shape[1] == 1 else origins[:, rows]
        directions, limit = directions[:, rows], limit[rows]
    t, part = shape.hit(origins, directions)
    closer = (t < limit).nonzero()[:, 0]
    rows = closer if rows is None else rows[closer]
    return rows, t[closer], None if part is None else part[closer]
