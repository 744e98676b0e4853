"""Camera paths: orbit, the DeepVoxels test spiral, and interpolation that stays in SO(3).

Rotations here go through unit quaternions (w, x, y, z), so every result is orthonormal to rounding error
at any angle; `so3_exp` and `so3_log` are exact inverses up to the angle pi, with finite gradients at 0.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shared.geometry.camera import look_at

__all__ = [
    "interpolate_poses",
    "orbit_trajectory",
    "so3_exp",
    "so3_log",
    "spiral_trajectory",
]


SPIRAL_TURNS = 150 / (2 * math.pi)  # the released test trajectory runs through 150 radians of azimuth


def so3_exp(rotation_vector: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of axis-angle vectors [..., 3], whose length is the angle in radians."""
    squared = (rotation_vector * rotation_vector).sum(-1, keepdim=True)
    small = squared < 1e-6
    angle = torch.where(small, 1.0, squared).sqrt()
    # sin(a/2)/a and cos(a/2) by their series near 0, where sqrt has no gradient; the next term is below 3e-15
    sine = torch.where(small, 0.5 - squared / 48, (angle / 2).sin() / angle)
    cosine = torch.where(small, 1 - squared / 8, (angle / 2).cos())
    return _rotation_from_quaternion(torch.cat([cosine, sine * rotation_vector], dim=-1))


def so3_log(rotation: Tensor) -> Tensor:
    """Axis-angle vectors [..., 3] of rotation matrices [..., 3, 3]; the length is the angle in [0, pi]."""
    quaternion = _quaternion_from_rotation(rotation)
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    squared = (vector * vector).sum(-1, keepdim=True)
    small = squared < 1e-6
    length = torch.where(small, 1.0, squared).sqrt()
    w_small = torch.where(small, w, 1.0)  # the branch not taken must not divide by 0
    series = 2 / w_small * (1 - squared / (3 * w_small**2))  # of 2 atan(length / w) / length
    return vector * torch.where(small, series, 2 * torch.atan2(length, w) / length)


def interpolate_poses(
    world_from_cam_a: Tensor, world_from_cam_b: Tensor, fractions: Tensor | Sequence[float]
) -> Tensor:
    """Poses [..., N, 4, 4] at `fractions` [N] of the way from a to b, both [..., 4, 4] (0: a, 1: b).

    Rotations follow the shortest arc at constant speed, camera centres the straight line. At exactly half
    a turn both arcs are equally short and one is chosen. Any fraction is a valid pose, also outside [0, 1].
    """
    a, b = torch.broadcast_tensors(world_from_cam_a, world_from_cam_b)
    fractions = torch.as_tensor(fractions, dtype=a.dtype, device=a.device)[:, None]
    rotation_a = _rotation_from_quaternion(_quaternion_from_rotation(a[..., :3, :3]))
    b_in_a = (rotation_a[..., :, :, None] * b[..., :3, None, :3]).sum(-3)  # R_aᵀ R_b
    step = so3_exp(fractions * so3_log(b_in_a)[..., None, :])  # [..., N, 3, 3]
    poses = torch.zeros(*a.shape[:-2], len(fractions), 4, 4, dtype=a.dtype, device=a.device)
    poses[..., :3, :3] = (rotation_a[..., None, :, :, None] * step[..., None, :, :]).sum(-2)
    poses[..., :3, 3] = torch.lerp(a[..., None, :3, 3], b[..., None, :3, 3], fractions)
    poses[..., 3, 3] = 1.0
    return poses


def orbit_trajectory(
    num_views: int,
    radius: float,
    elevation_deg: float = 30.0,
    target: Sequence[float] = (0.0, 0.0, 0.0),
    up: Sequence[float] = (0.0, 0.0, 1.0),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`world_from_cam` [N, 4, 4] on a circle of constant elevation round `target`, looking at it.

    Azimuth grows anticlockwise seen from above; with up = z it starts at +x. The end point is left out, so
    that a video closes. `radius` is the distance to the target.
    """
    _check_path(num_views, radius)
    azimuth = torch.arange(num_views, dtype=torch.float64) / num_views * 2 * math.pi
    elevation = torch.full_like(azimuth, math.radians(elevation_deg))
    return _poses_on_sphere(azimuth, elevation, radius, target, up).to(dtype)


def spiral_trajectory(
    num_views: int = 1000,
    radius: float = 1.0,
    target: Sequence[float] = (0.0, 0.0, 0.0),
    up: Sequence[float] = (0.0, 0.0, 1.0),
    turns: float = SPIRAL_TURNS,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`world_from_cam` [N, 4, 4] on the Archimedean spiral of DeepVoxels' test views, looking at `target`.

    From the equator to just before the pole, azimuth running down from 2 pi `turns` to 0 while the elevation
    rises evenly. The defaults are the released code's 1000 views: 23.9 turns, the last 0.09 degrees off
    the pole.

        >>> path = spiral_trajectory(8, radius=2.0)
        >>> path.shape, path[:, 2, 3].diff().gt(0).all()  # ever higher
        (torch.Size([8, 4, 4]), tensor(True))
    """
    _check_path(num_views, radius)
    remaining = 1 - torch.arange(num_views, dtype=torch.float64) / num_views  # 1 at the equator
    azimuth, elevation = remaining * 2 * math.pi * turns, (1 - remaining) * math.pi / 2
    return _poses_on_sphere(azimuth, elevation, radius, target, up).to(dtype)


def _poses_on_sphere(
    azimuth: Tensor, elevation: Tensor, radius: float, target: Sequence[float], up: Sequence[float]
) -> Tensor:
    target, up = torch.tensor(target, dtype=torch.float64), torch.tensor(up, dtype=torch.float64)
    if not up.norm() > 0:
        raise ValueError("up must be a direction, got the zero vector")
    up = up / up.norm()
    helper = torch.eye(3, dtype=torch.float64)[0 if up[0].abs() < 0.9 else 1]
    east = helper - (helper @ up) * up
    east = east / east.norm()
    north = torch.linalg.cross(up, east)
    offset = (
        (azimuth.cos() * elevation.cos())[:, None] * east
        + (azimuth.sin() * elevation.cos())[:, None] * north
        + elevation.sin()[:, None] * up
    )
    return look_at(target + radius * offset, target, up)


def _check_path(num_views: int, radius: float) -> None:
    if num_views < 1 or not radius > 0:
        raise ValueError(f"a path needs at least one view and a positive radius, got {num_views}, {radius}")


def _rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """[..., 3, 3] of quaternions [..., 4] in (w, x, y, z) order, of any length but zero."""
    w, x, y, z = quaternion.unbind(-1)
    s = 2 / (quaternion * quaternion).sum(-1)  # twice as exact as normalising the quaternion first
    rows = [
        [1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)],
        [s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)],
        [s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """Unit quaternions [..., 4], w >= 0, of [..., 3, 3].

    The entries of R give all products 4 q_i q_j; the row with the largest 4 q_i² is q up to a factor of at
    least 2, so no division is ever close to zero.
    """
    (r00, r01, r02), (r10, r11, r12), (r20, r21, r22) = (row.unbind(-1) for row in rotation.unbind(-2))
    products = [
        [1 + r00 + r11 + r22, r21 - r12, r02 - r20, r10 - r01],
        [r21 - r12, 1 + r00 - r11 - r22, r10 + r01, r02 + r20],
        [r02 - r20, r10 + r01, 1 - r00 + r11 - r22, r12 + r21],
        [r10 - r01, r02 + r20, r12 + r21, 1 - r00 - r11 + r22],
    ]
    products = torch.stack([torch.stack(row, dim=-1) for row in products], dim=-2)  # [..., 4, 4]
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    quaternion = products.gather(-2, largest.expand(*largest.shape[:-2], 1, 4)).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
