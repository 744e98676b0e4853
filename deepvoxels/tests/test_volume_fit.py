"""The grid and depth range fitted to cameras: known scenes, plain twins, and what cannot be fitted."""

import math

import numpy as np
import pytest
import torch

from deepvoxels.datasets.volume_fit import depth_range, fit_volume, visible_share
from shared.geometry.camera import invert_pose, look_at, pixel_grid, transform_points, unproject

SIDE = 40
MIDDLE = (3.0, -1.0, 2.0)


def ring(count=12, radius=4.0, target=MIDDLE, seed=0):
    """Cameras on a wobbling ring, all looking at `target`, and their K."""
    generator = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * math.pi, count, endpoint=False)
    heights = generator.uniform(-0.5, 2.0, count)
    offsets = np.stack([radius * np.cos(angles), radius * np.sin(angles), heights], 1)
    world_from_cam = look_at(torch.from_numpy(offsets + np.array(target)), list(target))
    K = torch.tensor([[60.0, 0, 19.5], [0, 60.0, 19.5], [0, 0, 1]], dtype=torch.float64)
    return world_from_cam, K.expand(count, 3, 3)


def cloud(count=4000, half=(0.8, 0.5, 0.6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    cube = 2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1
    return cube * torch.tensor(half, dtype=torch.float64) + torch.tensor(MIDDLE, dtype=torch.float64)


def corners(volume):
    signs = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5], dtype=torch.float64)] * 3)
    return signs * volume.side_length + torch.tensor(volume.origin, dtype=torch.float64)


def test_the_grid_bounds_the_points_tightly():
    world_from_cam, K = ring()
    volume = fit_volume(world_from_cam, K, SIDE, cloud())
    assert np.allclose(volume.origin, MIDDLE, atol=0.03)
    assert volume.side_length == pytest.approx(1.6, abs=0.05)  # the longest side of the cloud


def test_stray_points_and_the_background_of_a_few_cameras_do_not_count():
    world_from_cam, K = ring()
    background = cloud(half=(30.0, 30.0, 30.0), seed=1)  # more points than the subject, seen by few each
    stray = cloud(40, half=(3.0, 3.0, 3.0), seed=2)
    volume = fit_volume(world_from_cam, K, SIDE, torch.cat([cloud(), background, stray]))
    assert np.allclose(volume.origin, MIDDLE, atol=0.1)
    assert volume.side_length == pytest.approx(1.6, abs=0.15)


@pytest.mark.parametrize("points", [None, torch.zeros(0, 3), cloud(10)])
def test_without_enough_points_the_grid_is_the_ball_in_view(points):
    world_from_cam, K = ring()
    volume = fit_volume(world_from_cam, K, SIDE, points)
    assert np.allclose(volume.origin, MIDDLE, atol=1e-9)
    distances = (world_from_cam[:, :3, 3] - torch.tensor(MIDDLE)).norm(dim=1)
    # brute force: the largest ball whose outline, a cone, stays between the borders of the image
    half_angle = math.atan(SIDE / 2 / 60.0)
    assert volume.side_length == pytest.approx(2 * float(distances.median()) * math.sin(half_angle), rel=1e-9)


def test_wide_angles_keep_the_grid_before_the_cameras():
    world_from_cam, K = ring()
    K = K.clone()
    K[:, 0, 0] = K[:, 1, 1] = 5.0
    volume = fit_volume(world_from_cam, K, SIDE)
    z = transform_points(invert_pose(world_from_cam), corners(volume).expand(12, -1, -1))[..., 2]
    assert z.min() > 0


@pytest.mark.parametrize("points", [None, cloud()])
@pytest.mark.parametrize("radius", [2.5, 4.0, 9.0])
def test_the_planes_bracket_the_grid_for_every_camera(points, radius):
    world_from_cam, K = ring(radius=radius)
    volume = fit_volume(world_from_cam, K, SIDE, points)
    z = transform_points(invert_pose(world_from_cam), corners(volume).expand(12, -1, -1))[..., 2]
    assert volume.near == pytest.approx(float(z.min()))
    assert volume.far == pytest.approx(float(z.max()))
    # what a pixel shows outside the planes is outside the grid
    pixels = pixel_grid(SIDE, SIDE, dtype=torch.float64)
    for depth in (volume.near * 0.999, volume.far * 1.001):
        points_cam = unproject(pixels, torch.full((SIDE, SIDE), depth, dtype=torch.float64), K[0])
        points_world = transform_points(world_from_cam, points_cam.expand(12, -1, -1, -1))
        inside = (points_world - torch.tensor(volume.origin)).abs().amax(-1) < volume.side_length / 2
        assert not inside.any()


def test_the_unit_of_the_world_does_not_matter():
    world_from_cam, K = ring()
    larger = world_from_cam.clone()
    larger[:, :3, 3] *= 70
    for points in (None, cloud()):
        volume = fit_volume(world_from_cam, K, SIDE, points)
        scaled = fit_volume(larger, K, SIDE, None if points is None else points * 70)
        assert np.allclose(scaled.origin, np.array(volume.origin) * 70)
        for a, b in zip(scaled[1:], volume[1:], strict=True):
            assert a == pytest.approx(70 * b)


def test_a_camera_inside_the_grid_still_gets_a_positive_near_plane():
    world_from_cam, _ = ring()
    near, far = depth_range(world_from_cam, MIDDLE, 12.0)
    assert near == pytest.approx(12 / 20)
    assert far > 12 / 2
    behind = world_from_cam @ torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
    with pytest.raises(ValueError, match="behind"):
        depth_range(behind, MIDDLE, 1.0)


def test_cameras_that_share_no_view_are_refused():
    world_from_cam, K = ring()
    parallel = torch.eye(4, dtype=torch.float64).repeat(12, 1, 1)
    parallel[:, :3, 3] = torch.randn(12, 3)
    with pytest.raises(ValueError, match="parallel"):
        fit_volume(parallel, K, SIDE)
    outwards = world_from_cam @ torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
    with pytest.raises(ValueError, match="look away"):
        fit_volume(outwards, K, SIDE)


def test_the_visible_share_agrees_with_a_plain_loop():
    world_from_cam, K = ring(count=3)
    side_length = 3.0  # too large for the images, so that part of it is out of view
    found = visible_share(world_from_cam, K, SIDE, MIDDLE, side_length)
    axis = np.linspace(-0.5, 0.5, 16) * side_length
    for view in range(3):
        cam_from_world = np.linalg.inv(world_from_cam[view].numpy())
        count = 0
        for offset in np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3):
            x, y, z = cam_from_world[:3, :3] @ (offset + MIDDLE) + cam_from_world[:3, 3]
            u, v = 60 * x / z + 19.5, 60 * y / z + 19.5
            count += z > 0 and -0.5 <= u < SIDE - 0.5 and -0.5 <= v < SIDE - 0.5
        assert found[view] == pytest.approx(count / 16**3, abs=2 / 16**3)
        assert 0.1 < found[view] < 0.9
