"""Depth and an all-in-focus image from a focal stack (Si et al., CVPR 2023), without any truth.

from dfd_selfsup import DepthFromDefocus
estimate = DepthFromDefocus.load("runs/dfd_selfsup-quick").predict("my_stack/")
estimate.depth.save("depth.pfm")                     # a DepthMap; estimate.aif is sharp everywhere
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfd_selfsup.api import DepthFromDefocus
    from dfd_selfsup.models.thin_lens import Lens

__all__ = ["DepthFromDefocus", "Lens"]


def __getattr__(name: str) -> Any:  # on first use, so that importing the package takes no PyTorch
    modules = {"DepthFromDefocus": "dfd_selfsup.api", "Lens": "dfd_selfsup.models.thin_lens"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(modules[name]), name)
