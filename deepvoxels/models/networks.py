"""The networks of DeepVoxels and the blocks they are made of (released code, CVPR 2019).

Feature extractor, integration, inpainting, occlusion and rendering make up the generator; the discriminator
judges its images. Every unit is pad -> convolution -> batch norm -> activation -> channel dropout. A
convolution has a bias exactly when no norm follows it; transposed convolutions pad zeros.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepvoxels.config import GeneratorOptions, unet_widths
from deepvoxels.models.volume import SamplingMap, project

__all__ = [
    "ConvUnit",
    "DepthCollapse",
    "Discriminator",
    "Down",
    "FeatureExtractor",
    "Inpainting",
    "Integration",
    "Occlusion",
    "Renderer",
    "UNet",
    "Up",
    "coordinate_channels",
    "occlude",
    "padded_conv",
]


def coordinate_channels(*sides: int, like: Tensor) -> Tensor:
    """Coordinates (i - n/2) / n in [-0.5, 0.5) of every axis as channels: [1, len(sides), *sides]."""
    axes = [(torch.arange(n, device=like.device, dtype=like.dtype) - n / 2) / n for n in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


def padded_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Convolution of `x` padded by one: images [B, C, H, W] or volumes [B, C, D, H, W]."""
    return (F.conv2d if x.dim() == 4 else F.conv3d)(pad(x), weight, bias, stride)


def pad(x: Tensor) -> Tensor:
    """Images are padded by reflection, volumes by replication."""
    return F.pad(x, (1,) * (2 * x.dim() - 4), mode="reflect" if x.dim() == 4 else "replicate")


class ConvUnit(nn.Module):
    """One convolution with its padding, norm, activation and dropout.

    `kernel` 3 keeps the side, `kernel` 4 with `stride` 2 halves it, with `transposed` doubles it.
    `slope` is the negative slope of the activation: 0 is a ReLU, None no activation (and then no norm).
    """

    convolve = staticmethod(padded_conv)  # or its twin in models/fast

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
        if self.transposed:
            return self.finish(self.conv(x))
        return self.finish(self.convolve(x, self.conv.weight, self.conv.bias, self.conv.stride[0]))

    def finish(self, x: Tensor) -> Tensor:
        """What follows the convolution. Dropout comes before the activation, which is the same for a leaky
        ReLU and lets both write in place."""
        if self.norm is not None:
            x = self.norm(x)
        if self.dropout:
            dropout = F.dropout2d if x.dim() == 4 else F.dropout3d
            x = dropout(x, self.dropout, self.training, inplace=True)
        return x if self.slope is None else F.leaky_relu(x, self.slope, inplace=True)


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


class FeatureExtractor(nn.Module):
    """Image to feature map: strided blocks down to the feature side, then a U-Net."""

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__()
        widths = [options.nf0 << i for i in range(options.doublings)]
        drop = options.extractor_dropout
        self.downs = nn.ModuleList([Down(2, 3, widths[0], middle=options.nf0, dropout=drop)])
        self.downs.extend(Down(2, a, b, dropout=drop) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.unet = UNet(2, widths[-1], options.grid_features, options.extractor_widths, dropout=drop)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] in [-0.5, 0.5] -> [B, F, h, h], >= 0."""
        x = images
        for down in self.downs:
            x = down(x)
        return self.unet(x)


class Integration(nn.Module):
    """Convolutional gated recurrent unit that merges a lifted view into the persistent volume (eq. 1 to 4).

    Both gates are one scalar per voxel; the candidate goes through a ReLU, which ends at `largest` where one
    is given: nothing else keeps the state from growing without bound, which batch norm hides from the losses.
    With `coordinates`, convolutions also see the voxel's (z, y, x). Those that read the same tensor are one
    convolution: `from_observation` gives reset, update and candidate (in that order, with all biases),
    `gates_from_state` reset and update.
    """

    convolve = staticmethod(padded_conv)  # or its twin in models/fast

    def __init__(
        self, features: int, dropout: float, coordinates: bool = True, largest: float | None = None
    ) -> None:
        super().__init__()
        inputs = features + 3 if coordinates else features
        self.from_observation = nn.Conv3d(inputs, 2 + features, 3)
        self.gates_from_state = nn.Conv3d(inputs, 2, 3, bias=False)
        self.candidate_from_state = nn.Conv3d(inputs, features, 3, bias=False)
        self.dropout = dropout
        self.coordinates = coordinates
        self.largest = largest

    def forward(self, state: Tensor, observation: Tensor) -> Tensor:
        """Old state and observation, both [B, F, G, G, G] -> new state."""
        old, new = state, observation
        if self.coordinates:
            old, new = with_coordinates(old), with_coordinates(new)
        from_new = self.convolve(new, self.from_observation.weight, self.from_observation.bias)
        gates_new, candidate_new = from_new.split((2, state.shape[1]), dim=1)
        gates = torch.sigmoid(gates_new + self.convolve(old, self.gates_from_state.weight))
        reset, update = gates.split(1, dim=1)  # [B, 1, G, G, G] each
        candidate_old = self.convolve(reset * old, self.candidate_from_state.weight)
        candidate = F.relu(
            F.dropout3d(candidate_new, self.dropout, self.training)
            + F.dropout3d(candidate_old, self.dropout, self.training)
        )
        if self.largest is not None:
            candidate = candidate.clamp(max=self.largest)
        return state + update * (candidate - state)


class Inpainting(nn.Module):
    """3D U-Net that fills in what no view has seen, from the state and (with `coordinates`) where it is."""

    def __init__(self, features: int, multiples: list[int], coordinates: bool = True) -> None:
        super().__init__()
        inputs = features + 3 if coordinates else features
        self.unet = UNet(3, inputs, features, [features * m for m in multiples])
        self.coordinates = coordinates

    def forward(self, state: Tensor) -> Tensor:
        """[B, F, G, G, G] -> the same, >= 0."""
        return self.unet(with_coordinates(state) if self.coordinates else state)


def with_coordinates(volume: Tensor) -> Tensor:
    """Append the voxel's (z, y, x), each in [-0.5, 0.5), to the channels of [B, F, G, G, G]."""
    coords = coordinate_channels(*volume.shape[2:], like=volume).expand(len(volume), -1, -1, -1, -1)
    return torch.cat((volume, coords), dim=1)


class Occlusion(nn.Module):
    """Soft visibility of every sample along a ray of the view volume, and the depth it implies.

    The depth coordinate of plane k, (k - D/2) / D, is an input channel of the first and the last convolution.
    """

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__()
        base = options.occlusion_base
        self.compress = ConvUnit(3, options.grid_features + 1, base)
        self.unet = UNet(3, base, base, unet_widths(base, options.occlusion_depth, options.occlusion_max))
        self.logits = ConvUnit(3, 2 * base + 1, 1, norm=False, slope=None)
        self.average = options.collapse == "mean"

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """View volumes [N, F, D, h, w] -> features [N, F, h, w], depth fraction [N, 1, h, w] and weights.

        The weights [N, 1, D, h, w] sum to 1 over depth; the fraction is their mean of (k - D/2) / D.
        """
        planes = view.shape[2]
        depth = coordinate_channels(planes, like=view).view(1, 1, planes, 1, 1)
        depth = depth.expand(len(view), 1, *view.shape[2:])
        compressed = self.compress(torch.cat((depth, view), dim=1))  # convolution, norm, ReLU
        logits = self.logits(torch.cat((compressed, self.unet(compressed), depth), dim=1))
        weights = logits.to(view.dtype).softmax(dim=2)
        features = (weights * view).sum(dim=2)
        depth_fraction = (weights * depth).sum(dim=2)
        return features / planes if self.average else features, depth_fraction, weights


def occlude(
    occlusion: Occlusion, volume: Tensor, maps: Sequence[SamplingMap]
) -> tuple[Tensor, Tensor, Tensor]:
    """What N cameras see of the grid [1, F, G, G, G]: features, depth fraction and weights as `Occlusion`."""
    return occlusion(project(volume, maps))


class DepthCollapse(nn.Module):
    """The ablation without an occlusion network: all depth planes as channels of plain 2D convolutions."""

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__()
        widths = [
            options.grid_features * options.planes,
            options.nf0 * options.grid_side // 2,
            options.nf0 * options.grid_side // 8,
            options.grid_features,
        ]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.layers = nn.Sequential(*(ConvUnit(2, a, b) for a, b in pairs))

    def forward(self, view: Tensor) -> Tensor:
        """View volumes [N, F, D, h, w] -> features [N, F, h, w]; channel f D + k is feature f of plane k."""
        return self.layers(view.flatten(1, 2))


class Renderer(nn.Module):
    """Feature map to image: a U-Net, upsampling blocks, and two convolutions to colour."""

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__()
        drop = options.renderer_dropout
        self.unet = UNet(2, options.grid_features, 4 * options.nf0, options.renderer_widths, dropout=drop)
        ups = [4 * options.nf0, *options.up_widths]
        self.ups = nn.ModuleList(Up(2, a, b, dropout=drop) for a, b in zip(ups[:-1], ups[1:], strict=True))
        narrow = max(options.nf0 // 2, 1)
        self.narrow = ConvUnit(2, ups[-1], narrow)
        self.colour = ConvUnit(2, narrow, 3, norm=False, slope=None)
        self.head = nn.Conv2d(options.grid_features, 3, 1) if options.colour_head else None

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """[N, F, h, h] -> images [N, 3, S, S] in (-0.5, 0.5), and with a head its colours [N, 3, h, h] alike.

        What the head says is a start, to which the other layers add.
        """
        x = self.unet(features)
        for up in self.ups:
            x = up(x)
        x = self.colour(self.narrow(x)).to(features.dtype)
        if self.head is None:
            return 0.5 * torch.tanh(x), None
        coarse = self.head(features).to(features.dtype)
        x = x + F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return 0.5 * torch.tanh(x), 0.5 * torch.tanh(coarse)


class Discriminator(nn.Module):
    """Judge overlapping 70 x 70 patches of an image as real or generated.

    Layers are reflection pad 1, convolution k4 with bias, then (inner layers) batch norm, channel dropout and
    leaky ReLU 0.2.
    """

    def __init__(self, base: int = 28, dropout: float = 0.5) -> None:
        super().__init__()
        strides = (2, 2, 2, 1)
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
        x = images - 0.5
        for layer, conv in enumerate(self.convs):
            x = padded_conv(x, conv.weight, conv.bias, conv.stride[0])
            if layer:
                x = F.dropout2d(self.norms[layer - 1](x), self.dropout, self.training)
            x = F.leaky_relu(x, 0.2)
        return padded_conv(x, self.last.weight, self.last.bias)
