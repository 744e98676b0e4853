"""SSIM against scikit-image, SciPy, a plain loop, and at its singular points."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from skimage.metrics import structural_similarity
from torch.autograd import gradgradcheck

from shared.quality.ssim import SSIM_VARIANTS, ssim, ssim_map, window_mean

SKIMAGE_ARGUMENTS = {
    "gaussian11": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
    "uniform7": {},
}


def image_pair(batch=2, channels=3, height=23, width=31, dtype=torch.float64, seed=0):
    """Smooth structure plus noise, so that luminance, contrast and structure terms all matter."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, channels, 5, 6, generator=generator, dtype=dtype)
    smooth = torch.nn.functional.interpolate(low, (height, width), mode="bicubic", align_corners=False)
    noise = torch.rand(batch, channels, height, width, generator=generator, dtype=dtype)
    image_a = (0.8 * smooth + 0.2 * noise).clamp(0, 1)
    return image_a, (0.9 * image_a + 0.15 * noise.flip(-1)).clamp(0, 1)


def ssim_map_loop(image_a, image_b, variant, data_range):
    """The definition, pixel by pixel: weighted moments of the two windows about their own means."""
    if variant.grey:
        image_a, image_b = (image.mean(axis=0, keepdims=True) for image in (image_a, image_b))
    reach = variant.size // 2
    if variant.border != "valid":
        widths = ((0, 0), (reach, reach), (reach, reach))
        image_a, image_b = (np.pad(image, widths) for image in (image_a, image_b))
    offset = np.arange(variant.size) - reach
    if variant.sigma is None:
        window = np.ones((variant.size, variant.size))
    else:
        window = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * variant.sigma**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    channels, height, width = image_a.shape
    out = np.empty((channels, height - 2 * reach, width - 2 * reach))
    unbias = variant.size**2 / (variant.size**2 - 1) if variant.sample_covariance else 1.0
    for c, y, x in np.ndindex(out.shape):
        a = image_a[c, y : y + variant.size, x : x + variant.size]
        b = image_b[c, y : y + variant.size, x : x + variant.size]
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a = unbias * (window * (a - mean_a) ** 2).sum()
        var_b = unbias * (window * (b - mean_b) ** 2).sum()
        cov = unbias * (window * (a - mean_a) * (b - mean_b)).sum()
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        out[c, y, x] = luminance * (2 * cov + c2) / (var_a + var_b + c2)
    return out


@pytest.mark.parametrize("name", SKIMAGE_ARGUMENTS)
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_equals_scikit_image(name, data_range):
    image_a, image_b = (image * data_range for image in image_pair(batch=1))
    theirs = structural_similarity(
        image_a[0].numpy(),
        image_b[0].numpy(),
        channel_axis=0,
        data_range=data_range,
        **SKIMAGE_ARGUMENTS[name],
    )
    assert theirs < 0.95  # a pair that is told apart
    assert ssim(image_a, image_b, name, data_range).item() == pytest.approx(theirs, abs=1e-10)
    ours_float32 = ssim(image_a.float(), image_b.float(), name, data_range).item()
    assert ours_float32 == pytest.approx(theirs, abs=1e-5)


TAPS = (0.1, 0.25, 0.3, 0.25, 0.1)


@pytest.mark.parametrize(("zeros", "mode"), [(0, "valid"), (2, "same"), (4, "full")])
def test_window_mean_equals_correlation_in_scipy(zeros: int, mode: str) -> None:
    maps = torch.rand(2, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    window = torch.outer(torch.tensor(TAPS), torch.tensor(TAPS)).double()
    found = window_mean(maps, TAPS, zeros)
    for plane, expected in zip(found.flatten(0, 1), maps.flatten(0, 1), strict=True):
        theirs = torch.from_numpy(correlate2d(expected.numpy(), window.numpy(), mode=mode))
        torch.testing.assert_close(plane, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", SSIM_VARIANTS)
@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_map_equals_plain_loop(name, data_range):
    image_a, image_b = image_pair(batch=2, height=13, width=17)
    ours = ssim_map(image_a, image_b, name, data_range)
    for index in range(2):
        theirs = ssim_map_loop(
            image_a[index].numpy(), image_b[index].numpy(), SSIM_VARIANTS[name], data_range
        )
        np.testing.assert_allclose(ours[index].numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("name", SSIM_VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_images_give_exactly_one_and_order_does_not_matter(name, dtype):
    image_a, image_b = image_pair(dtype=dtype)
    assert (ssim_map(image_a, image_a.clone(), name) == 1).all()
    assert torch.equal(ssim_map(image_a, image_b, name), ssim_map(image_b, image_a, name))
    assert ssim_map(image_a, image_b, name).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("name", SSIM_VARIANTS)
def test_batch_equals_one_by_one(name):
    image_a, image_b = image_pair(batch=3)
    together = ssim(image_a, image_b, name, reduction="image")
    singly = [ssim(a[None], b[None], name) for a, b in zip(image_a, image_b, strict=True)]
    assert together.shape == (3,)
    torch.testing.assert_close(together, torch.stack(singly), rtol=0, atol=1e-14)
    torch.testing.assert_close(ssim(image_a, image_b, name), together.mean())


def plain_map(image_a, image_b, variant):
    """The formula for autograd."""
    if variant.grey:
        image_a, image_b = (image.mean(1, keepdim=True) for image in (image_a, image_b))
    window = torch.outer(*[torch.tensor(variant.taps, dtype=torch.float64)] * 2)[None, None]

    def mean(maps):
        padded = torch.nn.functional.pad(maps, (variant.zeros,) * 4).transpose(0, 1)
        return torch.nn.functional.conv2d(padded, window).transpose(0, 1)

    a, b = mean(image_a), mean(image_b)
    variances = variant.unbias * (mean(image_a**2 + image_b**2) - a**2 - b**2)
    covariance = variant.unbias * (mean(image_a * image_b) - a * b)
    return (2 * a * b + 1e-4) * (2 * covariance + 9e-4) / ((a**2 + b**2 + 1e-4) * (variances + 9e-4))


@pytest.mark.parametrize("name", SSIM_VARIANTS)
def test_gradients(name):
    image_a, image_b = image_pair(batch=1, channels=2, height=12, width=13)
    image_a.requires_grad_()
    image_b.requires_grad_()
    fast = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-3, "fast_mode": True}
    found, plain = ssim_map(image_a, image_b, name), plain_map(image_a, image_b, SSIM_VARIANTS[name])
    weights = torch.rand(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((m * weights).sum(), (image_a, image_b)) for m in (found, plain)]
    torch.testing.assert_close(*gradients)
    assert gradgradcheck(lambda a, b: ssim(a, b, name), (image_a, image_b), **fast)


@pytest.mark.parametrize("name", SSIM_VARIANTS)
@pytest.mark.parametrize("level_a", [0.0, 0.5, 1.0])
def test_finite_gradients_without_texture(name, level_a):
    for image_b in (torch.full((1, 3, 12, 15), level_a), torch.zeros(1, 3, 12, 15), torch.rand(1, 3, 12, 15)):
        image_a = torch.full((1, 3, 12, 15), level_a, requires_grad=True)
        value = ssim(image_a, image_b, name)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(image_a.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    image_a, image_b = (image.to(dtype) for image in image_pair())
    value = ssim(image_a, image_b)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(ssim(image_a.double(), image_b.double()).item(), abs=1e-5)


@pytest.mark.parametrize("name", SSIM_VARIANTS)
def test_image_of_window_size_works_and_smaller_is_refused(name):
    size = SSIM_VARIANTS[name].size
    image = torch.rand(1, 3, size, size)
    assert ssim(image, image, name) == 1
    with pytest.raises(ValueError, match=f"{size}x{size}"):
        ssim(image[..., 1:, :], image[..., 1:, :], name)


A, B = torch.rand(1, 3, 16, 16), torch.rand(1, 1, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, B), "image_b"),
        ((A.byte(), A.byte()), "uint8"),
        ((A, A, "gaussian"), "gaussian11"),
        ((A, A, "uniform7", 1.0, "none"), "reduction"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ssim(*arguments)
