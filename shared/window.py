"""Weighted means under a separable symmetric window, as SSIM and blurs need them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["window_mean"]


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
