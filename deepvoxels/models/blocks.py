"""Convolution units and U-Nets, in two and three dimensions (released code of DeepVoxels, CVPR 2019).

Every unit is pad -> convolution -> batch norm -> activation -> channel dropout. A convolution has a bias
exactly when no norm follows it. Images are padded by reflection, volumes by replication; transposed
convolutions pad zeros.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepvoxels.models.fused import activate_drop, norm_activate_drop, padded_conv

__all__ = ["ConvUnit", "Down", "UNet", "Up", "coordinate_channels", "unet_widths"]


def coordinate_channels(*sides: int, like: Tensor) -> Tensor:
    """Coordinates (i - n/2) / n in [-0.5, 0.5) of every axis as channels: [1, len(sides), *sides]."""
    axes = [(torch.arange(n, device=like.device, dtype=like.dtype) - n / 2) / n for n in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


def unet_widths(base: int, levels: int, widest: int) -> list[int]:
    """Channels at each resolution: doubled per level up to `widest`; the deepest level keeps its width."""
    if levels < 1:
        raise ValueError(f"a U-Net needs at least one level, got {levels}")
    widths = [min(base << level, widest) for level in range(levels)]
    return [*widths, widths[-1]]


class ConvUnit(nn.Module):
    """One convolution with its padding, norm, activation and dropout.

    `kernel` 3 keeps the side, `kernel` 4 with `stride` 2 halves it, with `transposed` doubles it.
    `slope` is the negative slope of the activation: 0 is a ReLU, None no activation (and then no norm).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        transposed: bool = False,
        norm: bool = True,
        slope: float | None = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if transposed:
            conv = (nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 2]
            self.conv = conv(in_channels, out_channels, kernel, stride, padding=1, bias=not norm)
        else:
            conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
            self.conv = conv(in_channels, out_channels, kernel, stride, bias=not norm)
        self.norm = (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2](out_channels) if norm else None
        self.transposed = transposed
        self.slope = slope
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        x = conv(x) if self.transposed else padded_conv(x, conv.weight, conv.bias, conv.stride[0])
        return self.finish(x)

    def finish(self, x: Tensor) -> Tensor:
        """Everything after the convolution."""
        keep = None
        if self.dropout and self.training:
            keep = torch.rand(x.shape[:2], device=x.device).ge_(self.dropout).to(x.dtype) / (1 - self.dropout)
        if self.norm is not None:
            return norm_activate_drop(x, self.norm, self.slope, keep)
        return x if self.slope is None else activate_drop(x, self.slope, keep)


class Down(nn.Module):
    """Halve the side: in 2D a k3 convolution, then k4 stride 2; in 3D only the latter. Leaky ReLU 0.2."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        *,
        middle: int | None = None,
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        middle = in_channels if middle is None else middle
        common = {"norm": norm, "slope": 0.2, "dropout": dropout}
        self.refine = ConvUnit(dims, in_channels, middle, **common) if dims == 2 else nn.Identity()
        entering = middle if dims == 2 else in_channels
        self.resize = ConvUnit(dims, entering, out_channels, kernel=4, stride=2, **common)

    def forward(self, x: Tensor) -> Tensor:
        return self.resize(self.refine(x))


class Up(nn.Module):
    """Double the side: transposed k4 stride 2 convolution; in 2D a k3 convolution follows. ReLU."""

    def __init__(
        self, dims: int, in_channels: int, out_channels: int, *, norm: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        common = {"norm": norm, "dropout": dropout}
        self.resize = ConvUnit(dims, in_channels, out_channels, kernel=4, stride=2, transposed=True, **common)
        self.refine = ConvUnit(dims, out_channels, out_channels, **common) if dims == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.refine(self.resize(x))


class UNet(nn.Module):
    """U-Net whose level i runs from `widths[i]` to `widths[i + 1]` channels and back, with skip connections.

    The deepest level has no norm: at side 1 there is nothing to normalise over. Input side: a multiple of
    2 ** levels. The tail ends in a ReLU, so the output is >= 0.
    """

    def __init__(
        self, dims: int, in_channels: int, out_channels: int, widths: Sequence[int], *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        levels = len(widths) - 1
        if levels < 1:
            raise ValueError(f"a U-Net needs at least two widths, got {list(widths)}")
        self.head = ConvUnit(dims, in_channels, widths[0], slope=0.2, dropout=dropout)
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        for level, (outer, inner) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            deepest = level == levels - 1
            common = {"norm": not deepest, "dropout": dropout}
            self.downs.append(Down(dims, outer, inner, **common))
            self.ups.append(Up(dims, inner if deepest else 2 * inner, outer, **common))
        self.tail = ConvUnit(dims, 2 * widths[0], out_channels, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, *sides] -> [B, out_channels, *sides]."""
        x = self.head(x)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(x)
        for up, skip in zip(reversed(self.ups), reversed(skips), strict=True):
            x = torch.cat((skip, up(x)), dim=1)
        return self.tail(x)
