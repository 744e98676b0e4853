"""What all warps have in common: near plane, batches, cameras that are NaN, shapes that are refused."""

import math

import pytest
import torch

from shared.geometry.camera import intrinsics_matrix
from shared.geometry.warp import backward_warp, disparity_warp, forward_warp, sample_pixels
from shared.tests.warp_twins import IDENTITY

pytestmark = pytest.mark.usefixtures("seeded")


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


# NaN never reaches PyTorch's sampling on the CPU, whose backward pass would write out of bounds.


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_nan_coordinates_give_nan_there_and_nothing_else_changes(padding: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 33, 47, generator=generator).requires_grad_()
    pixels = torch.rand(2, 20, 31, 2, generator=generator) * 40
    clean = sample_pixels(image, pixels, padding)
    broken = pixels.clone()
    broken[0, 3, 5, 0] = broken[1, 19, 30, 1] = broken[0, 0, 0] = math.nan
    broken.requires_grad_()
    sampled = sample_pixels(image, broken, padding)
    unknown = broken.isnan().any(-1)[:, None].expand_as(sampled)
    assert sampled[unknown].isnan().all()
    assert torch.equal(sampled[~unknown], clean[~unknown])
    sampled.nansum().backward()
    assert image.grad.isfinite().all()
    assert broken.grad.isfinite().all()


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (2, 2)])
def test_warps_through_nan_cameras_are_invalid(place):
    features, depth = torch.rand(1, 2, 4, 5, requires_grad=True), torch.rand(1, 1, 4, 5) + 1
    K = intrinsics_matrix(5.0, 5.0, 2.0, 2.0)
    K_nan, pose_nan = K.clone(), torch.eye(4)
    K_nan[0, min(place[1], 2)] = math.nan
    pose_nan[place] = math.nan
    for K_other, pose in ((K_nan, IDENTITY), (K, pose_nan)):
        warped, valid = backward_warp(features, depth, K, K_other, pose)
        assert not valid.any()
        warped.nansum().backward()
        assert features.grad.isfinite().all()
        assert not forward_warp(features, depth, K, K_other, pose)[2].any()


def test_wrong_shapes_are_refused():
    image, depth, K = torch.rand(2, 3, 4, 5), torch.rand(2, 1, 4, 5), torch.eye(3)
    cases = {
        "image_source": lambda: backward_warp(image[0], depth, K, K, IDENTITY),
        "depth_target": lambda: backward_warp(image, depth[:1], K, K, IDENTITY),
        "intrinsics or pose": lambda: backward_warp(image, depth, K, K, torch.eye(3)),
        "footprint": lambda: forward_warp(image, depth, K, K, IDENTITY, footprint="round"),
        "view_offset": lambda: disparity_warp(image, depth, torch.zeros(3)),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
