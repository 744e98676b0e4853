"""Checkpoints of the released code: reading and writing them, and turning BGR networks into RGB ones.

A released file is `torch.save` of {"model": state dict, "optimizer": ..., "iter": ...}. Layer names are the
same as here. Networks trained on its NYUv2 stacks expect and return blue, green, red: they were read by an
8-bit BGR reader.
"""

import io
import os
from typing import Literal

import torch
from torch import Tensor

from dfd_selfsup.models.daif_net import DaifNet
from shared.errors import DataError
from shared.files.disk import read_bytes, write_bytes

__all__ = ["load_released", "save_released", "swap_red_and_blue"]

ChannelOrder = Literal["rgb", "bgr"]
REMEDY = "Give the .pth file of the released code, trained with its default W=16 and D=4"


def load_released(path: str | os.PathLike, network: DaifNet, channel_order: ChannelOrder = "bgr") -> None:
    """Load a released checkpoint into `network`, which then takes and gives RGB; `channel_order` is the
    file's.

    Only plain tensors are read. Raises DataError if the file is damaged, not such a checkpoint, or another
    size.
    """
    data = read_bytes(path)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen kinds for damaged files
        raise DataError(path, f"cannot be read as a checkpoint ({type(error).__name__})", REMEDY) from None
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise DataError(path, "holds no state dict", REMEDY)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    wanted = network.state_dict()
    for key in [*wanted, *(key for key in state if key not in wanted)]:
        found, expected = _shape(state.get(key)), _shape(wanted.get(key))
        if found != expected:
            raise DataError(path, f"{key} is {found} in the file and {expected} in the network", REMEDY)
    network.load_state_dict(swap_red_and_blue(state) if channel_order == "bgr" else state)


def save_released(
    path: str | os.PathLike, network: DaifNet, channel_order: ChannelOrder = "bgr", iteration: int = 0
) -> None:
    """Write the network as the released code reads it, by default for its BGR loader."""
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    state = swap_red_and_blue(state) if channel_order == "bgr" else state
    buffer = io.BytesIO()
    torch.save({"model": state, "optimizer": {}, "iter": iteration}, buffer)
    write_bytes(path, buffer.getvalue())


def swap_red_and_blue(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network for images whose first and third channel are exchanged; its own inverse."""
    order = torch.tensor([2, 1, 0, 3])
    swapped = dict(state)
    swapped["conv_down.0.0.weight"] = state["conv_down.0.0.weight"][:, order]
    for name in ("conv_out.2.weight", "conv_out.2.bias"):
        swapped[name] = state[name][order]
    return swapped


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else "missing"
