"""DAIF-Net: one U-Net that turns a focal stack of any size into an all-in-focus image and a depth map.

Every slice runs through the same encoder. At each level the features are compared across the stack by a
maximum ("layer-wise global pooling"), so the result depends neither on the order of the slices nor on
duplicates. Skips, bottleneck and the one decoder work on the maxima. Layer names are those of the released
checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.geometry import check_shape

__all__ = ["DaifNet", "keep_variance", "pad_to_multiple"]


class DaifNet(nn.Module):
    """Stack [B, S, C, H, W] to raw maps [B, 4, H, W]: three for the all-in-focus image, one for depth.

    The maps are linear; the released network ends in a ReLU, which belongs to the heads here
    (`models.heads`). Sides must be multiples of 2^levels (see `pad_to_multiple`). Base width 16 and 4
    levels are the paper's, with 1,963,332 parameters. Raises ValueError for other shapes.
    """

    def __init__(self, base_width: int = 16, levels: int = 4):
        super().__init__()
        widths = [base_width * 2**level for level in range(levels + 1)]
        # The first level sees the images; each later one its own pooled features and the stack's maximum.
        self.levels = levels
        self.conv_down = nn.ModuleList(
            _double_conv(4 if level == 0 else widths[level], widths[level])
            for level in range(levels)
        )
        self.bottleneck = nn.Sequential(_conv(widths[levels], widths[levels]), nn.ReLU(inplace=True))
        decoder = list(reversed(range(levels)))
        # The up-sampler comes first in each Sequential because the released key of its convolution is 1.
        self.conv_up = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                _conv(widths[level + 1], widths[level]),
                nn.ReLU(inplace=True),
            )
            for level in decoder
        )
        self.conv_joint = nn.ModuleList(_double_conv(widths[level + 1], widths[level]) for level in decoder)
        self.conv_out = nn.Sequential(
            _conv(base_width, base_width), nn.ReLU(inplace=True), _conv(base_width, 4)
        )

    def forward(self, stack: Tensor) -> Tensor:
        check_shape(stack, "B S 4 H W", "stack")
        multiple = 2**self.levels
        if stack.shape[-2] % multiple or stack.shape[-1] % multiple:
            raise ValueError(
                f"sides must be multiples of {multiple}, got {list(stack.shape[-2:])}: use pad_to_multiple"
            )
        batch, slices = stack.shape[:2]
        x = stack.flatten(0, 1)  # [B S, C, H, W]
        skips = []
        for convs in self.conv_down:
            x = convs(x)
            skips.append(_stack_maximum(x, batch, slices))
            pooled = F.max_pool2d(x, 2)
            common = _stack_maximum(pooled, batch, slices)
            common = common.unsqueeze(1).expand(-1, slices, -1, -1, -1).flatten(0, 1)
            x = torch.cat([pooled, common], 1)
        x = _stack_maximum(self.bottleneck(x), batch, slices)  # one map per stack from here on
        for up, joint, skip in zip(self.conv_up, self.conv_joint, reversed(skips), strict=True):
            x = joint(torch.cat([up(x), skip], 1))
        return self.conv_out(x)


@torch.no_grad()
def keep_variance(network: DaifNet) -> None:
    """Draw all layers but the last again (He et al., 2015), so that features keep their size through the net.

    PyTorch's default shrinks them by a factor of about 2.4 per layer: without normalisation layers, what
    comes out at the end of twenty is nearly constant, and training starts with little to go by.
    """
    *layers, _ = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


def pad_to_multiple(stack: Tensor, multiple: int = 16) -> tuple[Tensor, tuple[slice, slice]]:
    """Repeat the last row and column of [..., H, W] up to multiples; also the slices that undo it."""
    height, width = stack.shape[-2:]
    rows = torch.arange(-(-height // multiple) * multiple, device=stack.device).clamp(max=height - 1)
    columns = torch.arange(-(-width // multiple) * multiple, device=stack.device).clamp(max=width - 1)
    original = (slice(0, height), slice(0, width))
    if len(rows) == height and len(columns) == width:
        return stack, original
    return stack.index_select(-2, rows).index_select(-1, columns), original


def _stack_maximum(features: Tensor, batch: int, slices: int) -> Tensor:
    """[B S, C, H, W] -> [B, C, H, W]."""
    return features.unflatten(0, (batch, slices)).amax(1) if slices > 1 else features


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(in_channels, out_channels),
        nn.ReLU(inplace=True),
        _conv(out_channels, out_channels),
        nn.ReLU(inplace=True),
    )
