"""The patch discriminator of the released code: 70-pixel receptive field, RGB only, 0.53 M parameters."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from deepvoxels.models.fused import padded_conv
from deepvoxels.models.layout import channels_last

__all__ = ["Discriminator"]


class Discriminator(nn.Module):
    """Judge overlapping 70 x 70 patches of an image as real or generated.

    Layers are reflection pad 1, convolution k4 with bias, then (inner layers) batch norm, channel dropout and
    leaky ReLU 0.2. `strides` has one entry per layer but the last, which has stride 1.
    """

    def __init__(
        self, base: int = 28, *, strides: Sequence[int] = (2, 2, 2, 1), dropout: float = 0.5
    ) -> None:
        super().__init__()
        widths = [3, *(base << i for i in range(len(strides)))]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride) for (a, b), stride in zip(pairs, strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs[1:])
        self.last = nn.Conv2d(widths[-1], 1, 4)
        self.dropout = dropout

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, 1, h, w] of patches of images [B, 3, H, W] in [0, 1]; a sigmoid gives probabilities."""
        x = channels_last(images - 0.5)
        for layer, conv in enumerate(self.convs):
            x = padded_conv(x, conv.weight, conv.bias, conv.stride[0])
            if layer:
                x = F.dropout2d(self.norms[layer - 1](x), self.dropout, self.training)
            x = F.leaky_relu(x, 0.2)
        return padded_conv(x, self.last.weight, self.last.bias)
