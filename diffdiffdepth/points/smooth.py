"""Trilateral smoothing of point labels: neighbours count by distance, by colour and by label."""

import torch
from torch import Tensor

__all__ = ["trilateral_smooth"]

RIDGE_PX2 = 1.0  # as if every point were one pixel off its place


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
    supports a point if its disparity is within two `sigma_disparity`. The neighbours fit a plane, so that
    slanted surfaces stay (the released code takes their mean). One point per pixel takes part: the most
    precise.
    """
    height, width = image.shape[-2:]
    x, y = positions_px.round().long().unbind(1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    raster = torch.full((height + 2 * radius_px, width + 2 * radius_px), -1, device=x.device)
    by_precision = sigma_px.argsort(descending=True)  # the last write stays
    raster[y[by_precision] + radius_px, x[by_precision] + radius_px] = by_precision
    colour = image[:, y, x]
    sums = disparity.new_zeros(6, len(disparity))  # of w, wx, wy, wxx, wxy, wyy
    loads = disparity.new_zeros(3, len(disparity))  # of wd, wdx, wdy
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
            ox, oy = (positions_px[other] - positions_px[here]).unbind(1)
            terms = torch.stack([torch.ones_like(ox), ox, oy, ox * ox, ox * oy, oy * oy])
            sums[:, here] += weight * terms
            loads[:, here] += weight * step * terms[:3]
            support[here] += ((step.abs() <= 2 * sigma_disparity) & (other != here)).long()
    return disparity + _plane_at_origin(sums, loads), support >= min_neighbours


def _plane_at_origin(sums: Tensor, loads: Tensor) -> Tensor:
    """Value at (0, 0) of the weighted least-squares plane, its slopes held by a few level neighbours."""
    w, wx, wy, wxx, wxy, wyy = (sums / sums[0].clamp(min=1e-30)).double()
    rows = [w, wx, wy, wx, wxx + RIDGE_PX2, wxy, wy, wxy, wyy + RIDGE_PX2]
    normal = torch.stack(rows, dim=1).view(-1, 3, 3)
    load = (loads / sums[0].clamp(min=1e-30)).double()
    return torch.linalg.solve(normal + 1e-9 * torch.eye(3).to(normal), load.T)[:, 0].to(sums.dtype)
