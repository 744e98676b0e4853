"""Trilateral smoothing of point labels: neighbours count by distance, by colour and by label."""

import torch
from torch import Tensor

__all__ = ["trilateral_smooth"]


def trilateral_smooth(
    positions_px: Tensor,
    disparity: Tensor,
    sigma_px: Tensor,
    image: Tensor,
    *,
    radius_px: int = 10,
    sigma_space_px: float = 10.0,
    sigma_disparity: float = 0.1,
    sigma_colour: float = 0.5,
    min_neighbours: int = 5,
) -> tuple[Tensor, Tensor]:
    """Smoothed disparity [n] and whether at least `min_neighbours` others support it, [n] bool.

    positions_px [n, 2]; disparity [n] with standard errors sigma_px [n], whose inverse squares weigh the
    neighbours (the released light-field code counts them alike); image [3, H, W] RGB in [0, 1]. A neighbour
    supports a point if its disparity is within two `sigma_disparity`. One point per pixel takes part: the
    most precise.
    """
    height, width = image.shape[-2:]
    x, y = positions_px.round().long().unbind(1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    raster = torch.full((height + 2 * radius_px, width + 2 * radius_px), -1, device=x.device)
    by_precision = sigma_px.argsort(descending=True)  # the last write stays
    raster[y[by_precision] + radius_px, x[by_precision] + radius_px] = by_precision
    colour = image[:, y, x]
    total = torch.zeros_like(disparity)
    shift = torch.zeros_like(disparity)
    support = torch.zeros_like(x)
    for dy in range(2 * radius_px + 1):
        for dx in range(2 * radius_px + 1):
            distance = (dx - radius_px) ** 2 + (dy - radius_px) ** 2
            if distance > radius_px**2:
                continue
            here = (raster[y + dy, x + dx] >= 0).nonzero().flatten()
            other = raster[y[here] + dy, x[here] + dx]
            step = disparity[other] - disparity[here]
            contrast = (colour[:, other] - colour[:, here]).square().sum(0)
            log_weight = step.square() / sigma_disparity**2 + contrast / sigma_colour**2
            log_weight = log_weight + distance / sigma_space_px**2
            weight = torch.exp(-log_weight / 2) / sigma_px[other].square().clamp(min=1e-8)
            total[here] += weight
            shift[here] += weight * step
            support[here] += ((step.abs() <= 2 * sigma_disparity) & (other != here)).long()
    return disparity + shift / total.clamp(min=1e-30), support >= min_neighbours
