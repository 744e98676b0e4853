"""Losses and networks that compare images: against plain twins, the released packages, at singular points."""

import math
import warnings

import numpy as np
import pytest
import scipy.ndimage
import torch
import torchvision.models
from torch import nn
from torch.autograd import gradcheck

from shared.errors import DataError
from shared.quality.losses import (
    VggFeatures,
    backbone_state_dict,
    edge_aware_smoothness,
    perceptual_loss,
)
from shared.quality.metrics import Lpips
from shared.tests.hostile import Hostile

FAST = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-3, "fast_mode": True}


def randoms(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator, dtype=dtype) for shape in shapes]


# ---- smoothness --------------------------------------------------------------------------------------------


def gradients_numpy(maps, operator):
    """[H, W] -> derivative along x and y."""
    if operator == "forward":
        return np.diff(maps, axis=1), np.diff(maps, axis=0)
    if operator == "backward_zero_pad":
        padded = np.pad(maps, ((1, 0), (1, 0)))
        return padded[1:, 1:] - padded[1:, :-1], padded[1:, 1:] - padded[:-1, 1:]
    mode = {"sobel": "nearest", "sobel_zero_pad": "constant"}[operator]
    return scipy.ndimage.sobel(maps, axis=1, mode=mode), scipy.ndimage.sobel(maps, axis=0, mode=mode)


def smoothness_numpy(values, image, edge_weight, operator, edges):
    batch, channels = image.shape[:2]
    total = [0.0, 0.0]
    for b in range(batch):
        slopes = gradients_numpy(values[b, 0], operator)
        for axis in range(2):
            edge = [np.abs(gradients_numpy(image[b, c], operator)[axis]) for c in range(channels)]
            if edges == "mean":
                edge = [sum(edge) / channels]
            weighted = [np.abs(slopes[axis]) * np.exp(-edge_weight * e) for e in edge]
            total[axis] += np.mean(weighted) / batch
    return sum(total)


@pytest.mark.parametrize("operator", ["forward", "sobel", "sobel_zero_pad", "backward_zero_pad"])
@pytest.mark.parametrize("edges", ["mean", "per_channel"])
@pytest.mark.parametrize("edge_weight", [1.0, 10.0])
def test_smoothness_equals_plain_twin(operator, edges, edge_weight):
    values, image = randoms((2, 1, 7, 11), (2, 3, 7, 11))
    ours = edge_aware_smoothness(values, image, edge_weight, operator, edges)
    theirs = smoothness_numpy(values.numpy(), image.numpy(), edge_weight, operator, edges)
    assert ours.item() == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("operator", ["forward", "sobel", "sobel_zero_pad", "backward_zero_pad"])
def test_smoothness_gradients(operator):
    values, image = (x.requires_grad_() for x in randoms((2, 1, 5, 6), (2, 3, 5, 6)))

    assert gradcheck(lambda v, i: edge_aware_smoothness(v, i, 3.0, operator), (values, image), **FAST)
    for level in (0.0, 1.0):
        constant = torch.full((1, 1, 5, 6), level, requires_grad=True)
        edge_aware_smoothness(constant, constant.expand(1, 3, 5, 6), 3.0, operator).backward()
        assert torch.isfinite(constant.grad).all()


# ---- networks ----------------------------------------------------------------------------------------------


def random_weight_file(folder, architecture):
    with torch.device("meta"):
        model = getattr(torchvision.models, architecture)()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in model.features.state_dict(prefix="features.").items():
        scale = 0.1 if name.endswith("bias") else math.sqrt(2 / math.prod(value.shape[1:]))
        state[name] = scale * torch.randn(value.shape, generator=generator)
    state["classifier.6.bias"] = torch.zeros(1000)
    torch.save(state, folder / f"{architecture}.pth")
    model.features.load_state_dict(
        {name[9:]: value for name, value in state.items() if "features" in name}, assign=True
    )
    return folder / f"{architecture}.pth", model.features.eval()


@pytest.mark.parametrize(
    ("architecture", "taps"),
    [
        ("vgg16", {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29}),
        ("vgg19", {"relu5_4": 35, "relu1_1": 1, "relu3_4": 17, "relu4_1": 20}),
    ],
)
def test_vgg_features_equal_torchvision(architecture, taps, tmp_path):
    path, theirs = random_weight_file(tmp_path, architecture)
    ours = VggFeatures(tuple(taps), architecture, weights=path)
    image = torch.rand(2, 3, 33, 21, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, expected = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1), {}
    with torch.no_grad():
        for index, layer in enumerate(theirs[: 1 + max(taps.values())]):
            x = layer(x)
            expected |= {tap: x.clone() for tap, at in taps.items() if at == index}
    features = ours(image)
    assert tuple(features) == tuple(taps)
    assert len(ours.features) == 1 + max(taps.values())
    for tap in taps:
        torch.testing.assert_close(features[tap], expected[tap], rtol=1e-5, atol=1e-5)


def test_vgg_is_frozen_shallow_and_reproducible():
    before = torch.random.get_rng_state()
    network = VggFeatures(("relu1_2",), weights="random")
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(network.features) == 4
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not nn.ModuleList([network]).train()[0].training
    image = torch.rand(1, 3, 8, 9, requires_grad=True)
    features = network(image)["relu1_2"]
    assert features.shape == (1, 64, 8, 9)
    assert torch.equal(features, VggFeatures(("relu1_2",), weights="random")(image)["relu1_2"])
    features.sum().backward()
    assert image.grad.abs().sum() > 0


def test_convention_vgg_normalisation():
    image = torch.rand(1, 3, 8, 9)
    imagenet, plain, signed = (
        VggFeatures(("relu1_1",), weights="random", normalisation=rule)
        for rule in ("imagenet", "none", "imagenet_on_signed")
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    mean, std = mean.view(3, 1, 1), std.view(3, 1, 1)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(imagenet(image)["relu1_1"], plain((image - mean) / std)["relu1_1"], **close)
    torch.testing.assert_close(
        signed(image)["relu1_1"], plain((2 * image - 1 - mean) / std)["relu1_1"], **close
    )
    torch.testing.assert_close(signed(image)["relu1_1"], imagenet(2 * image - 1)["relu1_1"], **close)


def test_perceptual_loss_sums_the_taps():
    network = VggFeatures(("relu1_2", "relu2_2"), weights="random")
    prediction, target = randoms((2, 3, 12, 10), (2, 3, 12, 10), dtype=torch.float32)
    a, b = network(prediction), network(target)
    parts = [(a[tap] - b[tap]).abs().mean() for tap in network.taps]
    torch.testing.assert_close(perceptual_loss(network, prediction, target), parts[0] + parts[1])
    assert perceptual_loss(network, target.clone(), target) == 0
    small = [
        nn.functional.interpolate(x, (7, 6), mode="bilinear", align_corners=False)
        for x in (prediction, target)
    ]
    expected = perceptual_loss(network, *small)  # resized first
    torch.testing.assert_close(perceptual_loss(network, prediction, target, size=(7, 6)), expected)


def test_perceptual_gradients():
    network = VggFeatures(("relu1_2",), weights="random").double()
    prediction, target = randoms((1, 3, 5, 6), (1, 3, 5, 6))
    prediction.requires_grad_()
    target.requires_grad_()
    assert gradcheck(lambda p: perceptual_loss(network, p, target.detach()), (prediction,), **FAST)
    perceptual_loss(network, prediction, target).backward()
    assert target.grad is None
    assert torch.isfinite(prediction.grad).all()
    same = prediction.detach().clone().requires_grad_()
    perceptual_loss(network, same, same.detach()).backward()
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_equals_the_package(net, tmp_path):
    import lpips

    path, _ = random_weight_file(tmp_path, {"alex": "alexnet", "vgg": "vgg16"}[net])
    ours = Lpips(net, path)
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.device("meta"):
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    theirs.scaling_layer = lpips.ScalingLayer()
    theirs = theirs.to_empty(device="cpu")
    theirs.scaling_layer = lpips.ScalingLayer()
    linear = f"{lpips.__path__[0]}/weights/v0.1/{net}.pth"
    theirs.load_state_dict(torch.load(linear, map_location="cpu", weights_only=True), strict=False)
    backbone = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, parameter in theirs.net.named_parameters():  # slice2.3.weight is features.3.weight
            parameter.copy_(backbone["features." + name.split(".", 1)[1]])

    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 2, 3, 41, 37, generator=generator)
    expected = theirs(2 * a - 1, 2 * b - 1).detach().flatten()
    assert ours(a, b).shape == (2,)
    assert expected.min() > 1e-3
    torch.testing.assert_close(ours(a, b), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.train()(a, b), expected, rtol=0, atol=1e-6)  # no dropout ever
    assert (ours(a, a) == 0).all()
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    small = torch.rand(1, 3, ours.smallest_side, ours.smallest_side)
    assert torch.isfinite(ours(small, small.flip(-1))).all()
    with pytest.raises(ValueError, match="at least"):
        ours(small[..., 1:], small[..., 1:])


@pytest.mark.parametrize("architecture", ["alexnet", "vgg16"])
def test_missing_weights_say_which_file_and_where(architecture, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*_, **__):
        raise AssertionError("a download was started")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(DataError) as caught:
        backbone_state_dict(architecture)
    place = str(tmp_path / "checkpoints" / architecture)
    assert caught.value.path.startswith(place)
    assert "https://" in caught.value.remedy
    assert place in caught.value.remedy
    with pytest.raises(DataError, match=r"elsewhere\.pth"):
        backbone_state_dict(architecture, tmp_path / "elsewhere.pth")
    (tmp_path / "checkpoints").mkdir()  # in the cache they are used
    path, theirs = random_weight_file(tmp_path, architecture)
    path.rename(caught.value.path)
    assert torch.equal(backbone_state_dict(architecture)["features.0.weight"], theirs[0].weight)


@pytest.mark.parametrize("damage", ["truncated", "text", "other", "nan", "pickle"])
def test_damaged_weights_are_refused(damage, tmp_path):
    path, _ = random_weight_file(tmp_path, "alexnet")
    state = torch.load(path, weights_only=True)
    assert backbone_state_dict("alexnet", path).keys() == {name for name in state if "features" in name}
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    elif damage == "text":
        path.write_text("<html>404</html>")
    elif damage == "other":
        torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)  # the first layer of VGG
    elif damage == "nan":
        state["features.3.bias"][3] = math.nan
        torch.save(state, path)
    else:
        hostile = Hostile(tmp_path / "was run")
        torch.save({"features.0.weight": hostile}, path)
    with pytest.raises(DataError) as caught:
        backbone_state_dict("alexnet", path)
    assert caught.value.path == str(path)
    assert not (tmp_path / "was run").exists()


# ---- bad input ---------------------------------------------------------------------------------------------


IMAGE = torch.rand(1, 3, 12, 12)


def relu1() -> VggFeatures:
    return VggFeatures(("relu1_1",), weights="random")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edge_aware_smoothness(IMAGE[:, :1, 1:], IMAGE), "image"),
        (lambda: edge_aware_smoothness(IMAGE[:, :1], IMAGE, gradient="scharr"), "gradient"),
        (lambda: VggFeatures(("relu1_3",), weights="random"), "relu1_3"),
        (lambda: VggFeatures(("relu4_1",), weights="random")(IMAGE[..., :7]), "at least 8"),
        (lambda: relu1()(IMAGE[:, :1]), "image"),
        (lambda: perceptual_loss(relu1(), IMAGE, IMAGE[..., 1:]), "target"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
