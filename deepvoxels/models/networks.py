"""The five networks of DeepVoxels: feature extractor, integration, inpainting, occlusion and rendering."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepvoxels.models.blocks import ConvUnit, Down, UNet, Up, coordinate_channels, unet_widths
from deepvoxels.models.frustum import FrustumSamples, collapse, convolve, dense
from deepvoxels.models.fused import padded_conv
from deepvoxels.models.layout import channels_last
from deepvoxels.models.options import GeneratorOptions

__all__ = ["DepthCollapse", "FeatureExtractor", "Inpainting", "Integration", "Occlusion", "Renderer"]


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
        x = channels_last(images)
        for down in self.downs:
            x = down(x)
        return self.unet(x)


class Integration(nn.Module):
    """Convolutional gated recurrent unit that merges a lifted view into the persistent volume (eq. 1 to 4).

    Both gates are one scalar per voxel; the candidate goes through a ReLU. With `coordinates`, convolutions
    also see the voxel's (z, y, x). Those that read the same tensor are one convolution here:
    `from_observation` gives reset, update and candidate (in that order, with all biases), `gates_from_state`
    reset and update.
    """

    def __init__(self, features: int, dropout: float, coordinates: bool = True) -> None:
        super().__init__()
        inputs = features + 3 if coordinates else features
        self.from_observation = nn.Conv3d(inputs, 2 + features, 3)
        self.gates_from_state = nn.Conv3d(inputs, 2, 3, bias=False)
        self.candidate_from_state = nn.Conv3d(inputs, features, 3, bias=False)
        self.dropout = dropout
        self.coordinates = coordinates

    def forward(self, state: Tensor, observation: Tensor) -> Tensor:
        """Old state and observation, both [B, F, G, G, G] -> new state."""
        old, new = channels_last(state), channels_last(observation)
        if self.coordinates:
            old, new = with_coordinates(old), with_coordinates(new)
        from_new = padded_conv(new, self.from_observation.weight, self.from_observation.bias)
        gates_new, candidate_new = from_new.split((2, state.shape[1]), dim=1)
        gates = torch.sigmoid(gates_new + padded_conv(old, self.gates_from_state.weight))
        reset, update = gates.split(1, dim=1)  # [B, 1, G, G, G] each
        candidate_old = padded_conv(reset * old, self.candidate_from_state.weight)
        candidate = F.relu(
            F.dropout3d(candidate_new, self.dropout, self.training)
            + F.dropout3d(candidate_old, self.dropout, self.training)
        )
        return state + update * (candidate - state)


class Inpainting(nn.Module):
    """3D U-Net that fills in what no view has seen, from the state and (with `coordinates`) where it lies."""

    def __init__(self, features: int, multiples: list[int], coordinates: bool = True) -> None:
        super().__init__()
        inputs = features + 3 if coordinates else features
        self.unet = UNet(3, inputs, features, [features * m for m in multiples])
        self.coordinates = coordinates

    def forward(self, state: Tensor) -> Tensor:
        """[B, F, G, G, G] -> the same, >= 0."""
        state = channels_last(state)
        return self.unet(with_coordinates(state) if self.coordinates else state)


def with_coordinates(volume: Tensor) -> Tensor:
    """Append the voxel's (z, y, x), each in [-0.5, 0.5), to the channels of [B, F, G, G, G]."""
    coords = coordinate_channels(*volume.shape[2:], like=volume).expand(len(volume), -1, -1, -1, -1)
    return torch.cat((volume, coords), dim=1)


class Occlusion(nn.Module):
    """Soft visibility of every sample along a ray of the canonical view volume, and the depth it implies.

    The depth coordinate (k - D/2) / D of plane k is the first input channel of `compress` and the last of
    `logits`. It is the same at every pixel, so its share of a convolution is one number per plane, added
    afterwards.
    """

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__()
        base = options.occlusion_base
        self.compress = ConvUnit(3, options.grid_features + 1, base)
        self.unet = UNet(3, base, base, unet_widths(base, options.occlusion_depth, options.occlusion_max))
        self.logits = ConvUnit(3, 2 * base + 1, 1, norm=False, slope=None)
        self.average = options.collapse == "mean"

    def forward(self, samples: FrustumSamples) -> tuple[Tensor, Tensor, Tensor]:
        """Features [N, F, h, w], depth fraction [N, 1, h, w] and weights [N, 1, D, h, w] of N view volumes.

        The weights sum to 1 over depth; the fraction is their mean of (plane - D/2) / D, in [-0.5, 0.5).
        """
        planes = samples.shape[1]
        plane = coordinate_channels(planes, like=samples.rows).view(planes)
        weight = self.compress.conv.weight
        compressed = convolve(samples, weight[:, 1:]) + _plane_profile(weight[:, 0], plane)
        compressed = self.compress.finish(compressed)
        both = torch.cat((compressed, self.unet(compressed)), dim=1)
        weight, bias = self.logits.conv.weight, self.logits.conv.bias
        logits = padded_conv(both, weight[:, :-1], bias) + _plane_profile(weight[:, -1], plane)
        weights = torch.softmax(logits, dim=2)
        features = collapse(samples, weights)
        depth_fraction = torch.einsum("nckhw,k->nchw", weights, plane)
        return features / planes if self.average else features, depth_fraction, weights


def _plane_profile(weight: Tensor, plane: Tensor) -> Tensor:
    """Convolution [C, 3, 3, 3], borders replicated, of one value per plane [D] -> [C, D, 1, 1]."""
    padded = F.pad(plane.view(1, 1, -1), (1, 1), mode="replicate")
    return F.conv1d(padded, weight.sum(dim=(2, 3)).unsqueeze(1)).squeeze(0)[..., None, None]


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

    def forward(self, samples: FrustumSamples) -> Tensor:
        """Features [N, F, h, w] of N view volumes; channel f * D + k is feature f of plane k."""
        return self.layers(channels_last(dense(samples).flatten(1, 2)))


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

    def forward(self, features: Tensor) -> Tensor:
        """[N, F, h, h] -> images [N, 3, S, S] in (-0.5, 0.5)."""
        x = self.unet(channels_last(features))
        for up in self.ups:
            x = up(x)
        return 0.5 * torch.tanh(self.colour(self.narrow(x)))
