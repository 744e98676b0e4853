"""Cameras, poses, sizes and depths that every warp is tried with."""

import math

import torch
from torch import Tensor

from shared.geometry.camera import intrinsics_matrix
from shared.geometry.trajectories import so3_exp

__all__ = ["BAD_DEPTHS", "F64", "IDENTITY", "SIZES", "camera", "rigid"]

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
