"""Cameras, poses, depths to try warps with, and plain-loop twins of the warps: one pixel at a time."""

import math

import numpy as np
import torch
from torch import Tensor

from shared.geometry.camera import intrinsics_matrix, project, transform_points, unproject
from shared.geometry.trajectories import so3_exp

F64 = torch.float64
IDENTITY = torch.eye(4)
SIZES = [(1, 1), (5, 9), (33, 47), (64, 32), (61, 128)]
BAD_DEPTHS = [0.0, -1.0, math.nan, -math.inf, 1e-30, 1e-45]


def rigid(rotation_vector: tuple[float, float, float], translation: tuple[float, float, float]) -> Tensor:
    """Pose (4, 4), float64, of a rotation vector [rad] and a translation."""
    matrix = torch.eye(4, dtype=F64)
    matrix[:3, :3] = so3_exp(torch.tensor(rotation_vector, dtype=F64))
    matrix[:3, 3] = torch.tensor(translation, dtype=F64)
    return matrix


def camera(height: int, width: int, focal: float = 0.9, dtype: torch.dtype = F64) -> Tensor:
    """Intrinsics with unequal focal lengths and the principal point off the middle."""
    return intrinsics_matrix(focal * width, 0.95 * focal * width, 0.47 * width, 0.55 * height - 0.5, dtype)


def twin_sample(image: Tensor, x: Tensor, y: Tensor, padding: str = "border") -> Tensor:
    """Bilinear sample [C] of one image [C, H, W]."""
    height, width = image.shape[-2:]
    total = torch.zeros_like(image[:, 0, 0])
    x0, y0 = math.floor(x.detach()), math.floor(y.detach())
    for row, weight_y in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
        for column, weight_x in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
            if padding == "border" or (0 <= row < height and 0 <= column < width):
                row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
                total = total + weight_x * weight_y * image[:, row, column]
    return total


def twin_reproject(
    depth: Tensor, K_from: Tensor, K_to: Tensor, to_from_from: Tensor, row: int, column: int
) -> tuple[Tensor, Tensor]:
    """Pixel (2,) and depth in the other view of one pixel of `depth` [H, W]."""
    pixel = torch.tensor([column, row], dtype=depth.dtype)
    point = transform_points(to_from_from, unproject(pixel, depth[row, column], K_from))
    return project(point, K_to)


def twin_backward(
    image: Tensor, depth: Tensor, K_source: Tensor, K_target: Tensor, source_from_target: Tensor, padding: str
) -> tuple[Tensor, Tensor]:
    """Image [C, H, W] and mask [1, H, W] of one image [C, H, W] and one depth map [1, H, W]."""
    height, width = depth.shape[-2:]
    result = torch.zeros(len(image), height, width, dtype=image.dtype)
    valid = torch.zeros(height, width, dtype=torch.bool)
    for row in range(height):
        for column in range(width):
            (x, y), z = twin_reproject(depth[0], K_target, K_source, source_from_target, row, column)
            if depth[0, row, column] > 1e-3 and z > 1e-3:
                result[:, row, column] = twin_sample(image, x, y, padding)
                valid[row, column] = 0 <= x <= image.shape[2] - 1 and 0 <= y <= image.shape[1] - 1
    return result, valid[None]


def twin_forward(
    features: Tensor,
    depth: Tensor,
    K_source: Tensor,
    K_target: Tensor,
    target_from_source: Tensor,
    footprint: str,
    size: tuple[int, int],
    cap: float = 6.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Every source pixel asks every target pixel whether their squares overlap."""
    winners = {}
    for row in range(depth.shape[1]):
        for column in range(depth.shape[2]):
            (x, y), z = twin_reproject(depth[0], K_source, K_target, target_from_source, row, column)
            if not (depth[0, row, column] > 1e-3 and z > 1e-3):
                continue
            zoom = (K_target / K_source * depth[0, row, column] / z).diagonal()[:2].clamp(max=cap)
            for target_y in range(size[0]):
                for target_x in range(size[1]):
                    if footprint == "pixel":
                        drawn = (target_x, target_y) == (math.floor(x + 0.5), math.floor(y + 0.5))
                    else:
                        drawn = (
                            abs(target_x - x) < (1 + zoom[0]) / 2 and abs(target_y - y) < (1 + zoom[1]) / 2
                        )
                    if drawn:
                        bits = int(np.float32(z.item()).view(np.int32)) >> 3
                        distance = min(round(256 * math.hypot(target_x - x, target_y - y)), 2047)
                        key = (bits, distance, row * depth.shape[2] + column)
                        best = winners.get((target_y, target_x))
                        if best is None or key < best[0]:
                            winners[target_y, target_x] = (key, row, column, z)
    result = torch.zeros(len(features), *size, dtype=features.dtype)
    depth_target = torch.zeros(1, *size, dtype=depth.dtype)
    valid = torch.zeros(1, *size, dtype=torch.bool)
    for (target_y, target_x), (_, row, column, z) in winners.items():
        result[:, target_y, target_x] = features[:, row, column]
        depth_target[0, target_y, target_x] = z
        valid[0, target_y, target_x] = True
    return result, depth_target, valid


def assert_same_gradients(outputs: tuple[Tensor, Tensor], inputs: tuple[Tensor, ...]) -> None:
    """Gradients of two scalars agree: relative L2 within 1e-9, and the same entries are zero."""
    for a, b in zip(*(torch.autograd.grad(output, inputs) for output in outputs), strict=True):
        assert torch.isfinite(a).all()
        assert (a - b).norm() <= 1e-9 * b.norm()
        assert torch.equal(a == 0, b == 0)
