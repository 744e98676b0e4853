"""Least squares for a plane of disparity in a patch that is seen by many views.

A patch of P pixels around (x, y) is seen in view i at offset (u_i, v_i). To first order it looks there like

    I_i(p) = M(p) + c_i + (u_i G_x(p) + v_i G_y(p)) * delta(p),    delta(p) = b_0 + b_1 p_x + b_2 p_y

with M the true patch, G its gradient, c_i the brightness of the view, and delta the error of the plane by
which the view was sampled. M and all c_i are unknown and drop out: sums are taken about their means over the
views and over the patch. What is left is three equations for (b_0, b_1, b_2) per patch.
"""

import torch
from torch import Tensor

__all__ = ["catmull_rom", "differences", "lever_sums", "normal_matrix", "plane_basis", "plane_step"]

SLANT_SIGMA = 0.05  # expected size of b_1 and b_2, px per px: keeps planes level where a patch says nothing
SLANT_LIMIT = 3 * SLANT_SIGMA


def plane_basis(radius_x: int, radius_y: int, like: Tensor) -> Tensor:
    """Columns 1, p_x, p_y of the pixels of a patch [P, 3], row by row."""
    x, y = (torch.arange(-radius, radius + 1).to(like) for radius in (radius_x, radius_y))
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y], dim=-1).flatten(0, 1)


def lever_sums(seen: Tensor, offsets: Tensor) -> Tensor:
    """Sums [6, n] of 1, u, v, u^2, u v, v^2 over the views that see a point; seen [n, V], offsets [V, 2]."""
    u, v = offsets.unbind(1)
    return (seen.to(offsets) @ torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v], dim=1)).T


def normal_matrix(
    levers: Tensor, along_x: Tensor, along_y: Tensor, basis: Tensor, *, free_brightness: bool
) -> Tensor:
    """Matrices [n, 3, 3] of the normal equations; gradients [n, P] of the true patch, levers [6, n]."""
    count, u, v, uu, uv, vv = levers[..., None, None]
    count = count.clamp(min=1)
    x, y = (along[..., None] * basis for along in (along_x, along_y))  # [n, P, 3]
    if free_brightness:
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    mixed = x.transpose(1, 2) @ y
    normal = (uu - u * u / count) * (x.transpose(1, 2) @ x) + (vv - v * v / count) * (y.transpose(1, 2) @ y)
    return normal + (uv - u * v / count) * (mixed + mixed.transpose(1, 2))


def plane_step(normal: Tensor, load: Tensor, variance: Tensor, plane: Tensor) -> Tensor:
    """Planes [n, 3] after one Gauss-Newton step; the load [n, 3] belongs to the planes as they are.

    `variance` [n] of the lightness weighs the expectation that planes are nearly level.
    """
    ridge = torch.zeros_like(normal)
    ridge[:, 1, 1] = ridge[:, 2, 2] = variance / SLANT_SIGMA**2
    tiny = 1e-9 * torch.eye(3).to(normal)
    step = torch.linalg.solve(normal + ridge + tiny, load + (ridge @ plane[..., None])[..., 0])
    plane = plane - step
    return torch.cat([plane[:, :1], plane[:, 1:].clamp(-SLANT_LIMIT, SLANT_LIMIT)], dim=1)


def catmull_rom(pixels: Tensor, t: Tensor, dim: int = -1) -> Tensor:
    """Cubic interpolation at `t` after the second pixel of four neighbours each: K along `dim` to K - 3."""
    size = pixels.shape[dim] - 3
    weights = (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        (((4 - 3 * t) * t + 1) * t) / 2,
        (t - 1) * t * t / 2,
    )
    values = pixels.narrow(dim, 0, size) * weights[0]
    for tap in (1, 2, 3):
        values.addcmul_(pixels.narrow(dim, tap, size), weights[tap])
    return values


def differences(values: Tensor, dim: int) -> Tensor:
    """Central differences along a dimension, which gets two shorter."""
    size = values.shape[dim] - 2
    return (values.narrow(dim, 2, size) - values.narrow(dim, 0, size)) / 2
