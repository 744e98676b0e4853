"""Fused steps between convolutions against the stock layers they replace: values, gradients, statistics."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepvoxels.models import fused

F64 = torch.float64


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_padded_convolution_equals_padding_then_convolving(shape, stride):
    dims, kernel = len(shape) - 2, 3 if stride == 1 else 4
    x = torch.randn(shape, dtype=F64, requires_grad=True)
    weight = torch.randn(4, shape[1], *(kernel,) * dims, dtype=F64, requires_grad=True)
    bias = torch.randn(4, dtype=F64, requires_grad=True)
    mode = "reflect" if dims == 2 else "replicate"
    plain = (F.conv2d, F.conv3d)[dims - 2](F.pad(x, (1,) * 2 * dims, mode=mode), weight, bias, stride)
    torch.testing.assert_close(fused.padded_conv(x, weight, bias, stride), plain)
    assert torch.autograd.gradcheck(lambda *a: fused.padded_conv(*a, stride), (x, weight, bias))
    assert torch.autograd.gradcheck(lambda a: fused.padded_conv(a, weight.detach(), None, stride), x)


@pytest.mark.parametrize("shape", [(3, 5, 7, 6), (2, 4, 4, 3, 8), (1, 1, 5, 5), (2, 12, 3, 3)])
@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("dropped", [False, True])
def test_fused_norm_equals_the_stock_layers(monkeypatch, shape, slope, dropped):
    norm = (nn.BatchNorm2d, nn.BatchNorm3d)[len(shape) - 4](shape[1]).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (3 * torch.randn(shape, dtype=F64) + 5).requires_grad_()
    keep = 1.3 * (torch.rand(shape[:2]) > 0.3).double() if dropped else None
    factor = 1.0 if keep is None else keep.view(*keep.shape, *(1,) * (len(shape) - 2))
    plain = F.leaky_relu(norm(x), slope) * factor
    statistics = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    grad = torch.randn_like(plain)
    inputs = (x, norm.weight, norm.bias)
    expected = torch.autograd.grad(plain, inputs, grad)

    for small in (0, 1 << 60):  # the fused step, and the stock layers with the activation written in place
        monkeypatch.setattr(fused, "_SMALL", small)
        norm.reset_running_stats()
        result = fused.norm_activate_drop(x, norm, slope, keep)
        torch.testing.assert_close(result, plain)
        torch.testing.assert_close(torch.autograd.grad(result, inputs, grad), expected)
        for name, buffer in norm.named_buffers():
            torch.testing.assert_close(buffer, statistics[name])


def test_fused_norm_survives_a_large_mean():
    norm = nn.BatchNorm2d(2)
    x = 1e3 + torch.randn(4, 2, 64, 64)
    plain = norm(x)
    found = fused.norm_activate_drop(x, norm, 1.0, None)  # slope 1: no activation
    torch.testing.assert_close(found, plain, atol=1e-3, rtol=0)
    assert x.numel() >= fused._SMALL


@pytest.mark.parametrize("shape", [(1, 16, 32, 32, 32), (1, 3, 6, 5, 7), (1, 2, 4, 4, 4)])
def test_small_volumes_are_convolved_in_halves_with_the_same_result(shape):
    x = torch.randn(shape, requires_grad=True)
    weight, bias = torch.randn(5, shape[1], 3, 3, 3, requires_grad=True), torch.randn(5, requires_grad=True)
    padded = F.pad(x, (1,) * 6, mode="replicate")
    assert fused._would_run_slowly(padded, weight)
    expected, found = F.conv3d(padded, weight, bias), fused.padded_conv(x, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    direction = torch.randn_like(expected)
    inputs = (x, weight, bias)
    for a, b in zip(
        torch.autograd.grad(found, inputs, direction),
        torch.autograd.grad(expected, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=5e-3)
