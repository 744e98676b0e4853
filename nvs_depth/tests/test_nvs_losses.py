"""The objective: values by hand, masks, the true depth being cheapest, gradients where they belong."""

import pytest
import torch
import torch.nn.functional as F

from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import PairBatch
from nvs_depth.losses import (
    LossOptions,
    LossWeights,
    consistency,
    foreground,
    loss_terms,
    multi_scale_reconstruction,
    perceptual_network,
    photometric_reprojection,
    smoothness,
)
from nvs_depth.models.decoders import DepthMaps
from nvs_depth.models.options import ModelOptions
from nvs_depth.models.synthesis import RenderedView, SynthesisNetwork, TrainingOutputs, View
from nvs_depth.train import step_terms
from shared.errors import DataError
from shared.geometry.camera import intrinsics_matrix, invert_pose, resize_intrinsics
from shared.geometry.trajectories import so3_exp
from shared.geometry.warp import backward_warp
from shared.quality.losses import VggFeatures, perceptual_loss

SIDE = 64
K = intrinsics_matrix(70, 70, 31.5, 31.5)[None]


def smooth_image(seed, batch=1):
    noise = torch.rand(batch, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return 0.05 + 0.9 * F.interpolate(noise, (SIDE, SIDE), mode="bicubic", align_corners=False).clamp(0, 1)


def small_motion():
    pose = torch.eye(4)
    pose[:3, :3] = so3_exp(torch.tensor([0.02, 0.05, 0.01]))
    pose[:3, 3] = torch.tensor([0.25, 0.05, 0.02])
    return pose[None]


def sloped_depth():
    return 2 + 0.4 * torch.linspace(-1, 1, SIDE)[None, None, None] * torch.ones(1, 1, SIDE, 1)


def target_of(source, depth, pose):
    """The target view that a source shows under a target depth, made without the loss's own code."""
    return backward_warp(source, depth, K, K, pose)[0]


def photometric(depths, source, target, pose, **options):
    return photometric_reprojection(depths, View(source, K), View(target, K), pose, **options)


def test_reconstruction_weights_and_units():
    target = torch.zeros(2, 3, 16, 16)
    images = [torch.full((2, 3, 16 >> i, 16 >> i), value) for i, value in enumerate((0.1, 0.2, 0.3, 0.4))]
    # on [-1, 1] every difference is twice as large
    expected = 2 * (0.1 + 0.5 * 0.2 + 0.2 * 0.3 + 0.1 * 0.4)
    assert multi_scale_reconstruction(images, target).item() == pytest.approx(expected, rel=1e-5)


def test_reconstruction_enlarges_predictions_bilinearly():
    target, coarse = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 8, 8)
    zeros = [target, coarse, F.interpolate(target, (4, 4)), F.interpolate(target, (2, 2))]
    up = [F.interpolate(z, (16, 16), mode="bilinear", align_corners=False) for z in zeros[1:]]
    expected = sum(w * 2 * (u - target).abs().mean() for w, u in zip((0.5, 0.2, 0.1), up, strict=True))
    torch.testing.assert_close(multi_scale_reconstruction(zeros, target), expected)


@pytest.mark.parametrize("mask", ["black_channels", "foreground", "all"])
@pytest.mark.parametrize("mean", ["released", "valid"])
def test_photometric_is_lowest_at_the_true_depth(mask, mean):
    source, depth, pose = smooth_image(0), sloped_depth(), small_motion()
    target = target_of(source, depth, pose)
    at_truth = photometric([depth], source, target, pose, mask=mask, mean=mean)
    assert at_truth < 1e-5
    for factor in (0.9, 0.97, 1.03, 1.1):
        assert photometric([factor * depth], source, target, pose, mask=mask, mean=mean) > at_truth + 1e-3


def test_photometric_adds_scales_with_their_own_intrinsics():
    source, depth, pose = smooth_image(1), sloped_depth(), small_motion()
    target = smooth_image(2)
    half = F.interpolate(depth, scale_factor=0.5, mode="area")
    both = photometric([depth, half], source, target, pose, mask="all")
    K_half = resize_intrinsics(K, (SIDE, SIDE), (SIDE // 2, SIDE // 2))
    small_source, small_target = (F.avg_pool2d(i, 2) for i in (source, target))
    warped, valid = backward_warp(small_source, half, K_half, K_half, pose)
    second = 2 * ((warped - small_target).abs() * valid).mean()
    torch.testing.assert_close(both - photometric([depth], source, target, pose, mask="all"), second)


def test_photometric_masks_differ_as_documented():
    source, target = torch.full((1, 3, SIDE, SIDE), 0.5), torch.zeros(1, 3, SIDE, SIDE)
    target[:, 0, :, :32] = 1.0  # pure red on the left, black on the right
    identity, depth = torch.eye(4)[None], torch.full((1, 1, SIDE, SIDE), 2.0)
    source[:, 1:] = 0.25
    masks = ("black_channels", "foreground", "all")
    values = [photometric([depth], source, target, identity, mask=mask).item() for mask in masks]
    # released: the red channel alone (|1 - 0.5|); foreground: green and blue of red pixels too, 0.25 each
    assert values == pytest.approx([1.0, 2 / 3, (2 / 3 + 2 / 3) / 2])


def test_throwing_pixels_out_of_view_pays_only_in_the_released_mean():
    source, target, pose = smooth_image(3), smooth_image(4), small_motion()
    near = torch.full((1, 1, SIDE, SIDE), 2.0)
    near[..., 8:] = 0.05  # reprojects far outside the source
    honest = torch.full((1, 1, SIDE, SIDE), 2.0)
    released = [photometric([d], source, target, pose, mean="released") for d in (near, honest)]
    valid = [photometric([d], source, target, pose, mean="valid") for d in (near, honest)]
    assert released[0] < 0.5 * released[1]
    assert valid[0] > 0.7 * valid[1]


def test_nothing_to_compare_gives_zero_and_finite_gradients():
    black = torch.zeros(1, 3, SIDE, SIDE)
    depth = torch.full((1, 1, SIDE, SIDE), 2.0, requires_grad=True)
    behind = torch.eye(4)[None].clone()
    behind[0, 2, 3] = -5.0
    for image, pose in ((black, torch.eye(4)[None]), (smooth_image(0), behind)):
        for mean in ("released", "valid"):
            loss = photometric([depth], image, image, pose, mean=mean)
            (gradient,) = torch.autograd.grad(loss, depth)
            assert loss == 0
            assert gradient.abs().max() == 0
    empty = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    loss = consistency(depth, depth.detach() + 1, mask=empty)
    assert loss == 0
    assert torch.autograd.grad(loss, depth)[0].abs().max() == 0


def test_zero_motion_pair_has_no_gradient_but_is_finite():
    image = smooth_image(5)
    depth = sloped_depth().requires_grad_()
    loss = photometric([depth], image, image, torch.eye(4)[None])
    (gradient,) = torch.autograd.grad(loss, depth)
    assert loss < 1e-5
    assert torch.isfinite(gradient).all()


def test_smoothness_on_signed_images():
    depth, image = torch.rand(1, 1, 5, 7, dtype=torch.float64), torch.rand(1, 3, 5, 7, dtype=torch.float64)
    signed = 2 * image - 1
    expected = 0.0
    for dim in (2, 3):
        slope = depth.diff(dim=dim).abs()
        edge = signed.diff(dim=dim).abs().mean(1, keepdim=True)
        expected = expected + (slope * torch.exp(-10 * edge)).mean()
    torch.testing.assert_close(smoothness(depth, image), expected)


def test_consistency_mask_and_stop_gradient():
    a = torch.full((1, 1, 4, 4), 2.0, requires_grad=True)
    b = torch.full((1, 1, 4, 4), 3.0, requires_grad=True)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 0, 0] = True
    assert consistency(a, b, mask) == 1
    consistency(a, b).backward()
    assert b.grad.abs().max() > 0
    b.grad = None
    consistency(a, b, stop_gradient=True).backward()
    assert b.grad is None


def test_foreground_is_what_is_not_black():
    image = torch.zeros(1, 3, 2, 2)
    image[0, 2, 0, 1] = 0.01
    assert foreground(image).tolist() == [[[[False, True], [False, False]]]]


def network_terms(weights, options=None, vgg=None, **model):
    torch.manual_seed(0)
    network = SynthesisNetwork(ModelOptions(image_side=SIDE, width=0.125, encoder_init="default", **model))
    Ks, pose = K.expand(2, 3, 3), small_motion().expand(2, 4, 4)
    source, target = View(smooth_image(6, 2), Ks), View(smooth_image(7, 2), Ks)
    outputs = network(source, target, pose)
    terms = loss_terms(outputs, source, target, invert_pose(pose), weights, options or LossOptions(), vgg)
    return network, outputs, terms


def test_terms_follow_their_weights():
    vgg = VggFeatures(weights="random", normalisation="imagenet_on_signed", taps=("relu1_2",))
    _, outputs, terms = network_terms(LossWeights(), vgg=vgg)
    assert set(terms) == {"reconstruction", "perceptual", "photometric", "consistency", "smoothness"}
    assert all(torch.isfinite(t) and t > 0 for t in terms.values())
    expected = perceptual_loss(vgg, outputs.rendered.images[0], smooth_image(7, 2), size=224)
    torch.testing.assert_close(terms["perceptual"], expected)
    _, _, terms = network_terms(LossWeights(0, 0, 100, 0, 0))
    assert set(terms) == {"photometric"}


def test_what_each_term_supervises():
    weights = LossWeights(perceptual=0)
    _, outputs, terms = network_terms(weights)
    new, read, own = outputs.rendered.depth.full, outputs.depth_target_image.full, outputs.depth_source.full

    def reaches(term, depth):
        gradient = torch.autograd.grad(terms[term], depth, retain_graph=True, allow_unused=True)[0]
        return gradient is not None and gradient.abs().max() > 0

    assert [reaches("photometric", d) for d in (new, read, own)] == [False, True, False]
    assert [reaches("consistency", d) for d in (new, read, own)] == [True, True, False]
    assert [reaches("smoothness", d) for d in (new, read, own)] == [False, True, True]
    assert [reaches("reconstruction", d) for d in outputs.rendered.depth.pyramid] == [True] * 5
    expected = smoothness(read, smooth_image(7, 2)) + smoothness(own, smooth_image(6, 2))
    torch.testing.assert_close(terms["smoothness"], expected)
    _, outputs, terms = network_terms(weights, LossOptions(consistency_stop_gradient=True))
    depths = outputs.rendered.depth.full, outputs.depth_target_image.full
    assert [reaches("consistency", d) for d in depths] == [True, False]


def test_a_step_looks_from_the_target_into_the_source_by_the_cameras_of_each():
    depth, from_target = sloped_depth(), small_motion()
    source, K_target = smooth_image(0), intrinsics_matrix(60, 64, 30.0, 33.0)[None]
    target = backward_warp(source, depth, K, K_target, from_target)[0]
    known = torch.ones_like(depth, dtype=torch.bool)
    pair = (source, target, depth, depth, known, known, K, K_target, invert_pose(from_target))
    maps = DepthMaps(depth, [])
    outputs = TrainingOutputs(RenderedView([target], maps), maps, maps)
    options = LossOptions(photometric_scales="full")
    config = TrainConfig(weights=LossWeights(0, 0, 1, 0, 0), losses=options)
    terms = step_terms(lambda *_: outputs, PairBatch(*pair, torch.zeros(1, 2)), config, None)
    assert terms["photometric"] < 1e-4


def test_beyond_80_units_depth_makes_no_difference():
    source, target, pose = smooth_image(3), smooth_image(4), small_motion()
    depths = [torch.full((1, 1, SIDE, SIDE), value) for value in (40.0, 80.0, 100.0)]
    nearer, limit, beyond = (photometric([depth], source, target, pose) for depth in depths)
    assert nearer != limit == beyond


def test_the_predecessors_terms_supervise_the_new_views_depth():
    options = LossOptions(photometric_on="new_view", photometric_scales="full", smoothness_on="new_view")
    _, outputs, terms = network_terms(LossWeights(10, 0, 10, 10, 10), options, depth_from="latent")
    for term in ("photometric", "smoothness"):
        gradient = torch.autograd.grad(terms[term], outputs.rendered.depth.full, retain_graph=True)[0]
        assert gradient.abs().max() > 0


def test_both_images_are_supervised_on_the_maps_asked_for():
    options = LossOptions(photometric_on="both_images", photometric_scales="from_8px")
    _, outputs, terms = network_terms(LossWeights(0, 0, 100, 0, 0), options)
    depths = outputs.depth_source, outputs.depth_target_image
    maps = [m for depth in depths for m in (depth.full, *depth.pyramid)]
    gradients = torch.autograd.grad(terms["photometric"], maps, allow_unused=True)
    sides = [m.shape[-1] for m, g in zip(maps, gradients, strict=True) if g is not None and g.any()]
    assert sides == [64, 32, 16, 8] * 2
    images, pose = (smooth_image(6, 2), smooth_image(7, 2)), small_motion().expand(2, 4, 4)
    of_source = photometric(maps[:4], *images[::-1], pose)
    of_target = photometric(maps[6:10], *images, invert_pose(pose))
    torch.testing.assert_close(terms["photometric"], (of_source + of_target) / 2)


@pytest.mark.parametrize(("kind", "rule"), [("released", "imagenet_on_signed"), ("imagenet", "imagenet")])
def test_what_the_perceptual_network_is_given(monkeypatch, kind, rule):
    monkeypatch.setattr(
        "nvs_depth.losses.VggFeatures", lambda weights, normalisation: (weights, normalisation)
    )
    assert perceptual_network(LossOptions(perceptual_input=kind)) == (None, rule)


def test_missing_vgg_weights_say_what_to_fetch(tmp_path):
    with pytest.raises(DataError, match="vgg16.*Fetch https"):
        perceptual_network(LossOptions(vgg_weights=str(tmp_path / "none.pth")))
