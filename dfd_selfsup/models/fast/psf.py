"""The blur of `models.psf` without its K^2 copies: the same result and gradients, by hand.

Since g = sigma^-2 E_|u| E_|v| with E_n = exp(-n^2 / (2 std^2)), m + 1 exponentials per pixel (m = K // 2)
serve the whole window, and the sums run over rows and columns in turn. Forward and backward need nothing
but image, sigma, result and normaliser: the memory kept does not depend on the window.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dfd_selfsup.models.options import PsfOptions

__all__ = ["fast_blur"]

CACHED_PIXELS = 2**16  # slices of so many pixels at once: buffers that stay in the cache are a fifth faster


def fast_blur(image: Tensor, sigma: Tensor, options: PsfOptions) -> Tensor:
    """`models.psf.plain_blur`, faster: image [B, C, H, W], sigma [B, S, H, W] to [B, S, C, H, W]."""
    return _Blur.apply(image, sigma, options)


class _Kernels(NamedTuple):
    """The kernels of some slices, all [B, s, H, W] but for the factors, [B, s, 1, H, W]."""

    live: Tensor  # 1 where sigma counts, 0 where the image is sharp
    sigma: Tensor  # where it counts; a harmless number elsewhere
    strength: Tensor  # sigma^-2, 0 where sharp
    factors: list[Tensor]  # E_1 .. E_m
    exponent: float  # k in E_n = exp(-k n^2 / sigma^2)

    @staticmethod
    def of(sigma: Tensor, options: PsfOptions) -> "_Kernels":
        live = (sigma > options.threshold_px).to(sigma.dtype)
        sigma = sigma.clamp(min=options.threshold_px)
        exponent = 1 / (2 * options.psf_std_scale**2)
        inverse_square = sigma**-2
        scaled = (-exponent * inverse_square).unsqueeze(2)
        factors = [(scaled * (n * n)).exp() for n in range(1, options.window // 2 + 1)]
        return _Kernels(live, sigma, live * inverse_square, factors, exponent)


class _Blur(torch.autograd.Function):
    """The blur, a few slices at a time, keeping nothing that grows with the window."""

    @staticmethod
    def forward(ctx, image: Tensor, sigma: Tensor, options: PsfOptions) -> Tensor:
        blurred, norms = [], []
        with_ones = torch.cat([image, torch.ones_like(image[:, :1])], 1).unsqueeze(1)  # sums the weights
        for (part,) in _in_parts(sigma):
            kernels = _Kernels.of(part, options)
            total = _scatter(with_ones * kernels.strength.unsqueeze(2), kernels.factors)
            norms.append(torch.where(kernels.live > 0, total[:, :, -1], 1.0))
            mean = total[:, :, :-1] / norms[-1].unsqueeze(2)
            blurred.append(torch.lerp(image.unsqueeze(1), mean, kernels.live.unsqueeze(2)))
        result = torch.cat(blurred, 1)
        ctx.options = options
        ctx.save_for_backward(image, sigma, result, torch.cat(norms, 1))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        image, sigma, blurred, norm = ctx.saved_tensors
        with_sigma = ctx.needs_input_grad[1]
        grad_image, grads_sigma = torch.zeros_like(image), []
        for part, grad_part, blurred_part, norm_part in _in_parts(sigma, grad, blurred, norm):
            kernels = _Kernels.of(part, ctx.options)
            share = (kernels.live / norm_part).unsqueeze(2) * grad_part  # what an output gives to its sums
            share = torch.cat([share, (share * blurred_part).sum(2, keepdim=True)], 2)
            sums, distance_sums = _gather(share, kernels.factors, with_distance=with_sigma)
            copied = (1 - kernels.live).unsqueeze(2) * grad_part
            grad_image += (kernels.strength.unsqueeze(2) * sums[:, :, :-1] + copied).sum(1)
            if with_sigma:
                by_distance = kernels.exponent * kernels.strength * _against_image(distance_sums, image)
                to_sigma = by_distance - _against_image(sums, image)
                grads_sigma.append(2 * kernels.strength / kernels.sigma * to_sigma)
        return grad_image, torch.cat(grads_sigma, 1) if with_sigma else None, None


def _in_parts(*stacks: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The stacks [B, S, ...], on a CPU a few slices at a time, as many as its cache holds."""
    batch, slices, height, width = stacks[0].shape
    on_cpu = stacks[0].device.type == "cpu"
    at_once = max(1, CACHED_PIXELS // (batch * height * width)) if on_cpu else slices
    return zip(*(stack.split(at_once, 1) for stack in stacks), strict=True)


def _against_image(sums: Tensor, image: Tensor) -> Tensor:
    """sum_c I_c R_c - R_last, of R [B, S, C + 1, H, W]."""
    return (sums[:, :, :-1] * image.unsqueeze(1)).sum(2) - sums[:, :, -1]


def _scatter(values: Tensor, factors: list[Tensor]) -> Tensor:
    """Spread each pixel's value over its own window: out(Q + (i, j)) += E_|i|(Q) E_|j|(Q) values(Q)."""
    reach, (height, width) = len(factors), values.shape[-2:]
    total = values.new_zeros((*values.shape[:-2], height + 2 * reach, width + 2 * reach))
    for i in range(reach + 1):
        ahead = values * factors[i - 1] if i else values
        spread = F.pad(ahead, (reach, reach))
        for j, factor in enumerate(factors, start=1):
            for left in (reach - j, reach + j):
                spread[..., left : left + width].addcmul_(ahead, factor)
        for top in (reach - i, reach + i) if i else (reach,):
            total[..., top : top + height, :] += spread
    return total[..., reach : reach + height, reach : reach + width]


def _gather(values: Tensor, factors: list[Tensor], with_distance: bool) -> tuple[Tensor, Tensor | None]:
    """R0 = sum_ij E_|i| E_|j| values(. + (i, j)), and R1, the same weighted by i^2 + j^2."""
    reach, height = len(factors), values.shape[-2]
    padded = F.pad(values, (reach,) * 4)
    sums, distance_sums = _gather_row(padded[..., reach : reach + height, :], factors, with_distance)
    for i, factor in enumerate(factors, start=1):
        row_sums, row_distance_sums = _gather_row(_mirrored_sum(padded, -2, i, reach), factors, with_distance)
        sums.addcmul_(row_sums, factor)
        if with_distance:
            distance_sums.addcmul_(row_distance_sums.add_(row_sums, alpha=i * i), factor)
    return sums, distance_sums


def _gather_row(padded: Tensor, factors: list[Tensor], with_distance: bool) -> tuple[Tensor, Tensor | None]:
    """sum_j E_|j| values(. + j) along x, and the same weighted by j^2."""
    reach, width = len(factors), padded.shape[-1] - 2 * len(factors)
    sums = padded[..., reach : reach + width].clone()
    distance_sums = torch.zeros_like(sums) if with_distance else None
    for j, factor in enumerate(factors, start=1):
        pair = _mirrored_sum(padded, -1, j, reach)
        sums.addcmul_(pair, factor)
        if with_distance:
            distance_sums.addcmul_(pair, factor, value=j * j)
    return sums, distance_sums


def _mirrored_sum(padded: Tensor, dim: int, offset: int, reach: int) -> Tensor:
    """The values `offset` before and after each pixel, added; `padded` has `reach` more at both ends."""
    length = padded.shape[dim] - 2 * reach
    return padded.narrow(dim, reach - offset, length) + padded.narrow(dim, reach + offset, length)
