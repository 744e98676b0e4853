"""The networks: sizes and parameter counts, depth ranges, moved points, initialisation, gradients."""

import math
import os
import subprocess
import sys

import cv2
import pytest
import torch
import torch.nn.functional as F
import torchvision

from nvs_depth.models.decoders import DepthDecoder, DepthMaps, ViewDecoder, _decode, activate_depth
from nvs_depth.models.encoder import ResNet18Trunk, StridedPointwise, load_imagenet
from nvs_depth.models.options import DEPTH_RANGES, ModelOptions
from nvs_depth.models.synthesis import SynthesisNetwork, View
from nvs_depth.models.warps import move_latent
from shared.errors import DataError
from shared.geometry.camera import intrinsics_matrix, invert_pose, transform_points
from shared.geometry.trajectories import so3_exp
from shared.geometry.warp import backward_warp

SIDE = 64


def small(**changes):
    torch.manual_seed(0)
    return SynthesisNetwork(ModelOptions(image_side=SIDE, width=0.125, encoder_init="default", **changes))


def inputs(batch=2, angle=0.2):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, batch, 3, SIDE, SIDE, generator=generator)
    K = intrinsics_matrix(70, 70, 31.5, 31.5).expand(batch, 3, 3)
    target_from_source = torch.eye(4).repeat(batch, 1, 1)
    target_from_source[:, :3, :3] = so3_exp(torch.tensor([0.0, angle, 0.0]))
    target_from_source[:, :3, 3] = torch.tensor([0.1, 0.0, 0.2])
    return View(images[0], K), View(images[1], K), target_from_source


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_of_the_full_network():
    with torch.device("meta"):
        network = SynthesisNetwork(ModelOptions(encoder_init="default"))
    assert count(network.encoder.trunk) == 11_176_512
    assert count(network.encoder) == 21_007_512
    assert count(network.depth_decoder) == 13_788_597
    assert count(network.view_decoder) == 13_003_836
    assert count(network) == 47_799_945


def test_sizes_of_the_full_network():
    with torch.device("meta"):
        network = SynthesisNetwork(ModelOptions(encoder_init="default"))
        latent, features = network.encoder(torch.empty(1, 3, 256, 256))
        depth = network.depth_decoder(latent, features)
        images = network.view_decoder(latent, features)
    assert latent.shape == (1, 200, 3)
    assert [tuple(f.shape[1:]) for f in features] == [
        (64, 128, 128), (64, 64, 64), (128, 32, 32), (256, 16, 16), (256, 8, 8)
    ]  # fmt: skip
    assert depth.full.shape == (1, 1, 256, 256)
    assert [d.shape[-1] for d in depth.pyramid] == [128, 64, 32, 16, 8]
    assert [tuple(i.shape[1:]) for i in images] == [(3, 256, 256), (3, 128, 128), (3, 64, 64), (3, 32, 32)]


def test_trunk_is_torchvisions_resnet18():
    torch.manual_seed(0)
    reference = torchvision.models.resnet18(weights=None).eval()
    trunk = ResNet18Trunk().eval()
    state = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    trunk.load_state_dict(state)
    image = torch.rand(1, 3, 64, 64)
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
    for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        x = layer(x)
    torch.testing.assert_close(trunk(image)[-1], x)


def test_imagenet_weights_come_from_a_local_file(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "resnet18.pth"
    reference = torchvision.models.resnet18(weights=None)
    torch.save(reference.state_dict(), file)
    trunk = ResNet18Trunk()
    load_imagenet(trunk, str(file))
    torch.testing.assert_close(trunk.layer4[1].conv2.weight, reference.layer4[1].conv2.weight)
    torch.save(torchvision.models.resnet34(weights=None).layer1.state_dict(), tmp_path / "other.pth")
    with pytest.raises(DataError, match="resnet18: conv1.weight is not"):
        load_imagenet(trunk, str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="encoder_init"):
        ModelOptions(width=0.5)
    with pytest.raises(DataError, match="not there.*Fetch https"):
        load_imagenet(trunk, str(tmp_path / "absent.pth"))
    file.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_imagenet(trunk, str(file))


def test_normal002_is_the_released_initialisation():
    torch.manual_seed(0)
    options = ModelOptions(image_side=SIDE, width=0.25, encoder_init="normal002")
    network = SynthesisNetwork(options)
    assert network.encoder.to_latent.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert network.encoder.to_latent.bias.abs().max() == 0
    gains = network.encoder.trunk.layer4[0].bn1.weight
    assert abs(gains.mean().item() - 1) < 0.01
    assert 0.01 < gains.std().item() < 0.03


@pytest.mark.parametrize("kind", list(DEPTH_RANGES))
def test_depth_ranges(kind):
    low, high = DEPTH_RANGES[kind]
    raw = torch.linspace(-30, 30, 101, dtype=torch.float64, requires_grad=True)
    depth = activate_depth(raw, kind)
    assert depth.min().item() == pytest.approx(low, abs=1e-6)
    assert depth.max().item() == pytest.approx(high, rel=1e-6)
    (gradient,) = torch.autograd.grad(depth.sum(), raw)
    assert torch.isfinite(gradient).all()
    # by hand at 0 and log 3, where tanh is (9 - 1) / (9 + 1) and the sigmoid 3/4
    values = {"object": (2.0, 3.6), "object_narrow": (2.0, 2.8), "scene": (1 / 5.01, 1 / 7.51)}
    found = activate_depth(torch.tensor([0.0, math.log(3)], dtype=torch.float64), kind)
    assert found.tolist() == pytest.approx(values[kind])


def test_moved_latent_there_and_back_is_the_identity():
    latent, pose = torch.randn(2, 5, 3, dtype=torch.float64), inputs()[-1].double()
    left, _, right = torch.linalg.svd(pose[:, :3, :3])
    pose[:, :3, :3] = left @ right  # a rotation to the digits of float64
    for motion in ("released", "rigid"):
        turn = ModelOptions(latent_motion=motion)
        moved = move_latent(latent, pose, turn)
        back = move_latent(moved, invert_pose(pose), turn)
        torch.testing.assert_close(back, latent, rtol=0, atol=1e-12)
        assert (moved - latent).abs().max() > 0.05
    rigid = ModelOptions(latent_motion="rigid", latent_translation=True)
    moved = move_latent(latent, pose, rigid)
    torch.testing.assert_close(moved, transform_points(pose, latent))
    torch.testing.assert_close(move_latent(moved, invert_pose(pose), rigid), latent, rtol=0, atol=1e-12)


def test_released_latent_motion_multiplies_rows_from_the_right():
    latent, pose = torch.randn(1, 4, 3), inputs(1)[-1]
    expected = latent[0] @ pose[0, :3, :3]
    torch.testing.assert_close(move_latent(latent, pose, ModelOptions())[0], expected)
    moved = move_latent(latent, pose, ModelOptions(latent_translation=True))[0]
    torch.testing.assert_close(moved, expected + pose[0, :3, 3])


def test_decoders_double_their_maps_between_pixel_centres_as_opencv_does():
    passing = torch.nn.ModuleDict({"before": torch.nn.Identity(), "after": torch.nn.Identity()})
    small_map = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    (found,) = _decode(torch.nn.ModuleList([passing]), small_map[None, None], [None])
    expected = cv2.resize(small_map.numpy(), (8, 6), interpolation=cv2.INTER_LINEAR)
    torch.testing.assert_close(found[0, 0], torch.from_numpy(expected))


@pytest.mark.parametrize("heads", ["per_scale", "one"])
def test_depth_and_pictures_have_more_digits_than_the_convolutions_at_half_precision(heads):
    torch.manual_seed(0)
    options = ModelOptions(image_side=SIDE, width=0.125, encoder_init="default", depth_heads=heads)
    latent, decoder = torch.randn(2, options.latent_points, 3), DepthDecoder(options)
    counts = [*decoder.skip_channels[3::-1], decoder.bottleneck_channels]
    features = [torch.rand(2, count, 32 >> i, 32 >> i) for i, count in enumerate(counts)]
    with torch.autocast("cpu", torch.bfloat16):
        depth, pictures = decoder(latent, None), ViewDecoder(options)(latent, features)
    assert all((values.bfloat16() != values).any() for values in (depth.full, *pictures))
    for finer, coarser in zip((depth.full, *depth.pyramid), depth.pyramid, strict=False):
        if heads == "one" or finer is depth.full:  # the mean of 2 x 2 pixels
            torch.testing.assert_close(coarser, F.avg_pool2d(finer, 2))


VARIANTS = {
    "full": {},
    "zeros": {"target_features": "zeros"},
    "two_pass": {"target_features": "two_pass"},
    "latent": {"depth_from": "latent"},
    "one_head": {"depth_heads": "one"},
    "two_decoders": {"shared_depth_decoder": False},
    "blend": {"blend_fetched": True},
    "blend_zeros": {"blend_fetched": True, "target_features": "zeros"},
    "blend_latent": {"blend_fetched": True, "depth_from": "latent"},
    "released_rules": {"intrinsics": "released", "sampling": "released"},
    "scene": {"depth_range": "scene", "latent_translation": True, "latent_motion": "rigid"},
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_renders_and_learns(name):
    network = small(**VARIANTS[name])
    outputs = network(*inputs())
    images, depth = outputs.rendered
    assert [i.shape[-1] for i in images] == [64, 32, 16, 8]
    assert [d.shape[-1] for d in depth.pyramid] == [32, 16, 8, 4, 2]
    assert all(i.min() >= 0 and i.max() <= 1 for i in images)
    low, high = DEPTH_RANGES[network.options.depth_range]
    assert low <= depth.full.min()
    assert depth.full.max() <= high
    (sum(i.square().mean() for i in images) + outputs.depth_target_image.full.mean()).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    # Only depth heads may be without gradient: these losses do not reach all of them.
    assert all("depth_decoder.heads" in name for name in silent)


def test_source_depth_gets_no_gradient_from_the_new_view():
    network = small()
    source, _, pose = inputs()
    view = network.encode(source)
    for depth in view.depth.pyramid:
        depth.retain_grad()
    rendered = network.render(view, source.K, pose)
    for depth in rendered.depth.pyramid:
        depth.retain_grad()
    rendered.images[0].square().mean().backward()
    assert all(depth.grad is None for depth in view.depth.pyramid)
    assert all(depth.grad.abs().max() > 0 for depth in rendered.depth.pyramid)


def test_a_blended_view_goes_from_what_is_painted_to_what_the_depth_fetches():
    network = small(blend_fetched=True).eval()
    source, _, pose = inputs()
    share, views = network.view_decoder.heads[-1], []
    with torch.no_grad():
        share.weight[3:] = 0
        for logit in (-50, 50, 0):
            share.bias[3:] = logit
            views.append(network.render(network.encode(source), source.K, pose))
        fetched, _ = backward_warp(source.image, views[0].depth.full, source.K, source.K, invert_pose(pose))
    painted, shown, half = (view.images[0] for view in views)
    torch.testing.assert_close(shown, fetched)
    torch.testing.assert_close(half, (painted + fetched) / 2)
    assert (painted - fetched).abs().mean() > 0.05


@pytest.mark.parametrize("kind", ["direct_warp", "two_pass", "zeros"])
def test_only_the_direct_warp_asks_for_the_depth_of_the_source(kind):
    network = small(target_features=kind).eval()
    source, _, pose = inputs(1)
    with torch.no_grad():
        view = network.encode(source)
        pyramid = [1.3 * depth for depth in view.depth.pyramid]
        farther = view._replace(depth=DepthMaps(view.depth.full, pyramid))
        depths = [network.render(v, source.K, pose).depth.full for v in (view, farther)]
    assert torch.equal(*depths) == (kind != "direct_warp")


def test_training_pass_equals_encode_and_render_in_evaluation_mode():
    network = small().eval()
    source, target, pose = inputs()
    with torch.no_grad():
        outputs = network(source, target, pose)
        rendered = network.render(network.encode(source), source.K, pose)
    torch.testing.assert_close(outputs.rendered.images[0], rendered.images[0])
    torch.testing.assert_close(outputs.rendered.depth.full, rendered.depth.full)


def test_many_views_of_one_source_equal_one_at_a_time():
    network = small().eval()
    source, _, pose = inputs(1)
    poses = torch.cat([pose, torch.eye(4)[None], invert_pose(pose)])
    with torch.no_grad():
        view = network.encode(source)
        together = network.views(view, source.K.expand(3, 3, 3), poses)
        for index in range(3):
            single = network.render(view, source.K, poses[index : index + 1])
            torch.testing.assert_close(together.images[0][index], single.images[0][0], rtol=0, atol=1e-5)
            torch.testing.assert_close(together.depth.full[index], single.depth.full[0], rtol=0, atol=1e-5)


def test_wrong_images_are_refused():
    network, K = small(), intrinsics_matrix(70, 70, 31.5, 31.5)[None]
    with pytest.raises(ValueError, match=r"\[B, 3, 64, 64\], got \[1, 3, 96, 96\]"):
        network.encode(View(torch.rand(1, 3, 96, 96), K))
    with pytest.raises(ValueError, match=r"got \[1, 4, 64, 64\]"):
        network.encode(View(torch.rand(1, 4, 64, 64), K))
    with pytest.raises(ValueError, match="multiple of 32"):
        ModelOptions(image_side=100)


def test_narrow_networks_have_a_floor():
    options = ModelOptions(image_side=SIDE, width=0.25, narrowest=16, encoder_init="default")
    assert [options.channels(count) for count in (16, 32, 64, 128, 512)] == [16, 16, 16, 32, 128]
    network = SynthesisNetwork(options)
    outputs = [m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert min(count for count in outputs if count not in (1, 3)) == 16  # all but depths and pictures
    for wrong in (0, 5, 32):
        with pytest.raises(ValueError, match="narrowest"):
            ModelOptions(narrowest=wrong)


def test_points_behind_the_camera_leave_finite_gradients():
    network = small()
    source, target, pose = inputs()
    pose = pose.clone()
    pose[:, 2, 3] = -3.9  # nearly everything ends up behind the target camera, or on its plane
    outputs = network(source, target, pose)
    sum(i.mean() for i in outputs.rendered.images).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert math.isfinite(outputs.rendered.depth.full.mean().item())


# ---- strided 1x1 convolutions: no write past a buffer on any processor -------------------------------------

NARROW_STEP = """
import torch
from nvs_depth.models.encoder import Encoder
from nvs_depth.models.options import ModelOptions
torch.set_num_threads(1)
for width in (0.0625, 0.09375):
    encoder = Encoder(ModelOptions(image_side=64, width=width, encoder_init="default"))
    encoder = encoder.to(memory_format=torch.channels_last)
    for _ in range(3):
        encoder(torch.rand(2, 3, 64, 64)).latent.sum().backward()
"""


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_picking_first_equals_the_strided_convolution(size):
    torch.manual_seed(0)
    ours = StridedPointwise(4, 6, stride=2).to(memory_format=torch.channels_last)
    plain = torch.nn.Conv2d(4, 6, 1, stride=2, bias=False)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 4, *size)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = ours(mine.contiguous(memory_format=torch.channels_last)), plain(theirs)
    torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)


def test_no_other_strided_1x1_convolution_is_in_the_network():
    network = SynthesisNetwork(ModelOptions(image_side=64, width=0.0625, encoder_init="default"))
    strided = [
        module
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
    ]
    assert strided
    assert all(type(module) is StridedPointwise for module in strided)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc's checking allocator")
def test_training_narrow_networks_stays_inside_its_buffers():
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", NARROW_STEP], env=os.environ | checked, timeout=120)
    assert done.returncode == 0
