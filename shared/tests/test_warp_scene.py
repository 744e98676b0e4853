"""Warps agree with exact views, by ray casting, of a painted square before a wall."""

import pytest
import torch
from torch import Tensor

from shared.geometry.camera import (
    camera_rays,
    intrinsics_matrix,
    invert_pose,
    look_at,
    pixel_grid,
    project,
    relative_pose,
    transform_points,
    unproject,
)
from shared.geometry.warp import backward_warp, disparity_warp, forward_warp
from shared.tests.warp_twins import F64, camera, rigid

pytestmark = pytest.mark.usefixtures("seeded")


# ---- the scene ---------------------------------------------------------------------------------------------


class Board:
    """A painted wall, z = 4, behind a painted square, z = 2, |x|, |y| < 0.5: exact by ray casting."""

    def render(self, K: Tensor, world_from_cam: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        origin, direction = camera_rays(K, world_from_cam, height, width)
        points, depth = self.hit(origin, direction)
        x, y, z = points.unbind(-1)
        colour = torch.stack([(3 * x).sin(), (4 * y).cos(), (2 * x - y + z).sin()]) / 2 + 0.5
        return colour[None], depth[None, None]

    def hit(self, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        near = (2 - origin[..., 2]) / direction[..., 2]
        far = (4 - origin[..., 2]) / direction[..., 2]
        on_square = (origin + near[..., None] * direction)[..., :2].abs().amax(-1) < 0.5
        t = torch.where(on_square, near, far)
        return origin + t[..., None] * direction, t

    def seen(
        self, points_world: Tensor, K: Tensor, world_from_cam: Tensor, height: int, width: int
    ) -> Tensor:
        """Does a ray from the camera reach the point, inside the image?"""
        centre = world_from_cam[:3, 3]
        first, _ = self.hit(centre, points_world - centre)
        pixels, _ = project(transform_points(invert_pose(world_from_cam), points_world), K)
        inside = (pixels >= 0).all(-1) & (pixels[..., 0] <= width - 1) & (pixels[..., 1] <= height - 1)
        return inside & ((first - points_world).norm(dim=-1) < 1e-6)


@pytest.fixture
def two_views():
    """K, pose, image and depth of two views of the board, of different size and focal length."""
    views = []
    for height, width, focal, position in ((60, 80, 1.0, (0.3, 0.1, 0.0)), (72, 90, 1.1, (-0.25, -0.1, 0.2))):
        K = camera(height, width, focal)
        world_from_cam = look_at(torch.tensor(position, dtype=F64), (0.0, 0.0, 3.0), up=(0, -1, 0))
        views.append((K, world_from_cam, *Board().render(K, world_from_cam, height, width)))
    return views


def surroundings(mask: Tensor, depth: Tensor) -> Tensor:
    """Where all 5x5 neighbours are in the mask, away from steps in depth."""

    def highest(image: Tensor) -> Tensor:
        return torch.nn.functional.max_pool2d(image.double(), 5, 1, 2)

    smooth = highest(depth) < 1.3 * -highest(-depth)
    return smooth & (highest(~mask) == 0)


def cast_visibility(view: tuple, other: tuple) -> Tensor:
    """Mask [1, 1, H, W] of the pixels of `view` that `other` sees."""
    K, world_from_cam, _, depth = view
    pixels = pixel_grid(*depth.shape[-2:], dtype=F64)
    points_world = transform_points(world_from_cam, unproject(pixels, depth[0, 0], K))
    return Board().seen(points_world, other[0], other[1], *other[3].shape[-2:])[None, None]


# ---- warps -------------------------------------------------------------------------------------------------


def test_convention_backward_warp_takes_source_from_target(two_views):
    source, target = two_views
    (K_s, world_from_source, image_s, _), (K_t, world_from_target, image_t, depth_t) = two_views
    source_from_target = relative_pose(world_from_source, world_from_target)
    warped, valid = backward_warp(image_s, depth_t, K_s, K_t, source_from_target)
    seen = cast_visibility(target, source)
    assert valid[seen].all()
    seen = surroundings(seen, depth_t)
    assert seen.double().mean() > 0.5
    error = (warped - image_t).abs().amax(1, keepdim=True)[seen]
    assert error.max() < 1e-2  # bilinear interpolation of this paint
    wrong, _ = backward_warp(image_s, depth_t, K_s, K_t, invert_pose(source_from_target))
    assert (wrong - image_t).abs().amax(1, keepdim=True)[seen].median() > 0.05


def test_convention_forward_warp_takes_target_from_source(two_views):
    source, target = two_views
    (K_s, world_from_source, image_s, depth_s), (K_t, world_from_target, image_t, depth_t) = two_views
    pose = relative_pose(world_from_target, world_from_source)
    warped, depth, valid = forward_warp(image_s, depth_s, K_s, K_t, pose, size=(72, 90))
    seen = surroundings(cast_visibility(target, source), depth_t)
    assert valid[seen].all()  # the squares leave no holes
    assert ((depth - depth_t).abs() / depth_t)[seen].max() < 0.01
    error = (warped - image_t).abs().amax(1, keepdim=True)[seen]
    assert error.mean() < 0.03  # colours are copied from up to a pixel away


@pytest.mark.parametrize("source_view", [(1, 0), (0, 1), (-1, 2), (2, -1)])
def test_convention_disparity_warp_offset_is_target_minus_source(source_view):
    # Cameras on a grid, columns to the right, rows down; target (0, 0); z = 3 is in focus.
    focal, baseline, focus = 60.0, 0.1, 3.0
    height, width = 48, 56
    K = intrinsics_matrix(focal, focal, 27.5, 23.5, dtype=F64)
    images, depths = {}, {}
    for view in ((0, 0), source_view):
        centre = torch.tensor([baseline * view[0], baseline * view[1], 0.0], dtype=F64)
        world_from_cam = rigid((0, 0, 0), centre.tolist())
        K_view = K.clone()
        K_view[:2, 2] += focal * centre[:2] / focus  # the sheared sensor of a light-field camera
        images[view], depths[view] = Board().render(K_view, world_from_cam, height, width)
    disparity = focal * baseline * (1 / depths[0, 0] - 1 / focus)
    assert disparity.max() > 0 > disparity.min()  # positive in front of the focus plane
    warped, valid = disparity_warp(images[source_view], disparity, -torch.tensor(source_view, dtype=F64))
    error = (warped - images[0, 0]).abs().amax(1, keepdim=True)[valid]
    assert error.median() < 2e-3
    wrong, valid = disparity_warp(images[source_view], disparity, torch.tensor(source_view, dtype=F64))
    assert (wrong - images[0, 0]).abs().amax(1, keepdim=True)[valid].median() > 0.02
