"""Sampling and the warps that sample, by depth and by disparity: against SciPy, twins and exact shifts."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

import shared.geometry.warp
from shared.geometry.camera import intrinsics_matrix, pixel_grid
from shared.geometry.warp import backward_warp, disparity_warp, sample_pixels
from shared.tests.warp_twins import (
    BAD_DEPTHS,
    F64,
    IDENTITY,
    SIZES,
    assert_same_gradients,
    camera,
    rigid,
    twin_backward,
    twin_sample,
)

pytestmark = pytest.mark.usefixtures("seeded")


def picture(height: int, width: int) -> Tensor:
    """Smooth colours [1, 3, H, W] in [0, 1]."""
    x, y = pixel_grid(height, width).unbind(-1)
    return (torch.stack([(x / 7).sin(), (y / 5).cos(), ((x + y) / 9).sin()]) / 2 + 0.5)[None]


# ---- sampling ----------------------------------------------------------------------------------------------


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
    original = shared.geometry.warp.F.grid_sample
    assert (sample_pixels(ramp, pixel_grid(33, 33)[None]) - ramp).abs().max() < 1e-5

    def flipped(*args, align_corners, **kwargs):
        return original(*args, align_corners=not align_corners, **kwargs)

    monkeypatch.setattr(shared.geometry.warp.F, "grid_sample", flipped)
    error = sample_pixels(ramp, pixel_grid(33, 33)[None]) - ramp
    half = 0.5 - 0.5 / 33
    expected = torch.tensor([half, 0.0, -half])
    torch.testing.assert_close(error[0, 0, :, [0, 16, 32]], expected.expand(33, 3), atol=1e-5, rtol=0)


# ---- by depth ----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("translation_z", [0.0, -2.0, -2.0 + 1e-9, -5.0])
def test_backward_warp_has_finite_gradients_at_singular_points(translation_z):
    depth = torch.tensor([*BAD_DEPTHS, math.inf, 1e30, 2.0, 4.0]).reshape(1, 1, 2, 5).requires_grad_()
    image = torch.rand(1, 3, 6, 7, requires_grad=True)
    K = intrinsics_matrix(6.0, 6.0, 3.0, 2.5).requires_grad_()
    pose = torch.eye(4)
    pose[2, 3] = translation_z  # the source camera stands on, or in front of, what the target sees at depth 2
    warped, valid = backward_warp(image, depth, K, K, pose.requires_grad_())
    assert torch.isfinite(warped).all()
    assert not valid.flatten()[: len(BAD_DEPTHS)].any()
    assert translation_z > -5 or not valid.flatten()[8:].any()  # behind the source camera
    assert (warped[0, :, 0, :5] == 0).all()
    warped.square().sum().backward()
    for tensor in (depth, image, K, pose):
        assert torch.isfinite(tensor.grad).all()
    assert (depth.grad.flatten()[: len(BAD_DEPTHS)] == 0).all()


def test_backward_warp_at_infinity_only_rotates():
    image, K = picture(32, 64), camera(32, 64, dtype=torch.float32)
    infinite = torch.full((1, 1, 32, 64), math.inf)
    far = torch.full((1, 1, 32, 64), 1e9)
    pose = rigid((0.02, 0.1, 0), (5.0, 3.0, -2.0)).float()
    warped, valid = backward_warp(image, infinite, K, K, pose)
    expected, expected_valid = backward_warp(image, far, K, K, pose)
    assert torch.equal(valid, expected_valid)
    torch.testing.assert_close(warped, expected, atol=1e-6, rtol=0)


# ---- by disparity ------------------------------------------------------------------------------------------


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
    half = torch.zeros(1, 1, 2, 4096, dtype=torch.bfloat16)  # half precision moves nothing
    image = torch.rand(1, 1, 2, 4096)
    assert torch.equal(disparity_warp(image, half, torch.ones(2))[0], image)


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
