"""Features of frozen ImageNet networks: the VGG perceptual loss, and the weights that LPIPS stands on."""

import math
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.files import DataError

__all__ = ["VggFeatures", "backbone_state_dict", "perceptual_loss"]

# Simonyan & Zisserman 2015: output channels of each block, and its number of 3x3 convolutions.
_VGG_CHANNELS = (64, 128, 256, 512, 512)
_VGG_DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """Frozen ImageNet features of VGG-16 or VGG-19 after named ReLUs, built no deeper than the deepest tap.

    taps: names such as "relu1_2" (block, convolution). weights: a local file with torchvision's weights; by
    default the copy in torch hub's cache; "random" (fixed seed) is for tests. Nothing is ever downloaded:
    without weights the constructor raises DataError that says which file to fetch and where to put it.
    normalisation: "imagenet" subtracts mean and divides by deviation; "none" feeds [0, 1] as it is
    (diffdiffdepth); "imagenet_on_signed" maps to [-1, 1] before that (released code of nvs_depth).
    Call with RGB [B, 3, H, W] in [0, 1]; returns {tap: features}. Parameters have no gradient, images do.
    Raises ValueError for an unknown architecture, tap or normalisation, and for images too small.
    """

    def __init__(
        self,
        taps: Sequence[str] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
        architecture: Literal["vgg16", "vgg19"] = "vgg16",
        weights: str | PathLike | None = None,
        normalisation: Literal["imagenet", "none", "imagenet_on_signed"] = "imagenet",
    ):
        super().__init__()
        if architecture not in _VGG_DEPTHS:
            raise ValueError(f"unknown architecture {architecture!r}: use {' or '.join(_VGG_DEPTHS)}")
        known_taps = _vgg_tap_indices(architecture)
        unknown = [tap for tap in taps if tap not in known_taps]
        if unknown or not taps:
            raise ValueError(f"{architecture} has no taps {unknown}: choose from {', '.join(known_taps)}")
        self.taps = tuple(taps)
        self._tap_at = {known_taps[tap]: tap for tap in self.taps}  # layer index -> name
        self._blocks_pooled = max(int(tap[4]) for tap in self.taps) - 1
        self.features = _vgg_layers(architecture, last=max(self._tap_at))
        if weights == "random":
            _fill_random(self.features)
        else:
            state = backbone_state_dict(architecture, weights)
            wanted = self.features.state_dict()
            self.features.load_state_dict({name: state[f"features.{name}"] for name in wanted}, assign=True)
        shift, scale = _normalisation(normalisation)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < 2**self._blocks_pooled:
            raise ValueError(
                f"taps {self.taps} need RGB images [B, 3, H, W] with sides of at least "
                f"{2**self._blocks_pooled}, got {list(image.shape)}"
            )
        features, x = {}, (image - self.shift) / self.scale
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._tap_at:
                features[self._tap_at[index]] = x
        return {tap: features[tap] for tap in self.taps}

    def train(self, mode: bool = True) -> "VggFeatures":
        """Stay in evaluation mode whatever the surrounding model does."""
        return super().train(False)


def perceptual_loss(
    network: VggFeatures,
    prediction: Tensor,
    target: Tensor | dict[str, Tensor],
    tap_weights: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
) -> Tensor:
    """Sum over the taps of the mean absolute difference of features; a scalar.

    prediction: [B, 3, H, W] RGB in [0, 1]. target: an image of the same shape, or the features that `network`
    gave for it, to reuse them; no gradient flows into it. tap_weights: one factor per tap, default 1.
    size: both images are first resized bilinearly (align_corners=False, no antialiasing), nvs_depth to 224.
    Raises ValueError for other shapes, a wrong number of weights, and ready features of another size.
    """
    weights = [1.0] * len(network.taps) if tap_weights is None else list(tap_weights)
    if len(weights) != len(network.taps):
        raise ValueError(f"{len(weights)} tap weights for the {len(network.taps)} taps {network.taps}")
    if isinstance(target, Tensor):
        if target.shape != prediction.shape:
            raise ValueError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ")
        with torch.no_grad():
            target = network(_resize(target, size))
    features = network(_resize(prediction, size))
    loss = prediction.new_zeros(())
    for weight, tap in zip(weights, network.taps, strict=True):
        if tap not in target or target[tap].shape != features[tap].shape:
            raise ValueError(f"the target features lack {tap} of shape {list(features[tap].shape)}")
        loss = loss + weight * F.l1_loss(features[tap], target[tap].detach())
    return loss


def backbone_state_dict(
    architecture: Literal["alexnet", "vgg16", "vgg19"], weights: str | PathLike | None = None
) -> dict[str, Tensor]:
    """The convolution weights ("features.*") of a torchvision ImageNet classifier, from a local file.

    weights: the file; by default torchvision's own in torch hub's cache, where an earlier download left it.
    Nothing is ever downloaded. Raises DataError, naming the file to fetch and the place for it, when there is
    none, and when the file is damaged, is not plain tensors, or holds another architecture.
    """
    import torchvision.models  # slow to import; only learned measures need it

    builder = {"alexnet": "AlexNet", "vgg16": "VGG16", "vgg19": "VGG19"}[architecture]
    url = getattr(torchvision.models, f"{builder}_Weights").IMAGENET1K_V1.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    path = cached if weights is None else Path(weights)
    remedy = f"Fetch {url} and put it at {cached}, or pass the path of a local copy as `weights`"
    if not path.is_file():
        raise DataError(path, f"the ImageNet weights of {architecture} are not there", remedy)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen kinds for damaged files
        raise DataError(path, f"cannot be read as weights ({type(error).__name__})", remedy) from error
    expected = _backbone_shapes(architecture)
    for name, shape in expected.items():
        tensor = state.get(name) if isinstance(state, dict) else None
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            found = list(tensor.shape) if isinstance(tensor, Tensor) else "nothing"
            reason = f"not the weights of {architecture}: {name} should be {list(shape)}, found {found}"
            raise DataError(path, reason, remedy)
        if not torch.isfinite(tensor).all():
            raise DataError(path, f"{name} holds NaN or infinity", remedy)
    return {name: state[name].float() for name in expected}


def _resize(image: Tensor, size: int | tuple[int, int] | None) -> Tensor:
    if size is None:
        return image
    size = (size, size) if isinstance(size, int) else size
    return F.interpolate(image, size, mode="bilinear", align_corners=False)


def _vgg_tap_indices(architecture: str) -> dict[str, int]:
    """Name of each ReLU -> its index in torchvision's `features`, where pooling ends each block."""
    indices, index = {}, 0
    for block, depth in enumerate(_VGG_DEPTHS[architecture], start=1):
        for convolution in range(1, depth + 1):
            indices[f"relu{block}_{convolution}"] = index + 1
            index += 2
        index += 1
    return indices


def _vgg_layers(architecture: str, last: int) -> nn.Sequential:
    """Layers 0..last of torchvision's `features`, without values (meta device)."""
    layers, channels = [], 3
    for width, depth in zip(_VGG_CHANNELS, _VGG_DEPTHS[architecture], strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1, device="meta"), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[: last + 1])


def _fill_random(layers: nn.Sequential) -> None:
    """He-normal weights from a fixed seed, leaving the global random state alone."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, parameter in layers.named_parameters():
        fan_in = math.prod(parameter.shape[1:])
        deviation = 0.1 if name.endswith("bias") else math.sqrt(2 / fan_in)
        state[name] = deviation * torch.randn(parameter.shape, generator=generator)
    layers.load_state_dict(state, assign=True)


def _backbone_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    if architecture == "alexnet":
        sides = {
            0: (64, 3, 11, 11),
            3: (192, 64, 5, 5),
            6: (384, 192, 3, 3),
            8: (256, 384, 3, 3),
            10: (256, 256, 3, 3),
        }
        shapes = {f"features.{index}.weight": shape for index, shape in sides.items()}
        return shapes | {f"features.{index}.bias": shape[:1] for index, shape in sides.items()}
    layers = _vgg_layers(architecture, last=max(_vgg_tap_indices(architecture).values()))
    return {f"features.{name}": tuple(value.shape) for name, value in layers.state_dict().items()}


def _normalisation(name: str) -> tuple[Tensor, Tensor]:
    """Shift and scale, [1, 3, 1, 1], with network input = (image - shift) / scale."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_IMAGENET_MEAN, _IMAGENET_STD))
    if name == "imagenet":
        return mean, std
    if name == "none":
        return torch.zeros_like(mean), torch.ones_like(std)
    if name == "imagenet_on_signed":  # ((2 x - 1) - mean) / std
        return (1 + mean) / 2, std / 2
    raise ValueError(f"unknown normalisation {name!r}: use imagenet, none or imagenet_on_signed")
