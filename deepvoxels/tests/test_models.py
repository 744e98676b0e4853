"""Networks of DeepVoxels: sizes, the persistent state, gradients, blocks, the discriminator."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepvoxels.config import GeneratorOptions, unet_widths
from deepvoxels.models.generator import Generator
from deepvoxels.models.networks import ConvUnit, Discriminator, Integration, UNet, coordinate_channels
from deepvoxels.models.volume import SamplingMap, project
from deepvoxels.tests.conftest import SMALL, variant
from shared.geometry.camera import look_at

F64 = torch.float64


def tiny(**changes) -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorOptions(**(SMALL | changes)))


def tiny_maps(generator: Generator) -> tuple[list[SamplingMap], list[SamplingMap]]:
    K = torch.tensor([[40.0, 0, 15.5], [0, 40.0, 15.5], [0, 0, 1]])
    geometry = generator.geometry((0, 0, 0), 1.0, 1.2)
    up, target = torch.tensor([0.0, 0, 1]), torch.zeros(3)
    poses = [look_at(torch.tensor(p), target, up) for p in ([2.0, 0, 0.5], [1.5, 1.5, 0.3], [-1.0, 1.6, 0.8])]
    return [generator.lifting(geometry, K, poses[0])], [
        generator.projection(geometry, K, p) for p in poses[1:]
    ]


def count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


# --- sizes --------------------------------------------------------------------------------------------

NO_OCCLUSION = {"occlusion": False}
COUNTS = [  # configuration, changes, extractor, integration, inpainting, occlusion or collapse, renderer, all
    ("official", {}, (91_599_040, 238_854, 4_007_872, 219_824, 102_816_931, 198_882_521)),
    (
        "official",
        {"grid_side": 64, "grid_features": 8},
        (91_340_880, 5_950, 63_288, 213_776, 102_558_883, 194_182_777),
    ),
    ("official", {"image_side": 256}, (74_899_904, 238_854, 4_007_872, 219_824, 91_554_723, 170_921_177)),
    ("official", {"image_side": 128}, (57_709_120, 238_854, 4_007_872, 219_824, 75_351_715, 137_527_385)),
    (
        "official",
        {"occlusion": False},
        (91_599_040, 238_854, 4_007_872, 40_258_176, 102_816_931, 238_920_873),
    ),
    ("legacy", {}, (74_293_440, 238_854, 4_007_872, 72_176, 75_888_547, 154_500_889)),
]


@pytest.mark.parametrize(("name", "changes", "expected"), COUNTS)
def test_parameters_are_as_many_as_in_the_released_code(name, changes, expected):
    with torch.device("meta"):
        g = Generator(variant(name, **changes))
    parts = (g.extractor, g.integration, g.inpainting, g.occlusion or g.collapse, g.renderer, g)
    assert tuple(count(part) for part in parts) == expected


def test_the_papers_inpainting_network_has_the_quoted_size():
    with torch.device("meta"):
        g = Generator(variant("paper"))
    strided = [
        unit.conv.weight.numel()
        for level in (*g.inpainting.unet.downs, *g.inpainting.unet.ups)
        for unit in [level.resize]
    ]
    assert sum(strided) == 17_039_360  # "1.7e7"
    assert round(count(g) / 1e6) == 168  # "170 million"


def test_widths_double_and_the_deepest_level_keeps_its_width():
    assert unet_widths(64, 6, 512) == [64, 128, 256, 512, 512, 512, 512]
    assert unet_widths(4, 3, 16) == [4, 8, 16, 16]
    assert unet_widths(64, 1, 512) == [64, 64]


def test_coordinates_start_at_minus_a_half_in_tensor_order():
    coords = coordinate_channels(4, 2, 5, like=torch.zeros(()))
    assert coords.shape == (1, 3, 4, 2, 5)
    assert coords[0, 0, :, 0, 0].tolist() == [-0.5, -0.25, 0, 0.25]
    assert coords[0, 1, 0, :, 0].tolist() == [-0.5, 0]
    torch.testing.assert_close(coords[0, 2, 0, 0], torch.tensor([-0.5, -0.3, -0.1, 0.1, 0.3]))


# --- the generator ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"occlusion": False, "colour_head": True},
        {"coordinates": False},
        {"grid_side": 6, "inpainting_widths": [1, 2]},
        {"image_side": 16},
        {"feature_side": 4, "depth_planes": 14},
        {"image_side": 48, "feature_side": 12, "extractor_levels": 1},
    ],
)
def test_shapes_ranges_and_gradients(changes):
    g = tiny(**changes)
    o = g.options
    lifting, projections = tiny_maps(g)
    images, state = g(torch.rand(1, 3, o.image_side, o.image_side), lifting, projections)
    assert images.shape == (2, 3, o.image_side, o.image_side)
    assert 0 <= images.min() <= images.max() <= 1
    assert state.shape == g.state.shape == (1, 4, o.grid_side, o.grid_side, o.grid_side)
    if o.occlusion:
        features, depth, visibility = g.occlude(g.occlusion, torch.rand_like(g.state), projections)
        assert features.shape == (2, 4, o.feature_side, o.feature_side)
        assert depth.shape == (2, 1, o.feature_side, o.feature_side)
        assert visibility.shape == (2, 1, o.planes, o.feature_side, o.feature_side)
        assert -0.5 <= depth.min() <= depth.max() < 0.5
        torch.testing.assert_close(visibility.sum(dim=2), torch.ones_like(depth))
    else:
        assert g.render(g.inpaint(state), projections)[1] is None
    (images - 0.3).square().mean().backward()
    for name, parameter in g.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_only_remember_changes_the_state():
    g = tiny()
    lifting, projections = tiny_maps(g)
    image = torch.rand(1, 3, 32, 32)
    new = g.observe(image, lifting)
    assert not g.state.any()
    assert new.requires_grad
    g.remember(new)
    assert torch.equal(g.state, new)
    assert not g.state.requires_grad
    assert g.state.data_ptr() != new.data_ptr()
    before = g.state.clone()
    g.eval()
    with torch.no_grad():
        g.render(g.inpaint(g.state), projections)
    g(image, lifting, projections)[0].mean().backward()
    assert torch.equal(g.state, before)
    assert "state" in g.state_dict()


def test_gradients_do_not_cross_steps():
    g = tiny()
    lifting, projections = tiny_maps(g)
    for _ in range(2):  # the second backward would fail if it reached into the first step's graph
        rendered, state = g(torch.rand(1, 3, 32, 32), lifting, projections)
        g.remember(state)
        rendered.mean().backward()


def test_several_sources_are_seen_one_after_the_other():
    g = tiny().eval()
    lifting, _ = tiny_maps(g)
    images = torch.rand(2, 3, 32, 32)
    together = g.observe(images, lifting * 2)
    g.remember(g.observe(images[:1], lifting))
    torch.testing.assert_close(together, g.observe(images[1:], lifting))


def test_targets_one_by_one_or_in_a_batch_agree_in_eval_mode_only():
    g = tiny(renderer_dropout=0.0)
    _, projections = tiny_maps(g)
    volume = torch.rand_like(g.state)

    def images(batched: bool) -> Tensor:
        g.options.batch_targets = batched
        return g.render(volume, projections)[0]

    g.train()
    assert not torch.allclose(images(True), images(False), atol=1e-4)  # batch norm sees other batches
    g.eval()
    torch.testing.assert_close(images(True), images(False))
    torch.testing.assert_close(g.render(volume, projections[1:])[0], images(True)[1:])


def test_sum_and_mean_differ_by_the_number_of_planes():
    g = tiny().eval()
    _, projections = tiny_maps(g)
    view = project(torch.rand_like(g.state), projections)
    mean = g.occlusion(view)[0]
    g.occlusion.average = False
    torch.testing.assert_close(g.occlusion(view)[0], mean * 12)


def test_a_blind_source_leaves_finite_values():
    g = tiny()
    _, projections = tiny_maps(g)
    K = torch.tensor([[40.0, 0, 15.5], [0, 40.0, 15.5], [0, 0, 1]])
    away = look_at(torch.tensor([2.0, 0, 0]), torch.tensor([4.0, 0, 0]), torch.tensor([0.0, 0, 1]))
    geometry = g.geometry((0, 0, 0), 1.0, 1.2)
    blind = g.lifting(geometry, K, away), g.projection(geometry, K, away)
    assert blind[0].visible == blind[1].visible == 0
    images, state = g(torch.rand(1, 3, 32, 32), blind[:1], [blind[1], projections[0]])
    images.mean().backward()
    assert state.isfinite().all()
    assert all(p.grad.isfinite().all() for p in g.parameters())


def test_the_state_stays_within_its_bound():
    unit = Integration(3, 0.0, largest=2.0)
    with torch.no_grad():
        unit.from_observation.bias.fill_(5.0)  # candidates above the bound, gates open
        state = torch.zeros(1, 3, 4, 4, 4)
        for _ in range(30):
            state = unit(state, torch.rand(1, 3, 4, 4, 4))
    assert 1.9 < state.max() <= 2.0


def test_integration_is_the_papers_gated_unit():
    features = 3
    unit = Integration(features, 0.0).double()
    old, new = torch.randn(2, 1, features, 4, 4, 4, dtype=F64)
    coords = coordinate_channels(4, 4, 4, like=old)

    def conv(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv3d(F.pad(x, (1,) * 6, mode="replicate"), weight)

    w, b = unit.from_observation.weight, unit.from_observation.bias.view(1, -1, 1, 1, 1)
    u = unit.gates_from_state.weight
    old_coords, new_coords = torch.cat((old, coords), 1), torch.cat((new, coords), 1)
    reset = torch.sigmoid(conv(old_coords, u[:1]) + conv(new_coords, w[:1]) + b[:, :1])
    update = torch.sigmoid(conv(old_coords, u[1:]) + conv(new_coords, w[1:2]) + b[:, 1:2])
    candidate = conv(new_coords, w[2:]) + b[:, 2:]
    candidate = candidate + conv(reset * old_coords, unit.candidate_from_state.weight)
    expected = (1 - update) * old + update * candidate.relu()
    torch.testing.assert_close(unit(old, new), expected)


# --- blocks ------------------------------------------------------------------------------------------


def test_dropout_drops_whole_channels_and_keeps_the_mean():
    unit = ConvUnit(2, 2, 4000, norm=False, slope=0.2, dropout=0.25)
    x = torch.rand(1, 2, 4, 4)
    dropped = (unit(x) == 0).all(dim=(2, 3))
    assert 0.2 < dropped.float().mean() < 0.3
    expected = unit.eval()(x)
    unit.train()
    y = unit(x)
    kept = ~(y == 0).all(dim=(2, 3))
    torch.testing.assert_close(y[kept], expected[kept] / 0.75)


def test_unet_concatenates_the_skip_first():
    unet = UNet(2, 3, 5, [4, 6, 6]).eval()
    x = torch.randn(1, 3, 8, 8)
    top = unet.head(x)
    middle = unet.downs[0](top)
    inner = torch.cat((middle, unet.ups[1](unet.downs[1](middle))), dim=1)
    expected = unet.tail(torch.cat((top, unet.ups[0](inner)), dim=1))
    torch.testing.assert_close(unet(x), expected)
    assert unet.downs[1].resize.norm is None
    assert unet.downs[0].resize.norm is not None


# --- discriminator ------------------------------------------------------------------------------------


def test_discriminator_size_and_patches():
    d = Discriminator()
    assert count(d) == 532_981
    assert d(torch.rand(1, 3, 126, 118)).shape == (1, 1, 13, 12)
    assert d(torch.rand(1, 3, 502, 502)).shape == (1, 1, 60, 60)


def test_discriminator_sees_70_pixels():
    d = Discriminator().eval()
    images = torch.rand(1, 3, 126, 126, requires_grad=True)
    d(images)[0, 0, 6, 6].backward()
    rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70
