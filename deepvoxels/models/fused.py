"""Steps between a convolution and the next, written to keep little for the backward pass and to suit CPUs.

`padded_conv` keeps the unpadded input and pads again in the backward pass; autograd would keep both.
`norm_activate_drop` is batch norm, activation and channel dropout. For narrow channels-last tensors, which
the stock CPU kernels walk through channel by channel, it takes statistics over rows of 64 numbers (about
ten times faster) and keeps its input only. Both are once differentiable.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from deepvoxels.models.layout import channels_last

__all__ = ["activate_drop", "norm_activate_drop", "padded_conv"]

_NARROW = 16  # channels; wider tensors suit the stock kernels
_SMALL = 1 << 14  # elements; below, the overhead of many small calls outweighs what they save


def norm_activate_drop(
    x: Tensor, norm: nn.BatchNorm2d | nn.BatchNorm3d, slope: float, keep: Tensor | None
) -> Tensor:
    """Batch norm and leaky ReLU (`slope`, 0 for ReLU) of x [B, C, ...], times `keep` [B, C] >= 0 if given.

    Equal to `keep * leaky_relu(norm(x), slope)`; updates the running statistics of `norm` in training mode.
    """
    stock = not norm.training or x.shape[1] >= _NARROW or x.numel() < _SMALL
    if stock or x.is_cuda or x.dtype != norm.weight.dtype:
        return activate_drop(norm(x), slope, keep)
    y, mean, var = _NormActivateDrop.apply(channels_last(x), norm.weight, norm.bias, keep, norm.eps, slope)
    with torch.no_grad():
        n = x.numel() // x.shape[1]
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (n / (n - 1)), norm.momentum)
        norm.num_batches_tracked += 1
    return y


def activate_drop(x: Tensor, slope: float, keep: Tensor | None) -> Tensor:
    """Leaky ReLU of x [B, C, ...] times `keep` [B, C] >= 0 if given, written into x."""
    if keep is None:
        return F.leaky_relu(x, slope, inplace=True) if slope else F.relu(x, inplace=True)
    return _ActivateDrop.apply(x, slope, keep.view(*keep.shape, *(1,) * (x.dim() - 2)))


def padded_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Convolution of x padded by one: images [B, C, H, W] by reflection, volumes by replication."""
    if torch.is_autocast_enabled(x.device.type):
        convolve = F.conv2d if x.dim() == 4 else F.conv3d
        return convolve(_pad(x), weight, bias, stride)
    return _PaddedConv.apply(x, weight, bias, stride)


def _pad(x: Tensor) -> Tensor:
    return F.pad(x, (1,) * (2 * x.dim() - 4), mode="reflect" if x.dim() == 4 else "replicate")


class _ActivateDrop(torch.autograd.Function):
    """In place: where a channel is kept, the result has the sign of the input, so the input need not stay."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, slope: float, keep: Tensor) -> Tensor:
        y = (F.leaky_relu_(x, slope) if slope else x.relu_()).mul_(keep)
        ctx.mark_dirty(x)
        ctx.save_for_backward(y, keep)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        y, keep = ctx.saved_tensors
        return _activation_backward(grad, y, ctx.slope).mul_(keep), None, None


def _activation_backward(grad: Tensor, y: Tensor, slope: float) -> Tensor:
    """Gradient before a leaky ReLU from that after it; y has the sign of the activation's input or output."""
    aten = torch.ops.aten
    return aten.leaky_relu_backward(grad, y, slope, True) if slope else aten.threshold_backward(grad, y, 0)


class _PaddedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.bias_sizes = stride, None if bias is None else list(bias.shape)
        padded = _pad(x)
        if _would_run_slowly(padded, weight):
            return _join_halves(F.conv3d(_halves(padded, overlap=2), weight, bias))
        return (F.conv2d if x.dim() == 4 else F.conv3d)(padded, weight, bias, stride)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dims = x.dim() - 2
        zeros, ones = [0] * dims, [1] * dims
        padded = _pad(x)
        in_halves = _would_run_slowly(padded, weight)
        if in_halves:
            grad, padded = _halves(grad), _halves(padded, overlap=2)
        grad_padded, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad,
            padded,
            weight,
            ctx.bias_sizes,
            [ctx.stride] * dims,
            zeros,
            ones,
            False,
            zeros,
            1,
            ctx.needs_input_grad[:3],
        )
        if in_halves and grad_padded is not None:
            grad_padded = _join_halves(grad_padded, overlap=2)
        grad_x = None
        if grad_padded is not None:
            aten = torch.ops.aten
            backward = aten.reflection_pad2d_backward if dims == 2 else aten.replication_pad3d_backward
            grad_x = backward(grad_padded, x, [1] * (2 * dims))
        return grad_x, grad_weight, grad_bias, None


def _would_run_slowly(padded: Tensor, weight: Tensor) -> bool:
    """Whether PyTorch would give this float32 convolution of one small volume to its slow CPU kernel.

    For a batch of one it takes the fast (oneDNN) one only if channels x depth x height exceed 20480, or for
    kernels larger than 3; with 16 channels at 32^3 the slow kernel takes about ten times as long.
    """
    return (
        padded.dim() == 5
        and padded.shape[0] == 1
        and not padded.is_cuda
        and weight.shape[-1] == 3
        and padded.shape[1:4].numel() <= 20480
        and padded.shape[2] % 2 == 0
        and padded.shape[2] >= 6
    )


def _halves(volume: Tensor, overlap: int = 0) -> Tensor:
    """[1, C, D, H, W] as a batch of its front and its back half, which share `overlap` planes."""
    depth = (volume.shape[2] + overlap) // 2
    return channels_last(torch.cat((volume[:, :, :depth], volume[:, :, -depth:])))


def _join_halves(halves: Tensor, overlap: int = 0) -> Tensor:
    """Undo `_halves`, adding up the planes that both halves share."""
    front, back = halves.split(1)
    if overlap == 0:
        return torch.cat((front, back), dim=2)
    front, shared_front = front.split((front.shape[2] - overlap, overlap), dim=2)
    shared_back, back = back.split((overlap, back.shape[2] - overlap), dim=2)
    return torch.cat((front, shared_front + shared_back, back), dim=2)


class _NormActivateDrop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        keep: Tensor | None,
        eps: float,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, channels = _rows(x), x.shape[1]
        count = x.numel() // channels
        mean = _per_channel(rows.sum(dim=1), channels).sum(dim=0) / count
        centred = rows - _per_lane(mean, rows)
        var = _per_channel((centred * centred).sum(dim=1), channels).sum(dim=0) / count
        inv_std = torch.rsqrt(var + eps)
        scale, shift = _affine(weight * inv_std, bias, keep)
        y = torch.addcmul(_per_lane(shift, rows), centred, _per_lane(scale, rows), out=centred)
        y = F.leaky_relu_(y, slope) if slope else y.relu_()
        ctx.save_for_backward(x, weight, bias, keep, mean, inv_std)
        ctx.slope = slope
        ctx.mark_non_differentiable(mean, var)
        return _unrows(y, x), mean, var

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        x, weight, bias, keep, mean, inv_std = ctx.saved_tensors
        rows, channels = _rows(x), x.shape[1]
        count = x.numel() // channels
        scale, shift = _affine(weight * inv_std, bias, keep)
        centred = rows - _per_lane(mean, rows)
        y = torch.addcmul(_per_lane(shift, rows), centred, _per_lane(scale, rows))
        grad = _activation_backward(_rows(channels_last(grad)), y, ctx.slope)
        kept = torch.ones_like(scale) if keep is None else keep  # [B or 1, C]
        grad_bias = (kept * _per_channel(grad.sum(dim=1), channels)).sum(dim=0)
        product = torch.mul(grad, centred, out=y)
        grad_weight = (kept * _per_channel(product.sum(dim=1), channels)).sum(dim=0) * inv_std
        # through the statistics: weight inv_std (kept grad - mean(kept grad) - x_hat mean(kept grad x_hat))
        slope_x = -weight * inv_std * inv_std * grad_weight / count
        offset = -weight * inv_std * grad_bias / count
        grad_x = torch.addcmul(_per_lane(offset, rows), centred, _per_lane(slope_x, rows), out=centred)
        grad_x.addcmul_(grad, _per_lane(scale, rows))
        return _unrows(grad_x, x), grad_weight, grad_bias, None, None, None


def _affine(scale: Tensor, shift: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and shift with the dropout factors folded in: [B, C], or [1, C] without dropout."""
    scale, shift = scale.unsqueeze(0), shift.unsqueeze(0)
    return (scale, shift) if keep is None else (scale * keep, shift * keep)


def _rows(x: Tensor) -> Tensor:
    """View channels-last [B, C, ...] as [B, n, lanes]: rows of whole pixels, 64 numbers or more if it can."""
    flat = x.movedim(1, -1)
    pixels, lanes = flat[0].numel() // x.shape[1], x.shape[1]
    while lanes < 64 and pixels % 2 == 0:
        pixels, lanes = pixels // 2, lanes * 2
    return flat.reshape(len(x), pixels, lanes)


def _unrows(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(len(like), *like.shape[2:], like.shape[1]).movedim(-1, 1)


def _per_channel(lanes: Tensor, channels: int) -> Tensor:
    """Sum [B, lanes] over the pixels of a row: [B, C]."""
    return lanes.view(len(lanes), -1, channels).sum(dim=1)


def _per_lane(values: Tensor, rows: Tensor) -> Tensor:
    """Repeat [C] or [B, C] for every pixel of a row: [B or 1, 1, lanes]."""
    values = values.view(-1, 1, values.shape[-1])
    return values.repeat(1, 1, rows.shape[-1] // values.shape[-1])
