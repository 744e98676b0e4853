"""Structural similarity (Wang et al. 2004) in the variants that the papers use, and its window means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.geometry import check_shape

__all__ = [
    "SSIM_VARIANTS",
    "SsimVariant",
    "ssim",
    "ssim_map",
    "window_mean",
]


def window_mean(maps: Tensor, taps: Sequence[float], zeros: int = 0) -> Tensor:
    """Sum over the window of taps_i taps_j maps(. + (i, j)), for [..., H, W]; any number of derivatives.

    taps: weights along one axis, the same read backwards. zeros: width of the border of zeros around the
    maps, in pixels; a side grows by twice of it and loses the window less one.
    """
    return _WindowMean.apply(maps, taps, zeros)


class _WindowMean(torch.autograd.Function):
    """The gradient is the same window over the gradient with zeros around it.

    A sum of shifted copies: on a CPU several times as fast as a convolution of single planes.
    """

    @staticmethod
    def forward(ctx, maps: Tensor, taps: Sequence[float], zeros: int) -> Tensor:
        ctx.taps, ctx.zeros = taps, zeros
        if zeros:
            maps = F.pad(maps, (zeros,) * 4)
        return _slide(_slide(maps, taps, dim=-2), taps, dim=-1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return window_mean(grad, ctx.taps, len(ctx.taps) - 1 - ctx.zeros), None, None


def _slide(maps: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    length = maps.shape[dim] - len(taps) + 1
    total = maps.narrow(dim, 0, length) * taps[0]
    for offset, tap in enumerate(taps[1:], start=1):
        total.add_(maps.narrow(dim, offset, length), alpha=tap)
    return total


_K1, _K2 = 0.01, 0.03  # Wang et al. 2004; every variant in use keeps them


@dataclass(frozen=True)
class SsimVariant:
    """One way to compute SSIM: the window, how it meets the border, and the colour handling."""

    label: str
    size: int  # of the window, in pixels
    sigma: float | None  # of the Gaussian window, in pixels; None is a box
    border: Literal["valid", "zero"]  # "valid": only where the whole window is in the image
    sample_covariance: bool = False  # divide by n - 1 instead of n
    grey: bool = False  # average the channels before anything else

    @property
    def taps(self) -> tuple[float, ...]:
        """The one-dimensional window, `size` weights that sum to 1."""
        if self.sigma is None:
            return (1.0 / self.size,) * self.size
        centre = (self.size - 1) / 2
        weights = [math.exp(-((i - centre) ** 2) / (2 * self.sigma**2)) for i in range(self.size)]
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def zeros(self) -> int:
        """Width of the border of zeros that the window sees, in pixels."""
        return self.size // 2 if self.border == "zero" else 0

    @property
    def unbias(self) -> float:
        """Factor of variances and covariance."""
        n = self.size**2
        return n / (n - 1) if self.sample_covariance else 1.0


SSIM_VARIANTS: Mapping[str, SsimVariant] = MappingProxyType(
    {
        # Wang et al. 2004; scikit-image's gaussian_weights=True, sigma=1.5, use_sample_covariance=False.
        "gaussian11": SsimVariant("SSIM (Gaussian 11x11, sigma 1.5, valid region, RGB)", 11, 1.5, "valid"),
        # scikit-image's defaults, hence most published numbers that came out of scikit-image.
        "uniform7": SsimVariant(
            "SSIM (uniform 7x7, valid region, RGB)", 7, None, "valid", sample_covariance=True
        ),
        # pytorch_ssim (P.-H. Su), used by the losses of diffdiffdepth and dfd_selfsup.
        "gaussian11_zero_pad": SsimVariant(
            "SSIM (Gaussian 11x11, sigma 1.5, zero border, RGB)", 11, 1.5, "zero"
        ),
        # Chen et al. 2019 and after them nvs_depth: narrow window, on the mean of the colour channels.
        "grey11_sigma0.5": SsimVariant(
            "SSIM (Gaussian 11x11, sigma 0.5, zero border, grey)", 11, 0.5, "zero", grey=True
        ),
    }
)


def ssim(
    image_a: Tensor,
    image_b: Tensor,
    variant: str = "gaussian11",
    data_range: float = 1.0,
    reduction: Literal["mean", "image"] = "mean",
) -> Tensor:
    """Mean structural similarity of two image batches, 1 for equal images, differentiable in both.

    image_a, image_b: [B, C, H, W] with values spanning `data_range` (1.0 for images in [0, 1]).
    variant: a key of `SSIM_VARIANTS`; print its `label` wherever the number is shown.
    reduction: "mean" gives a scalar, "image" one value per image, [B].
    Raises ValueError for other shapes, integer images, images smaller than the window, unknown names.
    A loss minimises `1 - ssim(...)`. Source: Wang et al., "Image quality assessment", TIP 2004:

        SSIM = (2 μa μb + c1) (2 σab + c2) / ((μa² + μb² + c1) (σa² + σb² + c2)),  c1 = 0.01², c2 = 0.03²

        >>> image = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
        >>> ssim(image, image), ssim(image, 1 - image) < 0
        (tensor(1.), tensor(True))
    """
    if reduction not in ("mean", "image"):
        raise ValueError(f"unknown reduction {reduction!r}: use 'mean' or 'image', or ssim_map for the map")
    per_image = ssim_map(image_a, image_b, variant, data_range).mean(dim=(1, 2, 3))
    return per_image.mean() if reduction == "mean" else per_image


def ssim_map(
    image_a: Tensor, image_b: Tensor, variant: str = "gaussian11", data_range: float = 1.0
) -> Tensor:
    """Structural similarity at every pixel and channel, in [-1, 1].

    image_a, image_b: [B, C, H, W]. Returns [B, C, H', W'], with C = 1 for grey variants. The map has the size
    of the images where the variant pads them with zeros; else it is smaller by the window less one.
    Half precision is computed in float32. Arguments and errors as in `ssim`.
    """
    if variant not in SSIM_VARIANTS:
        raise ValueError(f"unknown SSIM variant {variant!r}: use one of {', '.join(SSIM_VARIANTS)}")
    chosen = SSIM_VARIANTS[variant]
    _check(image_a, image_b, chosen, data_range)
    image_a, image_b = (_prepare(image, chosen, data_range) for image in (image_a, image_b))
    return _SsimMap.apply(image_a, image_b, chosen)


class _SsimMap(torch.autograd.Function):
    """The map, with a backward pass in one piece: autograd would keep and pass three times as many maps."""

    @staticmethod
    def forward(ctx, image_a: Tensor, image_b: Tensor, variant: SsimVariant) -> Tensor:
        mean_a, mean_b, *others = _windowed_means(image_a, image_b, variant)
        factors = _factors(mean_a, mean_b, *others, variant)
        ctx.variant = variant
        ctx.save_for_backward(image_a, image_b, mean_a, mean_b, *factors)
        return factors[0] * factors[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image_a, image_b, mean_a, mean_b, luminance, structure, d1, d2 = ctx.saved_tensors
        variant = ctx.variant
        if torch.is_grad_enabled():  # derivatives of the gradient are wanted: from autograd
            luminance, structure, *_ = _factors(*_windowed_means(image_a, image_b, variant), variant)
            wanted = [image for image in (image_a, image_b) if image.requires_grad]
            found = iter(torch.autograd.grad(luminance * structure, wanted, grad, create_graph=True))
            return *(next(found) if image.requires_grad else None for image in (image_a, image_b)), None

        # The map is l s with l = (2 ab + c1) / d1, s = (2 u (E_ab - ab) + c2) / d2, of the means a and b.
        twice = 2 * grad
        to_product = (twice * luminance).div_(d2)  # d map / d E_ab
        if variant.unbias != 1:
            to_product.mul_(variant.unbias)
        to_squares = to_product * structure  # -2 d map / d E_squares
        to_means = (twice * structure).div_(d1)
        cross, same = to_means - to_product, to_squares - to_means.mul_(luminance)
        reach = len(variant.taps) - 1 - variant.zeros
        to_product, to_squares = (window_mean(rate, variant.taps, reach) for rate in (to_product, to_squares))

        def gradient(image: Tensor, other: Tensor, mean: Tensor, other_mean: Tensor) -> Tensor:
            through_mean = window_mean((cross * other_mean).addcmul_(same, mean), variant.taps, reach)
            return through_mean.addcmul_(other, to_product).addcmul_(image, to_squares, value=-1)

        grad_a = gradient(image_a, image_b, mean_a, mean_b) if ctx.needs_input_grad[0] else None
        grad_b = gradient(image_b, image_a, mean_b, mean_a) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b, None


def _windowed_means(image_a: Tensor, image_b: Tensor, variant: SsimVariant) -> list[Tensor]:
    """E_a, E_b, E_ab, E_squares; the two variances are only needed as their sum, so these are enough."""
    moments = (image_a, image_b, image_a * image_b, (image_a**2).add_(image_b**2))
    return [window_mean(moment, variant.taps, variant.zeros) for moment in moments]


def _factors(
    mean_a: Tensor, mean_b: Tensor, mean_ab: Tensor, mean_squares: Tensor, variant: SsimVariant
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Luminance and structure, whose product is the map, and the denominators of the two."""
    c1, c2 = _K1**2, _K2**2  # the images were scaled to a data range of 1
    product, squares = mean_a * mean_b, (mean_a**2).add_(mean_b**2)
    covariance, variances = mean_ab - product, mean_squares - squares
    d1, d2 = squares.add_(c1), variances.mul_(variant.unbias).add_(c2)
    luminance = product.mul_(2).add_(c1).div_(d1)
    return luminance, covariance.mul_(2 * variant.unbias).add_(c2).div_(d2), d1, d2


def _prepare(image: Tensor, variant: SsimVariant, data_range: float) -> Tensor:
    if image.dtype in (torch.float16, torch.bfloat16):
        image = image.float()  # E[x^2] - E[x]^2 against C2 = 9e-4 needs more than 11 bits
    if variant.grey:
        image = image.mean(dim=1, keepdim=True)
    return image / data_range if data_range != 1.0 else image


def _check(image_a: Tensor, image_b: Tensor, variant: SsimVariant, data_range: float) -> None:
    sizes = check_shape(image_a, "B C H W", "image_a")
    check_shape(image_b, "B C H W", "image_b", sizes)
    if not (image_a.is_floating_point() and image_b.is_floating_point()):
        raise ValueError(f"SSIM needs float images, got {image_a.dtype}: convert first, image.float() / 255")
    if min(image_a.shape[-2:]) < variant.size or image_a.numel() == 0 or not data_range > 0:
        window = f"{variant.label} needs images of at least {variant.size}x{variant.size} and data_range > 0"
        raise ValueError(f"{window}, got {list(image_a.shape)} and {data_range}")
