"""Losses on scenes with known depth: true maps cost less, hidden pixels are found, every sign is right."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from diffdiffdepth import losses
from diffdiffdepth.filters import gaussian_blur
from diffdiffdepth.losses import LossWeights, ReprojectionLoss, warp_to_centre
from diffdiffdepth.scene import LightField
from diffdiffdepth.tests.toy import HEIGHT, WIDTH, light_field, multi_view, pixels
from shared.quality.losses import VggFeatures
from shared.quality.ssim import ssim

DATA_ONLY = LossWeights(edge=0, smoothness=0, ssim=0)


@pytest.mark.parametrize("make", [light_field, multi_view])
def test_true_map_warps_the_views_onto_the_centre(make):
    scene = make()
    warped, visible = warp_to_centre(scene, scene.truth)
    error = torch.where(visible, (warped - scene.centre).abs(), torch.zeros(())).mean(1)
    # bilinear interpolation of the pattern, and mixed colours along the outline of the square
    assert error[visible[:, 0]].median() < 0.01
    assert (error > 0.1).float().mean() < 0.03
    assert 0.7 < visible.float().mean() < 0.99


@pytest.mark.parametrize("make", [light_field, multi_view])
def test_true_map_costs_less_than_others(make):
    scene = make()
    loss = ReprojectionLoss(scene, DATA_ONLY)
    best = loss(scene.truth)["total"]
    noise = torch.randn(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    for other in (scene.truth + 0.4, scene.truth - 0.4, scene.truth + 0.3 * noise, scene.truth.flip(1)):
        assert loss(other)["total"] > 1.3 * best
    few = torch.tensor([0, 2])
    assert loss(scene.truth, few)["total"] < loss(scene.truth + 0.2, few)["total"]


def test_offsets_are_centre_minus_view():
    scene = light_field()
    turned = LightField(scene.centre, scene.views, -scene.offsets)
    right, wrong = (ReprojectionLoss(s, DATA_ONLY)(scene.truth)["data"] for s in (scene, turned))
    assert right < 0.1 * wrong


@pytest.mark.parametrize("rule", ["pixel", "footprint"])
@pytest.mark.parametrize("make", [light_field, multi_view])
def test_visibility_agrees_with_a_loop(make, rule):
    scene = make()
    dense = scene.truth + 0.3 * torch.sin(pixels()[0] / 7)  # slanted parts, several bins
    _, visible = warp_to_centre(scene, dense, visibility=rule)
    near = dense if isinstance(scene, LightField) else -dense
    sample = near.flatten()[:: max(1, near.numel() // 20_000)]
    low, high = np.quantile(sample.numpy(), [0.002, 0.998])
    for view in range(len(scene.views)):
        first = {}
        places = {}
        for y in range(HEIGHT):
            for x in range(WIDTH):
                d = dense[y, x].item()
                if isinstance(scene, LightField):
                    px = x + d * scene.offsets[view, 0].item()
                    py = y + d * scene.offsets[view, 1].item()
                else:
                    K = scene.centre_K
                    ray = torch.tensor([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], 1.0])
                    point = ray * d + scene.view_from_centre[view, :3, 3]
                    px, py, pz = (scene.view_K[view] @ point).tolist()
                    px, py = px / pz, py / pz
                if not (-1e-3 <= px <= WIDTH - 1 + 1e-3 and -1e-3 <= py <= HEIGHT - 1 + 1e-3):
                    continue
                step = min(max(int((near[y, x].item() - low) / (high - low) * 32), 0), 31)
                places[y, x] = (px, py, step)
                key = (round(px), round(py))
                first[key] = max(first.get(key, -1), step)
        expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        for (y, x), (px, py, step) in places.items():
            if rule == "pixel":
                expected[y, x] = first[round(px), round(py)] == step
            else:
                ends = [[math.floor(p + 0.05), math.ceil(p - 0.05)] for p in (px, py)]
                around = [(i, j) for i in ends[0] for j in ends[1]]
                expected[y, x] = max(first.get(place, -1) for place in around) <= step + 1
        # a position half-way between two pixels, or a value on the edge of a bin, may fall either way
        assert (expected != visible[view, 0]).float().mean() < 0.01
        assert 20 < (~expected).sum() < 0.5 * expected.numel()


@pytest.mark.parametrize(("rule", "bins"), [("pixel", 1), ("footprint", 2)])
def test_a_surface_hides_what_is_behind_it_by_a_bin_or_two(rule, bins):
    """The range is cut into 32 bins: a wall in the middle of one, a strip in front of it by some of them."""
    for step in (1, 2, 3):
        dense = torch.full((41, 100), 16.5)
        dense[0], dense[1], dense[2:, 20:25] = 0.0, 32.0, 16.5 + step
        field = LightField(torch.zeros(3, 41, 100), torch.zeros(1, 3, 41, 100), torch.tensor([[2.0, 0]]))
        visible = warp_to_centre(field, dense, visibility=rule)[1][0, 0, 20, :67]
        hidden = list(range(max(25, 20 + 2 * step), 25 + 2 * step)) if step >= bins else []
        assert (~visible).nonzero().flatten().tolist() == hidden


@pytest.mark.parametrize(("short_px", "last"), [(0.03, 28), (0.1, 29)])
def test_what_lands_between_pixels_needs_both(short_px, last):
    """The wall lands 33 px to the right, or a little less: then its colours come from two pixels."""
    dense = torch.full((41, 100), 16.5)
    dense[0], dense[1], dense[2:, 20:25] = 0.0, 32.0, 18.5
    images, offsets = torch.zeros(1, 3, 41, 100), torch.tensor([[2 - short_px / 16.5, 0]])
    _, visible = warp_to_centre(LightField(images[0], images, offsets), dense)
    assert (~visible[0, 0, 20, :67]).nonzero().flatten().tolist() == list(range(25, last + 1))


def test_hidden_pixels_are_found_and_a_map_nobody_sees_costs_nothing():
    scene = light_field(((2, 0),))
    warped, visible = warp_to_centre(scene, scene.truth)
    # the square moves left by 4 px while the wall moves right by 2: the 6 px left of the square are hidden
    hidden = ~visible[0, 0, 13:28, 15:20]
    assert hidden.all()
    far_off = torch.full((HEIGHT, WIDTH), 1e4, requires_grad=True)  # no view sees anything
    terms = ReprojectionLoss(scene, DATA_ONLY)(far_off)
    terms["total"].backward()
    assert terms["data"] == 0
    assert (far_off.grad == 0).all()


def test_colours_of_something_nearer_do_not_pass_for_seen():
    """In the view, a wall pixel half a pixel outside the square is interpolated from its colours too."""
    scene = light_field(((0.5, 0),))  # the square moves left by 1 px, the wall right by half a pixel
    mixed = {}
    for rule in ("pixel", "footprint"):
        warped, visible = warp_to_centre(scene, scene.truth, visibility=rule)
        wrong = (warped - scene.centre).abs().mean(1, keepdim=True) > 0.05
        mixed[rule] = (wrong & visible)[0, 0, 14:27, 15:20].sum()
    assert mixed["footprint"] == 0 < mixed["pixel"]


def test_blur_takes_away_the_bias_towards_whole_pixels():
    generator = torch.Generator().manual_seed(0)
    fine = F.interpolate(torch.rand(1, 3, 60, 300, generator=generator), scale_factor=1)
    sharp = F.avg_pool2d(fine, (1, 4), stride=1)  # a texture sampled four times per pixel along x
    centre, view = sharp[0, :, :, 0:280:4], sharp[0, :, :, 2:282:4]  # half a pixel apart
    scene = LightField(centre, view[None], torch.tensor([[-1.0, 0.0]]))
    errors = {}
    for blur in (0.0, 0.8):
        loss = ReprojectionLoss(scene, replace(DATA_ONLY, blur_px=blur))
        steps = torch.arange(0.2, 0.81, 0.05)
        values = [loss(torch.full(centre.shape[1:], step.item()))["data"].item() for step in steps]
        errors[blur] = min(values)
    assert errors[0.8] < 0.5 * errors[0.0]


@pytest.mark.parametrize(("sigma_px", "radius"), [(0.7, 2), (0.85, 2), (2.0, 5)])
def test_blur_is_a_gaussian_with_repeated_borders(sigma_px, radius):
    images = torch.rand(2, 3, 13, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [
        [ndimage.gaussian_filter(plane, sigma_px, mode="nearest", radius=radius) for plane in image]
        for image in images.numpy()
    ]
    np.testing.assert_allclose(gaussian_blur(images, sigma_px, radius).numpy(), expected, atol=1e-12)
    assert gaussian_blur(images, 0.0, radius) is images
    small = images[:1, :2, :4, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gaussian_blur(x, sigma_px, radius), small)


def test_views_may_be_brighter_here_and_darker_there():
    """A highlight that moves with the view outweighs faint texture, unless brightness is free."""
    scene = light_field()
    x, y = pixels()
    shine = torch.stack([0.06 * torch.sin(x / 15 + 2 * i) * torch.cos(y / 17) for i in range(5)])[:, None]
    scene = replace(scene, centre=0.5 + (scene.centre - 0.5) / 10, views=0.5 + (scene.views - 0.5) / 10)
    shiny = replace(scene, views=scene.views + shine)
    steps = torch.arange(-0.5, 0.51, 0.1)
    best = {}
    for name, case, brightness in (("matt", scene, 0), ("shiny", shiny, 0), ("free", shiny, 2.0)):
        loss = ReprojectionLoss(case, replace(DATA_ONLY, brightness_px=brightness))
        values = [loss(scene.truth + step)["data"].item() for step in steps]
        best[name] = (min(values), abs(steps[int(np.argmin(values))].item()))
    assert best["free"][0] < 0.2 * best["shiny"][0]
    assert best["free"][1] < 0.05
    with pytest.raises(ValueError, match="visibility"):
        LossWeights(visibility="all")


def test_error_is_averaged_over_the_views_that_see_a_pixel():
    scene = light_field(((1, 0), (-1, 0)))
    loss, flat = ReprojectionLoss(scene, DATA_ONLY), torch.zeros(HEIGHT, WIDTH)
    singles = [loss(flat, torch.tensor([i]))["data"] for i in (0, 1)]
    torch.testing.assert_close(loss(flat)["data"], sum(singles) / 2)
    away = LightField(scene.centre, scene.views, torch.tensor([[1.0, 0], [1e4, 0]]))
    loss, ones = ReprojectionLoss(away, DATA_ONLY), torch.ones(HEIGHT, WIDTH)
    torch.testing.assert_close(loss(ones)["data"], loss(ones, torch.tensor([0]))["data"])


@pytest.mark.parametrize("make", [light_field, multi_view])
def test_gradient_matches_finite_differences(make):
    dtype = torch.float64
    scene = make(dtype=dtype)
    loss = ReprojectionLoss(scene, LossWeights(edge=0.1, smoothness=0.1, ssim=0.1), unit=0.5)
    generator = torch.Generator().manual_seed(0)
    base = scene.truth + 0.1 * torch.rand(HEIGHT, WIDTH, generator=generator, dtype=dtype)
    dense = base.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(dense)["total"], dense)
    for _ in range(3):
        direction = torch.randn(HEIGHT, WIDTH, generator=generator, dtype=dtype)
        ends = [loss(base + step * direction)["total"] for step in (1e-7, -1e-7)]
        slope = (ends[0] - ends[1]) / 2e-7
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-3, atol=1e-7)


def test_edges_of_the_error_are_rewarded():
    # two maps with the same data term on average: the one whose error is concentrated has the lower edge term
    scene = light_field()
    loss = ReprojectionLoss(scene, LossWeights(edge=1, smoothness=0))
    evenly = loss(scene.truth + 0.02)
    lump = scene.truth.clone()
    lump[5:9, 5:9] += 4
    concentrated = loss(lump)
    assert concentrated["edge"] < evenly["edge"] < 0
    warped, visible = warp_to_centre(scene, lump)
    error = ((warped - scene.centre).abs().mean(1) * visible[:, 0]).sum(0) / visible.sum((0, 1)).clamp(min=1)
    magnitude = np.hypot(*(ndimage.sobel(error.numpy(), axis, mode="nearest") for axis in (0, 1)))
    assert concentrated["edge"].item() == pytest.approx(-magnitude.mean(), rel=0.01)
    torch.testing.assert_close(evenly["total"], evenly["data"] + evenly["edge"])


def test_smoothness_and_ssim_have_the_right_sign_and_scale():
    scene = light_field()
    x = pixels()[0]
    steep = ReprojectionLoss(scene, LossWeights(edge=0, smoothness=0.03))(x)
    slope = torch.full((WIDTH,), 8.0)  # of Sobel's filter, half of it at the border
    slope[[0, -1]] = 4.0
    edges = [np.abs(ndimage.sobel(channel, 1, mode="nearest")) for channel in scene.centre.numpy()]
    expected = (slope * torch.exp(-torch.from_numpy(np.mean(edges, 0)))).mean()
    torch.testing.assert_close(steep["smoothness"], expected)
    blurred = ReprojectionLoss(scene, LossWeights(edge=0, smoothness=0.03, blur_px=1.0))(x)
    torch.testing.assert_close(blurred["smoothness"], expected)  # by the edges of the sharp image
    torch.testing.assert_close(steep["total"], steep["data"] + 0.03 * expected)
    flat = ReprojectionLoss(scene, LossWeights(edge=0, smoothness=1))(torch.ones_like(x))
    assert flat["smoothness"] == 0  # also at the border
    halved = ReprojectionLoss(scene, LossWeights(edge=0, smoothness=1), unit=2.0)(x)
    torch.testing.assert_close(halved["smoothness"], steep["smoothness"] / 2)
    loss = ReprojectionLoss(scene, LossWeights(edge=0, smoothness=0, ssim=0.05))
    good, bad = loss(scene.truth), loss(scene.truth + 0.7)
    assert 0 <= good["ssim"] < bad["ssim"]
    torch.testing.assert_close(good["total"], good["data"] + 0.05 * good["ssim"])
    warped, visible = warp_to_centre(scene, scene.truth)
    filled = torch.where(visible, warped, scene.centre)
    expected = 1 - ssim(filled, scene.centre.expand_as(filled), "gaussian11_zero_pad")
    torch.testing.assert_close(good["ssim"], expected)


def test_feature_distance_keeps_the_centre():
    scene = light_field()
    network = VggFeatures(("relu1_2",), "vgg16", "random", normalisation="none")
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    loss = ReprojectionLoss(scene, DATA_ONLY, network)
    assert len(calls) == 1
    dense = (scene.truth + 0.3).requires_grad_()
    terms = loss(dense, torch.tensor([1, 3]))
    assert len(calls) == 3
    terms["total"].backward()
    assert dense.grad.abs().sum() > 0
    assert loss(scene.truth)["data"] < terms["data"]
    warped, visible = warp_to_centre(scene, dense.detach(), torch.tensor([1, 3]))
    filled = torch.where(visible, warped, scene.centre)
    distance = (network(filled)["relu1_2"] - network(scene.centre[None])["relu1_2"]).abs().mean(1)
    expected = ((distance * visible[:, 0]).sum(0) / visible.sum((0, 1)).clamp(min=1)).mean()
    torch.testing.assert_close(terms["data"], expected)


def test_where_a_view_sees_nothing_it_shows_the_centre_also_if_brightness_is_free(monkeypatch):
    scene = light_field()
    scene = replace(scene, views=0.8 * scene.views)
    shown = []
    real = losses.ssim_map
    monkeypatch.setattr(losses, "ssim_map", lambda a, b, *rest: shown.append(a) or real(a, b, *rest))
    ReprojectionLoss(scene, replace(DATA_ONLY, ssim=0.1, brightness_px=2.0))(scene.truth)
    hidden = ~warp_to_centre(scene, scene.truth)[1].expand_as(shown[0])
    assert hidden.sum() > 1000
    assert torch.equal(shown[0][hidden], scene.centre.expand_as(shown[0])[hidden])
