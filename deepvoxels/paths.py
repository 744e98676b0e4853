"""Camera paths for videos: an orbit, the paper's test spiral, or a tour through the training cameras."""

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deepvoxels.arguments import PATHS
from shared.geometry.camera import look_at
from shared.geometry.trajectories import interpolate_poses, so3_exp, spiral_trajectory

__all__ = ["camera_path"]

TOUR_STOPS = 8
WIDEST_GAP = math.pi / 3  # of azimuth between training cameras, across which an orbit still goes
LEVEL = 0.5  # length of the mean of the pictures' up-vectors from which on they agree
REACH = 8.0  # concentration round an azimuth of the cameras that give an orbit its height: about 20 degrees


class Cameras(Protocol):
    """What a path is laid by: a `PosedScene` or a `TrainedScene`."""

    world_from_cam: Tensor  # [N, 4, 4]
    grid_origin: tuple[float, float, float]


def camera_path(
    scene: Cameras, frames: int, kind: Literal["auto", "orbit", "spiral", "tour"] = "auto"
) -> Tensor:
    """`world_from_cam` [frames, 4, 4] for a video of the scene, within reach of its training cameras.

    `orbit` goes round the grid at the distance and height of the cameras near each azimuth; where a sixth of
    the circle or more is without a camera it sways through the rest. `tour` rides through some of the cameras
    and keeps their distance from the grid's middle on the way. `auto` is an orbit where the cameras surround
    the grid, else a tour: no method can show what no camera has seen. Raises ValueError for another kind.
    """
    if kind not in PATHS:
        raise ValueError(f"unknown camera path {kind!r}; choose one of {', '.join(PATHS)}")
    origin = torch.tensor(scene.grid_origin)
    offsets = scene.world_from_cam[:, :3, 3] - origin  # [N, 3]
    up = _up(scene.world_from_cam, offsets)
    east = F.normalize(torch.linalg.cross(up, torch.eye(3)[up.abs().argmin()]), dim=0)
    axes = torch.stack((east, torch.linalg.cross(up, east), up))  # [3, 3], rows east, north, up
    local = offsets @ axes.T
    azimuth = torch.atan2(local[:, 1], local[:, 0])
    start, span = _covered(azimuth)
    if kind == "tour" or (kind == "auto" and span < 2 * math.pi):
        return _tour(scene.world_from_cam, origin, frames)
    if kind == "spiral":
        radius = offsets.norm(dim=1).median().item()
        return spiral_trajectory(frames, radius, scene.grid_origin, up.tolist())
    turn = 2 * math.pi * torch.arange(frames) / frames
    around = start + (turn if span == 2 * math.pi else span * (1 - turn.cos()) / 2)  # [frames]
    out = local[:, :2].norm(dim=1)
    nearness = REACH * (around[:, None] - azimuth).cos() + out.clamp(min=1e-6).log()  # the axis is no azimuth
    known = torch.stack((torch.atan2(local[:, 2], out), offsets.norm(dim=1)), dim=1)
    elevation, radius = (torch.softmax(nearness, dim=1) @ known).T
    level = elevation.cos()
    directions = torch.stack((level * around.cos(), level * around.sin(), elevation.sin()), dim=1)
    return look_at(origin + radius[:, None] * directions @ axes, origin, up)


def _up(world_from_cam: Tensor, offsets: Tensor) -> Tensor:
    """The object's axis, [3]: up in the pictures where they agree, and the world's z axis if close to that.

    Where the pictures disagree, as they were taken with a rolled or upside-down camera, it is the direction
    along which the camera centres `offsets` [N, 3] vary least, towards their side of the grid.
    """
    mean = -world_from_cam[:, :3, 1].mean(dim=0)
    if mean.norm() < LEVEL:
        centred = offsets - offsets.mean(dim=0)
        axis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, 0]  # of the smallest eigenvalue
        towards = mean if mean.norm() > LEVEL / 2 else offsets.mean(dim=0)
        mean = axis if axis @ towards >= 0 else -axis
    mean = F.normalize(mean, dim=0)
    vertical = torch.tensor([0.0, 0.0, 1.0])
    return vertical if mean @ vertical > 0.8 else mean


def _covered(azimuth: Tensor) -> tuple[float, float]:
    """First azimuth and extent of the arc that the cameras' azimuths [N] cover; 0 and 2 pi for all of it."""
    azimuth = azimuth.sort().values
    gaps = torch.cat((azimuth.diff(), azimuth[:1] + 2 * math.pi - azimuth[-1:]))
    widest = int(gaps.argmax())
    if gaps[widest] < WIDEST_GAP:
        return 0.0, 2 * math.pi
    return azimuth[(widest + 1) % len(azimuth)].item(), 2 * math.pi - gaps[widest].item()


def _tour(world_from_cam: Tensor, origin: Tensor, frames: int) -> Tensor:
    """A smooth ride round `origin` through some of the cameras, each stop the nearest one not yet visited."""
    stops = world_from_cam[
        torch.linspace(0, len(world_from_cam) - 1, min(TOUR_STOPS, len(world_from_cam))).long()
    ]
    order, left = [0], list(range(1, len(stops)))
    while left:
        distance = (stops[left, :3, 3] - stops[order[-1], :3, 3]).norm(dim=1)
        order.append(left.pop(int(distance.argmin())))
    stops = stops[order]
    if len(stops) == 1:
        return stops.expand(frames, 4, 4)
    place = torch.linspace(0, len(stops) - 1, frames)
    leg = place.floor().long().clamp(max=len(stops) - 2)
    fraction = place - leg
    eased = fraction * fraction * (3 - 2 * fraction)
    legs = [_leg(stops[i], stops[i + 1], origin, eased[leg == i]) for i in range(len(stops) - 1)]
    return torch.cat(legs)


def _leg(start: Tensor, end: Tensor, origin: Tensor, fractions: Tensor) -> Tensor:
    """Poses [n, 4, 4] between two, on an arc round `origin` whose radius changes evenly.

    What differs apart from the turn round the origin follows `interpolate_poses` in the turned frame.
    """
    a, b = (F.normalize(pose[:3, 3] - origin, dim=0) for pose in (start, end))
    normal = torch.linalg.cross(a, b)
    angle = torch.atan2(normal.norm(), a @ b)
    if normal.norm() < 1e-4:  # opposite, or the same
        normal = torch.linalg.cross(a, torch.eye(3)[a.abs().argmin()])
    rotations = torch.cat((fractions, torch.ones(1)))[:, None] * angle * F.normalize(normal, dim=0)
    turns = torch.eye(4).repeat(len(fractions) + 1, 1, 1)
    turns[:, :3, :3] = so3_exp(rotations)
    centred = torch.eye(4)
    centred[:3, 3] = -origin
    between = interpolate_poses(centred @ start, turns[-1].T @ centred @ end, fractions)
    return torch.linalg.inv(centred) @ turns[:-1] @ between
