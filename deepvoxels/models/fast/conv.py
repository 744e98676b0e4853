"""Padded convolution that keeps little for the backward pass and suits PyTorch's CPU kernels.

It keeps the unpadded input and pads again in the backward pass; autograd would keep both. Small volumes are
convolved in halves. Once differentiable.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from deepvoxels.models.networks import pad

__all__ = ["padded_conv"]


def padded_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """As `networks.padded_conv`; under autocast in its precision."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        half = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(half), weight.to(half), None if bias is None else bias.to(half)
    return _PaddedConv.apply(x, weight, bias, stride)


class _PaddedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.bias_sizes = stride, None if bias is None else list(bias.shape)
        padded = pad(x)
        if _would_run_slowly(padded, weight):
            return _join_halves(F.conv3d(_halves(padded, overlap=2), weight, bias))
        return (F.conv2d if x.dim() == 4 else F.conv3d)(padded, weight, bias, stride)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dims = x.dim() - 2
        zeros, ones = [0] * dims, [1] * dims
        padded = pad(x)
        in_halves = _would_run_slowly(padded, weight)
        if in_halves:
            grad, padded = _halves(grad), _halves(padded, overlap=2)
        how = [ctx.stride] * dims, zeros, ones, False, zeros, 1
        grad_padded, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, padded, weight, ctx.bias_sizes, *how, ctx.needs_input_grad[:3]
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
        and padded.dtype == torch.float32
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
    return torch.cat((volume[:, :, :depth], volume[:, :, -depth:]))


def _join_halves(halves: Tensor, overlap: int = 0) -> Tensor:
    """Undo `_halves`, adding up the planes that both halves share."""
    front, back = halves.split(1)
    if overlap == 0:
        return torch.cat((front, back), dim=2)
    front, shared_front = front.split((front.shape[2] - overlap, overlap), dim=2)
    shared_back, back = back.split((overlap, back.shape[2] - overlap), dim=2)
    return torch.cat((front, shared_front + shared_back, back), dim=2)
