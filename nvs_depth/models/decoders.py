"""The depth decoder, used up to three times with one set of weights, and the decoder of the new view."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvs_depth.models.options import ModelOptions

__all__ = ["DepthDecoder", "DepthMaps", "ViewDecoder", "activate_depth"]

# Coarse to fine: channels that leave a level, and those of the skip at 1/16, 1/8, 1/4, 1/2 that enters it.
_LEVEL_CHANNELS = (256, 128, 64, 32, 16)
_SKIP_CHANNELS = (256, 128, 64, 64)


class DepthMaps(NamedTuple):
    """Depth of one view in the unit of the translations."""

    full: Tensor  # [B, 1, S, S]
    pyramid: list[Tensor]  # S/2, S/4, ... S/32: what warps the feature map of that size

    def for_features(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The maps of the features' sizes."""
        return [self.full, *self.pyramid][-len(features) :]


def activate_depth(raw: Tensor, kind: str) -> Tensor:
    """Depth from the raw output, within `DEPTH_RANGES`: tanh for objects, an inverse sigmoid for scenes."""
    if kind == "object":
        return 2 * torch.tanh(raw) + 2
    if kind == "object_narrow":
        return torch.tanh(raw) + 2
    return 1 / (10 * torch.sigmoid(raw) + 0.01)


class ConvBlock(nn.Sequential):
    """Reflection pad, 3x3 convolution, normalisation, leaky ReLU(0.2)."""

    def __init__(self, channels_in: int, channels: int, instance_norm: bool) -> None:
        # InstanceNorm subtracts the bias again at once; it is kept because the released layer tables have it.
        norm = nn.InstanceNorm2d(channels) if instance_norm else nn.BatchNorm2d(channels)
        convolution = nn.Conv2d(channels_in, channels, 3, padding=1, padding_mode="reflect")
        super().__init__(convolution, norm, nn.LeakyReLU(0.2, inplace=True))


class Entry(nn.Module):
    """Latent points [B, P, 3] to a map [B, C, S/32, S/32]."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        side = options.image_side // 32
        self.shape = (options.channels(256), side, side)
        self.linear = nn.Linear(3 * options.latent_points, math.prod(self.shape))

    def forward(self, latent: Tensor) -> Tensor:
        return F.leaky_relu(self.linear(latent.flatten(1)), 0.2).unflatten(1, self.shape)


class DepthDecoder(nn.Module):
    """Latent points and features (finest first, bottleneck last; None: all zero) to `DepthMaps`.

    With `depth_from="latent"` it has no entrance for features at all.
    """

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        self.kind, self.heads_everywhere = options.depth_range, options.depth_heads == "per_scale"
        self.uses_features = options.depth_from == "features"
        self.entry = Entry(options)
        self.skip_channels = _skip_channels(options) if self.uses_features else [0] * len(_LEVEL_CHANNELS)
        entering = self.entry.shape[0]
        self.bottleneck_channels = options.channels(512) // 2 if self.uses_features else 0
        levels, heads, channels_in = [], [], entering + self.bottleneck_channels
        for level, (count, skip) in enumerate(zip(_LEVEL_CHANNELS, self.skip_channels, strict=True)):
            channels = options.channels(count)
            before = ConvBlock(channels_in, channels, instance_norm=False)
            blocks = [ConvBlock(channels, channels, instance_norm=False)]
            if skip:
                joined = ConvBlock(channels + skip, channels, instance_norm=False)
                blocks = [joined, *blocks] if level < len(_SKIP_CHANNELS) else [joined]
            levels.append(nn.ModuleDict({"before": before, "after": nn.Sequential(*blocks)}))
            if self.heads_everywhere or level == len(_LEVEL_CHANNELS) - 1:
                heads.append(nn.Conv2d(channels, 1, 3, padding=1, padding_mode="reflect"))
            channels_in = channels
        self.levels, self.heads = nn.ModuleList(levels), nn.ModuleList(heads)

    def forward(self, latent: Tensor, features: list[Tensor] | None) -> DepthMaps:
        x, skips = self.entry(latent), [None] * len(self.levels)
        if self.uses_features:
            *skips, bottleneck = self._zeros(x) if features is None else features
            x, skips = torch.cat([x, bottleneck], dim=1), [*skips[::-1], None][: len(self.levels)]
        outputs = list(_decode(self.levels, x, skips))
        outputs = outputs if self.heads_everywhere else outputs[-1:]
        # float32: at half precision tanh saturates early and 1 / sigmoid has steps of metres
        raw = [head(output).float() for head, output in zip(self.heads, outputs, strict=True)]
        maps = [activate_depth(r, self.kind) for r in raw[::-1]]  # finest first
        if self.heads_everywhere:
            return DepthMaps(maps[0], [_halved(m) for m in maps])
        pyramid = list(itertools.accumulate(range(5), lambda m, _: _halved(m), initial=maps[0]))
        return DepthMaps(maps[0], pyramid[1:])

    def _zeros(self, entry: Tensor) -> list[Tensor]:
        batch, side = len(entry), entry.shape[-1]
        counts = enumerate([self.bottleneck_channels, *self.skip_channels])
        return [entry.new_zeros(batch, c, side << k, side << k) for k, c in counts if c][::-1]


class ViewDecoder(nn.Module):
    """Moved latent points and back-warped features to images [B, 3, s, s] in [0, 1], s = S, S/2, S/4, S/8.

    With `blend_fetched` the image of size S is a mix of what was painted and of the first feature, the
    fetched picture.
    """

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        self.entry, self.blends = Entry(options), options.blend_fetched
        levels, heads = [], []
        channels_in = self.entry.shape[0] + options.channels(512) // 2
        for level, (count, skip) in enumerate(zip(_LEVEL_CHANNELS, _skip_channels(options), strict=True)):
            channels = options.channels(count)
            before = ConvBlock(channels_in, channels, instance_norm=True)
            after = ConvBlock(channels + skip, channels, instance_norm=True)
            levels.append(nn.ModuleDict({"before": before, "after": after}))
            if level > 0:
                share = self.blends and level == len(_LEVEL_CHANNELS) - 1
                heads.append(nn.Conv2d(channels, 3 + share, 3, padding=1))
            channels_in = channels
        self.levels, self.heads = nn.ModuleList(levels), nn.ModuleList(heads)

    def forward(self, latent: Tensor, features: list[Tensor]) -> list[Tensor]:
        *skips, bottleneck = features
        x = torch.cat([self.entry(latent), bottleneck], dim=1)
        outputs = list(_decode(self.levels, x, [*skips[::-1], None][: len(self.levels)]))[1:]
        raw = [head(output).float() for head, output in zip(self.heads, outputs, strict=True)]
        images = [(torch.tanh(r[:, :3]) + 1) / 2 for r in raw[::-1]]
        if self.blends:
            images[0] = torch.lerp(images[0], (features[0] + 1) / 2, torch.sigmoid(raw[-1][:, 3:]))
        return images


def _skip_channels(options: ModelOptions) -> list[int]:
    """Of each level; at the picture's own size there is nothing, or the picture."""
    return [*(options.channels(count) for count in _SKIP_CHANNELS), 3 if options.blend_fetched else 0]


def _decode(levels: nn.ModuleList, x: Tensor, skips: Sequence[Tensor | None]) -> Iterator[Tensor]:
    """The output of each level, coarse to fine: a block, twice the size, the skip, one or two blocks."""
    for level, skip in zip(levels, skips, strict=True):
        x = F.interpolate(level["before"](x), scale_factor=2, mode="bilinear", align_corners=False)
        x = level["after"](x if skip is None else torch.cat([x, skip], dim=1))
        yield x


def _halved(depth: Tensor) -> Tensor:
    return F.avg_pool2d(depth, 2)
