"""The encoder: ResNet-18 whose last map is halved into a feature at 1/32 and a cloud of latent points."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from nvs_depth.models.options import ModelOptions
from shared.errors import DataError
from shared.quality.losses import backbone_state_dict

__all__ = ["Encoded", "Encoder", "ResNet18Trunk", "initialise", "load_imagenet"]


class Encoded(NamedTuple):
    """An image as latent points and a pyramid; the last entry of `features` is the bottleneck."""

    latent: Tensor  # [B, P, 3]
    features: list[Tensor]  # at 1/2, 1/4, 1/8, 1/16, 1/32 of its side; with `blend_fetched`, itself first


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution of every `stride`-th pixel, without bias: a strided 1x1 convolution, and its numbers.

    The pixels are picked first: PyTorch's own backward pass of a strided 1x1 convolution in channels_last
    writes past its buffer on processors with AVX2 where fewer than 8 channels come in (seen with 2.14).
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        row, column = self.stride
        return F.conv2d(x[..., ::row, ::column], self.weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016), with torchvision's parameter names."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            shortcut = StridedPointwise(channels_in, channels, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(x + shortcut)


class ResNet18Trunk(nn.Module):
    """ResNet-18 without average pool and classifier; loads torchvision's weights by name at width 1."""

    def __init__(self, channels: tuple[int, int, int, int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        before = (channels[0], *channels[:-1])
        for level, (channels_in, count) in enumerate(zip(before, channels, strict=True), start=1):
            first = BasicBlock(channels_in, count, stride=1 if level == 1 else 2)
            self.add_module(f"layer{level}", nn.Sequential(first, BasicBlock(count, count, stride=1)))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image [B, 3, S, S]."""
        features = [self.relu(self.bn1(self.conv1(image)))]
        features.append(self.layer1(self.maxpool(features[0])))
        for layer in (self.layer2, self.layer3, self.layer4):
            features.append(layer(features[-1]))
        return features


class Encoder(nn.Module):
    """Image [B, 3, S, S] in [0, 1] to `Encoded`.

    The first half of the channels of layer4 stays a map, the second half is flattened and becomes the points.
    Images are mapped to [-1, 1] and not normalised further, as in the released code.
    """

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        channels = tuple(options.channels(count) for count in (64, 128, 256, 512))
        self.trunk = ResNet18Trunk(channels)
        self.half, self.with_image = channels[-1] // 2, options.blend_fetched
        cells = (options.image_side // 32) ** 2
        self.to_latent = nn.Linear(self.half * cells, 3 * options.latent_points)

    def forward(self, image: Tensor) -> Encoded:
        signed = 2 * image - 1
        *skips, last = self.trunk(signed)
        bottleneck, compressed = last[:, : self.half], last[:, self.half :]
        latent = self.to_latent(compressed.flatten(1)).unflatten(1, (-1, 3))
        return Encoded(latent, [*([signed] if self.with_image else []), *skips, bottleneck])


# ---- initial weights ---------------------------------------------------------------------------------------


def initialise(network: nn.Module, trunk: ResNet18Trunk, scheme: str, imagenet_weights: str = "") -> None:
    """Set all weights of `network`, whose encoder has the given trunk, by one of three schemes.

    "imagenet": as "default", then the trunk from a local file. "normal002": every convolution and linear
    layer N(0, 0.02) with zero bias, every normalisation gain N(1, 0.02): what the released code does to all
    networks, its ImageNet trunk included. "default": PyTorch's. Raises DataError without the file.
    """
    if scheme == "imagenet":
        load_imagenet(trunk, imagenet_weights)
    elif scheme == "normal002":
        network.apply(_normal002)


def _normal002(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def load_imagenet(trunk: ResNet18Trunk, path: str = "") -> None:
    """Fill the trunk from torchvision's ResNet-18 file; nothing is ever downloaded.

    path: the file; empty: where torch hub keeps it. Raises DataError, with the address to fetch it from, when
    it is missing, damaged or of another architecture.
    """
    try:
        trunk.load_state_dict(backbone_state_dict("resnet18", path or None))
    except DataError as error:
        remedy = f"{error.remedy} (model.imagenet_weights), or set model.encoder_init=default"
        raise DataError(error.path, error.reason, remedy) from None
