"""Bringing hand-held or focus-breathing slices onto each other by scale and translation.

Each slice is registered to its neighbour in focus, whose blur is most like its own, and the motions are
chained from the middle of the stack outwards. The estimate is Gauss-Newton on the intensities of softened
pictures, coarse to fine, with a gain and an offset for changes of exposure (a Lucas-Kanade with five
unknowns).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

__all__ = ["ScaleShift", "align_stack", "estimate_motion"]

SOFTEN_PX = 1.5  # at every level of the pyramid: hides differences of blur
SMALLEST_SIDE = 48
ITERATIONS = 25
BORDER = 4  # pixels left out of the comparison at each level


@dataclass(frozen=True)
class ScaleShift:
    """moving = c + scale * (fixed - c) + (shift_x, shift_y) in pixels, c the middle of the picture."""

    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    def then(self, other: "ScaleShift") -> "ScaleShift":
        """self maps a to b and other maps b to c: the motion from a to c."""
        return ScaleShift(
            self.scale * other.scale,
            other.scale * self.shift_x + other.shift_x,
            other.scale * self.shift_y + other.shift_y,
        )

    def inverse(self) -> "ScaleShift":
        return ScaleShift(1 / self.scale, -self.shift_x / self.scale, -self.shift_y / self.scale)

    def matrix(self, height: int, width: int) -> np.ndarray:
        """2 x 3 matrix from fixed to moving pixels; (0, 0) is the centre of the top-left pixel."""
        cx, cy = (width - 1) / 2, (height - 1) / 2
        return np.array(
            [
                [self.scale, 0, cx - self.scale * cx + self.shift_x],
                [0, self.scale, cy - self.scale * cy + self.shift_y],
            ]
        )


def estimate_motion(fixed: np.ndarray, moving: np.ndarray) -> ScaleShift:
    """The scale and shift that carry grey picture `fixed` [H, W] onto `moving`, floats of one size."""
    levels = max(0, int(np.log2(min(fixed.shape) / SMALLEST_SIDE)))
    pyramid = [(fixed.astype(np.float32), moving.astype(np.float32))]
    for _ in range(levels):
        pyramid.append(tuple(cv2.pyrDown(picture) for picture in pyramid[-1]))
    motion = ScaleShift()
    for level in range(levels, -1, -1):
        factor = 2.0**level
        at_level = ScaleShift(motion.scale, motion.shift_x / factor, motion.shift_y / factor)
        found = _gauss_newton(*pyramid[level], at_level)
        motion = ScaleShift(found.scale, found.shift_x * factor, found.shift_y * factor)
    return motion


def align_stack(images: Tensor, order: Sequence[int] | None = None) -> tuple[Tensor, list[ScaleShift]]:
    """Register slices [S, 3, H, W] to the middle one and cut to what all of them show.

    order: indices from nearest to farthest focus, by default as given. Returns the slices in their given
    order, [S, 3, H', W'], and the motion from the middle slice to each.
    """
    order = list(range(len(images))) if order is None else list(order)
    grey = images.mean(1).numpy()
    middle = len(order) // 2
    motions: dict[int, ScaleShift] = {order[middle]: ScaleShift()}
    for places in (range(middle + 1, len(order)), range(middle - 1, -1, -1)):
        step = 1 if places.step == 1 else -1
        for place in places:
            neighbour, index = order[place - step], order[place]
            motions[index] = motions[neighbour].then(estimate_motion(grey[neighbour], grey[index]))
    height, width = images.shape[-2:]
    top, bottom, left, right = _common_part([motions[i] for i in range(len(images))], height, width)
    warped = []
    for index, image in enumerate(images):
        matrix = motions[index].matrix(height, width)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        pixels = cv2.warpAffine(
            image.permute(1, 2, 0).numpy(),
            matrix,
            (width, height),
            flags=flags,
            borderMode=cv2.BORDER_REPLICATE,
        )
        warped.append(torch.from_numpy(pixels).permute(2, 0, 1).clamp(0, 1)[:, top:bottom, left:right])
    return torch.stack(warped), [motions[index] for index in range(len(images))]


def _gauss_newton(fixed: np.ndarray, moving: np.ndarray, motion: ScaleShift) -> ScaleShift:
    height, width = fixed.shape
    soft_fixed, soft_moving = (cv2.GaussianBlur(picture, (0, 0), SOFTEN_PX) for picture in (fixed, moving))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    inner = np.zeros(fixed.shape, bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    for _ in range(ITERATIONS):
        matrix = motion.matrix(height, width)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(soft_moving, matrix, (width, height), flags=flags, borderValue=float("nan"))
        slope_y, slope_x = np.gradient(warped)
        seen = inner & np.isfinite(warped) & np.isfinite(slope_x) & np.isfinite(slope_y)
        a, b = slope_x[seen], slope_y[seen]
        # Unknowns: change of log scale and of the two shifts (in fixed pixels), gain, offset.
        columns = [a * x[seen] + b * y[seen], a, b, -soft_fixed[seen], -np.ones_like(a)]
        residual = soft_fixed[seen] - warped[seen]
        normal = np.array([[float(np.dot(p, q)) for p in columns] for q in columns])
        right = np.array([float(np.dot(p, residual)) for p in columns])
        change = np.linalg.lstsq(normal, right, rcond=None)[0][:3]
        scale = motion.scale * float(np.exp(np.clip(change[0], -0.1, 0.1)))
        motion = ScaleShift(
            scale, motion.shift_x + motion.scale * change[1], motion.shift_y + motion.scale * change[2]
        )
        if abs(change[0]) * max(width, height) < 1e-3 and max(abs(change[1]), abs(change[2])) < 1e-3:
            break
    return motion


def _common_part(motions: Sequence[ScaleShift], height: int, width: int) -> tuple[int, int, int, int]:
    """Rows and columns (top, bottom, left, right) of the middle slice that every slice shows."""
    top, left, bottom, right = 0.0, 0.0, height - 1.0, width - 1.0
    for motion in motions:
        back = motion.inverse()
        cx, cy = (width - 1) / 2, (height - 1) / 2
        left = max(left, cx - back.scale * cx + back.shift_x)
        right = min(right, cx + back.scale * cx + back.shift_x)
        top = max(top, cy - back.scale * cy + back.shift_y)
        bottom = min(bottom, cy + back.scale * cy + back.shift_y)
    return int(np.ceil(top - 1e-6)), int(bottom + 1e-6) + 1, int(np.ceil(left - 1e-6)), int(right + 1e-6) + 1
