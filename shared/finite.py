"""The search for NaN and infinity in what a step is about to use."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["first_nan", "first_nonfinite", "weights_and_gradients"]


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; synchronises the device once if there is none."""
    numbers = {name: t.detach() for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not numbers:
        return None
    if math.isfinite(torch.nn.utils.get_total_norm(numbers.values())):  # L2: ten times as fast as the largest
        return None
    # Also squares of large finite numbers overflow.
    return next((name for name, tensor in numbers.items() if not tensor.isfinite().all()), None)


def weights_and_gradients(**networks: nn.Module) -> dict[str, Tensor]:
    """The parameters of the networks and their gradients, under names to be read in an error message."""
    tensors = {}
    for name, network in networks.items():
        inner = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        parameters = dict(inner.named_parameters())
        tensors |= {f"{key} of {name}": parameter for key, parameter in parameters.items()}
        tensors |= {
            f"the gradient of {key} of {name}": parameter.grad
            for key, parameter in parameters.items()
            if parameter.grad is not None
        }
    return tensors


def first_nan(state: Any, name: str = "") -> str | None:
    """Dotted name of the first tensor with NaN in nested dicts, lists and tuples; infinity is let pass."""
    return next((where for where, tensor in _tensors(state, name) if tensor.isnan().any()), None)


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}.{index}" if name else str(index))
