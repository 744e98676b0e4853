import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from shared.geometry.camera import check_pose
from shared.geometry.trajectories import (
    interpolate_poses,
    orbit_trajectory,
    so3_exp,
    so3_log,
    spiral_trajectory,
)

F64 = torch.float64
ANGLES = [
    0.0,
    1e-8,
    9.99e-4,
    1.001e-3,
    3.0,
    math.pi - 1e-8,
    math.pi,
]
ORTHONORMAL = [(torch.float32, 1e-6), (F64, 1e-12)]


pytestmark = pytest.mark.usefixtures("seeded")


def rotation_vectors(angle: float, dtype: torch.dtype = F64) -> torch.Tensor:
    """Random axes and the coordinate axes, all with this angle: [106, 3]."""
    axes = torch.cat(
        [torch.randn(100, 3, dtype=dtype), torch.eye(3, dtype=dtype), -torch.eye(3, dtype=dtype)]
    )
    return angle * torch.nn.functional.normalize(axes, dim=-1)


def orthonormality_error(rotation: torch.Tensor) -> float:
    identity = torch.eye(3, dtype=rotation.dtype)
    return (rotation @ rotation.mT - identity).abs().max().item()


# --------------------------------------------------------------------------------------------- SO(3)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(("dtype", "tolerance"), ORTHONORMAL)
def test_so3_exp_is_orthonormal_and_agrees_with_scipy(angle, dtype, tolerance):
    vectors = rotation_vectors(angle, dtype)
    rotation = so3_exp(vectors)
    assert orthonormality_error(rotation) <= tolerance
    assert (torch.linalg.det(rotation) > 0).all()
    expected = Rotation.from_rotvec(vectors.double().numpy()).as_matrix()
    np.testing.assert_allclose(rotation, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("angle", ANGLES)
def test_so3_log_inverts_exp(angle):
    vectors = rotation_vectors(angle)
    again = so3_log(so3_exp(vectors))
    torch.testing.assert_close(so3_exp(again), so3_exp(vectors), rtol=0, atol=1e-14)
    torch.testing.assert_close(again.norm(dim=-1), vectors.norm(dim=-1), rtol=1e-12, atol=1e-14)
    if angle < math.pi - 1e-9:  # at half a turn an axis and its opposite are the same rotation
        torch.testing.assert_close(again, vectors, rtol=1e-7, atol=1e-14)


def test_convention_so3_exp_is_right_handed_in_radians():
    quarter = so3_exp(torch.tensor([0.0, 0.0, math.pi / 2]))
    torch.testing.assert_close(quarter @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))


def test_convention_so3_log_gives_radians_between_0_and_pi():
    three_quarters = so3_exp(torch.tensor([0.0, 0.0, 1.5 * math.pi]))
    torch.testing.assert_close(so3_log(three_quarters), torch.tensor([0.0, 0.0, -0.5 * math.pi]))


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-4, 0.5, 3.0])
def test_so3_gradients(angle):
    vectors = rotation_vectors(angle)[:4].requires_grad_()
    assert torch.autograd.gradcheck(so3_exp, (vectors,))
    assert torch.autograd.gradcheck(lambda v: so3_log(so3_exp(v)), (vectors,))
    vectors = rotation_vectors(math.pi).requires_grad_()  # finite at half a turn
    so3_log(so3_exp(vectors)).square().sum().backward()
    assert torch.isfinite(vectors.grad).all()


# ------------------------------------------------------------------------------------- interpolation


def pose(rotation: torch.Tensor, centre: tuple[float, float, float]) -> torch.Tensor:
    matrix = torch.eye(4, dtype=rotation.dtype)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = torch.tensor(centre)
    return matrix


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(("dtype", "tolerance"), ORTHONORMAL)
def test_convention_interpolate_poses_stays_in_so3(angle, dtype, tolerance):
    start = so3_exp(torch.tensor([0.3, -1.2, 0.7], dtype=dtype))
    fractions = torch.linspace(0, 1, 9, dtype=dtype)
    for vector in rotation_vectors(angle, dtype)[::9]:
        a, b = pose(start, (0, 1, 2)), pose(start @ so3_exp(vector), (4, 1, 0))
        poses = interpolate_poses(a, b, fractions)
        assert orthonormality_error(poses[:, :3, :3]) <= 2 * tolerance  # a product of two rotations
        torch.testing.assert_close(poses[0], a, rtol=0, atol=5e-7)
        torch.testing.assert_close(poses[-1], b, rtol=0, atol=1.5e-6)
        torch.testing.assert_close(poses[4, :3, 3], torch.tensor([2.0, 1.0, 1.0], dtype=dtype))
        steps = (start.mT.double() @ poses[:, :3, :3].double()).diagonal(dim1=1, dim2=2).sum(1)  # 1 + 2 cos
        expected = 1 + 2 * torch.cos(angle * fractions.double())
        torch.testing.assert_close(steps, expected, rtol=0, atol=3e-6)  # constant speed, shortest arc


def test_interpolate_poses_agrees_with_scipy_slerp():
    random = np.random.default_rng(0)
    a, b = Rotation.from_quat(random.normal(size=(2, 5, 4)).reshape(10, 4)).as_matrix().reshape(2, 5, 3, 3)
    fractions = np.linspace(0, 1, 7)
    for start, end in zip(a, b, strict=True):
        expected = Slerp([0, 1], Rotation.from_matrix(np.stack([start, end])))(fractions).as_matrix()
        ends = (pose(torch.from_numpy(r), (0, 0, 0)) for r in (start, end))
        np.testing.assert_allclose(interpolate_poses(*ends, fractions)[:, :3, :3], expected, atol=1e-12)


def test_interpolate_poses_mends_rounded_rotations_and_batches():
    a = orbit_trajectory(4, 2.0, dtype=F64).reshape(2, 2, 4, 4)
    b = a.flip(0)
    rounded = (a * 1e4).round() / 1e4  # four decimals, as poses come from text files
    poses = interpolate_poses(rounded, b, [0.0, 0.3, 1.7])
    assert poses.shape == (2, 2, 3, 4, 4)
    assert orthonormality_error(poses[..., :3, :3]) <= 1e-12
    torch.testing.assert_close(poses[1, 0], interpolate_poses(rounded[1, 0], b[1, 0], [0.0, 0.3, 1.7]))


# -------------------------------------------------------------------------------------- trajectories


def test_convention_orbit_trajectory():
    poses = orbit_trajectory(8, radius=3.0, elevation_deg=20.0, target=(1.0, 2.0, 3.0), dtype=F64)
    offset = poses[:, :3, 3] - torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    torch.testing.assert_close(offset.norm(dim=-1), torch.full((8,), 3.0, dtype=F64))
    torch.testing.assert_close(offset[:, 2], torch.full((8,), 3 * math.sin(math.radians(20)), dtype=F64))
    azimuth = torch.atan2(offset[:, 1], offset[:, 0])
    expected = torch.arange(8, dtype=F64) * math.pi / 4  # starts at +x, anticlockwise, end point left out
    torch.testing.assert_close(torch.exp(1j * azimuth), torch.exp(1j * expected))
    check_pose(poses, "orbit", tolerance=1e-12)
    torch.testing.assert_close(poses[:, :3, 2], -offset / 3)  # looks at the target
    assert (poses[:, 2, 1] < 0).all()  # image down points down in the world


@pytest.mark.parametrize("up", [(0, 0, 1), (0, -1, 0), (1, 0, 0), (0.2, -0.5, 0.4)])
@pytest.mark.parametrize("elevation_deg", [0, 45, -30])
def test_orbit_turns_round_any_up(up, elevation_deg):
    poses = orbit_trajectory(12, 2.0, elevation_deg, up=up)
    check_pose(poses, "orbit", tolerance=1e-6)
    direction = torch.nn.functional.normalize(torch.tensor(up, dtype=torch.float32), dim=0)
    height = poses[:, :3, 3] @ direction
    torch.testing.assert_close(height, torch.full((12,), 2 * math.sin(math.radians(elevation_deg))))
    turn = torch.linalg.cross(poses[:, :3, 3], poses.roll(-1, 0)[:, :3, 3]) @ direction
    assert (turn > 0).all()  # anticlockwise seen from above


def test_convention_spiral_trajectory_is_the_released_one():
    poses = spiral_trajectory(radius=1.7, dtype=F64)
    assert len(poses) == 1000
    for index, world_from_cam in enumerate(poses):
        t = 150 - 0.15 * index
        phi = -math.pi / 2 + math.pi * t / 300
        position = (math.cos(t) * math.cos(phi), math.sin(t) * math.cos(phi), -math.sin(phi))
        np.testing.assert_allclose(world_from_cam[:3, 3], 1.7 * np.array(position), atol=1e-12)
    check_pose(poses, "spiral", tolerance=1e-12)
    assert poses[0, 2, 3] == 0  # starts on the equator
    pole_distance = math.degrees(math.acos(poses[-1, 2, 3] / 1.7))
    assert math.isclose(pole_distance, 0.09, abs_tol=1e-6)
    torch.testing.assert_close(poses[:, :3, 2], -poses[:, :3, 3] / 1.7)


def test_bad_paths_are_refused():
    with pytest.raises(ValueError, match="at least one view"):
        orbit_trajectory(0, 1.0)
    with pytest.raises(ValueError, match="positive radius"):
        spiral_trajectory(10, -1.0)
