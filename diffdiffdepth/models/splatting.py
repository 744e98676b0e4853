"""Differentiable splatting of labelled points onto a pixel grid (Khan et al., CVPR 2021, Sec. 3.2-3.3).

At a pixel at distance r from a point, with squared-exponential profile G = exp(-r^2 / 2 s^2):

    opacity         A = 1 - exp(-DENSITY G)       the label integral (Eq. 10-12) in closed form
    transmittance   T = product over nearer points of exp(-ATTENUATION G)          (Eq. 9)
    label map       S = sum T A label             weight map = sum T weight exp(-(r^2 / 2 l^2)^2)    (Eq. 3-6)

`splat` here is this equation, point by point; `models/fast/splatting.py` is its fast twin.
"""

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Opacity", "splat"]

Opacity = Literal["analytic", "quadrature"]

LABEL_SIGMA_PX = 1.3
WEIGHT_SIGMA_PX = 0.7054  # the weight falls to 1/e at one pixel (the paper rounds it to 0.71)
DEPTH_SIGMA = 1.0
PEAK = 6.2  # density in the middle of a point ("rho"; released code, not in the paper)
CENTRE = 5.0  # of a point in its own frame along the ray, which starts at 0 and ends at EXIT
EXIT = 8.0


def _optical_depth(z: float) -> float:
    """Integral of the density along the ray from 0 to z, for G = 1."""
    scale = math.sqrt(2) * DEPTH_SIGMA
    half = math.erf((z - CENTRE) / scale) + math.erf(CENTRE / scale)
    return PEAK * math.sqrt(math.pi / 2) * DEPTH_SIGMA * half


DENSITY = PEAK * math.sqrt(2 * math.pi) * DEPTH_SIGMA  # 15.541, of the whole ray
ATTENUATION = _optical_depth(EXIT)  # 15.520
# The released code sums 8 samples of the label integral: A = sum over samples of factor G exp(-depth G).
SAMPLES = tuple(
    (6 / 7 * PEAK * math.exp(-((z - CENTRE) ** 2) / (2 * DEPTH_SIGMA**2)), _optical_depth(z))
    for z in (2 + 6 / 7 * i for i in range(8))
)


def splat(
    positions_px: Tensor,
    labels: Tensor,
    weights: Tensor,
    size: tuple[int, int],
    *,
    near_is_large: bool,
    supersampling: int = 1,
    half_size: int = 3,
    opacity: Opacity = "analytic",
) -> tuple[Tensor, Tensor]:
    """Splat n points into a label map and a weight map [F H, F W] for `size` (H, W), supersampling F.

    positions_px [n, 2] are (x, y) in the image of `size`, pixel centres on integers; the kernel's widths
    are in pixels of the finer grid. `near_is_large`: labels are disparities (True) or depths (False), which
    decides who hides whom; ties go to the earlier point. Points may be outside. The kernel spans (2
    half_size + 1)^2 pixels (7 x 7 in the paper). Differentiable in positions, labels and weights.

        >>> points = torch.tensor([[4.0, 4.0]]), torch.tensor([2.5]), torch.ones(1)
        >>> label_map, weight_map = splat(*points, (9, 9), near_is_large=True)
        >>> round(label_map[4, 4].item(), 3), round(weight_map[4, 4].item(), 3)
        (2.5, 1.0)
    """
    height, width = (side * supersampling for side in size)
    label_map, weight_map, optical_depth = (labels.new_zeros(height, width) for _ in range(3))
    for k in torch.argsort(labels, descending=near_is_large, stable=True).tolist():  # front to back
        x, y = (positions_px[k] + 0.5) * supersampling - 0.5
        columns, rows = _window(x, half_size, width), _window(y, half_size, height)[:, None]
        squared = (columns - x).square() + (rows - y).square()  # r^2
        profile = torch.exp(-squared / (2 * LABEL_SIGMA_PX**2))  # G
        seen = torch.exp(-ATTENUATION * optical_depth[rows, columns])  # T
        label_map[rows, columns] += seen * _opacity(profile, opacity) * labels[k]
        falloff = torch.exp(-((squared / (2 * WEIGHT_SIGMA_PX**2)) ** 2))
        weight_map[rows, columns] += seen * weights[k] * falloff
        optical_depth[rows, columns] += profile
    return label_map, weight_map


def _window(centre: Tensor, half_size: int, extent: int) -> Tensor:
    """The pixels 0 ... extent - 1 that the kernel covers along one axis."""
    first = torch.ceil(centre.detach() - half_size)
    pixels = torch.arange(extent, device=centre.device)
    return pixels[(pixels >= first) & (pixels <= first + 2 * half_size)]


def _opacity(profile: Tensor, kind: Opacity) -> Tensor:
    if kind == "analytic":
        return 1 - torch.exp(-DENSITY * profile)
    return sum(factor * profile * torch.exp(-depth * profile) for factor, depth in SAMPLES)
