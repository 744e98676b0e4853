"""Camera paths: within reach of the training cameras, however these were held, and not through the object."""

from types import SimpleNamespace

import pytest
import torch

from deepvoxels.datasets.embedded import hemisphere_poses
from deepvoxels.paths import camera_path
from shared.geometry.camera import look_at
from shared.geometry.trajectories import so3_exp

ORIGIN = torch.tensor([3.0, -1.0, 0.5])
TILT = so3_exp(torch.tensor([0.4, -1.1, 0.7]))  # the object's axis is none of the world's


def scene_of(poses: torch.Tensor, rolls: torch.Tensor, turn: torch.Tensor = TILT) -> SimpleNamespace:
    """Poses round the origin, rolled about their optical axes, in a turned and moved world."""
    world_from_cam = poses.float().clone()
    world_from_cam[:, :3, :3] = turn @ world_from_cam[:, :3, :3] @ so3_exp(rolls[:, None] * torch.eye(3)[2])
    world_from_cam[:, :3, 3] = world_from_cam[:, :3, 3] @ turn.T + ORIGIN
    return SimpleNamespace(world_from_cam=world_from_cam, grid_origin=tuple(ORIGIN.tolist()))


def ring(first: float, last: float, count: int = 40, height: float = 0.6) -> torch.Tensor:
    azimuth = torch.linspace(first, last, count)
    return look_at(
        torch.stack((1.6 * azimuth.cos(), 1.6 * azimuth.sin(), torch.full_like(azimuth, height)), 1)
    )


def degrees_to_nearest(path: torch.Tensor, scene: SimpleNamespace) -> torch.Tensor:
    """Of each frame the angle to the nearest training camera, seen from the grid's middle."""
    ours, theirs = (
        torch.nn.functional.normalize(p[:, :3, 3] - ORIGIN, dim=1) for p in (path, scene.world_from_cam)
    )
    return (ours @ theirs.T).amax(1).clamp(-1, 1).acos().rad2deg()


ROLLS = {
    "level": torch.zeros(40),
    "upside down": torch.full((40,), torch.pi),
    "on their sides": torch.full((40,), torch.pi / 2),
    "every other turned over": torch.pi * (torch.arange(40) % 2).float(),
    "anyhow": 6.28 * torch.rand(40, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("rolls", ROLLS.values(), ids=ROLLS)
@pytest.mark.parametrize("poses", [ring(0, 6.1), hemisphere_poses(40)], ids=["ring", "hemisphere"])
def test_an_orbit_stays_among_the_cameras_however_they_are_held(
    poses: torch.Tensor, rolls: torch.Tensor
) -> None:
    scene = scene_of(poses, rolls)
    path = camera_path(scene, 24, "orbit")
    assert degrees_to_nearest(path, scene).max() < 25
    around = torch.nn.functional.normalize((path[:, :3, 3] - ORIGIN) @ TILT, dim=1)
    turned = torch.atan2(around[:, 1], around[:, 0]).diff().remainder(2 * torch.pi)
    assert torch.minimum(turned, 2 * torch.pi - turned).max() < 0.6  # no jumps, all the way round
    assert (around[:, 2].mean() - around[:, 2]).abs().max() < 0.25
    towards = torch.nn.functional.normalize(ORIGIN - path[:, :3, 3], dim=1)
    torch.testing.assert_close(path[:, :3, 2], towards)
    if len(rolls.unique()) == 1 and rolls[0] != torch.pi / 2:  # as in the photos
        assert ((path[:, :3, 1] @ TILT)[:, 2] * rolls[0].cos() < 0).all()


def test_an_orbit_sways_where_a_part_of_the_circle_has_no_camera() -> None:
    scene = scene_of(ring(-1.0, 1.4), torch.zeros(40))
    path = camera_path(scene, 60, "orbit")
    assert degrees_to_nearest(path, scene).max() < 5
    assert degrees_to_nearest(scene.world_from_cam, SimpleNamespace(world_from_cam=path)).max() < 12
    assert (path[1:, :3, 3] - path[:-1, :3, 3]).norm(dim=1).max() < 0.3
    assert torch.equal(camera_path(scene, 9, "auto"), camera_path(scene, 9, "tour"))


@pytest.mark.parametrize("turn", [TILT, torch.eye(3)], ids=["turned", "not turned"])
def test_a_tour_goes_round_the_object(turn: torch.Tensor) -> None:
    opposite = look_at(
        torch.tensor([[1.5, 0.0, 0.1], [-1.5, 0.0, 0.1], [0, 2.0, 0], [0, -2.0, 0], [0, 0, 1.5]])
    )
    scene = scene_of(opposite, torch.tensor([0.0, 0.3, 0.0, 3.0, 1.0]), turn)
    path = camera_path(scene, 81, "tour")
    centres = path[:, :3, 3] - ORIGIN
    assert centres.norm(dim=1).min() > 1.49
    assert (path[1:, :3, 3] - path[:-1, :3, 3]).norm(dim=1).max() < 0.6
    looks = (path[:, :3, 2] * torch.nn.functional.normalize(-centres, dim=1)).sum(1)
    assert looks.min() > 0.999
    for stop in scene.world_from_cam:
        assert (path - stop).abs().amax((1, 2)).min() < 1e-5
