"""Bringing hand-held or focus-breathing slices onto each other by scale and translation.

Each slice is registered to its neighbour in focus, whose blur is most like its own, and the motions are
chained from the middle of the stack outwards. The estimate is Gauss-Newton on the intensities of softened
pictures, coarse to fine, with a gain and an offset for changes of exposure (a Lucas-Kanade with five
unknowns).
"""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

__all__ = ["align_stack", "estimate_motion", "motion_matrix", "scale_and_shift"]

SOFTEN_PX = 1.5  # at every level of the pyramid: hides differences of blur
SMALLEST_SIDE = 48
ITERATIONS = 25
BORDER = 4  # pixels left out of the comparison at each level


def motion_matrix(scale: float, shift: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """3 x 3: p -> c + scale * (p - c) + shift, in pixels (x, y) of a picture of size (H, W), c its middle."""
    middle = (np.array(size[::-1]) - 1) / 2
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = (1 - scale) * middle + shift
    return matrix


def scale_and_shift(motion: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float]:
    """(scale, shift x, shift y) of a `motion_matrix`."""
    shift = motion[:2, 2] - motion_matrix(motion[0, 0], (0, 0), size)[:2, 2]
    return float(motion[0, 0]), float(shift[0]), float(shift[1])


def estimate_motion(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """The motion from pixels of grey `fixed` [H, W] to those of `moving`, floats of one size."""
    pyramid = [(fixed.astype(np.float32), moving.astype(np.float32))]
    for _ in range(int(np.log2(max(1, min(fixed.shape) / SMALLEST_SIDE)))):
        pyramid.append(tuple(cv2.pyrDown(picture) for picture in pyramid[-1]))
    motion = np.eye(3)
    for pair in reversed(pyramid):
        motion[:2, 2] *= 2  # pixels of this level
        motion = _gauss_newton(*pair, motion)
    return motion


def align_stack(images: Tensor, order: Sequence[int] | None = None) -> tuple[Tensor, list[np.ndarray]]:
    """Register slices [S, 3, H, W] to the middle one and cut to what all of them show.

    order: indices from nearest to farthest focus, by default as given. Returns the slices in their given
    order, [S, 3, H', W'], and the motion from the middle slice to each.
    """
    order = list(range(len(images))) if order is None else list(order)
    grey = images.mean(1).numpy()
    middle = len(order) // 2
    found = {order[middle]: np.eye(3)}
    for way in (order[middle:], order[middle::-1]):
        for neighbour, index in itertools.pairwise(way):
            found[index] = estimate_motion(grey[neighbour], grey[index]) @ found[neighbour]
    motions = [found[index] for index in range(len(images))]
    height, width = images.shape[-2:]
    rows, columns = _common_part(motions, height, width)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    warped = []
    for image, motion in zip(images, motions, strict=True):
        pixels = image.permute(1, 2, 0).numpy()
        border = cv2.BORDER_REPLICATE
        pixels = cv2.warpAffine(pixels, motion[:2], (width, height), flags=flags, borderMode=border)
        warped.append(torch.from_numpy(pixels).permute(2, 0, 1).clamp(0, 1)[:, rows, columns])
    return torch.stack(warped), motions


def _gauss_newton(fixed: np.ndarray, moving: np.ndarray, motion: np.ndarray) -> np.ndarray:
    height, width = fixed.shape
    soft_fixed, soft_moving = (cv2.GaussianBlur(picture, (0, 0), SOFTEN_PX) for picture in (fixed, moving))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    inner = np.zeros(fixed.shape, bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for _ in range(ITERATIONS):
        warped = cv2.warpAffine(soft_moving, motion[:2], (width, height), flags=flags, borderValue=np.nan)
        slope_y, slope_x = np.gradient(warped)
        seen = inner & np.isfinite(warped) & np.isfinite(slope_x) & np.isfinite(slope_y)
        a, b = slope_x[seen], slope_y[seen]
        # Unknowns: change of log scale and of the two shifts (in fixed pixels), gain, offset.
        slopes = np.stack([a * x[seen] + b * y[seen], a, b, -soft_fixed[seen], -np.ones_like(a)])
        normal, right = slopes @ slopes.T, slopes @ (soft_fixed[seen] - warped[seen])
        change = np.linalg.lstsq(normal.astype(float), right.astype(float), rcond=None)[0][:3]
        motion = motion @ motion_matrix(np.exp(np.clip(change[0], -0.1, 0.1)), change[1:], fixed.shape)
        if abs(change[0]) * max(width, height) < 1e-3 and max(abs(change[1]), abs(change[2])) < 1e-3:
            break
    return motion


def _common_part(motions: Sequence[np.ndarray], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the middle slice that every slice shows."""
    corners = np.array([[0, width - 1], [0, height - 1], [1, 1]])  # top left, bottom right
    back = np.stack([np.linalg.inv(motion) @ corners for motion in motions])
    left, top = np.ceil(back[:, :2, 0].max(0) - 1e-6).astype(int)
    right, bottom = (back[:, :2, 1].min(0) + 1e-6).astype(int) + 1
    return slice(top, bottom), slice(left, right)
