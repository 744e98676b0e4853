"""The forward warp: against its twin, its footprint, ties, threads, and points that are hard to draw."""

import math

import pytest
import torch

from shared.geometry.camera import intrinsics_matrix
from shared.geometry.warp import forward_warp
from shared.tests.warp_twins import (
    BAD_DEPTHS,
    F64,
    IDENTITY,
    SIZES,
    assert_same_gradients,
    camera,
    rigid,
    twin_forward,
)

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("footprint", ["square", "pixel"])
@pytest.mark.parametrize("size", SIZES)
def test_forward_warp_identity_is_exact(size, footprint):
    features, depth = torch.rand(2, 5, *size), torch.rand(2, 1, *size) * 9 + 0.1
    K = camera(*size, dtype=torch.float32)
    warped, depth_target, valid = forward_warp(features, depth, K, K, IDENTITY, footprint)
    assert valid.all()
    assert torch.equal(warped, features)
    assert torch.equal(depth_target, depth)


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
        torch.set_num_threads(1)
        one = forward_warp(features, depth, K, K, pose)[0]
        torch.set_num_threads(2)
        assert torch.equal(forward_warp(features, depth, K, K, pose)[0], one)
    finally:
        torch.set_num_threads(threads)


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
