"""Memory layout and precision of tensors between the networks."""

import torch
from torch import Tensor

__all__ = ["channels_last", "full_precision"]

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(x: Tensor) -> Tensor:
    """Lay out [B, C, ...] with the channels contiguous: CPU convolutions run 1.3 to 3 times faster on it."""
    return x.contiguous(memory_format=_FORMATS[x.dim()])


def full_precision(x: Tensor) -> Tensor:
    """Half-precision numbers, which autocast makes, as float32; others unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
