"""Camera paths for videos: an orbit, the paper's test spiral, or a tour through the training cameras."""

import math
from typing import Literal, Protocol

import torch
from torch import Tensor

from shared.geometry.trajectories import interpolate_poses, orbit_trajectory, spiral_trajectory

__all__ = ["PATHS", "camera_path"]

PATHS = ("auto", "orbit", "spiral", "tour")
TOUR_STOPS = 8


class Cameras(Protocol):
    """What a path is laid by: a `PosedScene` or a `TrainedScene`."""

    world_from_cam: Tensor  # [N, 4, 4]
    grid_origin: tuple[float, float, float]


def camera_path(
    scene: Cameras, frames: int, kind: Literal["auto", "orbit", "spiral", "tour"] = "auto"
) -> Tensor:
    """`world_from_cam` [frames, 4, 4] for a video of the scene, at the training cameras' distance and level.

    `auto` is an orbit where the training cameras surround the grid and a tour (smooth interpolation
    through some of them) where they do not: no method can show what no camera has seen. Raises ValueError
    for another kind.
    """
    if kind not in PATHS:
        raise ValueError(f"unknown camera path {kind!r}; choose one of {', '.join(PATHS)}")
    if kind == "tour" or (kind == "auto" and not _surrounded(scene)):
        return _tour(scene.world_from_cam, frames)
    up, offsets = _up(scene.world_from_cam), _offsets(scene)
    radius = offsets.norm(dim=1).median().item()
    if kind == "spiral":
        return spiral_trajectory(frames, radius, scene.grid_origin, up.tolist())
    height = (offsets @ up) / offsets.norm(dim=1)
    elevation_deg = math.degrees(torch.asin(height.clamp(-1, 1)).median().item())
    return orbit_trajectory(frames, radius, elevation_deg, scene.grid_origin, up.tolist())


def _offsets(scene: Cameras) -> Tensor:
    """Camera centres relative to the grid's middle, [N, 3]."""
    return scene.world_from_cam[:, :3, 3] - torch.tensor(scene.grid_origin)


def _up(world_from_cam: Tensor) -> Tensor:
    """The direction that is up in most images, [3]; the world's z axis where it comes close to that."""
    mean = -world_from_cam[:, :3, 1].mean(dim=0)
    mean = mean / mean.norm().clamp(min=1e-12)
    vertical = torch.tensor([0.0, 0.0, 1.0])
    return vertical if mean @ vertical > 0.8 else mean


def _surrounded(scene: Cameras) -> bool:
    """Whether no sixth of the circle round the grid is without a training camera."""
    up, offsets = _up(scene.world_from_cam), _offsets(scene)
    east = torch.linalg.cross(up, torch.eye(3)[up.abs().argmin()])
    east = east / east.norm()
    azimuth = torch.atan2(offsets @ torch.linalg.cross(up, east), offsets @ east).sort().values
    gaps = torch.cat((azimuth.diff(), azimuth[:1] + 2 * math.pi - azimuth[-1:]))
    return bool(gaps.max() < math.pi / 3)


def _tour(world_from_cam: Tensor, frames: int) -> Tensor:
    """A smooth ride through some of the cameras, each stop the nearest one not yet visited."""
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
    return torch.cat(
        [
            interpolate_poses(stops[index], stops[index + 1], eased[leg == index])
            for index in range(len(stops) - 1)
        ]
    )
