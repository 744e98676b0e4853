"""Sampling the aperture of a lens."""

import math

import torch
from torch import Tensor

__all__ = ["lens_points"]

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def lens_points(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the unit disc [count, 2] and pixel offsets [count, 2] in (-0.5, 0.5) that go with them.

    The disc is the sunflower spiral of Vogel (1979), the offsets are the R2 sequence of Roberts (2018):
    both are even in every prefix, and independent enough that each half of the lens covers the whole pixel.
    """
    index = torch.arange(count, dtype=torch.float64)
    radius, angle = ((index + 0.5) / count).sqrt(), index * _GOLDEN_ANGLE
    disc = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    golden = 1.32471795724474602596
    step = torch.tensor([1 / golden, 1 / golden**2], dtype=torch.float64)
    offsets = (0.5 + index[:, None] * step) % 1.0 - 0.5
    return disc.to(like), offsets.to(like)
