"""How weights begin: ImageNet from a local file, the released code's N(0, 0.02), or PyTorch's defaults."""

from pathlib import Path

import torch
from torch import nn

from nvs_depth.models.encoder import ResNet18Trunk
from shared.errors import DataError

__all__ = ["RESNET18_URL", "initialise", "load_imagenet"]

RESNET18_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"


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
    it is missing, damaged or of another architecture (a `width` other than 1 included).
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / RESNET18_URL.rsplit("/", 1)[1]
    file = Path(path) if path else cached
    remedy = (
        f"Fetch {RESNET18_URL} to {cached}, name a copy as model.imagenet_weights, "
        "or set model.encoder_init=default"
    )
    if not file.is_file():
        raise DataError(file, "the ImageNet weights of ResNet-18 are not there", remedy)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen kinds for damaged files
        raise DataError(file, f"cannot be read as weights ({type(error).__name__})", remedy) from error
    try:
        trunk.load_state_dict({name: t for name, t in state.items() if not name.startswith("fc.")})
    except (RuntimeError, AttributeError) as error:
        first = str(error).splitlines()[:2][-1].strip()
        raise DataError(file, f"does not fit: {first}", remedy) from None
