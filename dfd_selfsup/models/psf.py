"""A blur with a kernel of its own for every pixel: the optical model that the network trains through.

For slice k with blur radii sigma, window Omega of K x K pixels and Gaussian weight

    g(sigma; u, v) = sigma^-2 exp(-(u^2 + v^2) / (2 std^2)),      std = psf_std_scale * sigma,

the released code computes, with sigma owned by the SOURCE pixel Q and normalised at the output pixel P,

    J(P) = I(P)                                                        where sigma(P) <= threshold, else
    J(P) = sum_Q g(sigma(Q); Q - P) I(Q) / sum_Q g(sigma(Q); Q - P)    over the Q in Omega(P), inside the
                                                                       image, with sigma(Q) > threshold.

Sharp pixels neither give nor take: that is all its treatment of occlusion. With `kernel_owner="output"` the
weights are g(sigma(P); Q - P) over all Q in the image instead.

Since g = sigma^-2 E_|u| E_|v| with E_n = exp(-n^2 / (2 std^2)), m + 1 exponentials per pixel (m = K // 2)
serve the whole window, and the sums run over rows and columns in turn. Forward and backward need nothing
but image, sigma, result and normaliser: the memory kept does not depend on the window.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["PsfOptions", "render_stack"]

SMALLEST_THRESHOLD = 0.05  # sigma^-3 in the gradient stays harmless in float32


@dataclass(frozen=True)
class PsfOptions:
    """How pixels are blurred; the defaults are the released code's, `psf_std_scale` 1 is the paper's formula.

    A disc of radius sigma has standard deviation sigma / 2 along each axis, so 0.5 is its second-moment
    match.
    """

    window: int = 7
    psf_std_scale: float = 0.5
    threshold_px: float = 1.0
    kernel_owner: Literal["source", "output"] = "source"

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"the PSF window must be odd and positive, got {self.window}")
        if not self.psf_std_scale > 0 or not self.threshold_px >= SMALLEST_THRESHOLD:
            raise ValueError(
                f"psf_std_scale must be positive and threshold_px at least {SMALLEST_THRESHOLD}, "
                f"got {self.psf_std_scale} and {self.threshold_px}"
            )


def render_stack(image: Tensor, sigma_px: Tensor, options: PsfOptions = PsfOptions()) -> Tensor:  # noqa: B008
    """Blur image [B, C, H, W] with radii sigma_px [B, S, H, W] into a stack [B, S, C, H, W].

    Differentiable once in both; half precision is computed in float32, also under autocast. A constant
    image stays constant and no value leaves the range of the image. Raises ValueError for shapes that do
    not fit.
    """
    if image.ndim != 4 or sigma_px.ndim != 4 or image[:, 0].shape != sigma_px[:, 0].shape:
        raise ValueError(
            f"image [B, C, H, W] and sigma [B, S, H, W] do not fit: "
            f"{list(image.shape)}, {list(sigma_px.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(image.dtype, sigma_px.dtype), torch.float32)
    render = _SourceBlur if options.kernel_owner == "source" else _OutputBlur
    return render.apply(image.to(dtype), sigma_px.to(dtype), options)


class _SourceBlur(torch.autograd.Function):
    """Kernels owned by the source pixel."""

    @staticmethod
    def forward(ctx, image: Tensor, sigma: Tensor, options: PsfOptions) -> Tensor:
        live, factors, strength = _window_factors(sigma, options)
        weighted = _with_ones(image) * strength.unsqueeze(2)  # [B, S, C + 1, H, W]
        total = _scatter(weighted, factors)
        norm = torch.where(live, total[:, :, -1], 1.0)
        blurred = torch.where(live.unsqueeze(2), total[:, :, :-1] / norm.unsqueeze(2), image.unsqueeze(1))
        ctx.options = options
        ctx.save_for_backward(image, sigma, blurred, norm)
        return blurred

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        image, sigma, blurred, norm = ctx.saved_tensors
        live, factors, strength = _window_factors(sigma, ctx.options)
        share = torch.where(live, 1 / norm, 0.0).unsqueeze(2) * grad
        share = torch.cat([share, (share * blurred).sum(2, keepdim=True)], 2)
        # Without a gradient for sigma the sums weighted by distance are not needed.
        sums, distance_sums = _gather(share, factors, with_distance=ctx.needs_input_grad[1])
        grad_image = strength.unsqueeze(2) * sums[:, :, :-1] + torch.where(live.unsqueeze(2), 0.0, grad)
        grad_sigma = None
        if ctx.needs_input_grad[1]:
            safe = torch.where(live, sigma, 1.0)
            exponent = _exponent(ctx.options)
            toward = (exponent / safe**2) * _against_image(distance_sums, image) - _against_image(sums, image)
            grad_sigma = torch.where(live, 2 / safe**3 * toward, 0.0)
        return grad_image.sum(1), grad_sigma, None


class _OutputBlur(torch.autograd.Function):
    """Kernels owned by the output pixel: a gather of the unchanged image."""

    @staticmethod
    def forward(ctx, image: Tensor, sigma: Tensor, options: PsfOptions) -> Tensor:
        live, factors, _ = _window_factors(sigma, options)
        total, _ = _gather(_with_ones(image), factors, with_distance=False)
        norm = total[:, :, -1]
        blurred = torch.where(live.unsqueeze(2), total[:, :, :-1] / norm.unsqueeze(2), image.unsqueeze(1))
        ctx.options = options
        ctx.save_for_backward(image, sigma, blurred, norm)
        return blurred

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        image, sigma, blurred, norm = ctx.saved_tensors
        live, factors, _ = _window_factors(sigma, ctx.options)
        share = torch.where(live, 1 / norm, 0.0).unsqueeze(2) * grad
        grad_image = _scatter(share, factors) + torch.where(live.unsqueeze(2), 0.0, grad)
        grad_sigma = None
        if ctx.needs_input_grad[1]:
            _, distance_sums = _gather(_with_ones(image), factors, with_distance=True)
            excess = distance_sums[:, :, :-1] - blurred * distance_sums[:, :, -1:]
            safe = torch.where(live, sigma, 1.0)
            grad_sigma = 2 * _exponent(ctx.options) / safe**3 * (share * excess).sum(2)
        return grad_image.sum(1), grad_sigma, None


def _exponent(options: PsfOptions) -> float:
    """k in exp(-k r^2 / sigma^2)."""
    return 1 / (2 * options.psf_std_scale**2)


def _window_factors(sigma: Tensor, options: PsfOptions) -> tuple[Tensor, list[Tensor], Tensor]:
    """Where sigma counts, E_0 .. E_m as [B, S, 1, H, W], and sigma^-2 (0 where sharp), both [B, S, H, W]."""
    live = sigma > options.threshold_px
    inverse_square = torch.where(live, sigma, 1.0) ** -2
    scaled = (-_exponent(options) * inverse_square).unsqueeze(2)
    factors = [(scaled * (n * n)).exp() for n in range(options.window // 2 + 1)]
    return live, factors, torch.where(live, inverse_square, 0.0)


def _with_ones(image: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 1, C + 1, H, W]: the last channel gathers the normaliser."""
    return torch.cat([image, torch.ones_like(image[:, :1])], 1).unsqueeze(1)


def _against_image(sums: Tensor, image: Tensor) -> Tensor:
    """sum_c I_c R_c - R_last, of R [B, S, C + 1, H, W]."""
    return (sums[:, :, :-1] * image.unsqueeze(1)).sum(2) - sums[:, :, -1]


def _scatter(values: Tensor, factors: list[Tensor]) -> Tensor:
    """Spread each pixel's value over its own window: out(Q + (i, j)) += E_|i|(Q) E_|j|(Q) values(Q)."""
    total = torch.zeros_like(values)
    for i, row_factor in enumerate(factors):
        if i >= values.shape[-2]:
            break
        ahead = values * row_factor
        spread = ahead * factors[0]
        for j, factor in enumerate(factors[1:], start=1):
            if j >= values.shape[-1]:
                break
            part = ahead * factor
            spread[..., j:] += part[..., :-j]
            spread[..., :-j] += part[..., j:]
        if i == 0:
            total += spread
        else:
            total[..., i:, :] += spread[..., :-i, :]
            total[..., :-i, :] += spread[..., i:, :]
    return total


def _gather(values: Tensor, factors: list[Tensor], with_distance: bool) -> tuple[Tensor, Tensor | None]:
    """R0 = sum_ij E_|i| E_|j| values(. + (i, j)), and R1, the same weighted by i^2 + j^2.

    `values` may have one slice for all S of the factors.
    """
    shape = torch.broadcast_shapes(values.shape, factors[0].shape)
    sums = values.new_zeros(shape)
    distance_sums = values.new_zeros(shape) if with_distance else None
    for i, row_factor in enumerate(factors):
        if i >= values.shape[-2]:
            break
        rows = values
        if i > 0:
            rows = torch.zeros_like(values)
            rows[..., :-i, :] += values[..., i:, :]
            rows[..., i:, :] += values[..., :-i, :]
        inner, inner_distance = rows * factors[0], None
        for j, factor in enumerate(factors[1:], start=1):
            if j >= values.shape[-1]:
                break
            pair = torch.zeros_like(rows)
            pair[..., :-j] += rows[..., j:]
            pair[..., j:] += rows[..., :-j]
            pair = pair * factor
            inner += pair
            if with_distance:
                inner_distance = (
                    pair * (j * j) if inner_distance is None else inner_distance.add_(pair, alpha=j * j)
                )
        sums.addcmul_(row_factor.expand(shape), inner)
        if with_distance:
            squared = inner * (i * i)
            distance_sums.addcmul_(
                row_factor.expand(shape), squared if inner_distance is None else squared.add_(inner_distance)
            )
    return sums, distance_sums
