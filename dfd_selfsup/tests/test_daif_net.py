"""DAIF-Net: size, invariances, heads, dead outputs, and the released checkpoints."""

import math

import pytest
import torch

from dfd_selfsup.models.daif_net import DaifNet, pad_to_multiple
from dfd_selfsup.models.focus_measure import focus_response, sharpest_slices
from dfd_selfsup.models.heads import StackModel, coarse_aif, raw_depth_to_metres
from dfd_selfsup.models.options import HeadOptions, NetworkOptions
from dfd_selfsup.models.released import ALIVE, alive_shares, load_released, revive, swap_red_and_blue
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.errors import DataError, RunError

GROUPS = {
    "conv_down": 390_432,
    "bottleneck": 590_080,
    "conv_up": 391_920,
    "conv_joint": 588_000,
    "conv_out": 2_900,
}


@pytest.fixture(scope="module")
def network() -> DaifNet:
    torch.manual_seed(3)
    return DaifNet()


@pytest.fixture
def stack() -> torch.Tensor:
    return torch.rand(1, 4, 4, 32, 48, generator=torch.Generator().manual_seed(1))


def test_parameters_are_the_paper_s(network):
    counts = dict.fromkeys(GROUPS, 0)
    for name, parameter in network.named_parameters():
        counts[name.split(".")[0]] += parameter.numel()
    assert counts == GROUPS
    assert sum(counts.values()) == 1_963_332
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["conv_down.3.2.weight"] == (128, 128, 3, 3)
    assert shapes["conv_up.0.1.weight"] == (128, 256, 3, 3)
    assert shapes["conv_joint.3.0.weight"] == (16, 32, 3, 3)


def test_order_and_duplicates_of_slices_change_nothing(network, stack):
    with torch.no_grad():
        out = network(stack)
        assert torch.equal(network(stack[:, [2, 0, 3, 1]]), out)
        assert torch.allclose(network(stack[:, [0, 1, 2, 3, 3, 0]]), out, atol=1e-6)
        assert not torch.allclose(network(stack[:, :3]), out, atol=1e-4)
        assert torch.allclose(network(stack[:, :1]), network(stack[:, [0, 0, 0]]), atol=1e-6)


def test_sides_and_channels_that_do_not_fit_are_refused(network):
    with pytest.raises(ValueError, match="multiples of 16"):
        network(torch.zeros(1, 2, 4, 32, 40))
    with pytest.raises(ValueError, match="stack must be"):
        network(torch.zeros(1, 2, 3, 32, 32))


def test_padding_repeats_the_border_and_crops_back_exactly():
    image = torch.rand(2, 3, 17, 31)
    padded, original = pad_to_multiple(image)
    assert padded.shape == (2, 3, 32, 32)
    assert torch.equal(padded[(..., *original)], image)
    assert torch.equal(padded[..., 20, :31], image[..., 16, :])
    assert pad_to_multiple(image[..., :16, :16])[0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize("depth", ["norm", "clip", "raw", "inverse", "refine"])
@pytest.mark.parametrize("aif", ["clip", "composite", "sharpest"])
def test_model_takes_any_size_and_stays_in_range(depth, aif):
    heads = HeadOptions(depth, aif, near_m=0.5, far_m=8, focus_input="sharpest")
    defocus = Defocus.thin_lens(Lens(50, 8, 12), [1.0, 2.0, 4.0])
    out = StackModel(NetworkOptions(4), heads)(torch.rand(2, 3, 3, 21, 35), defocus)
    assert out.q.shape == (2, 1, 21, 35)
    assert out.aif.shape == (2, 3, 21, 35)
    assert out.sigma_px.shape == (2, 3, 21, 35)
    assert 0 <= out.aif.min() <= out.aif.max() <= 1
    if depth in ("norm", "inverse", "refine"):
        assert 0.499 < out.depth.min() <= out.depth.max() < 8.001


def test_what_the_network_is_given_and_how_its_maps_are_read():
    """Shipped weights know these numbers."""
    images, defocus = torch.rand(1, 3, 3, 16, 16), Defocus.thin_lens(Lens(50, 8, 12), [1.0, 2.0, 4.0])
    raw, given = torch.tensor([0.1, -0.2, 0.0, 0.25])[None, :, None, None].expand(1, 4, 16, 16), {}
    for name in ("metres", "inverse", "sharpest"):
        model = StackModel(NetworkOptions(4), HeadOptions("inverse", "sharpest", 0.5, 8, name))
        model.network.forward = lambda stack, name=name: given.update({name: stack[0]}) or raw
        out = model(images, defocus)
    share, sharp = 1 / (1 + math.exp(-4 * 0.25)), focus_response(images, "ring")[0] ** 4
    torch.testing.assert_close(out.q, torch.full((1, 1, 16, 16), 1 / 8 + (2 - 1 / 8) * share))
    torch.testing.assert_close(out.aif, (sharpest_slices(images) + 0.2 * raw[:, :3]).clamp(0, 1))
    inverse = (torch.tensor([1.0, 0.5, 0.25])[:, None, None].expand(3, 16, 16) - 1 / 8) / (2 - 1 / 8)
    planes = {"metres": torch.tensor([1.0, 2.0, 4.0])[:, None, None].expand(3, 16, 16), "inverse": inverse}
    planes["sharpest"] = (0.2 + 0.8 * inverse) * sharp / sharp.sum(0)
    for name, plane in planes.items():
        torch.testing.assert_close(given[name], torch.cat([images[0], plane[:, None]], 1))


def test_with_the_range_of_each_stack_its_unit_does_not_matter():
    """The same slices focused at q and at 3 q + 1: the same map in the same places; also in one batch."""
    torch.manual_seed(0)
    images, focus = torch.rand(2, 3, 3, 16, 16), torch.tensor([2.0, 1.0, 0.5])
    heads = HeadOptions("refine", "sharpest", focus_input="sharpest", range="stack")
    model = StackModel(NetworkOptions(4), heads)
    torch.nn.init.normal_(model.network.conv_out[-1].weight, std=0.1)
    units = torch.stack([focus, 3 * focus + 1])
    both = model(images[:1].expand(2, -1, -1, -1, -1), Defocus(units, units, "disparity"))
    torch.testing.assert_close(3 * both.q[0] + 1, both.q[1])
    for q, stack in zip(both.q, units, strict=True):
        defocus = Defocus(stack, stack, "disparity")
        torch.testing.assert_close(model(images[:1], defocus).q[0], q)
        far, near = defocus.q_range
        margin = 0.25 * (stack[0] - stack[2])
        assert (far, near) == pytest.approx((float(stack[2] - margin), float(stack[0] + margin)))
        assert far < q.min() < q.max() < near
    metric = Defocus(focus, focus)
    assert metric.q_range == pytest.approx((0.125, 2.375))
    assert Defocus(torch.tensor([1.0, 0.1]), torch.ones(2)).q_range[0] == pytest.approx(0.01)
    with pytest.raises(ValueError, match="without metres"):
        HeadOptions("refine", range="stack")


def test_norm_head_reaches_far_and_near():
    raw = torch.tensor([-1.0, 0.0, 0.5, 2.0]).view(1, 1, 2, 2)
    depth = raw_depth_to_metres(raw, HeadOptions()).flatten()
    assert depth.tolist() == pytest.approx([0.1, 0.1, 2.575, 10], abs=1e-6)
    assert raw_depth_to_metres(20 * raw, HeadOptions("clip")).max() == 10
    assert raw_depth_to_metres(20 * raw, HeadOptions("raw")).max() == 40


def test_stacks_without_metres_need_the_inverse_head():
    defocus, images = Defocus(torch.arange(3.0), torch.ones(3), "order"), torch.rand(1, 3, 3, 16, 16)
    with pytest.raises(RunError, match="inverse"):
        StackModel(NetworkOptions(4), HeadOptions())(images, defocus)
    heads = HeadOptions("inverse", focus_input="inverse")
    model = StackModel(NetworkOptions(4), heads, q_range=(-0.5, 2.5))
    q = model(images, defocus).q
    assert -0.5 < q.min() <= q.max() < 2.5


def test_coarse_image_copies_the_sharpest_slice_and_softens_towards_it():
    images, sigma = torch.rand(1, 3, 3, 4, 5), torch.rand(1, 3, 4, 5)
    hard = coarse_aif(images, sigma)
    for y, x in ((0, 0), (3, 4), (2, 1)):
        assert torch.equal(hard[0, :, y, x], images[0, sigma[0, :, y, x].argmin(), :, y, x])
    assert torch.allclose(coarse_aif(images, sigma, 1e-5), hard, atol=1e-5)
    assert torch.allclose(coarse_aif(images, sigma, 1e5), images.mean(1), atol=1e-4)


def test_dead_outputs_are_found_and_mended(stack):
    torch.manual_seed(0)
    broken = DaifNet(base_width=4)
    with torch.no_grad():
        broken.conv_out[2].bias.copy_(torch.tensor([1.0, 1.0, 1.0, -100.0]))
    assert revive(broken, stack, "keep").startswith("dead at the start: depth; kept")
    assert "alive after drawing" in revive(broken, stack, "reseed")
    assert min(alive_shares(broken(stack))) >= ALIVE
    with torch.no_grad():
        broken.conv_out[2].bias.fill_(-100)
    assert "red, green, blue, depth; bias lifted" in revive(broken, stack, "bias")
    assert min(alive_shares(broken(stack))) > 0.5
    assert revive(broken, stack) == "all outputs are alive"


def test_released_checkpoint_of_a_bgr_network_gives_the_same_maps_in_rgb(tmp_path, network, stack):
    """A network that saw BGR, fed BGR, must agree with its import, fed RGB."""
    bgr_stack = stack[:, :, [2, 1, 0, 3]]
    with torch.no_grad():
        expected = network(bgr_stack)[:, [2, 1, 0, 3]]
    torch.save({"model": network.state_dict(), "optimizer": {}, "iter": 7}, tmp_path / "model.pth")
    imported = DaifNet()
    load_released(tmp_path / "model.pth", imported)
    with torch.no_grad():
        assert torch.allclose(imported(stack), expected, atol=1e-6)
    back = swap_red_and_blue(imported.state_dict())
    assert all(torch.equal(back[name], value) for name, value in network.state_dict().items())


def test_other_files_are_refused(tmp_path, network):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save({"model": DaifNet(base_width=8).state_dict()}, tmp_path / "small.pth")
    torch.save({"model": 3}, tmp_path / "number.pth")
    for name, reason in (
        ("text", "cannot be read"),
        ("small", "conv_down.0.0.weight"),
        ("number", "no state dict"),
    ):
        with pytest.raises(DataError, match=reason):
            load_released(tmp_path / f"{name}.pth", network)
