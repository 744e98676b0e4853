"""Twin of the embedded focal stacks: one ray per pixel and lens point, straight from the thin lens.

A point in focus at z = focus_m is seen by all lens points through the same pixel. Seen from the lens point
(ax, ay) (metres off the axis) a point at depth z moves by f (1 / z - 1 / focus_m) (-ax, -ay) pixels, f the
focal length of K; so its blur disc is f * aperture * |1 / z - 1 / focus_m| pixels wide.
"""

import math

import torch
from torch import Tensor

from scenes.lens import lens_points
from scenes.rendering import pixel_rays
from scenes.scene import Scene, beam_candidates, trace
from scenes.shading import shade

__all__ = ["render_thin_lens"]


def render_thin_lens(
    scene: Scene,
    K: Tensor,
    world_from_cam: Tensor,
    height: int,
    width: int,
    focus_m: float,
    aperture_m: float,
    samples: int,
) -> Tensor:
    """Picture [3, H, W] with the plane z = focus_m in focus, each ray at its own offset inside the pixel."""
    x, y = (torch.arange(n, dtype=K.dtype) for n in (width, height))
    spread = 1.0 / (float(K[0, 0]) * math.sqrt(samples))
    total = K.new_zeros(3, height * width)
    for point, offset in zip(*lens_points(samples, K), strict=True):
        start = torch.cat([point * aperture_m / 2, point.new_zeros(1)])[:, None]  # on the lens, camera frame
        directions = pixel_rays(K, x + offset[0], y + offset[1]) - start / focus_m  # z is 1: t is z-depth
        origin = world_from_cam[:3, :3] @ start + world_from_cam[:3, 3:]
        directions = world_from_cam[:3, :3] @ directions
        hits = trace(scene, origin, directions, beam_candidates(scene, origin, directions))
        total += shade(scene, origin, directions, hits, spread)[0]
    return (total / samples).view(3, height, width)
