"""Warps of feature pyramids: identity, shifts, agreement of both directions, the released misalignment."""

import pytest
import torch
import torch.nn.functional as F

from nvs_depth.models.options import ModelOptions
from nvs_depth.models.warps import Cameras, direct_warp_pyramid, inverse_warp_pyramid, scaled_intrinsics
from shared.geometry.camera import intrinsics_matrix

SIDE = 64
SIDES = (32, 16, 8, 4, 2)
OPTIONS = ModelOptions(image_side=SIDE)
K = intrinsics_matrix(64.0, 64.0, 31.5, 31.5)[None]


def pyramid(depth=2.0):
    generator = torch.Generator().manual_seed(0)
    features = [torch.rand(1, 4, s, s, generator=generator) for s in SIDES]
    return features, [torch.full((1, 1, s, s), depth) for s in SIDES]


def sideways(x):
    pose = torch.eye(4)[None].clone()
    pose[0, 0, 3] = x
    return Cameras(K, K, pose)


@pytest.mark.parametrize("rule", ["half_pixel", "released"])
def test_identity_returns_the_input_at_every_scale(rule):
    features, depths = pyramid()
    options, still = ModelOptions(image_side=SIDE, intrinsics=rule), Cameras(K, K, torch.eye(4)[None])
    direct = direct_warp_pyramid(features, depths, still, options)
    inverse = inverse_warp_pyramid(features, depths, still, options)
    for feature, there, back in zip(features, direct, inverse, strict=True):
        assert torch.equal(there, feature)
        torch.testing.assert_close(back, feature, rtol=0, atol=1e-6)


def test_plane_moves_by_whole_pixels_and_back():
    features, depths = pyramid(depth=2.0)
    # 64 px focal length at depth 2: 0.5 units are 16 px of the image, 8, 4, 2, 1 and half a pixel of the maps
    there = direct_warp_pyramid(features[:4], depths[:4], sideways(0.5), OPTIONS)
    back = inverse_warp_pyramid(there, depths[:4], sideways(-0.5), OPTIONS)
    for feature, moved, again, shift in zip(features, there, back, (8, 4, 2, 1), strict=False):
        torch.testing.assert_close(moved[..., shift:], feature[..., :-shift])
        assert moved[..., :shift].abs().max() == 0  # nothing was seen there
        torch.testing.assert_close(again[..., :-shift], feature[..., :-shift], rtol=0, atol=1e-5)


def test_direct_warp_is_nearest_wins_and_deterministic():
    feature = torch.zeros(1, 1, 32, 32)
    depth = torch.full((1, 1, 32, 32), 3.0)
    feature[..., 10:20], depth[..., 10:20] = 1.0, 1.5  # a strip in front moves further than what is behind it
    runs = [direct_warp_pyramid([feature], [depth], sideways(0.3), OPTIONS)[0] for _ in range(3)]
    assert all(torch.equal(runs[0], run) for run in runs[1:])
    row = runs[0][0, 0, 16]
    # 32 px focal length on this map: the strip moves by 6.4 px, the background by 3.2
    assert row[18:25].min() == 1
    assert row[:15].max() == 0


def test_gradients_reach_features_only_in_the_direct_warp():
    features, depths = pyramid()
    features = [f.requires_grad_() for f in features]
    depths = [d.requires_grad_() for d in depths]
    sum(w.square().sum() for w in direct_warp_pyramid(features, depths, sideways(0.3), OPTIONS)).backward()
    assert all(f.grad.abs().max() > 0 for f in features[:4])
    assert all(d.grad is None for d in depths)
    sum(
        w.square().sum() for w in inverse_warp_pyramid(features, depths, sideways(0.3), OPTIONS)
    ).backward()
    assert all(d.grad.abs().max() > 0 for d in depths)


def test_released_sampling_is_the_mismatch_of_align_corners():
    features, depths = pyramid(depth=1.7)
    options = ModelOptions(image_side=SIDE, intrinsics="released", sampling="released")
    warped = inverse_warp_pyramid(features, depths, sideways(-0.23), options)
    for feature, got, side in zip(features, warped, SIDES, strict=True):
        x = torch.arange(side) + 64 * side / SIDE * 0.23 / 1.7
        grid = torch.stack(torch.meshgrid(2 * x / (side - 1) - 1, 2 * torch.arange(side) / (side - 1) - 1,
                                          indexing="xy"), -1)[None]  # fmt: skip
        expected = F.grid_sample(feature, grid, padding_mode="border", align_corners=False)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_intrinsics_of_a_map():
    half = scaled_intrinsics(K, SIDE, 32, "half_pixel")[0]
    assert half[0, 2] == pytest.approx(15.5)
    assert scaled_intrinsics(K, SIDE, 32, "released")[0, 0, 2] == pytest.approx(15.75)
    assert half[0, 0] == pytest.approx(32)
