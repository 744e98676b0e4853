"""Textures: pictures in layers with a mip pyramid, sampled at surface coordinates."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

__all__ = ["Texture", "solid"]


class Texture:
    """Layers of pictures [L, H, W, 3] in [0, 1] that cover `size` = (width, height) in scene units.

    Sampling is trilinear: bilinear in the two mip levels next to the ray's footprint. Outside its size a
    texture repeats, or keeps its border when `repeat` is False. `layer_of_part` picks the layer for each
    part of the shape (parts beyond the tuple take the last entry); `turned` exchanges u and v (grain along
    the other direction).
    """

    def __init__(
        self,
        layers: np.ndarray,
        size: Sequence[float] = (1.0, 1.0),
        repeat: bool = True,
        layer_of_part: Sequence[int] | None = None,
        turned: bool = False,
    ) -> None:
        layers = np.asarray(layers, dtype=np.float32)
        layers = layers[None] if layers.ndim == 3 else layers
        if layers.ndim != 4 or layers.shape[-1] != 3:
            raise ValueError(f"a texture needs pictures [L, H, W, 3] or [H, W, 3], got {layers.shape}")
        if min(size) <= 0:
            raise ValueError(f"a texture's size must be positive, got {tuple(size)}")
        self.size = (float(size[0]), float(size[1]))
        self.repeat = repeat
        self.turned = turned
        self.layer_of_part = None if layer_of_part is None else torch.tensor(layer_of_part, dtype=torch.int64)
        self._build_pyramid(layers)

    def _build_pyramid(self, layers: np.ndarray) -> None:
        pictures, sizes, offsets, offset = [], [], [], 0
        while True:
            height, width = layers.shape[1:3]
            pictures.append(layers.reshape(-1, 3))
            sizes.append((height, width))
            offsets.append(offset)
            offset += pictures[-1].shape[0]
            if height == 1 and width == 1:
                break
            half = (max(width // 2, 1), max(height // 2, 1))
            layers = np.stack([cv2.resize(p, half, interpolation=cv2.INTER_AREA) for p in layers])
        self.texels = torch.from_numpy(np.concatenate(pictures))  # [all texels of all levels, 3]
        self.level_sizes = torch.tensor(sizes)  # [levels, 2] height, width
        self.level_offsets = torch.tensor(offsets)  # [levels]

    def __call__(self, uv: Tensor, part: Tensor, footprint: Tensor) -> Tensor:
        """Colours [3, N] at uv [2, N] of parts [N]; a ray covers the width `footprint` [N] on the surface."""
        if len(self.texels) == 1:
            return self.texels.to(uv).T.expand(3, uv.shape[1])
        u, v = uv[1] / self.size[0] + 0.5, uv[0] / self.size[1] + 0.5
        if not self.turned:
            u, v = uv[0] / self.size[0] + 0.5, uv[1] / self.size[1] + 0.5
        if self.repeat:
            u, v = u - u.floor(), v - v.floor()
        layer = torch.zeros_like(part)
        if self.layer_of_part is not None:
            layer = self.layer_of_part.to(part.device)[part.clamp_max(len(self.layer_of_part) - 1)]
        texel = max(self.size[0] / int(self.level_sizes[0, 1]), self.size[1] / int(self.level_sizes[0, 0]))
        level = torch.log2((footprint / texel).clamp_min(1.0)).clamp_max(len(self.level_sizes) - 1)
        fine = level.floor()
        colour = self._bilinear(u, v, layer, fine.long())
        if not bool((level > 0).any()):
            return colour
        coarse = self._bilinear(u, v, layer, level.ceil().long())
        return torch.lerp(colour, coarse, level - fine)

    def _bilinear(self, u: Tensor, v: Tensor, layer: Tensor, level: Tensor) -> Tensor:
        """Colours [3, N] of one mip level; a texel's centre is at (index + 0.5) / side."""
        height, width = self.level_sizes.to(u.device)[level].unbind(1)
        x, y = u * width - 0.5, v * height - 0.5
        x0, y0 = x.floor(), y.floor()
        fx, fy = (x - x0), (y - y0)
        x0, y0 = x0.long(), y0.long()
        x1, y1 = x0 + 1, y0 + 1
        if self.repeat:  # u, v are in [0, 1], so one step around is enough
            x0, x1 = torch.where(x0 < 0, width - 1, x0), torch.where(x1 >= width, x1 - width, x1)
            y0, y1 = torch.where(y0 < 0, height - 1, y0), torch.where(y1 >= height, y1 - height, y1)
        zero = torch.zeros_like(width)
        x0, x1 = x0.clamp(zero, width - 1), x1.clamp(zero, width - 1)
        y0, y1 = y0.clamp(zero, height - 1), y1.clamp(zero, height - 1)
        texels = self.texels.to(device=u.device, dtype=u.dtype)
        base = self.level_offsets.to(u.device)[level] + layer * height * width
        row0, row1 = base + y0 * width, base + y1 * width
        top = torch.lerp(texels[row0 + x0], texels[row0 + x1], fx[:, None])
        bottom = torch.lerp(texels[row1 + x0], texels[row1 + x1], fx[:, None])
        return torch.lerp(top, bottom, fy[:, None]).T


def solid(red: float, green: float, blue: float) -> Texture:
    """A texture of one colour, components in [0, 1]."""
    return Texture(np.full((1, 1, 1, 3), (red, green, blue), dtype=np.float32))
