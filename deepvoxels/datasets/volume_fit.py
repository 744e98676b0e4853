"""Where the voxel grid and the depth planes of a captured scene belong, found from cameras and sparse points.

The released tools leave grid origin, scale and near plane of new captures to the user.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from shared.geometry.camera import invert_pose, project, transform_points

__all__ = ["Volume", "depth_range", "fit_volume", "visible_share"]

MIN_POINTS = 50
BOX_PERCENTILES = (0.02, 0.98)  # leaves out stray points
BOX_MARGIN = 1.05
PROBE_SIDE = 16  # the grid is probed at this many points per axis
PROBED_VALUES = 50_000_000  # points times views that are projected at once


class Volume(NamedTuple):
    """A cubic grid and the z-depths that it spans, in scene units."""

    origin: tuple[float, float, float]  # the grid's middle in world coordinates
    side_length: float
    near: float
    far: float


def fit_volume(world_from_cam: Tensor, K: Tensor, image_side: int, points: Tensor | None = None) -> Volume:
    """Fit grid and depth range to cameras [N, 4, 4], [N, 3, 3] of square images, and sparse points [M, 3].

    With points, the grid is the smallest cube round the 2nd to 98th percentile of those in the view of at
    least half of the cameras (what all look at, not the background of a few). With too few, its middle
    is where the optical axes meet in the least-squares sense, and its side the diameter of the ball that just
    fills the typical camera's view. The depth range brackets the cube for every camera.
    Raises ValueError when the cameras meet nowhere in front of them (all parallel, or looking outwards).
    """
    world_from_cam, K = world_from_cam.to(torch.float64), K.to(torch.float64)
    subject = _common_points(world_from_cam, K, image_side, points)
    if subject is not None:
        low, high = torch.quantile(subject, subject.new_tensor(BOX_PERCENTILES), dim=0)
        origin, side_length = (low + high) / 2, (high - low).max() * BOX_MARGIN
    else:
        origin, side_length = _ball_in_view(world_from_cam, K, image_side)
    place = tuple(origin.tolist())
    near, far = depth_range(world_from_cam, place, float(side_length))
    return Volume(place, float(side_length), near, far)


def depth_range(
    world_from_cam: Tensor, origin: tuple[float, float, float], side_length: float
) -> tuple[float, float]:
    """Smallest and largest z-depth of the grid's corners over all cameras [N, 4, 4], in scene units.

    Cameras inside the grid would make the smallest negative; it is at least 1/20 of the side.
    Raises ValueError when the whole grid is behind every camera.
    """
    corners = _lattice(world_from_cam, origin, side_length, 2).expand(len(world_from_cam), -1, -1)
    z = transform_points(invert_pose(world_from_cam), corners)[..., 2]
    near, far = max(z.min().item(), side_length / 20), z.max().item()
    if far <= near:
        raise ValueError("the grid is behind all cameras")
    return near, far


def visible_share(
    world_from_cam: Tensor, K: Tensor, image_side: int, origin: tuple[float, float, float], side_length: float
) -> Tensor:
    """Which share of the grid each square view shows, [N] in [0, 1], probed on a coarse lattice of points."""
    points = _lattice(world_from_cam, origin, side_length, PROBE_SIDE)
    return _in_view(world_from_cam, K, image_side, points).to(torch.float32).mean(1)


def _lattice(like: Tensor, origin: tuple[float, float, float], side_length: float, count: int) -> Tensor:
    """Points [1, count^3, 3] from corner to corner of the grid."""
    axis = torch.linspace(-0.5, 0.5, count, dtype=like.dtype, device=like.device) * side_length
    return (torch.cartesian_prod(axis, axis, axis) + like.new_tensor(origin))[None]


def _in_view(world_from_cam: Tensor, K: Tensor, image_side: int, points: Tensor) -> Tensor:
    """Whether each point [1, M, 3] projects into each square image: bool [N, M]."""
    points_cam = transform_points(invert_pose(world_from_cam), points.expand(len(world_from_cam), -1, -1))
    pixels, z = project(points_cam, K)
    return ((pixels >= -0.5) & (pixels < image_side - 0.5)).all(-1) & (z > 0)


def _common_points(
    world_from_cam: Tensor, K: Tensor, image_side: int, points: Tensor | None
) -> Tensor | None:
    """The points that at least half of the cameras have in view, if there are enough of them."""
    if points is None or len(points) < MIN_POINTS:
        return None
    points = points.to(torch.float64)
    chunk = max(1, PROBED_VALUES // (16 * len(world_from_cam)))
    shares = [
        _in_view(world_from_cam, K, image_side, part[None]).double().mean(0) for part in points.split(chunk)
    ]
    common = points[torch.cat(shares) >= 0.5]
    return common if len(common) >= MIN_POINTS else None


def _ball_in_view(world_from_cam: Tensor, K: Tensor, image_side: int) -> tuple[Tensor, Tensor]:
    """Middle and diameter of the ball that the cameras look at and that just fills their view."""
    centres, axes = world_from_cam[:, :3, 3], world_from_cam[:, :3, 2]
    across = torch.eye(3, dtype=axes.dtype) - axes[:, :, None] * axes[:, None, :]  # [N, 3, 3]
    normal, target = across.sum(0), (across * centres[:, None, :]).sum((0, 2))
    if torch.linalg.eigvalsh(normal)[0] < 1e-3 * len(centres):
        raise ValueError("the optical axes are nearly parallel, so they meet nowhere")
    middle = torch.linalg.solve(normal, target)
    distance = ((middle - centres) * axes).sum(1)
    if (distance > 0).double().mean() < 0.5:
        raise ValueError("most cameras look away from where their optical axes meet")
    tangent = image_side / 2 / torch.maximum(K[:, 0, 0], K[:, 1, 1])
    radius = (distance * tangent / (1 + tangent.square()).sqrt()).median()
    nearest = (middle - centres).norm(dim=1).quantile(0.1)
    return middle, 2 * torch.minimum(radius, 0.55 * nearest)  # 0.55: the corners stay before the cameras
