"""What a step of training draws and how far it moves: order, crops, shares, rates; no network."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dfd_selfsup import descent, train
from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.splits import StackSet
from dfd_selfsup.datasets.stack import FocalStack, focal_stack, random_crop, recoloured
from dfd_selfsup.models.heads import Prediction, StackModel
from dfd_selfsup.models.options import HeadOptions, NetworkOptions, PsfOptions
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.thin_lens import Defocus
from shared.errors import RunError
from shared.runs.seeds import step_generator

COUNT = 5


@pytest.fixture(scope="module")
def stacks() -> StackSet:
    """Stack k is k / 10 everywhere but for its own ramps along x and y."""
    x, y = torch.linspace(0, 0.05, 24), torch.linspace(0, 0.04, 20)[:, None]
    slices = [
        torch.stack([torch.full((20, 24), k / 10), k / 10 + x + 0 * y, k / 10 + y + 0 * x])
        for k in range(COUNT)
    ]
    return StackSet([lambda k=k: focal_stack([slices[k]] * 2, name=str(k)) for k in range(COUNT)])


def test_epochs_visit_every_stack_once_each_in_its_own_order(stacks: StackSet) -> None:
    config = TrainConfig(batch_size=2, seed=1)
    names = [name for step in range(1, 6) for name in train.draw_batch(step, config, stacks)[1]]
    assert sorted(names[:COUNT]) == sorted(names[COUNT:]) == sorted(map(str, range(COUNT)))
    assert names[:COUNT] != names[COUNT:]
    other = TrainConfig(batch_size=2, seed=2)
    assert names != [name for step in range(1, 6) for name in train.draw_batch(step, other, stacks)[1]]


def test_processes_share_a_batch_without_overlap(stacks: StackSet) -> None:
    config = TrainConfig(batch_size=4, crop=12, flip=True, noise_std=0.01)
    whole, names = train.draw_batch(5, config, stacks)
    parts = [train.draw_batch(5, config, stacks, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([part.images for part, _ in parts]), whole.images)
    assert parts[0][1] + parts[1][1] == names
    with pytest.raises(RunError, match="divided"):
        train.draw_batch(1, config, stacks, 0, 3)


def test_guides_are_found_before_the_first_step_and_by_each_process_its_own(stacks, monkeypatch) -> None:
    heads = HeadOptions(depth="inverse", aif="sharpest")
    config = TrainConfig(batch_size=4, steps=9, guide="descent", guide_steps=9, heads=heads)
    guide = torch.zeros(4, 20, 24)
    monkeypatch.setattr(descent, "with_guide", lambda stack, *settings: replace(stack, guide=guide))
    model = StackModel(NetworkOptions(base_width=8, levels=2), heads)
    for share, start in (((0, 1), 0), ((1, 2), 0), ((0, 1), 8), ((0, 1), 9)):
        run = SimpleNamespace(rank=share[0], world_size=share[1], say=str)
        ready = train.starting_point(run, config, model, stacks, start)
        steps = range(start + 1, config.steps + 1)
        names = {name for step in steps for name in train.draw_batch(step, config, ready, *share)[1]}
        assert {stack.name for stack in ready if stack.guide is not None} == names


def test_crops_are_spread_over_the_stack_and_mirrored_half_of_the_time(stacks: StackSet) -> None:
    corners, mirrored = set(), []
    config = TrainConfig(batch_size=COUNT, crop=12, flip=True)
    for step in range(1, 41):
        batch, names = train.draw_batch(step, config, stacks)
        for images, name in zip(batch.images, names, strict=True):
            along_x, along_y = images[0, 1, 0] - int(name) / 10, images[0, 2, :, 0] - int(name) / 10
            mirrored.append(bool(along_x[0] > along_x[-1]))
            corners.add((round(along_y[0].item() / 0.04 * 19), round(along_x.min().item() / 0.05 * 23)))
    tops, lefts = zip(*corners, strict=True)
    assert (set(tops), set(lefts)) == (set(range(9)), set(range(13)))
    assert 0.4 < sum(mirrored) / len(mirrored) < 0.6
    plain = train.draw_batch(3, TrainConfig(batch_size=COUNT, crop=12), stacks)[0].images
    assert (plain[:, :, 1, :, 0] < plain[:, :, 1, :, -1]).all()


def test_enlarged_and_recoloured_crops_are_still_stacks_of_their_lens() -> None:
    """What `descend` may assume stays true: an image blurred by the depth through the lens is the slice."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 14, generator=generator)
    coarse = F.interpolate(coarse, (48, 56), mode="bicubic", align_corners=False).clamp(0, 1)
    q, psf = torch.full((1, 1, 48, 56), 0.6), PsfOptions(window=15, threshold_px=0.2)
    defocus = Defocus(torch.tensor([1.0, 0.7, 0.2]), torch.full((3,), 5.0))
    images = render_stack(coarse, defocus.sigma_px(q), psf)[0]
    stack = FocalStack("s", images, defocus, aif=coarse[0], guide=torch.cat([q[0], coarse[0]]))
    sizes, orders = set(), set()
    for step in range(12):
        draw = step_generator(0, step)
        crop = random_crop(stack, 40, draw, zoom=1.6)
        sizes.add(round(float(crop.defocus.gain_px[0]), 3))
        changed = recoloured(crop, draw)
        orders.add(tuple(changed.aif.mean((1, 2)).argsort().tolist()))
        assert changed.images.shape == (3, 3, 40, 40)
        torch.testing.assert_close(changed.guide[1:], changed.aif, atol=0.02, rtol=0)
        errors = []
        for lens in (changed.defocus, stack.defocus):
            rendered = render_stack(changed.aif[None], lens.sigma_px(changed.guide[None, :1]), psf)[0]
            errors.append((rendered - changed.images)[..., 8:-8, 8:-8].abs().mean())
        assert errors[0] < 0.006
        assert sizes == {5.0} or errors[0] < errors[1], "the lens is enlarged with the picture"
    assert len(sizes) > 6
    assert 5 <= min(sizes) < max(sizes) < 8.1
    assert len(orders) > 2


def test_noise_has_the_strength_that_was_asked_for(stacks: StackSet) -> None:
    clean, noisy = (
        train.draw_batch(2, TrainConfig(batch_size=COUNT, noise_std=std), stacks)[0].images
        for std in (0, 0.02)
    )
    inside = (clean > 0.1) & (clean < 0.9)
    assert (noisy - clean)[inside].std().item() == pytest.approx(0.02, rel=0.05)
    assert noisy.min() >= 0


def test_a_guide_leads_ever_less_and_then_no_more(stacks: StackSet) -> None:
    config = TrainConfig(batch_size=2, guide_steps=3)
    batch = train.draw_batch(1, config, stacks)[0]
    batch = replace(batch, images=torch.rand(batch.images.shape, generator=torch.Generator().manual_seed(0)))
    q = torch.full((2, 1, 20, 24), 0.3)
    prediction = Prediction(q, batch.images[:, 0], batch.defocus.sigma_px(q))
    terms = [train.loss_terms(step, config, prediction, batch) for step in range(1, 5)]
    guides = [term["guide"].item() for term in terms[:3]]
    assert [guide / guides[0] for guide in guides] == pytest.approx([1, 2 / 3, 1 / 3])
    assert guides[0] > 0
    assert "guide" not in terms[3]


def test_half_precision_is_of_the_networks_convolutions_in_training_alone(stacks: StackSet) -> None:
    torch.manual_seed(0)
    batch, _ = train.draw_batch(1, TrainConfig(batch_size=2), stacks)
    model = StackModel(
        NetworkOptions(base_width=8, levels=2, init="he"),
        HeadOptions(depth="inverse", focus_input="inverse"),
        (0.1, 2.0),
    )
    torch.nn.init.normal_(model.network.conv_out[-1].weight, std=0.1)
    full = model(batch.images, batch.defocus)
    model.half = True
    half = model(batch.images, batch.defocus)
    assert all(part.dtype == torch.float32 for part in half)
    for one, other in zip(half, full, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)
    assert not torch.equal(half.aif, full.aif)
    assert torch.equal(model.eval()(batch.images, batch.defocus).aif, full.aif)


def test_rates_rise_and_fall_by_half_a_cosine() -> None:
    """Step 1 has the first share of the warm-up, the first step after it the whole; the last is not yet 0."""
    config = TrainConfig(steps=14, warmup_steps=4, learning_rate=2.0)
    cosine = [1 + math.cos(math.pi * n / 10) for n in range(10)]
    assert [train.learning_rate(step, config) for step in range(1, 15)] == pytest.approx(
        [0.5, 1, 1.5, 2, *cosine]
    )
    assert train.learning_rate(1, TrainConfig(learning_rate=2.0)) == 2.0


def test_a_step_shows_as_many_slices_of_every_stack_spread_over_its_range() -> None:
    """Eight slices that know their place, in steps of three to eight; each stack draws its own."""
    images = torch.arange(8.0)[:, None, None, None].expand(8, 3, 16, 16) / 10
    stacks = StackSet([lambda k=k: focal_stack(images, name=str(k)) for k in range(2)])
    config, counts, unlike = TrainConfig(batch_size=2, slices=(3, 9)), set(), 0
    for step in range(1, 41):
        batch = train.draw_batch(step, config, stacks)[0]
        shown = (batch.images[:, :, 0, 0, 0] * 10).round().int()
        counts.add(shown.shape[1])
        assert (shown.diff(dim=1) > 0).all()
        assert (shown[:, 0] <= 2).all()
        assert (shown[:, -1] >= 5).all()
        assert torch.equal(batch.defocus.focus_q, 7.0 - shown), "focus goes with its slice"
        unlike += not torch.equal(shown[0], shown[1])
        if step == 7:
            assert torch.equal(batch.images, train.draw_batch(step, config, stacks)[0].images)
    assert counts == {3, 4, 5, 6, 7, 8}
    assert unlike > 10
    assert train.draw_batch(1, TrainConfig(batch_size=2), stacks)[0].images.shape[1] == 8
    with pytest.raises(ValueError, match="smaller first"):
        TrainConfig(slices=(5, 3))
