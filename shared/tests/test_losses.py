"""Losses against plain twins, SciPy, torchvision, published figures, and at their singular points."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import nn
from torch.autograd import gradcheck

from shared.quality.losses import edge_aware_smoothness, photometric_l1_ssim
from shared.quality.ssim import ssim_map

FAST = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-3, "fast_mode": True}


def randoms(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator, dtype=dtype) for shape in shapes]


# ---------------------------------------------------------------------------------------------- smoothness


def gradients_numpy(maps, operator):
    """[H, W] -> derivative along x and y."""
    if operator == "forward":
        return np.diff(maps, axis=1), np.diff(maps, axis=0)
    if operator == "backward_zero_pad":
        padded = np.pad(maps, ((1, 0), (1, 0)))
        return padded[1:, 1:] - padded[1:, :-1], padded[1:, 1:] - padded[:-1, 1:]
    mode = {"sobel": "nearest", "sobel_zero_pad": "constant"}[operator]
    return scipy.ndimage.sobel(maps, axis=1, mode=mode), scipy.ndimage.sobel(maps, axis=0, mode=mode)


def smoothness_numpy(values, image, edge_weight, operator, edges, mean_normalised):
    batch, channels = image.shape[:2]
    total = [0.0, 0.0]
    for b in range(batch):
        v = values[b, 0] / (values[b, 0].mean() + 1e-7) if mean_normalised else values[b, 0]
        slopes = gradients_numpy(v, operator)
        for axis in range(2):
            edge = [np.abs(gradients_numpy(image[b, c], operator)[axis]) for c in range(channels)]
            if edges == "mean":
                edge = [sum(edge) / channels]
            weighted = [np.abs(slopes[axis]) * np.exp(-edge_weight * e) for e in edge]
            total[axis] += np.mean(weighted) / batch
    return sum(total)


@pytest.mark.parametrize("operator", ["forward", "sobel", "sobel_zero_pad", "backward_zero_pad"])
@pytest.mark.parametrize("edges", ["mean", "per_channel"])
@pytest.mark.parametrize(("edge_weight", "mean_normalised"), [(1.0, True), (10.0, False)])
def test_smoothness_equals_plain_twin(operator, edges, edge_weight, mean_normalised):
    values, image = randoms((2, 1, 7, 11), (2, 3, 7, 11))
    ours = edge_aware_smoothness(values, image, edge_weight, operator, edges, mean_normalised)
    theirs = smoothness_numpy(values.numpy(), image.numpy(), edge_weight, operator, edges, mean_normalised)
    assert ours.item() == pytest.approx(theirs, rel=1e-12)


def test_smoothness_of_the_released_defocus_loss():
    """Computed with the loss that dfd_selfsup's authors released, on a ramp."""
    ramp = (torch.arange(4096) / 4096).view(1, 1, 64, 64)
    loss = edge_aware_smoothness(5 * ramp, ramp.expand(1, 3, 64, 64), 1.0, "backward_zero_pad", "per_channel")
    assert 2.5 * loss.item() == pytest.approx(0.24481417, abs=1e-6)


def test_convention_smoothness_forgives_depth_edges_at_image_edges():
    step = torch.zeros(1, 1, 8, 10)
    step[..., 5:] = 1
    elsewhere = torch.zeros_like(step)
    elsewhere[..., 7:] = 1
    assert edge_aware_smoothness(step, step, 10.0).item() == pytest.approx(
        math.exp(-10) / 9
    )  # nine differences
    assert edge_aware_smoothness(step, elsewhere, 10.0).item() == pytest.approx(1 / 9)


@pytest.mark.parametrize("operator", ["forward", "sobel", "sobel_zero_pad", "backward_zero_pad"])
@pytest.mark.parametrize("mean_normalised", [False, True])
def test_smoothness_gradients(operator, mean_normalised):
    values, image = (x.requires_grad_() for x in randoms((2, 1, 5, 6), (2, 3, 5, 6)))

    def loss(v, i):
        return edge_aware_smoothness(v + 0.5, i, 3.0, operator, "mean", mean_normalised)

    assert gradcheck(loss, (values, image), **FAST)
    for level in (0.0, 1.0):
        constant = torch.full((1, 1, 5, 6), level, requires_grad=True)
        edge_aware_smoothness(constant, constant.expand(1, 3, 5, 6), 3.0, operator).backward()
        assert torch.isfinite(constant.grad).all()


# --------------------------------------------------------------------------------------------- photometric


def monodepth2_loss(prediction, target):
    """As written in monodepth2: reflection padding, average pooling, 0.85 SSIM + 0.15 L1, then the mean."""
    pad, pool = nn.ReflectionPad2d(1), nn.AvgPool2d(3, 1)
    x, y = pad(prediction), pad(target)
    mu_x, mu_y = pool(x), pool(y)
    var_x, var_y = pool(x**2) - mu_x**2, pool(y**2) - mu_y**2
    cov = pool(x * y) - mu_x * mu_y
    n = (2 * mu_x * mu_y + 0.01**2) * (2 * cov + 0.03**2)
    d = (mu_x**2 + mu_y**2 + 0.01**2) * (var_x + var_y + 0.03**2)
    dissimilarity = torch.clamp((1 - n / d) / 2, 0, 1).mean(1, True)
    return (0.85 * dissimilarity + 0.15 * (target - prediction).abs().mean(1, True)).mean()


def test_photometric_equals_monodepth2():
    prediction, target = randoms((2, 3, 9, 13), (2, 3, 9, 13))
    assert photometric_l1_ssim(prediction, target).item() == pytest.approx(
        monodepth2_loss(prediction, target).item(), rel=1e-12
    )


def test_photometric_of_the_released_defocus_loss():
    """0.85 (1 - 0.98911452) + 0.15 * 0.03399269, figures of the loss that dfd_selfsup's authors released."""
    ramp = (torch.arange(4096) / 4096).view(1, 1, 64, 64).expand(1, 3, 64, 64)
    loss = photometric_l1_ssim(0.9 * ramp + 0.02, ramp, 0.85, None, "gaussian11_zero_pad", "full")
    assert loss.item() == pytest.approx(0.85 * (1 - 0.98911452) + 0.15 * 0.03399269, abs=2e-6)


@pytest.mark.parametrize("variant", ["box3", "gaussian11_zero_pad", "grey11_sigma0.5"])
@pytest.mark.parametrize("channels", [1, 3])
def test_photometric_mask_averages_over_valid_pixels_only(variant, channels):
    prediction, target = randoms((2, 3, 14, 17), (2, 3, 14, 17))
    mask = torch.rand(2, channels, 14, 17, generator=torch.Generator().manual_seed(1)) > 0.3
    full = mask.expand(2, 3, 14, 17)
    distance = (1 - ssim_map(torch.where(full, prediction, target), target, variant)) / 2
    distance_mask = full if distance.shape[1] == 3 else full.all(dim=1, keepdim=True)
    expected = 0.85 * distance[distance_mask].mean() + 0.15 * (prediction - target).abs()[full].mean()
    loss = photometric_l1_ssim(prediction, target, 0.85, mask, variant)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.85, 1.0])
def test_photometric_outside_the_mask_changes_nothing(alpha):
    prediction, target = randoms((2, 3, 9, 13), (2, 3, 9, 13))
    mask = torch.rand(2, 1, 9, 13, generator=torch.Generator().manual_seed(1)) > 0.3
    clean = photometric_l1_ssim(prediction, target, alpha, mask)
    for junk in (math.nan, math.inf, 7.0):
        junk = torch.tensor(junk, dtype=torch.float64)
        dirty = torch.where(mask, prediction, junk).requires_grad_()
        loss = photometric_l1_ssim(dirty, target, alpha, mask)
        loss.backward()
        assert loss == clean
        assert torch.isfinite(dirty.grad).all()
        assert (dirty.grad[~mask.expand_as(dirty)] == 0).all()
        holes = torch.where(mask, target, torch.tensor(math.nan, dtype=torch.float64))
        assert torch.isfinite(photometric_l1_ssim(dirty, holes, alpha, mask))
    assert photometric_l1_ssim(prediction, target, alpha, torch.ones_like(mask)).item() == pytest.approx(
        photometric_l1_ssim(prediction, target, alpha).item(), rel=1e-12
    )


def test_photometric_without_a_valid_pixel_is_zero_with_zero_gradient():
    prediction = torch.full((1, 3, 8, 9), math.nan, requires_grad=True)
    mask = torch.zeros(1, 1, 8, 9, dtype=torch.bool)
    loss = photometric_l1_ssim(prediction, torch.rand(1, 3, 8, 9), mask=mask)
    loss.backward()
    assert loss == 0
    assert (prediction.grad == 0).all()


def test_photometric_gradients():
    prediction, target = randoms((1, 3, 6, 7), (1, 3, 6, 7))
    mask = torch.rand(1, 1, 6, 7, generator=torch.Generator().manual_seed(1)) > 0.3
    prediction.requires_grad_()
    for chosen in (None, mask):
        assert gradcheck(lambda p, m=chosen: photometric_l1_ssim(p, target, mask=m), (prediction,), **FAST)
    for level in (0.0, 1.0):
        constant = torch.full((1, 3, 6, 7), level, requires_grad=True)
        for other in (torch.full_like(constant, level), torch.rand(1, 3, 6, 7)):
            constant.grad = None
            photometric_l1_ssim(constant, other).backward()
            assert torch.isfinite(constant.grad).all()


# ------------------------------------------------------------------------------------------------ bad input


IMAGE = torch.rand(1, 3, 12, 12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edge_aware_smoothness(IMAGE[:, :1, 1:], IMAGE), "image"),
        (lambda: photometric_l1_ssim(IMAGE, IMAGE[:, :1]), "prediction"),
        (lambda: photometric_l1_ssim(IMAGE, IMAGE, mask=IMAGE[:, 0] > 0), "mask"),
        (lambda: photometric_l1_ssim(IMAGE, IMAGE, mask=IMAGE > 0, variant="uniform7"), "mask"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
