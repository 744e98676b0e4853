"""Labels for the image border where no point is near: surfaces go on as planes, they do not level off.

An edge at the border leaves most views, so few points are found there, and a diffusion with a free border
continues a slanted floor level. Disparity is linear in the pixels of a plane, so a plane through the points
around says what it is at the border, and the diffusion in between is exact again.
"""

import numpy as np
import torch
from torch import Tensor

__all__ = ["border_points"]

SPACING_PX = 3  # of the border pixels that are looked at
NEAR_PX = 4.0  # a border pixel with a point so near needs no other
FARTHEST_PX = 50.0  # what is farther from any point stays unknown
SLOPE = 0.1  # expected, in units of the labels per pixel
COLOUR = 0.05  # difference (RGB) at which a point counts 1/e^(1/2)
RESIDUAL = 0.02  # in units of the labels, from which a point may be of another surface
LEAST_SUPPORT, MOST_POINTS = 12, 600


def border_points(positions_px: Tensor, labels: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Further points [k, 2] on the border pixels of an image [3, H, W] and their labels [k].

    positions_px [n, 2]; labels [n] linear in disparity, in units of the scene (`LabelScale`). Each border
    pixel without a point within four pixels gets the value there of the plane through the points around it,
    those of its own colour and of one surface; none where they do not agree on a plane.
    """
    from scipy.spatial import cKDTree  # here, as it takes half a second

    height, width = image.shape[-2:]
    places, values = positions_px.detach().cpu().double().numpy(), labels.detach().cpu().double().numpy()
    pixels = _border_pixels(height, width)
    tree = cKDTree(places)
    nearest, _ = tree.query(pixels)
    pixels, nearest = (part[(nearest > NEAR_PX) & (nearest < FARTHEST_PX)] for part in (pixels, nearest))
    colours = image.detach().cpu().double().numpy()
    x, y = places.round().astype(int).T
    point_colours = colours[:, y.clip(0, height - 1), x.clip(0, width - 1)].T
    found = []
    for pixel, distance in zip(pixels, nearest, strict=True):
        radius = 3 * distance + 20
        around = np.array(tree.query_ball_point(pixel, radius))
        around = around[:: max(1, len(around) // MOST_POINTS)]
        away = places[around] - pixel
        difference = point_colours[around] - colours[:, pixel[1], pixel[0]]
        log_weight = (away**2).sum(1) * (2 / radius**2) + (difference**2).sum(1) / (2 * COLOUR**2)
        level = _level_of_plane(away, values[around], np.exp(-log_weight))
        if level is not None:
            found.append((*pixel, level))
    table = torch.tensor(found, dtype=torch.float64).reshape(-1, 3).to(positions_px)
    return table[:, :2], table[:, 2]


def _border_pixels(height: int, width: int) -> np.ndarray:
    """Pixels [k, 2] (x, y) along the four sides."""
    across = np.append(np.arange(0, width - 1, SPACING_PX), width - 1)
    down = np.append(np.arange(SPACING_PX, height - SPACING_PX, SPACING_PX), height - 1)[:-1]
    rows = [np.stack([across, np.full_like(across, y)], 1) for y in (0, height - 1)]
    columns = [np.stack([np.full_like(down, x), down], 1) for x in (0, width - 1)]
    return np.concatenate(rows + columns)


def _level_of_plane(away: np.ndarray, values: np.ndarray, weights: np.ndarray) -> float | None:
    """Value at (0, 0) of the plane that most points [n, 2] with values [n] agree on; None if they do not."""
    if weights.sum() < LEAST_SUPPORT / 4 or len(values) < LEAST_SUPPORT:
        return None
    basis = np.concatenate([np.ones((len(away), 1)), away], axis=1)
    ridge = np.diag([0.0, 1.0, 1.0]) * (RESIDUAL / SLOPE) ** 2
    order = np.argsort(values)
    middle = values[order][np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)]  # weighted median
    plane, scale = np.array([middle, 0.0, 0.0]), max(np.abs(values - middle).max() / 2, RESIDUAL)
    for _ in range(12):  # from all points towards those of one surface
        robust = weights / (1 + ((values - basis @ plane) / scale) ** 2) ** 2
        weighted = basis * robust[:, None]
        plane = np.linalg.solve(weighted.T @ basis + ridge + 1e-12 * np.eye(3), weighted.T @ values)
        scale = max(scale / 1.6, RESIDUAL)
    agree = weights[np.abs(values - basis @ plane) < 3 * RESIDUAL].sum()
    return float(plane[0]) if agree > 0.6 * weights.sum() else None
