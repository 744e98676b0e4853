"""The occlusion network on the samples inside the grid only.

A view volume [N, F, D, h, w] is mostly empty (three quarters at the released setting) and zero outside the
grid. Here it is never built: `FrustumSamples` holds the rows that exist, and the two operations that read the
volume, the first convolution and the weighted sum along rays, work on those rows. The depth coordinate is the
same at every pixel, so its share of a convolution is one number per plane, added afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from deepvoxels.models.fast.conv import padded_conv
from deepvoxels.models.fast.sampling import sampled_rows
from deepvoxels.models.networks import Occlusion, coordinate_channels
from deepvoxels.models.volume import SamplingMap

__all__ = ["FrustumSamples", "collapse", "convolve", "occlude", "sample_frustum"]


def occlude(
    occlusion: Occlusion, volume: Tensor, maps: Sequence[SamplingMap]
) -> tuple[Tensor, Tensor, Tensor]:
    """As `networks.occlude`."""
    samples = sample_frustum(volume, maps)
    planes = samples.shape[1]
    plane = coordinate_channels(planes, like=volume).view(planes)
    weight = occlusion.compress.conv.weight  # channel 0 reads the depth coordinate
    compressed = convolve(samples, weight[:, 1:]) + _plane_profile(weight[:, 0], plane)
    compressed = occlusion.compress.finish(compressed)
    both = torch.cat((compressed, occlusion.unet(compressed)), dim=1)
    weight, bias = occlusion.logits.conv.weight, occlusion.logits.conv.bias  # the last channel reads it
    logits = padded_conv(both, weight[:, :-1], bias).to(plane.dtype) + _plane_profile(weight[:, -1], plane)
    weights = torch.softmax(logits, dim=2)
    features = collapse(samples, weights)
    depth_fraction = (weights * plane[:, None, None]).sum(dim=2)  # no matrix product: autocast would halve it
    return features / planes if occlusion.average else features, depth_fraction, weights


def _plane_profile(weight: Tensor, plane: Tensor) -> Tensor:
    """Convolution [C, 3, 3, 3], borders replicated, of one value per plane [D] -> [C, D, 1, 1]."""
    padded = F.pad(plane.view(1, 1, -1), (1, 1), mode="replicate")
    return F.conv1d(padded, weight.sum(dim=(2, 3)).unsqueeze(1)).squeeze(0)[..., None, None]


@dataclass(frozen=True, eq=False)
class FrustumSamples:
    """Samples of N view volumes in one table. Indices run over all views, a view after another."""

    rows: Tensor  # [n, F], ordered by view, ray, depth
    position: Tensor  # [n] index in [N, D, h, w], flattened
    ray_starts: Tensor  # [N h w + 1] int32, samples of each ray
    shape: tuple[int, int, int, int]  # N, D, h, w


def sample_frustum(volume: Tensor, maps: Sequence[SamplingMap]) -> FrustumSamples:
    """Sample the grid [1, F, G, G, G] along the rays of N cameras. Differentiable in the volume."""
    planes, height, width = maps[0].out_shape
    if any(where.out_shape != maps[0].out_shape for where in maps):
        raise ValueError("all cameras of one call must share the shape of their view volumes")
    pixels = height * width
    ray = torch.cat([where.position % pixels + i * pixels for i, where in enumerate(maps)])
    rays = torch.arange(len(maps) * pixels + 1, device=ray.device)
    return FrustumSamples(
        torch.cat([sampled_rows(volume[0], where) for where in maps]),
        torch.cat([where.position + i * planes * pixels for i, where in enumerate(maps)]),
        torch.searchsorted(ray, rays, out_int32=True),
        (len(maps), planes, height, width),
    )


def collapse(samples: FrustumSamples, weights: Tensor) -> Tensor:
    """Sum of weight times feature along every ray: weights [N, 1, D, h, w] -> [N, F, h, w]."""
    n, _, h, w = samples.shape
    weights = weights.reshape(-1)[samples.position]
    rows = _RaySum.apply(samples.rows, weights, samples.ray_starts)
    return rows.view(n, h, w, rows.shape[1]).movedim(-1, 1)


def convolve(samples: FrustumSamples, weight: Tensor) -> Tensor:
    """3x3x3 convolution of the view volumes, borders replicated: [C, F, 3, 3, 3] -> [N, C, D, h, w]."""
    channels, features = weight.shape[:2]
    kernel = weight.permute(1, 2, 3, 4, 0).reshape(features, 27 * channels)  # [F, 27 C]
    taps = (samples.rows @ kernel).to(samples.rows.dtype)  # at half precision their sum would lose digits
    return _AddTaps.apply(taps, samples.position, samples.shape)


class _RaySum(torch.autograd.Function):
    """Weighted sum of consecutive rows [n, F] per ray -> [rays, F]."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights, starts)
        order = torch.arange(len(rows), device=rows.device, dtype=starts.dtype)
        return F.embedding_bag(
            order, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
        )

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, weights, starts = ctx.saved_tensors
        of_sample = torch.repeat_interleave(grad, starts.diff(), dim=0, output_size=len(rows))
        return of_sample * weights.unsqueeze(1), (of_sample * rows).sum(dim=1), None


class _AddTaps(torch.autograd.Function):
    """Add up what each sample contributes to its 27 neighbours: [n, 27 C] -> [N, C, D, h, w].

    Contributions go to a buffer with a margin of 2, whose inner part is the result. A sample on the border
    of the view volume also has replicas outside, which contribute like samples of their own.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, taps: Tensor, position: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
        n, d, h, w = shape
        channels = taps.shape[1] // 27
        own, replicas, source = _tap_targets(position, shape)
        ctx.save_for_backward(own, replicas, source)
        buffer = taps.new_zeros(n * (d + 4) * (h + 4) * (w + 4), channels)
        buffer.index_add_(0, own, taps.reshape(-1, channels))
        buffer.index_add_(0, replicas, taps[source].view(-1, channels))
        return buffer.view(n, d + 4, h + 4, w + 4, channels)[:, 2:-2, 2:-2, 2:-2].movedim(-1, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        own, replicas, source = ctx.saved_tensors
        table = F.pad(grad.movedim(1, -1), (0, 0, 2, 2, 2, 2, 2, 2)).flatten(0, 3)  # zero in the margin
        width = 27 * grad.shape[1]
        taps = table.index_select(0, own).view(-1, width)
        taps.index_add_(0, source, table.index_select(0, replicas).view(-1, width))
        return taps, None, None


def _tap_targets(position: Tensor, shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Buffer rows that the 27 taps of every sample, and of every replica, add to; and the replicas' samples.

    Tap (z, y, x) of a sample is seen by the neighbour at minus that step. Indices are int64, on which
    `index_add_` is five times faster than on int32.
    """
    _, _, h, w = shape
    steps = torch.arange(1, -2, -1, device=position.device)
    z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
    offsets = ((z * (h + 4) + y) * (w + 4) + x).view(-1)
    own = _buffer_index(position, shape, (0, 0, 0)).unsqueeze(1) + offsets
    replica, source = _replicas(position, shape)
    return own.view(-1), (replica.unsqueeze(1) + offsets).view(-1), source


def _buffer_index(position: Tensor, shape: tuple[int, int, int, int], step: tuple[Any, ...]) -> Tensor:
    """Index in the buffer of positions [n] moved by `step` = (z, y, x), numbers or one for each [n]."""
    _, d, h, w = shape
    view, rest = position // (d * h * w), position % (d * h * w)
    plane, pixel = rest // (h * w), rest % (h * w)
    v, u = pixel // w, pixel % w
    return ((view * (d + 4) + plane + 2 + step[0]) * (h + 4) + v + 2 + step[1]) * (w + 4) + u + 2 + step[2]


def _replicas(position: Tensor, shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Buffer index of every replica outside the view volume, and the sample it repeats.

    One `nonzero` for all 26 directions: a GPU has to wait for each.
    """
    _, d, h, w = shape
    axes = (position // (h * w) % d, position // w % h, position % w)
    z, y, x = (
        torch.stack((at == 0, torch.ones_like(at, dtype=torch.bool), at == side - 1))
        for at, side in zip(axes, (d, h, w), strict=True)
    )
    beyond = z[:, None, None] & y[:, None] & x  # [3, 3, 3, n], by the step along each axis plus 1
    beyond[1, 1, 1] = False
    *step, source = beyond.nonzero().unbind(1)
    return _buffer_index(position[source], shape, tuple(along - 1 for along in step)), source
