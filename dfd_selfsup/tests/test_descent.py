"""Descent of the losses pixel by pixel: better than what it starts from, and carried along as a guide."""

from dataclasses import replace

import torch

from dfd_selfsup.config import LossOptions, TrainConfig
from dfd_selfsup.datasets.splits import StackSet
from dfd_selfsup.datasets.stack import collate, crop_stack, resize_stack
from dfd_selfsup.descent import better_of, descend, with_guides
from dfd_selfsup.losses import DESCENT_GUIDE_WEIGHT, guide_losses
from dfd_selfsup.models.daif_net import DaifNet, keep_variance
from dfd_selfsup.models.focus_measure import (
    MEAN_POWER,
    depth_from_focus,
    focus_mean,
    focus_response,
    sharpest_slices,
)
from dfd_selfsup.models.heads import Prediction
from dfd_selfsup.models.options import HeadOptions
from dfd_selfsup.models.thin_lens import Defocus
from dfd_selfsup.tests.test_focus_and_sweep import PSF, two_planes

CONFIG = TrainConfig(psf=PSF, loss=LossOptions(smooth=40, smooth_on="inverse", border_fix=True))
Q_RANGE = (0.15, 1.1)


def test_descent_improves_depth_and_image_on_both_focus_measures():
    stack, q = two_planes()
    found = descend(stack, Q_RANGE, CONFIG)
    assert found.q.shape == (40, 56)
    assert Q_RANGE[0] < found.q.min() <= found.q.max() < Q_RANGE[1]
    for measure in ("ring", "sml"):
        focus_q, focus_aif, _ = depth_from_focus(stack.images, stack.defocus, measure)
        assert (found.q - q).abs().mean() < 0.7 * (focus_q - q).abs().mean()
        assert (found.aif - stack.aif).square().mean() < 0.8 * (focus_aif - stack.aif).square().mean()


def test_descent_starts_where_it_is_told():
    stack, q = two_planes()
    start = stack.estimate(q, stack.aif)
    found = descend(stack, Q_RANGE, CONFIG, start, depth_steps=0, image_steps=0)
    assert torch.allclose(found.q, q, atol=1e-5)
    assert torch.equal(found.aif, stack.aif)


def test_of_two_estimates_the_one_is_taken_that_explains_the_slices_where_it_does():
    stack, q = two_planes()
    truth = stack.estimate(q, stack.aif, torch.ones_like(q))
    wrong = q.clone()
    wrong[5:15, 5:15], wrong[25:35, 40:50] = 1.05, 0.6  # specks that are too near
    wide = q.clone()
    wide[:, 28:31] = 0.8  # the near half, three pixels too wide
    off, fat = (
        stack.estimate(each, torch.zeros_like(stack.aif), torch.ones_like(q)) for each in (wrong, wide)
    )
    kept = better_of(stack, truth, off, PSF)
    assert torch.equal(kept.q, q)
    mended = better_of(stack, off, truth, PSF)
    assert (mended.q - q).abs()[7:13, 7:13].max() == 0
    assert (mended.q - q).abs()[27:33, 42:48].max() == 0
    assert torch.equal(better_of(stack, truth, fat, PSF).q, q), "nothing near a jump comes nearer"
    assert (better_of(stack, fat, truth, PSF).q - q).abs().sum() < 0.5 * (wide - q).abs().sum()
    assert better_of(stack, truth, fat, PSF).confidence is truth.confidence


def test_without_steps_it_is_the_focus_measure():
    (stack, _), heads = two_planes(), HeadOptions(measure="sml")
    found = descend(stack, Q_RANGE, replace(CONFIG, heads=heads), depth_steps=0, image_steps=0)
    assert torch.allclose(found.q, focus_mean(stack.images[None], stack.defocus, "sml")[0, 0], atol=1e-5)
    assert torch.equal(found.aif, sharpest_slices(stack.images[None])[0])


def test_focus_mean_and_sharpest_slices_agree_with_plain_loops():
    stack, _ = two_planes(16, 20)
    response = focus_response(stack.images, "ring")
    mean = focus_mean(stack.images[None], stack.defocus)[0, 0]
    picture = sharpest_slices(stack.images[None])[0]
    for y, x in ((0, 0), (7, 9), (15, 19)):
        weights = response[:, y, x] ** MEAN_POWER
        assert torch.isclose(mean[y, x], (weights * stack.defocus.focus_q).sum() / weights.sum(), atol=1e-5)
        assert torch.equal(picture[:, y, x], stack.images[response[:, y, x].argmax(), :, y, x])


def test_guides_follow_crops_and_are_left_behind_by_resizing():
    stack, _ = two_planes()
    stacks = StackSet([lambda: stack, lambda: stack, lambda: stack])
    alone, guided = (with_guides(stacks, [0, 1], Q_RANGE, CONFIG, workers) for workers in (0, 2))
    assert guided[0].guide.shape == (4, 40, 56)
    assert guided[0] is guided[0], "read once"
    assert guided[2].guide is None
    assert all(torch.equal(alone[index].guide, guided[index].guide) for index in (0, 1))
    cut = crop_stack(guided[0], 3, 5, 16, flip=True)
    assert torch.equal(cut.guide, guided[0].guide[:, 3:19, 5:21].flip(-1))
    assert collate([cut, cut]).guide.shape == (2, 4, 16, 16)
    assert collate([stack]).guide is None
    assert resize_stack(guided[0], 20, 28).guide is None


def test_guided_losses_vanish_at_the_guide_and_know_stacks_without_metres():
    image, q = torch.rand(1, 3, 16, 16), torch.rand(1, 1, 16, 16)
    for kind, lift in (("metric", 1.2), ("order", 1.2)):
        defocus = Defocus(torch.tensor([[0.0, 2.0]]), torch.ones(1, 2), kind)
        guide = torch.cat([q + 0.5 if kind == "metric" else q - 0.5, image], 1)
        at = Prediction(guide[:, :1], image, None)
        assert all(abs(value) < 1e-3 for value in guide_losses(at, None, defocus, guide, 1.0).values())
        lifted = at._replace(q=lift * guide[:, :1])
        off = guide_losses(lifted, None, defocus, guide, 0.5)["guide_depth"]
        expected = torch.tensor(lift).log() if kind == "metric" else 0.2 * guide[:, :1].abs().mean() / 2
        assert torch.isclose(off, 0.5 * DESCENT_GUIDE_WEIGHT * 100 * expected, rtol=1e-4)


def test_he_start_keeps_the_size_of_features_through_the_network():
    torch.manual_seed(0)
    stack, networks, spread = torch.randn(1, 2, 4, 48, 48), [DaifNet(base_width=8) for _ in range(2)], []
    keep_variance(networks[1])
    for network in networks:
        features = torch.nn.Sequential(network.conv_out[0])
        network.conv_out = features  # what the last layer sees
        with torch.no_grad():
            spread.append(float(network(stack).std((2, 3)).mean()))
    assert spread[1] > 0.3
    assert spread[1] > 10 * spread[0]
