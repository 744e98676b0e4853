import math

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from shared.geometry.camera import (
    camera_rays,
    check_pose,
    crop_intrinsics,
    depth_from_ray_distance,
    intrinsics_matrix,
    invert_pose,
    look_at,
    opencv_from_opengl_pose,
    pixel_grid,
    project,
    ray_distance_from_depth,
    relative_pose,
    resize_intrinsics,
    rotate_vectors,
    transform_points,
    unproject,
)

F64 = torch.float64


def random_poses(count: int, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(random.normal(size=(count, 4))).as_matrix()
    poses[:, :3, 3] = random.normal(size=(count, 3))
    return torch.from_numpy(poses)


pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def K() -> torch.Tensor:
    return intrinsics_matrix(123.0, 117.0, 30.5, 21.25, dtype=F64)


# ---------------------------------------------------------------------------------------- intrinsics


def test_convention_intrinsics_matrix():
    K = intrinsics_matrix(2.0, 3.0, 4.0, 5.0)
    assert K.tolist() == [[2, 0, 4], [0, 3, 5], [0, 0, 1]]
    assert K.dtype == torch.float32
    pixels, _ = project(torch.tensor([0.0, 0.0, 7.0]), K)
    assert pixels.tolist() == [4, 5]  # the optical axis meets the image in (cx, cy)


@pytest.mark.parametrize(("factor_y", "factor_x"), [(2, 3), (4, 1)])
def test_convention_resize_intrinsics(K, factor_y, factor_x):
    # The centre of a pixel of the small image is the mean of the pixel centres that it covers.
    small_hw, large_hw = (5, 7), (5 * factor_y, 7 * factor_x)
    covered = pixel_grid(*large_hw, dtype=F64).reshape(5, factor_y, 7, factor_x, 2).mean((1, 3))
    one = torch.ones(5, 7, dtype=F64)
    K_small = resize_intrinsics(K, large_hw, small_hw)
    rays = unproject(pixel_grid(*small_hw, dtype=F64), one, K_small)
    torch.testing.assert_close(rays, unproject(covered, one, K))
    torch.testing.assert_close(resize_intrinsics(K_small, small_hw, large_hw), K)


def test_convention_crop_intrinsics(K):
    rays = unproject(pixel_grid(9, 11, dtype=F64), torch.ones(9, 11, dtype=F64), K)
    cropped_grid = pixel_grid(9 - 2, 11 - 3, dtype=F64)
    cropped = unproject(cropped_grid, torch.ones(7, 8, dtype=F64), crop_intrinsics(K, left=3, top=2))
    torch.testing.assert_close(cropped, rays[2:, 3:])


# --------------------------------------------------------------------------------------------- poses


def test_convention_invert_pose():
    poses = random_poses(20)
    torch.testing.assert_close(invert_pose(poses), torch.linalg.inv(poses))


def test_convention_relative_pose():
    world_from_target, world_from_source = random_poses(5, 1), random_poses(5, 2)
    target_from_source = relative_pose(world_from_target, world_from_source)
    points_source = torch.randn(5, 7, 3, dtype=F64)
    through_world = transform_points(world_from_source, points_source)
    points_target = transform_points(target_from_source, points_source)
    torch.testing.assert_close(transform_points(world_from_target, points_target), through_world)


def test_convention_transform_points():
    pose = random_poses(1)[0]
    points = torch.randn(6, 3, dtype=F64)
    expected = Rotation.from_matrix(pose[:3, :3].numpy()).apply(points.numpy()) + pose[:3, 3].numpy()
    np.testing.assert_allclose(transform_points(pose, points), expected, atol=1e-12)


def test_convention_rotate_vectors():
    quarter = torch.tensor([[0.0, -1.0, 0.0, 9.0], [1.0, 0.0, 0.0, 9.0], [0, 0, 1, 9.0], [0, 0, 0, 1]])
    along_x = torch.tensor([1.0, 0.0, 0.0])
    assert rotate_vectors(quarter, along_x).tolist() == [0, 1, 0]  # turned to y, not moved
    assert rotate_vectors(quarter[:3, :3], along_x).tolist() == [0, 1, 0]


def test_batch_dimensions_line_up_from_the_left(K):
    poses = random_poses(4)
    points = torch.randn(4, 5, 6, 3, dtype=F64)
    expected = torch.stack([transform_points(p, x) for p, x in zip(poses, points, strict=True)])
    torch.testing.assert_close(transform_points(poses, points), expected, rtol=0, atol=0)
    Ks = K * torch.linspace(1, 2, 4, dtype=F64)[:, None, None]
    expected = torch.stack([project(x, k)[0] for k, x in zip(Ks, points, strict=True)])
    torch.testing.assert_close(project(points, Ks)[0], expected, rtol=0, atol=0)


def test_convention_check_pose_accepts_rigid_poses():
    check_pose(random_poses(3).float(), "poses")
    check_pose(torch.eye(4), "identity")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pose: pose[:3, :3], r"\[3, 3\]"),
        (lambda pose: pose[:3], "append the row"),
        (lambda pose: torch.where(torch.eye(4) > 0, math.nan, pose), "NaN"),
        (lambda pose: pose.T, "transposed"),
        (lambda pose: pose * torch.tensor([2.0, 2.0, 2.0, 1.0]), "axis length 2"),
        (lambda pose: pose * torch.tensor([1.0, 1.0, -1.0, 1.0]), "left-handed"),
    ],
)
def test_check_pose_says_what_is_wrong(spoil, message):
    pose = random_poses(1)[0]
    pose[:3, 3] += 5  # so that the transpose shows in the last row
    with pytest.raises(ValueError, match=f"frame 7.*{message}"):
        check_pose(spoil(pose), "frame 7")


@pytest.mark.parametrize(
    ("axis_opengl", "axis_opencv"), [((1, 0, 0), (1, 0, 0)), ((0, 1, 0), (0, -1, 0)), ((0, 0, -1), (0, 0, 1))]
)
def test_convention_opencv_from_opengl_pose(axis_opengl, axis_opencv):
    world_from_cam_opengl = random_poses(1)[0]
    world_from_cam = opencv_from_opengl_pose(world_from_cam_opengl)
    torch.testing.assert_close(
        transform_points(world_from_cam_opengl, torch.tensor(axis_opengl, dtype=F64)),
        transform_points(world_from_cam, torch.tensor(axis_opencv, dtype=F64)),
    )
    torch.testing.assert_close(world_from_cam[:3, 3], world_from_cam_opengl[:3, 3])
    torch.testing.assert_close(opencv_from_opengl_pose(world_from_cam), world_from_cam_opengl)


def test_convention_look_at(K):
    position = torch.tensor([3.0, -2.0, 1.5], dtype=F64)
    target = torch.tensor([0.2, 0.3, -0.1], dtype=F64)
    world_from_cam = look_at(position, target, up=(0, 0, 1))
    check_pose(world_from_cam, "look_at", tolerance=1e-12)
    points = torch.stack([target, target + torch.tensor([0, 0, 0.1])])
    pixels, depth = project(transform_points(invert_pose(world_from_cam), points), K)
    torch.testing.assert_close(pixels[0], K[:2, 2])
    torch.testing.assert_close(depth[0], (target - position).norm())
    assert pixels[1, 1] < pixels[0, 1]  # up in the world is up in the image: a smaller row
    torch.testing.assert_close(pixels[1, 0], pixels[0, 0])


@pytest.mark.parametrize("up", [(0, 0, 1), (0, 0, -1), (0, 0, 1e-9)])
@pytest.mark.parametrize("position", [(0, 0, 2), (0, 0, -2), (1e-9, 0, 2), (0, 1e-4, 2)])
def test_look_at_along_up(position, up):
    pose = look_at(position, up=up)
    check_pose(pose, "pole", tolerance=1e-6)
    torch.testing.assert_close(pose[:3, 2], -torch.tensor(position) / 2, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------- projection


def test_convention_project(K):
    centre, _ = project(torch.tensor([0.0, 0.0, 2.0], dtype=F64), K)
    right, _ = project(torch.tensor([0.1, 0.0, 2.0], dtype=F64), K)
    lower, depth = project(torch.tensor([0.0, 0.1, 2.0], dtype=F64), K)
    assert right[0] > centre[0]  # x grows to the right
    assert right[1] == centre[1]
    assert lower[1] > centre[1]  # y grows downwards
    assert depth == 2.0  # depth is z


def test_project_agrees_with_opencv(K):
    cam_from_world = random_poses(1, seed=3)[0]
    cam_from_world[:3, 3] = torch.tensor([0.1, -0.2, 6.0])
    points = torch.rand(500, 3, dtype=F64) * 2 - 1
    pixels, _ = project(transform_points(cam_from_world, points), K)
    rotation_vector = Rotation.from_matrix(cam_from_world[:3, :3].numpy()).as_rotvec()
    translation = cam_from_world[:3, 3].numpy()
    expected, _ = cv2.projectPoints(points.numpy(), rotation_vector, translation, K.numpy(), None)
    np.testing.assert_allclose(pixels, expected.reshape(-1, 2), atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance_px"), [(torch.float32, 1e-3), (F64, 1e-9)])
@pytest.mark.parametrize("skew", [0.0, 3.0])
def test_convention_unproject_inverts_project(dtype, tolerance_px, skew):
    generator = torch.Generator().manual_seed(0)
    K = intrinsics_matrix(731.0, 722.0, 640.3, 231.7, dtype=dtype)
    K[0, 1] = skew
    pixels = torch.rand(10_000, 2, generator=generator, dtype=dtype) * torch.tensor([1242, 375]) - 0.5
    depth = 10 ** (torch.rand(10_000, generator=generator, dtype=dtype) * 3 - 1)  # 0.1 to 100
    again, depth_again = project(unproject(pixels, depth, K), K)
    torch.testing.assert_close(again, pixels, atol=tolerance_px, rtol=0)
    torch.testing.assert_close(depth_again, depth, atol=0, rtol=0)


def test_project_behind_the_camera_is_finite_with_zero_gradient(K):
    depths = [0.0, -0.0, -1e-9, 1e-7, -3.0, 5.0]
    points = torch.tensor([[1.0, 2.0, z] for z in depths], dtype=F64, requires_grad=True)
    pixels, depth = project(points, K)
    assert torch.isfinite(pixels).all()
    assert depth.tolist() == depths
    pixels.square().sum().backward()
    assert (points.grad[:-1] == 0).all()
    assert (points.grad[-1] != 0).all()


def test_project_and_unproject_gradients(K):
    points = torch.rand(3, 4, 3, dtype=F64) + torch.tensor([0, 0, 0.5])
    points.requires_grad_()
    Ks = K.repeat(3, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, k: project(p, k)[0], (points, Ks))
    pixels = (torch.rand(3, 4, 2, dtype=F64) * 20).requires_grad_()
    depth = (torch.rand(3, 4, dtype=F64) + 1).requires_grad_()
    assert torch.autograd.gradcheck(unproject, (pixels, depth, Ks))


def test_geometry_keeps_its_digits_under_autocast():
    K, poses = intrinsics_matrix(500.0, 500.0, 320.0, 240.0), random_poses(2).float()
    points = torch.rand(2, 9, 3) + 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved = transform_points(relative_pose(poses, poses.flip(0)), points)
        pixels, _ = project(points, K)
    torch.testing.assert_close(moved, transform_points(relative_pose(poses, poses.flip(0)), points))
    torch.testing.assert_close(pixels, project(points, K)[0])


# ---------------------------------------------------------------------------------------------- rays


def test_convention_pixel_grid():
    grid = pixel_grid(2, 3)
    assert grid.shape == (2, 3, 2)
    assert grid[0, 0].tolist() == [0, 0]  # the centre of the top-left pixel
    assert grid[1, 2].tolist() == [2, 1]  # (x, y) of row 1, column 2


def test_convention_camera_rays(K):
    poses = random_poses(4)
    origins, directions = camera_rays(K, poses, 5, 7)
    assert origins.shape == (4, 3)
    assert directions.shape == (4, 5, 7, 3)
    points_world = origins[:, None, None] + 2.5 * directions
    pixels, depth = project(transform_points(invert_pose(poses), points_world), K)
    torch.testing.assert_close(pixels, pixel_grid(5, 7, dtype=F64).expand_as(pixels))
    torch.testing.assert_close(depth, torch.full_like(depth, 2.5))  # t is z-depth


def test_convention_ray_distance_from_depth(K):
    depth = torch.rand(2, 5, 7, dtype=F64) + 1
    expected = unproject(pixel_grid(5, 7, dtype=F64), depth, K).norm(dim=-1)
    torch.testing.assert_close(ray_distance_from_depth(depth, K), expected)


def test_convention_depth_from_ray_distance(K):
    depth = torch.rand(2, 5, 7, dtype=F64) + 1
    Ks = torch.stack([K, 2 * K])
    torch.testing.assert_close(depth_from_ray_distance(ray_distance_from_depth(depth, Ks), Ks), depth)


# ----------------------------------------------------------------------------------------- bad input


def test_wrong_shapes_are_refused(K):
    points = torch.zeros(5, 3)
    with pytest.raises(ValueError, match="K must be"):
        project(points, torch.eye(4))
    with pytest.raises(ValueError, match="points"):
        project(torch.zeros(5, 4), K)
    with pytest.raises(ValueError, match="target_from_source"):
        transform_points(torch.eye(3), points)
