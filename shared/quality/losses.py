"""Losses: edge-aware smoothness, and distances between network features."""

import math
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import DataError
from shared.geometry import check_shape

__all__ = [
    "VggFeatures",
    "backbone_file",
    "backbone_state_dict",
    "edge_aware_smoothness",
    "perceptual_loss",
]


GradientOperator = Literal["forward", "sobel", "sobel_zero_pad", "backward_zero_pad"]


def edge_aware_smoothness(
    values: Tensor,
    image: Tensor,
    edge_weight: float = 1.0,
    gradient: GradientOperator = "forward",
    edges: Literal["mean", "per_channel"] = "mean",
) -> Tensor:
    """Mean of |dx v| exp(-w |dx I|) plus the same along y: slopes cost less where the image has an edge.

    values: [B, 1, H, W] disparity, inverse depth or depth; image: [B, C, H, W]. The gradient reaches both.
    edge_weight is w, in units of one over the image range. edges: |dI| averaged over the channels, or one
    weight per channel.
    Papers: nvs_depth (w = 10, images in [-1, 1]); diffdiffdepth ("sobel", released code "sobel_zero_pad");
    dfd_selfsup (released code "backward_zero_pad", "per_channel"). The zero-padding operators see a step at
    the border and pull the map towards 0 there.
    Raises ValueError for other shapes and for maps below 2x2.

        >>> step = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])[None, None]
        >>> edge_aware_smoothness(step, torch.zeros_like(step))  # a step where the image has none
        tensor(0.5000)
        >>> edge_aware_smoothness(step, step, edge_weight=10)
        tensor(2.2700e-05)
    """
    sizes = check_shape(values, "B 1 H W", "values")
    check_shape(image, "B C H W", "image", sizes)
    if min(sizes["H"], sizes["W"]) < 2:
        raise ValueError(f"smoothness needs maps of at least 2x2, got {list(values.shape)}")
    if edges not in ("mean", "per_channel"):
        raise ValueError(f"unknown edges {edges!r}: use mean or per_channel")
    loss = values.new_zeros(())
    for slope, edge in zip(_gradients(values, gradient), _gradients(image, gradient), strict=True):
        edge = edge.abs()
        if edges == "mean":
            edge = edge.mean(dim=1, keepdim=True)
        loss = loss + (slope.abs() * torch.exp(-edge_weight * edge)).mean()
    return loss


def _gradients(maps: Tensor, operator: GradientOperator) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical derivative of [B, C, H, W]; "forward" is one column (row) smaller."""
    if operator == "forward":
        return maps[..., 1:] - maps[..., :-1], maps[..., 1:, :] - maps[..., :-1, :]
    if operator == "backward_zero_pad":  # the first column (row) is the value itself
        padded = F.pad(maps, (1, 0, 1, 0))
        return maps - padded[..., 1:, :-1], maps - padded[..., :-1, 1:]
    if operator in ("sobel", "sobel_zero_pad"):  # not normalised: a slope of 1 gives 8
        padded = F.pad(maps, (1, 1, 1, 1), mode="replicate" if operator == "sobel" else "constant")
        across, down = padded[..., 2:] - padded[..., :-2], padded[..., 2:, :] - padded[..., :-2, :]
        return (
            across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :],
            down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:],
        )
    raise ValueError(f"unknown gradient {operator!r}: use one of {', '.join(get_args(GradientOperator))}")


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """Frozen ImageNet features of VGG-16 or VGG-19 after named ReLUs, built no deeper than the deepest tap.

    taps: names such as "relu1_2" (block, convolution). weights: as in `backbone_state_dict`, which raises
    DataError without any; "random" (fixed seed) is for tests.
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
        if architecture not in ("vgg16", "vgg19"):
            raise ValueError(f"unknown architecture {architecture!r}: use vgg16 or vgg19")
        layers = _backbone(architecture).features
        known_taps = _vgg_tap_indices(layers)
        unknown = [tap for tap in taps if tap not in known_taps]
        if unknown or not taps:
            raise ValueError(f"{architecture} has no taps {unknown}: choose from {', '.join(known_taps)}")
        self.taps = tuple(taps)
        self._tap_at = {known_taps[tap]: tap for tap in self.taps}  # layer index -> name
        self._blocks_pooled = max(int(tap[4]) for tap in self.taps) - 1
        self.features = layers[: max(self._tap_at) + 1]
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
        check_shape(image, "B 3 H W", "image")
        if min(image.shape[-2:]) < 2**self._blocks_pooled:
            least = 2**self._blocks_pooled
            raise ValueError(f"taps {self.taps} need sides of at least {least}, got {list(image.shape)}")
        features, x = {}, (image - self.shift) / self.scale
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._tap_at:
                features[self._tap_at[index]] = x
        return {tap: features[tap] for tap in self.taps}

    def train(self, mode: bool = True) -> "VggFeatures":
        """Stay in evaluation mode, whichever mode the surrounding model is in."""
        return super().train(False)


def perceptual_loss(
    network: VggFeatures, prediction: Tensor, target: Tensor, size: int | tuple[int, int] | None = None
) -> Tensor:
    """Sum over the taps of the mean absolute difference of features; a scalar.

    prediction, target: [B, 3, H, W] RGB in [0, 1]; no gradient flows into the target.
    size: both images are first resized bilinearly (align_corners=False, no antialiasing), nvs_depth to 224.
    """
    check_shape(target, "B C H W", "target", check_shape(prediction, "B C H W", "prediction"))
    if size is not None:
        prediction, target = (
            F.interpolate(image, size, mode="bilinear", align_corners=False) for image in (prediction, target)
        )
    with torch.no_grad():
        wanted = network(target)
    found = network(prediction)
    return sum((F.l1_loss(found[tap], wanted[tap]) for tap in network.taps), prediction.new_zeros(()))


def backbone_state_dict(
    architecture: Literal["alexnet", "vgg16", "vgg19", "resnet18"], weights: str | PathLike | None = None
) -> dict[str, Tensor]:
    """The weights of a torchvision ImageNet classifier without its linear layers, from a local file.

    weights: the file; by default torchvision's own in torch hub's cache, where an earlier download left it.
    Nothing is ever downloaded. Raises DataError, naming the file to fetch and the place for it, when there is
    none, and when the file is damaged, is not plain tensors, or holds another architecture.
    """
    url, cached = backbone_file(architecture)
    path = cached if weights is None else Path(weights)
    remedy = f"Fetch {url} and put it at {cached}, or pass the path of a local copy as `weights`"
    if not path.is_file():
        raise DataError(path, f"the ImageNet weights of {architecture} are not there", remedy)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen kinds for damaged files
        raise DataError(path, f"cannot be read as weights ({type(error).__name__})", remedy) from error
    expected = _backbone(architecture).state_dict()
    expected = {name: t for name, t in expected.items() if not name.startswith(("classifier.", "fc."))}
    for name, wanted in expected.items():
        tensor = state.get(name) if isinstance(state, dict) else None
        if not isinstance(tensor, Tensor) or tensor.shape != wanted.shape or not tensor.isfinite().all():
            reason = f"not the weights of {architecture}: {name} is not finite {list(wanted.shape)}"
            raise DataError(path, reason, remedy)
    return {name: state[name].float() for name in expected}


def backbone_file(architecture: str) -> tuple[str, Path]:
    """Where torchvision's ImageNet weights are on the web, and where on this machine torch hub keeps them."""
    import torchvision.models  # slow to import; only learned measures need it

    builders = {"alexnet": "AlexNet", "vgg16": "VGG16", "vgg19": "VGG19", "resnet18": "ResNet18"}
    url = getattr(torchvision.models, f"{builders[architecture]}_Weights").IMAGENET1K_V1.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)


def _vgg_tap_indices(layers: nn.Sequential) -> dict[str, int]:
    """Name of each ReLU (relu2_1: block 2, convolution 1) -> its index; pooling ends each block."""
    indices, block, convolution = {}, 1, 1
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.ReLU):
            indices[f"relu{block}_{convolution}"] = index
            convolution += 1
        elif isinstance(layer, nn.MaxPool2d):
            block, convolution = block + 1, 1
    return indices


def _backbone(architecture: str) -> nn.Module:
    """torchvision's classifier on the meta device: shapes without values."""
    import torchvision.models  # slow to import; only learned measures need it

    with torch.device("meta"):
        return getattr(torchvision.models, architecture)()


def _fill_random(layers: nn.Sequential) -> None:
    """He-normal weights from a fixed seed, leaving the global random state alone."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, parameter in layers.named_parameters():
        fan_in = math.prod(parameter.shape[1:])
        deviation = 0.1 if name.endswith("bias") else math.sqrt(2 / fan_in)
        state[name] = deviation * torch.randn(parameter.shape, generator=generator)
    layers.load_state_dict(state, assign=True)


def _normalisation(name: str) -> tuple[Tensor, Tensor]:
    """Shift and scale, [1, 3, 1, 1], with network input = (image - shift) / scale."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_IMAGENET_MEAN, _IMAGENET_STD))
    rules = {
        "imagenet": (mean, std),
        "none": (torch.zeros_like(mean), torch.ones_like(std)),
        "imagenet_on_signed": ((1 + mean) / 2, std / 2),  # ((2 x - 1) - mean) / std
    }
    if name not in rules:
        raise ValueError(f"unknown normalisation {name!r}: use one of {', '.join(rules)}")
    return rules[name]
