"""Colour of hits: texture times Lambertian light with optional hard shadows and ambient occlusion."""

import numpy as np
import torch
from torch import Tensor

from scenes.scene import Hits, Scene, trace
from scenes.shapes import length, unit

__all__ = ["shade"]

_OCCLUSION_STEPS = (0.12, 0.4, 1.0)  # of the occlusion radius


def shade(
    scene: Scene, origins: Tensor, directions: Tensor, hits: Hits, ray_spread: float
) -> tuple[Tensor, Tensor]:
    """Colours [3, N] in [0, 1] and world normals [3, N] (towards the viewer; zero where nothing was hit).

    `ray_spread` is the width a ray covers at t = 1; it picks the textures' mip level.
    """
    colours = scene.background(directions).clone()
    normals = torch.zeros_like(directions)
    rows = (hits.item >= 0).nonzero()[:, 0]
    if rows.numel() == 0:
        return colours, normals
    points, facing, albedo = _surfaces(scene, origins, directions, hits, rows, ray_spread)
    normals[:, rows] = facing
    colours[:, rows] = (albedo * _irradiance(scene, points, facing).pow(1 / 2.2)).clamp(0.0, 1.0)
    return colours, normals


def _surfaces(
    scene: Scene, origins: Tensor, directions: Tensor, hits: Hits, rows: Tensor, ray_spread: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals towards the viewer and albedo, each [3, len(rows)], in the world."""
    directions, t, item, part = directions[:, rows], hits.t[rows], hits.item[rows], hits.part[rows]
    points = (origins if origins.shape[1] == 1 else origins[:, rows]) + t * directions
    normals, albedo = torch.empty_like(points), torch.empty_like(points)
    stretch = length(directions)
    for index in item.unique().tolist():
        mine = (item == index).nonzero()[:, 0]
        shape, texture = scene.items[index].shape, scene.items[index].texture
        normal, uv, faces = shape.surface(shape.to_local(points[:, mine]), part[mine])
        normal = shape.rotate_to_world(normal)
        cosine = -(normal * directions[:, mine]).sum(0) / stretch[mine]
        normals[:, mine] = torch.where(cosine < 0, -normal, normal)
        # between the footprint's short side (1) and long side (1 / cos): neither shimmer nor mush
        footprint = ray_spread * t[mine] / cosine.abs().clamp_min(0.05).sqrt()
        albedo[:, mine] = texture(uv, faces, footprint)
    return points, normals, albedo


def _irradiance(scene: Scene, points: Tensor, normals: Tensor) -> Tensor:
    """Linear light [3, N] that arrives at points [3, N] with normals [3, N]."""
    light = scene.light
    to_sun = unit(points.new_tensor(light.to_sun))
    sun, sky, ground = points.new_tensor([light.sun, light.sky, light.ground])[:, :, None]
    facing_sun = (to_sun @ normals).clamp_min(0.0)
    if light.shadows:
        facing_sun = facing_sun * _sunlit(scene, points, normals, to_sun, facing_sun)
    ambient = torch.lerp(ground, sky, 0.5 + 0.5 * normals[2])
    if light.occlusion_radius > 0:
        ambient = ambient * _openness(scene, points, normals, light.occlusion_radius)
    return sun * facing_sun + ambient


def _points_ball(points: Tensor) -> tuple[np.ndarray, float]:
    low, high = points.amin(1), points.amax(1)
    return ((low + high) / 2).double().cpu().numpy(), float((high - low).norm()) / 2


def _sunlit(scene: Scene, points: Tensor, normals: Tensor, to_sun: Tensor, facing_sun: Tensor) -> Tensor:
    """1 where nothing blocks the ray to the sun, else 0; [N]."""
    rows = (facing_sun > 0).nonzero()[:, 0]
    lit = torch.ones_like(facing_sun)
    if rows.numel() == 0:
        return lit
    middle, radius = _points_ball(points[:, rows])
    centres, radii = scene.bounding_balls
    offset = centres - middle
    along = offset @ to_sun.double().cpu().numpy()
    across = np.sqrt(np.maximum((offset**2).sum(1) - along**2, 0.0))
    keep = (across <= radii + radius) & (along >= -(radii + radius))
    blockers = [int(i) for i in keep.nonzero()[0] if scene.items[i].blocks_light]
    clearance = 1e-3 * max(1.0, float(points.abs().max()) / 10)  # more than float32's error
    start = points[:, rows] + clearance * normals[:, rows]
    blocked = trace(scene, start, to_sun[:, None].expand_as(start), blockers)
    lit[rows] = (blocked.item < 0).to(lit)
    return lit


def _openness(scene: Scene, points: Tensor, normals: Tensor, radius: float) -> Tensor:
    """How open the hemisphere is, in [0, 1]: steps along the normal against the distance to the scene."""
    middle, extent = _points_ball(points)
    centres, radii = scene.bounding_balls
    gap = np.linalg.norm(centres - middle, axis=1) - radii
    shapes = [scene.items[i].shape for i in (gap <= extent + 2 * radius).nonzero()[0]]
    openness = torch.ones_like(points[0])
    for step in _OCCLUSION_STEPS:
        height = step * radius
        probes = points + height * normals
        nearest = torch.full_like(points[0], height)
        for shape in shapes:
            local = shape.to_local(probes)
            excess = (local - shape.bounds_middle.to(local)).abs() - shape.bounds_half.to(local)
            rows = (excess.amax(0) < height).nonzero()[:, 0]
            if rows.numel():
                nearest[rows] = torch.minimum(nearest[rows], shape.distance(local[:, rows]))
        openness = openness * (1 - 0.5 * (1 - nearest / height))
    return openness
