import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

import shared.warp
from shared.camera import (
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
from shared.trajectories import so3_exp
from shared.warp import (
    backward_warp,
    disparity_warp,
    forward_warp,
    sample_pixels,
    visible_in_source,
    visible_in_target,
)

F64 = torch.float64
IDENTITY = torch.eye(4)
SIZES = [(1, 1), (5, 9), (33, 47), (64, 32), (61, 128)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rigid(rotation_vector: tuple[float, float, float], translation: tuple[float, float, float]) -> Tensor:
    matrix = torch.eye(4, dtype=F64)
    matrix[:3, :3] = so3_exp(torch.tensor(rotation_vector, dtype=F64))
    matrix[:3, 3] = torch.tensor(translation, dtype=F64)
    return matrix


def camera(height: int, width: int, focal: float = 0.9, dtype: torch.dtype = F64) -> Tensor:
    """Intrinsics with unequal focal lengths and the principal point off the middle."""
    return intrinsics_matrix(focal * width, 0.95 * focal * width, 0.47 * width, 0.55 * height - 0.5, dtype)


def picture(height: int, width: int) -> Tensor:
    """Smooth colours [1, 3, H, W] in [0, 1]."""
    x, y = pixel_grid(height, width).unbind(-1)
    return (torch.stack([(x / 7).sin(), (y / 5).cos(), ((x + y) / 9).sin()]) / 2 + 0.5)[None]


# ----------------------------------------------------------------------------------------------------
# Plain-loop twins: one pixel at a time, through 3D points, in torch scalars so that gradients follow.


def twin_sample(image: Tensor, x: Tensor, y: Tensor, padding: str = "border") -> Tensor:
    """Bilinear sample [C] of one image [C, H, W]."""
    height, width = image.shape[-2:]
    total = torch.zeros_like(image[:, 0, 0])
    x0, y0 = math.floor(x.detach()), math.floor(y.detach())
    for row, weight_y in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
        for column, weight_x in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
            if padding == "border" or (0 <= row < height and 0 <= column < width):
                row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
                total = total + weight_x * weight_y * image[:, row, column]
    return total


def twin_reproject(depth: Tensor, K_from: Tensor, K_to: Tensor, to_from_from: Tensor, row: int, column: int):
    """Pixel (2,) and depth in the other view of one pixel of `depth` [H, W]."""
    pixel = torch.tensor([column, row], dtype=depth.dtype)
    point = transform_points(to_from_from, unproject(pixel, depth[row, column], K_from))
    return project(point, K_to)


def twin_backward(
    image: Tensor, depth: Tensor, K_source: Tensor, K_target: Tensor, source_from_target: Tensor, padding
):
    height, width = depth.shape[-2:]
    result = torch.zeros(len(image), height, width, dtype=image.dtype)
    valid = torch.zeros(height, width, dtype=torch.bool)
    for row in range(height):
        for column in range(width):
            (x, y), z = twin_reproject(depth[0], K_target, K_source, source_from_target, row, column)
            if depth[0, row, column] > 1e-3 and z > 1e-3:
                result[:, row, column] = twin_sample(image, x, y, padding)
                valid[row, column] = 0 <= x <= image.shape[2] - 1 and 0 <= y <= image.shape[1] - 1
    return result, valid[None]


def twin_forward(features, depth, K_source, K_target, target_from_source, footprint, size, cap=6.0):
    """Every source pixel asks every target pixel whether their squares overlap."""
    winners = {}
    for row in range(depth.shape[1]):
        for column in range(depth.shape[2]):
            (x, y), z = twin_reproject(depth[0], K_source, K_target, target_from_source, row, column)
            if not (depth[0, row, column] > 1e-3 and z > 1e-3):
                continue
            zoom = (K_target / K_source * depth[0, row, column] / z).diagonal()[:2].clamp(max=cap)
            for target_y in range(size[0]):
                for target_x in range(size[1]):
                    if footprint == "pixel":
                        drawn = (target_x, target_y) == (math.floor(x + 0.5), math.floor(y + 0.5))
                    else:
                        drawn = (
                            abs(target_x - x) < (1 + zoom[0]) / 2 and abs(target_y - y) < (1 + zoom[1]) / 2
                        )
                    if drawn:
                        bits = int(np.float32(z.item()).view(np.int32)) >> 3
                        distance = min(round(256 * math.hypot(target_x - x, target_y - y)), 2047)
                        key = (bits, distance, row * depth.shape[2] + column)
                        best = winners.get((target_y, target_x))
                        if best is None or key < best[0]:
                            winners[target_y, target_x] = (key, row, column, z)
    result = torch.zeros(len(features), *size, dtype=features.dtype)
    depth_target = torch.zeros(1, *size, dtype=depth.dtype)
    valid = torch.zeros(1, *size, dtype=torch.bool)
    for (target_y, target_x), (_, row, column, z) in winners.items():
        result[:, target_y, target_x] = features[:, row, column]
        depth_target[0, target_y, target_x] = z
        valid[0, target_y, target_x] = True
    return result, depth_target, valid


def assert_same_gradients(outputs: tuple[Tensor, Tensor], inputs: tuple[Tensor, ...]) -> None:
    """Gradients of two scalars agree: relative L2 within 1e-9, and the same entries are zero."""
    for a, b in zip(*(torch.autograd.grad(output, inputs) for output in outputs), strict=True):
        assert torch.isfinite(a).all()
        assert (a - b).norm() <= 1e-9 * b.norm()
        assert torch.equal(a == 0, b == 0)


# ----------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_convention_sample_pixels_agrees_with_scipy(padding):
    image = torch.rand(2, 3, 7, 11, dtype=F64)
    pixels = torch.rand(2, 5, 6, 2, dtype=F64) * torch.tensor([14, 10]) - 2  # up to two pixels outside
    sampled = sample_pixels(image, pixels, padding)
    mode = {"border": "nearest", "zeros": "grid-constant"}[padding]
    for b in range(2):
        for c in range(3):
            rows_columns = pixels[b].flip(-1).permute(2, 0, 1).numpy()
            expected = map_coordinates(image[b, c].numpy(), rows_columns, order=1, mode=mode)
            np.testing.assert_allclose(sampled[b, c], expected, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_convention_sample_pixels_meets_pixel_centres(size):
    image = torch.rand(1, 2, *size)
    sampled = sample_pixels(image, pixel_grid(*size)[None])
    # float32 coordinates inside grid_sample resolve W * 6e-8 px; sides that are powers of two lose nothing
    powers_of_two = all(side & (side - 1) == 0 for side in size)
    assert (sampled - image).abs().max() <= (0 if powers_of_two else 2e-7 * max(size))


def test_flipping_align_corners_is_noticed(monkeypatch):
    # The suite must fail if the flag flips: the identity would then move by half a pixel at the borders.
    ramp = torch.arange(33.0).expand(1, 1, 33, 33)
    original = shared.warp.F.grid_sample
    assert (sample_pixels(ramp, pixel_grid(33, 33)[None]) - ramp).abs().max() < 1e-5

    def flipped(*args, align_corners, **kwargs):
        return original(*args, align_corners=not align_corners, **kwargs)

    monkeypatch.setattr(shared.warp.F, "grid_sample", flipped)
    error = sample_pixels(ramp, pixel_grid(33, 33)[None]) - ramp
    half = 0.5 - 0.5 / 33
    expected = torch.tensor([half, 0.0, -half])
    torch.testing.assert_close(error[0, 0, :, [0, 16, 32]], expected.expand(33, 3), atol=1e-5, rtol=0)


def test_sample_pixels_keeps_coordinates_exact_for_half_precision_images():
    image = torch.arange(2048.0).expand(1, 1, 2, 2048)
    pixels = torch.tensor([[[[1000.25, 0.5]]]])
    exact = sample_pixels(image, pixels)
    half = sample_pixels((image / 2048).half(), pixels)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float() * 2048, exact, atol=0.3, rtol=0)


# ---------------------------------------------------------------------------------------- backward


@pytest.mark.parametrize("size", SIZES)
def test_backward_warp_identity_is_exact(size):
    image, depth = picture(*size), torch.rand(1, 1, *size) * 9 + 0.1
    K = camera(*size, dtype=torch.float32)
    warped, valid = backward_warp(image, depth, K, K, IDENTITY)
    assert valid.all()  # borders included
    assert (warped - image).abs().max() <= 1e-6
    noise = torch.rand(1, 2, *size, dtype=F64)
    warped, _ = backward_warp(noise, depth.double(), K.double(), K.double(), IDENTITY.double())
    assert (warped - noise).abs().max() <= 1e-12


@pytest.mark.parametrize(("axis", "shift"), [(0, 1), (0, -1), (1, 1), (1, -2)])
def test_backward_warp_shift_by_whole_pixels_is_exact(axis, shift):
    image = torch.rand(1, 3, 32, 64)
    K = intrinsics_matrix(50.0, 40.0, 31.3, 15.8)
    source_from_target = torch.eye(4)
    source_from_target[axis, 3] = shift * 2.0 / K[axis, axis]  # at depth 2: `shift` pixels
    warped, valid = backward_warp(image, torch.full((1, 1, 32, 64), 2.0), K, K, source_from_target)
    expected = image.roll(-shift, dims=3 - axis)
    inside = torch.ones(32, 64, dtype=torch.bool)
    edge = slice(-shift, None) if shift > 0 else slice(None, -shift)
    inside[(slice(None), edge) if axis == 0 else edge] = False
    assert torch.equal(valid[0, 0], inside)
    torch.testing.assert_close(warped[..., inside], expected[..., inside], atol=1e-5, rtol=0)
    border = image[..., -1:] if shift > 0 else image[..., :1]
    if axis == 0:
        torch.testing.assert_close(
            warped[..., ~inside], border.expand(-1, -1, -1, 1).flatten(2), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_backward_warp_equals_its_twin(padding):
    image = torch.rand(2, 3, 6, 9, dtype=F64, requires_grad=True)
    depth = (torch.rand(2, 1, 5, 7, dtype=F64) + 1).requires_grad_()
    K_source = torch.stack([camera(6, 9), camera(6, 9, 1.1)]).requires_grad_()
    K_target = camera(5, 7)
    poses = torch.stack([rigid((0.05, -0.1, 0.2), (0.1, 0.2, -0.3)), rigid((0, 0, -0.1), (-0.3, 0, 0.4))])
    poses.requires_grad_()
    image_target, valid = backward_warp(image, depth, K_source, K_target, poses, padding)
    twins = [twin_backward(image[b], depth[b], K_source[b], K_target, poses[b], padding) for b in range(2)]
    twin_image, twin_valid = (torch.stack(parts) for parts in zip(*twins, strict=True))
    assert 0 < valid.sum() < valid.numel()
    assert torch.equal(valid, twin_valid)
    torch.testing.assert_close(image_target, twin_image, atol=1e-12, rtol=0)
    weight = torch.rand_like(image_target)
    assert_same_gradients(
        ((image_target * weight).sum(), (twin_image * weight).sum()), (image, depth, K_source)
    )
    float32 = backward_warp(*(t.float() for t in (image, depth, K_source, K_target, poses)), padding)[0]
    torch.testing.assert_close(float32, image_target.float(), atol=1e-5, rtol=0)


def test_backward_warp_gradcheck():
    image = torch.rand(1, 2, 5, 6, dtype=F64, requires_grad=True)
    depth = (torch.rand(1, 1, 4, 5, dtype=F64) + 1).requires_grad_()
    K_source, K_target = camera(5, 6).requires_grad_(), camera(4, 5).requires_grad_()
    pose = rigid((0.02, -0.03, 0.05), (0.1, 0.05, -0.1)).requires_grad_()
    arguments = (image, depth, K_source, K_target, pose)
    assert torch.autograd.gradcheck(
        lambda *a: backward_warp(*a)[0], arguments, eps=1e-6, atol=1e-5, rtol=1e-3
    )


BAD_DEPTHS = [0.0, -1.0, math.nan, -math.inf, 1e-30, 1e-45]


@pytest.mark.parametrize("translation_z", [0.0, -2.0, -2.0 + 1e-9, -5.0])
def test_backward_warp_has_finite_gradients_at_singular_points(translation_z):
    depth = torch.tensor([*BAD_DEPTHS, math.inf, 1e30, 2.0, 4.0]).reshape(1, 1, 2, 5).requires_grad_()
    image = torch.rand(1, 3, 6, 7, requires_grad=True)
    K = intrinsics_matrix(6.0, 6.0, 3.0, 2.5).requires_grad_()
    pose = torch.eye(4)
    pose[2, 3] = translation_z  # the source camera stands on, or in front of, what the target sees at depth 2
    warped, valid = backward_warp(image, depth, K, K, pose.requires_grad_())
    assert torch.isfinite(warped).all()
    in_front = valid.flatten()[: len(BAD_DEPTHS)]
    assert not in_front.any()
    assert (warped[0, :, 0, :5] == 0).all()
    warped.square().sum().backward()
    for tensor in (depth, image, K, pose):
        assert torch.isfinite(tensor.grad).all()
    assert (depth.grad.flatten()[: len(BAD_DEPTHS)] == 0).all()


def test_backward_warp_marks_points_behind_the_source_camera():
    K = camera(8, 8, dtype=torch.float32)
    turned = rigid((0, math.pi, 0), (0, 0, 0)).float()  # looks the other way
    warped, valid = backward_warp(torch.rand(1, 1, 8, 8), torch.ones(1, 1, 8, 8), K, K, turned)
    assert not valid.any()
    assert (warped == 0).all()


def test_backward_warp_at_infinity_only_rotates():
    image, K = picture(32, 64), camera(32, 64, dtype=torch.float32)
    infinite = torch.full((1, 1, 32, 64), math.inf)
    far = torch.full((1, 1, 32, 64), 1e9)
    pose = rigid((0.02, 0.1, 0), (5.0, 3.0, -2.0)).float()
    warped, valid = backward_warp(image, infinite, K, K, pose)
    expected, expected_valid = backward_warp(image, far, K, K, pose)
    assert torch.equal(valid, expected_valid)
    torch.testing.assert_close(warped, expected, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------ an analytic scene


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


def surroundings(mask: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Where all 5x5 neighbours are in the mask, and where none is; both away from steps in depth."""

    def highest(image: Tensor) -> Tensor:
        return torch.nn.functional.max_pool2d(image.double(), 5, 1, 2)

    smooth = highest(depth) < 1.3 * -highest(-depth)
    return smooth & (highest(~mask) == 0), smooth & (highest(mask) == 0)


def cast_visibility(view: tuple, other: tuple) -> Tensor:
    """Mask [1, 1, H, W] of the pixels of `view` that `other` sees."""
    K, world_from_cam, _, depth = view
    pixels = pixel_grid(*depth.shape[-2:], dtype=F64)
    points_world = transform_points(world_from_cam, unproject(pixels, depth[0, 0], K))
    return Board().seen(points_world, other[0], other[1], *other[3].shape[-2:])[None, None]


def test_convention_backward_warp_takes_source_from_target(two_views):
    source, target = two_views
    (K_s, world_from_source, image_s, _), (K_t, world_from_target, image_t, depth_t) = two_views
    source_from_target = relative_pose(world_from_source, world_from_target)
    warped, valid = backward_warp(image_s, depth_t, K_s, K_t, source_from_target)
    seen = cast_visibility(target, source)
    assert valid[seen].all()
    seen, _ = surroundings(seen, depth_t)
    assert seen.double().mean() > 0.5
    error = (warped - image_t).abs().amax(1, keepdim=True)[seen]
    assert error.max() < 1e-2  # bilinear interpolation of this paint
    wrong, _ = backward_warp(image_s, depth_t, K_s, K_t, invert_pose(source_from_target))
    assert (wrong - image_t).abs().amax(1, keepdim=True)[seen].median() > 0.05


@pytest.mark.parametrize("tolerances", [(1e-3, 0.0), (0.0, 1e-2), (0.01, 0.0)])
def test_convention_visible_in_source_is_the_cast_ray(two_views, tolerances):
    source, target = two_views
    (K_s, world_from_source, _, depth_s), (K_t, world_from_target, _, depth_t) = two_views
    pose = relative_pose(world_from_source, world_from_target)
    visible = visible_in_source(depth_t, depth_s, K_s, K_t, pose, *tolerances)
    seen, hidden = surroundings(cast_visibility(target, source), depth_t)
    assert seen.sum() > 3000
    assert hidden.sum() > 200
    assert visible[seen].all()
    assert not visible[hidden].any()


def test_convention_visible_in_target_is_the_other_way_round(two_views):
    source, target = two_views
    (K_s, world_from_source, _, depth_s), (K_t, world_from_target, _, depth_t) = two_views
    pose = relative_pose(world_from_target, world_from_source)
    visible = visible_in_target(depth_s, depth_t, K_s, K_t, pose, relative_tolerance=1e-3)
    seen, hidden = surroundings(cast_visibility(source, target), depth_s)
    assert seen.sum() > 2000
    assert hidden.sum() > 200
    assert visible[seen].all()
    assert not visible[hidden].any()


def test_convention_forward_warp_takes_target_from_source(two_views):
    source, target = two_views
    (K_s, world_from_source, image_s, depth_s), (K_t, world_from_target, image_t, depth_t) = two_views
    pose = relative_pose(world_from_target, world_from_source)
    warped, depth, valid = forward_warp(image_s, depth_s, K_s, K_t, pose, size=(72, 90))
    seen, _ = surroundings(cast_visibility(target, source), depth_t)
    assert valid[seen].all()  # the squares leave no holes
    assert ((depth - depth_t).abs() / depth_t)[seen].max() < 0.01
    error = (warped - image_t).abs().amax(1, keepdim=True)[seen]
    assert error.mean() < 0.03  # colours are copied from up to a pixel away


# --------------------------------------------------------------------------------------- disparity


def test_convention_disparity_warp():
    # target(x) = source(x + disparity * offset), exactly, for a shift by whole pixels
    source = torch.rand(1, 1, 4, 8)
    warped, valid = disparity_warp(source, torch.full((1, 1, 4, 8), 2.0), torch.tensor([1.0, 0.0]))
    assert torch.equal(warped[..., :6], source[..., 2:])
    assert torch.equal(
        warped[..., 6:], source[..., 7:].expand(1, 1, 4, 2)
    )  # the border is repeated, and invalid
    assert valid.expand(1, 1, 4, 8)[0, 0, 0].tolist() == [True] * 6 + [False] * 2
    warped, valid = disparity_warp(source, torch.full((1, 1, 4, 8), 1.0), torch.tensor([0.0, -1.0]))
    assert torch.equal(warped[..., 1:, :], source[..., :-1, :])


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


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_disparity_warp_equals_its_twin(padding):
    image = torch.rand(2, 3, 5, 7, dtype=F64, requires_grad=True)
    disparity = (torch.randn(2, 1, 5, 7, dtype=F64) * 2).requires_grad_()
    offsets = torch.tensor([[1.3, -0.4], [-2.0, 0.7]], dtype=F64)
    warped, valid = disparity_warp(image, disparity, offsets, padding)
    twin, twin_valid = torch.zeros_like(warped), torch.zeros_like(valid)
    for b, row, column in np.ndindex(2, 5, 7):
        x = column + disparity[b, 0, row, column] * offsets[b, 0]
        y = row + disparity[b, 0, row, column] * offsets[b, 1]
        twin[b, :, row, column] = twin_sample(image[b], x, y, padding)
        twin_valid[b, 0, row, column] = 0 <= x <= 6 and 0 <= y <= 4
    assert torch.equal(valid, twin_valid)
    torch.testing.assert_close(warped, twin, atol=1e-12, rtol=0)
    weight = torch.rand_like(warped)
    assert_same_gradients(((warped * weight).sum(), (twin * weight).sum()), (image, disparity))


def test_disparity_warp_keeps_half_precision_maps_in_place():
    image = torch.rand(1, 1, 2, 4096)
    warped, valid = disparity_warp(image, torch.zeros(1, 1, 2, 4096, dtype=torch.bfloat16), torch.ones(2))
    assert torch.equal(warped, image)
    assert valid.all()


def test_disparity_warp_gradcheck_and_bad_disparity():
    image = torch.rand(1, 2, 4, 5, dtype=F64, requires_grad=True)
    disparity = torch.rand(1, 1, 4, 5, dtype=F64, requires_grad=True)
    offset = torch.tensor([0.7, -0.4], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: disparity_warp(*a)[0], (image, disparity, offset))
    bad = torch.tensor([math.nan, math.inf, -math.inf, 0.0]).reshape(1, 1, 1, 4).requires_grad_()
    warped, valid = disparity_warp(torch.rand(1, 3, 1, 4), bad, torch.ones(2))
    assert valid.flatten().tolist() == [False, False, False, True]
    assert (warped[..., :3] == 0).all()
    warped.sum().backward()
    assert torch.isfinite(bad.grad).all()


# ----------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize("footprint", ["square", "pixel"])
@pytest.mark.parametrize("size", SIZES)
def test_forward_warp_identity_is_exact(size, footprint):
    features, depth = torch.rand(2, 5, *size), torch.rand(2, 1, *size) * 9 + 0.1
    K = camera(*size, dtype=torch.float32)
    warped, depth_target, valid = forward_warp(features, depth, K, K, IDENTITY, footprint)
    assert valid.all()
    assert torch.equal(warped, features)
    assert torch.equal(depth_target, depth)


@pytest.mark.parametrize("shift", [3.0, 3.3, 2.7, -1.49])
def test_forward_warp_shift_goes_to_the_nearest_pixel(shift):
    # A fraction of a pixel makes the squares of a plane overlap at equal depth: the nearer centre wins.
    features = torch.rand(1, 2, 9, 33)
    K = intrinsics_matrix(40.0, 40.0, 16.0, 4.0)
    pose = torch.eye(4)
    pose[0, 3] = shift * 2 / 40
    warped, _, valid = forward_warp(features, torch.full((1, 1, 9, 33), 2.0), K, K, pose)
    whole = round(shift)
    inner = slice(max(whole, 0) + 1, 33 + min(whole, 0) - 1)
    assert torch.equal(warped[..., inner], features.roll(whole, -1)[..., inner])
    assert valid[..., inner].all()


@pytest.mark.parametrize("footprint", ["square", "pixel"])
@pytest.mark.parametrize("seed", range(3))
def test_forward_warp_equals_its_twin(footprint, seed):
    torch.manual_seed(seed)
    features = torch.rand(2, 3, 7, 9, dtype=F64, requires_grad=True)
    depth = torch.rand(2, 1, 7, 9, dtype=F64) * 2 + 0.5
    depth[0, 0, 2:5, 3:6] = 1.0  # a patch of equal depths
    depth[1, 0, 0, :4] = torch.tensor(
        [0.0, -1.0, math.nan, 0.31]
    )  # not drawn; the last in front of the camera
    K_source, K_target, size = camera(7, 9), torch.stack([camera(8, 11), camera(8, 11, 1.4)]), (8, 11)
    poses = torch.stack([rigid((0, 0, 0), (0.13, -0.2, 0)), rigid((0.1, -0.1, 0.3), (0.1, 0.2, -0.3))])
    result = forward_warp(features, depth, K_source, K_target, poses, footprint, size=size)
    twins = [
        twin_forward(features[b], depth[b], K_source, K_target[b], poses[b], footprint, size)
        for b in range(2)
    ]
    expected = [torch.stack(parts) for parts in zip(*twins, strict=True)]
    assert 0.2 < result[2].double().mean() < 1
    assert torch.equal(result[2], expected[2])
    assert torch.equal(result[0], expected[0])
    torch.testing.assert_close(result[1], expected[1], atol=1e-12, rtol=0)
    weight = torch.rand_like(result[0])
    assert_same_gradients(((result[0] * weight).sum(), (expected[0] * weight).sum()), (features,))


def test_forward_warp_gradients_reach_features_only():
    features = torch.rand(1, 2, 5, 6, dtype=F64, requires_grad=True)
    depth = (torch.rand(1, 1, 5, 6, dtype=F64) + 1).requires_grad_()
    pose = rigid((0, 0.1, 0.1), (0.1, 0, -0.3)).requires_grad_()
    K = camera(5, 6)
    assert torch.autograd.gradcheck(lambda f: forward_warp(f, depth, K, K, pose)[0], (features,))
    warped, depth_target, _ = forward_warp(features, depth, K, K, pose)
    warped.sum().backward()
    assert depth.grad is None
    assert pose.grad is None
    assert not depth_target.requires_grad


@pytest.mark.parametrize(
    ("new_depth", "cap_px", "columns"),
    [
        (1.0, 6, [4, 5]),
        (0.5, 6, [4, 5, 6, 7]),
        (0.5, 2, [5, 6]),
        (0.125, 6, range(9, 15)),
        (4.0, 6, [4]),
        (0.5, 0, [6]),
    ],
)
def test_convention_forward_warp_footprint(new_depth, cap_px, columns):
    # The side of the square is old / new depth, up to the cap; every touched pixel is drawn, at least one.
    features, depth = torch.ones(1, 1, 9, 9), torch.full((1, 1, 9, 9), math.nan)
    depth[0, 0, 4, 4] = 2.0
    K = intrinsics_matrix(8.0, 8.0, 3.5, 3.5)  # the pixel lies half a pixel right of and below the axis
    pose = torch.eye(4)
    pose[2, 3] = new_depth - 2.0
    expected = torch.zeros(30, 30)
    expected[columns[0] : columns[-1] + 1, columns[0] : columns[-1] + 1] = 1.0
    warped, depth_target, valid = forward_warp(
        features, depth, K, K, pose, max_footprint_px=cap_px, size=(30, 30)
    )
    assert torch.equal(warped[0, 0], expected)
    assert torch.equal(depth_target[0, 0], expected * new_depth)
    assert torch.equal(valid[0, 0], expected > 0)
    assert forward_warp(features, depth, K, K, pose, footprint="pixel", size=(30, 30))[2].sum() == 1


def test_forward_warp_nearest_wins_and_ties_are_deterministic():
    # Both pixels land on the same target pixel; the second one nearer to its centre.
    features = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2)
    K, tiny = intrinsics_matrix(1.0, 1.0, 1.0, 0.0), intrinsics_matrix(0.2, 0.2, 0.0, 0.0)
    rounding, more = 1.5 + 2.0**-23, 1.5 + 2.0**-18
    for depths, winner in [((2, 1), 2), ((1, 2), 1), ((1.5, 1.5), 2), ((1.5, rounding), 2), ((1.5, more), 1)]:
        depth = torch.tensor(depths).reshape(1, 1, 1, 2)
        warped, depth_target, _ = forward_warp(features, depth, K, tiny, IDENTITY, size=(1, 1))
        assert warped.item() == winner
        assert depth_target.item() == depths[winner - 1]
    same_place = intrinsics_matrix(1e-6, 1e-6, 0.0, 0.0)
    warped, _, _ = forward_warp(features, torch.ones(1, 1, 1, 2), K, same_place, IDENTITY, size=(1, 1))
    assert warped.item() == 1.0  # the first source pixel


def test_forward_warp_is_the_same_for_any_number_of_threads():
    features, depth = torch.rand(2, 4, 61, 83), (torch.rand(2, 1, 61, 83) * 4).round() / 2 + 1
    K = camera(61, 83, dtype=torch.float32)
    pose = rigid((0.03, 0.1, 0.2), (0.2, 0.1, -0.4)).float()
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(forward_warp(features, depth, K, K, pose)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_forward_warp_survives_extreme_points():
    depth = torch.tensor([*BAD_DEPTHS, math.inf, 1e30, 1.001e-3, 2.0]).reshape(1, 1, 2, 5)
    features = torch.rand(1, 3, 2, 5, requires_grad=True)
    K = intrinsics_matrix(1e4, 1e4, 2.0, 1.0)
    for translation in ((0, 0, 0), (1e9, 0, 0), (0, 0, 1e-3 - 2.0), (0, -1e30, 0), (0, 0, -9.0)):
        warped, depth_target, valid = forward_warp(
            features, depth, K, K, rigid((0, 0, 0), translation).float()
        )
        assert torch.isfinite(warped).all()
        assert not valid[0, 0, 0].any() or translation != (0, 0, 0)
        assert not depth_target.isnan().any()
        warped.sum().backward()
    assert torch.isfinite(features.grad).all()


def test_near_plane_bounds_the_depth_in_both_views():
    image, K = torch.rand(1, 1, 3, 3), intrinsics_matrix(3.0, 3.0, 1.0, 1.0)
    for old_depth, new_depth in ((2.0, 0.25), (0.25, 2.0)):
        depth = torch.full((1, 1, 3, 3), math.nan)
        depth[0, 0, 1, 1] = old_depth  # on the optical axis
        pose = torch.eye(4)
        pose[2, 3] = new_depth - old_depth
        for near, expected in ((0.2, 1), (0.3, 0)):
            assert backward_warp(image, depth, K, K, pose, near=near)[1].sum() == expected
            assert forward_warp(image, depth, K, K, pose, footprint="pixel", near=near)[2].sum() == expected
            surface = torch.full_like(depth, new_depth)
            assert visible_in_source(depth, surface, K, K, pose, near=near).sum() == expected


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (2, 2)])
def test_warps_through_nan_cameras_are_invalid(place):
    features, depth, K = (
        torch.rand(1, 2, 4, 5),
        torch.rand(1, 1, 4, 5) + 1,
        intrinsics_matrix(5.0, 5.0, 2.0, 2.0),
    )
    K_nan, pose_nan = K.clone(), torch.eye(4)
    K_nan[0, min(place[1], 2)] = math.nan
    pose_nan[place] = math.nan
    for K_other, pose in ((K_nan, IDENTITY), (K, pose_nan)):
        assert not backward_warp(features, depth, K, K_other, pose)[1].any()
        assert not forward_warp(features, depth, K, K_other, pose)[2].any()
        assert not visible_in_source(depth, depth, K, K_other, pose).any()


def test_warps_of_a_batch_equal_single_ones():
    features, depth = torch.rand(3, 2, 9, 11), torch.rand(3, 1, 9, 11) + 1
    K = torch.stack([camera(9, 11, focal, torch.float32) for focal in (0.8, 1.0, 1.3)])
    poses = torch.stack([rigid((0, 0.1 * i, 0), (0.1, 0.05 * i, 0)).float() for i in range(3)])
    for warp in (backward_warp, forward_warp):
        batch = warp(features, depth, K, K[:1], poses)
        for i in range(3):
            single = warp(features[i : i + 1], depth[i : i + 1], K[i], K[0], poses[i])
            for a, b in zip(batch, single, strict=True):
                assert torch.equal(a[i], b[0])


# -------------------------------------------------------------------------------------- visibility


def test_visible_in_source_equals_its_twin():
    depth_target = torch.rand(2, 1, 5, 7, dtype=F64) + 1
    depth_source = torch.rand(2, 1, 6, 8, dtype=F64) + 1
    depth_source[0, 0, 2, 3], depth_target[0, 0, 1, 1] = math.nan, 0.0
    depth_source[1, 0, 3, 3] = -1.0
    K_source, K_target = camera(6, 8), camera(5, 7)
    pose = rigid((0.03, 0.05, 0.1), (0.1, -0.1, 0.05))
    visible = visible_in_source(depth_target, depth_source, K_source, K_target, pose, 0.02, 0.1)
    expected = torch.zeros_like(visible)
    for b, row, column in np.ndindex(2, 5, 7):
        (x, y), z = twin_reproject(depth_target[b, 0], K_target, K_source, pose, row, column)
        if depth_target[b, 0, row, column] > 0 and 0 <= x <= 7 and 0 <= y <= 5:
            around = depth_source[b, 0, math.floor(y) : math.floor(y) + 2, math.floor(x) : math.floor(x) + 2]
            surface = 1 / twin_sample(1 / depth_source[b], x, y)
            expected[b, 0, row, column] = (around > 0).all() and z <= surface * 1.02 + 0.1
    assert 5 < expected.sum() < 60
    assert torch.equal(visible, expected)


def test_visibility_is_complete_for_the_same_view_and_for_the_sky():
    depth = torch.rand(1, 1, 33, 47) + 1
    depth[..., :9, :] = math.inf
    K = camera(33, 47, dtype=torch.float32)
    assert visible_in_source(depth, depth, K, K, IDENTITY).all()
    assert not visible_in_source(2 * depth, depth, K, K, IDENTITY)[..., 9:, :].any()
    assert visible_in_source(depth / 2, depth, K, K, IDENTITY).all()  # nothing stands before it


# --------------------------------------------------------------------------------------- bad input


def test_wrong_shapes_are_refused():
    image, depth, K = torch.rand(2, 3, 4, 5), torch.rand(2, 1, 4, 5), torch.eye(3)
    cases = {
        "image_source": lambda: backward_warp(image[0], depth, K, K, IDENTITY),
        "depth_target": lambda: backward_warp(image, depth[:1], K, K, IDENTITY),
        "intrinsics or pose": lambda: backward_warp(image, depth, K, K, torch.eye(3)),
        r"\[2, 3, 3\]": lambda: backward_warp(image, depth, K.repeat(3, 1, 1), K, IDENTITY),
        "one size": lambda: forward_warp(image, depth[..., 1:], K, K, IDENTITY),
        "footprint": lambda: forward_warp(image, depth, K, K, IDENTITY, footprint="round"),
        "view_offset": lambda: disparity_warp(image, depth, torch.zeros(3)),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
