"""Bringing hand-held or focus-breathing photos onto each other.

Each photo is registered to its neighbour in focus, whose blur is most like its own, and the motions are
chained from the middle of the stack outwards. The estimate is Gauss-Newton on the intensities of softened
pictures, coarse to fine, with a gain and an offset for changes of exposure (a Lucas-Kanade): first shift,
scale and rotation, then on pictures that are large enough all eight numbers of a homography, which is what
turning the camera does. What remains is measured afterwards.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

__all__ = [
    "Residual",
    "common_part",
    "describe_motion",
    "estimate_motion",
    "pixel_motion",
    "residuals",
    "stack_motions",
    "warp",
]

SOFTEN_PX = 1.5  # at every level of the pyramid: hides differences of blur
SMALLEST_SIDE = 48
HOMOGRAPHY_SIDE = 400  # px; smaller pictures tell a homography from a similarity too badly
ITERATIONS = 25
BORDER = 4  # pixels left out of the comparison at each level
SURE_PX = 0.25  # a part of the picture counts when its shift has a smaller standard deviation


def _generators() -> np.ndarray:
    """Shift x and y, scale, rotation, then stretch, shear and the two of perspective, each [3, 3]."""
    found = np.zeros((8, 3, 3))
    found[0, 0, 2] = found[1, 1, 2] = 1
    found[2, :2, :2], found[3, :2, :2] = np.eye(2), [[0, -1], [1, 0]]
    found[4, :2, :2], found[5, :2, :2] = np.diag([1, -1]), [[0, 1], [1, 0]]
    found[6, 2, 0] = found[7, 2, 1] = -1
    return found


class Residual(NamedTuple):
    """What is left between a photo and its neighbour: pixels at the worst place, and their correlation."""

    px: float
    correlation: float


def pixel_motion(motion: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A motion [3, 3] in units of half the diagonal from the middle, in pixels of a picture (H, W)."""
    frame = _pixel_from_unit(size)
    found = frame @ motion @ np.linalg.inv(frame)
    return found / found[2, 2]


def describe_motion(motion: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(scale, rotation in degrees, shift x, shift y in px) of a motion, in the middle of the picture."""
    shift = motion[:2, 2] / motion[2, 2]
    slope = (motion[:2, :2] - np.outer(shift, motion[2, :2])) / motion[2, 2]
    angle = np.degrees(np.arctan2(slope[1, 0] - slope[0, 1], slope[0, 0] + slope[1, 1]))
    x, y = shift * _pixel_from_unit(size)[0, 0]
    return float(np.sqrt(np.linalg.det(slope))), float(angle), float(x), float(y)


def estimate_motion(
    fixed: np.ndarray, moving: np.ndarray, unknowns: int = 8, smallest_side: int = SMALLEST_SIDE
) -> tuple[np.ndarray, float]:
    """The motion [3, 3] from grey `fixed` [H, W] to `moving`, floats of one size; see `pixel_motion`.

    unknowns: 2 (shift), 4 (and scale and rotation) or 8 (a homography, where the pictures are large enough).
    Returns the standard deviation of the shift in pixels as well, as the residuals tell it.
    """
    pyramid = [(fixed.astype(np.float32), moving.astype(np.float32))]
    while min(pyramid[-1][0].shape) >= 2 * smallest_side:
        half = tuple(side // 2 for side in pyramid[-1][0].shape[::-1])
        pyramid.append(tuple(cv2.resize(p, half, interpolation=cv2.INTER_AREA) for p in pyramid[-1]))
    motion, deviation_px = np.eye(3), np.inf
    for pair in reversed(pyramid):
        told = unknowns if min(pair[0].shape) >= HOMOGRAPHY_SIDE else min(unknowns, 4)
        motion, deviation_px = _gauss_newton(*pair, motion, told)
    return motion, deviation_px


def stack_motions(greys: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The motion from the middle one of pictures [H, W], in order of focus, to each."""
    middle = len(greys) // 2
    found = {middle: np.eye(3)}
    for way in (range(middle, len(greys)), range(middle, -1, -1)):
        for neighbour, index in itertools.pairwise(way):
            found[index] = estimate_motion(greys[neighbour], greys[index])[0] @ found[neighbour]
    return [found[index] for index in range(len(greys))]


def residuals(greys: Sequence[np.ndarray], motions: Sequence[np.ndarray]) -> list[Residual]:
    """What the motions leave between each picture and its neighbour towards the middle one.

    Nine parts of the picture are registered on their own, by shift alone; those with too little texture to
    tell are left out.
    """
    rows, columns = common_part(motions, greys[0].shape)
    warped = [warp(g.astype(np.float32), m)[rows, columns] for g, m in zip(greys, motions, strict=True)]
    height, width = warped[0].shape
    middle, found = len(greys) // 2, []
    for index, picture in enumerate(warped):
        neighbour = warped[index + np.sign(middle - index)]
        worst = 0.0
        for row, column in itertools.product(range(3), range(3)):
            part = tuple(
                slice(n * side // 3, (n + 1) * side // 3) for n, side in ((row, height), (column, width))
            )
            if index == middle or min(neighbour[part].shape) < 4 * BORDER:
                continue
            motion, deviation_px = estimate_motion(neighbour[part], picture[part], 2, 4 * BORDER)
            shift_px = np.hypot(*describe_motion(motion, neighbour[part].shape)[2:])
            worst = max(worst, shift_px) if deviation_px < SURE_PX else worst
        correlation = np.corrcoef(*(cv2.GaussianBlur(p, (0, 0), 3).ravel() for p in (picture, neighbour)))
        found.append(Residual(float(worst), float(correlation[0, 1])))
    return found


def warp(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """A picture [H, W] or [H, W, 3] brought onto the one from which `motion` leads to it."""
    size = image.shape[:2]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(
        image, pixel_motion(motion, size), size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
    )


def common_part(motions: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the middle picture that every picture shows."""
    height, width = size
    corners = np.array([[0, width - 1, width - 1, 0], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
    back = np.stack([np.linalg.inv(pixel_motion(motion, size)) @ corners for motion in motions])
    x, y = (back[:, :2] / back[:, 2:]).transpose(1, 0, 2)  # [N, 4]: top left, top right, and on clockwise
    left, top = (int(np.ceil(v.max() - 1e-6)) for v in (x[:, [0, 3]], y[:, :2]))
    right, bottom = (int(v.min() + 1e-6) + 1 for v in (x[:, 1:3], y[:, 2:]))
    return slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))


def _pixel_from_unit(size: tuple[int, int]) -> np.ndarray:
    height, width = size
    frame = np.diag([np.hypot(height, width) / 2] * 2 + [1.0])
    frame[:2, 2] = (width - 1) / 2, (height - 1) / 2
    return frame


def _gauss_newton(
    fixed: np.ndarray, moving: np.ndarray, motion: np.ndarray, unknowns: int
) -> tuple[np.ndarray, float]:
    """The motion, improved, and the standard deviation of its shift in pixels, as the residuals tell it."""
    frame, generators = _pixel_from_unit(fixed.shape), _generators()[:unknowns]
    soft_fixed, soft_moving = (cv2.GaussianBlur(picture, (0, 0), SOFTEN_PX) for picture in (fixed, moving))
    y, x = np.mgrid[BORDER : fixed.shape[0] - BORDER, BORDER : fixed.shape[1] - BORDER].astype(np.float32)
    unit = (np.stack([x, y]) - frame[:2, 2, None, None].astype(np.float32)) / np.float32(frame[0, 0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inner = np.s_[BORDER:-BORDER, BORDER:-BORDER]
    deviation_px = np.inf
    for _ in range(ITERATIONS):
        matrix = pixel_motion(motion, fixed.shape)
        warped = cv2.warpPerspective(soft_moving, matrix, fixed.shape[::-1], flags=flags, borderValue=np.nan)
        slope_y, slope_x = (slope[inner] * np.float32(frame[0, 0]) for slope in np.gradient(warped))
        seen = np.isfinite(slope_x) & np.isfinite(slope_y) & np.isfinite(warped[inner])
        if seen.sum() < 16 * (unknowns + 2):
            break
        a, b, u, v = slope_x[seen], slope_y[seen], unit[0][seen], unit[1][seen]
        target, found = soft_fixed[inner][seen], warped[inner][seen]
        fields = [g.astype(np.float32) @ np.stack([u, v, np.ones_like(u)]) for g in generators]
        slopes = [a * (p - u * w) + b * (q - v * w) for p, q, w in fields]
        slopes = np.stack([*slopes, -target, -np.ones_like(a)])  # gain and offset of the fixed picture
        normal, right = (slopes @ slopes.T).astype(float), (slopes @ (target - found)).astype(float)
        change = np.linalg.lstsq(normal, right, rcond=None)[0]
        error = target - found - change @ slopes
        spread = np.linalg.pinv(normal)[:2, :2].trace() * np.square(error).mean() * SOFTEN_PX**2 * 12
        deviation_px = float(np.sqrt(max(spread, 0)) * frame[0, 0])  # softened pixels are not independent
        change = np.clip(change[:unknowns], -0.2, 0.2)
        motion = motion @ (np.eye(3) + np.tensordot(change, generators, 1))
        motion = motion / motion[2, 2]
        if np.abs(change).max() * frame[0, 0] < 2e-3:
            break
    return motion, deviation_px
