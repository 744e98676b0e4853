"""Camera paths relative to one picture, for videos and predict.py: `target_from_source` [N, 4, 4]."""

import math
from typing import Literal

import torch
from torch import Tensor

from nvs_depth.arguments import PATHS
from shared.geometry.camera import invert_pose
from shared.geometry.trajectories import so3_exp

__all__ = ["relative_path"]


def relative_path(
    kind: Literal["orbit", "swing", "forward", "sway"],
    frames: int,
    amount: float,
    distance: float = 2.0,
) -> Tensor:
    """Cameras along a path that begins at, or swings about, the source camera.

    "orbit": from -amount to +amount degrees of azimuth about the point `distance` ahead, once.
    "swing": there and back again, closed. "forward": straight ahead by `amount` units. "sway": an ellipse of
    half-width `amount` across the view direction, closed. Raises ValueError for another kind or no frames.
    """
    if frames < 1:
        raise ValueError(f"a path needs at least one frame, got {frames}")
    share = torch.arange(frames, dtype=torch.float64) / max(1, frames - 1)
    closed = 2 * math.pi * torch.arange(frames, dtype=torch.float64) / frames
    if kind == "orbit":
        return _about_point((2 * share - 1) * math.radians(amount), distance)
    if kind == "swing":
        return _about_point(closed.sin() * math.radians(amount), distance)
    zero = torch.zeros_like(share)
    if kind == "forward":
        return _shifted(torch.stack([zero, zero, amount * share], 1))
    if kind == "sway":
        return _shifted(torch.stack([amount * closed.sin(), amount * (closed.cos() - 1) / 2, zero], 1))
    raise ValueError(f"unknown path {kind!r}: use one of {', '.join(PATHS)}")


def _about_point(angle: Tensor, distance: float) -> Tensor:
    """Cameras turned about the vertical through a point on the optical axis, still looking at it."""
    axis = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    source_from_target = torch.eye(4, dtype=torch.float64).repeat(len(angle), 1, 1)
    source_from_target[:, :3, :3] = so3_exp(angle[:, None] * axis)
    point = torch.tensor([0.0, 0.0, distance], dtype=torch.float64)
    source_from_target[:, :3, 3] = point - distance * source_from_target[:, :3, 2]
    return invert_pose(source_from_target).float()


def _shifted(centre_source: Tensor) -> Tensor:
    source_from_target = torch.eye(4, dtype=torch.float64).repeat(len(centre_source), 1, 1)
    source_from_target[:, :3, 3] = centre_source
    return invert_pose(source_from_target).float()
