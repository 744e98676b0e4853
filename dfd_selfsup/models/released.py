"""The released code's checkpoints, and its trap: outputs that are dead from the start.

A released file is `torch.save` of {"model": state dict, "optimizer": ..., "iter": ...}. Layer names are the
same as here. Networks trained on its NYUv2 stacks expect and return blue, green, red: they were read by an
8-bit BGR reader.

An output whose final ReLU is shut everywhere at the start never learns. With PyTorch's default initialisation
the depth map is zero at every pixel in about a third of all seeds, and some colour in most. Nothing is
raised; the run just never gets better. `revive` measures, reports and mends it.
"""

import io
import os
from typing import Literal

import torch
from torch import Tensor

from dfd_selfsup.models.daif_net import DaifNet
from shared.errors import DataError
from shared.files.disk import read_bytes

__all__ = ["alive_shares", "load_released", "revive", "swap_red_and_blue"]

REMEDY = "Give the .pth file of the released code, trained with its default W=16 and D=4"
ALIVE = 0.01  # an output counts as dead when fewer of its pixels have a gradient
COLOUR_BIAS, DEPTH_BIAS = 0.5, 0.3
ATTEMPTS = 200


def load_released(path: str | os.PathLike, network: DaifNet) -> None:
    """Load a released checkpoint, whose network takes and gives BGR, into `network`, which will take RGB.

    Only plain tensors are read. Raises DataError if the file is damaged, not such a checkpoint, or another
    size.
    """
    data = read_bytes(path)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen kinds, with advice that is not safe
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
    network.load_state_dict(swap_red_and_blue(state))


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


def alive_shares(raw: Tensor) -> list[float]:
    """Share of pixels of each raw map [B, 4, H, W] that the final ReLU lets through."""
    return (raw > 0).float().mean((0, 2, 3)).tolist()


@torch.no_grad()
def revive(network: DaifNet, stack: Tensor, how: Literal["keep", "bias", "reseed"] = "bias") -> str:
    """Look for dead outputs on one batch [B, S, 4, H, W], mend them as told, and say what was found and done.

    `bias` lifts the last layer's bias to 0.5 (colours) and 0.3 (depth), which keeps the weights. `reseed`
    draws the last layers again until all are alive, as one would rerun the released code with other seeds.
    `keep` only reports.
    """
    shares = alive_shares(network(stack))
    names = ("red", "green", "blue", "depth")
    dead = [name for name, share in zip(names, shares, strict=True) if share < ALIVE]
    if not dead:
        return "all outputs are alive"
    found = f"dead at the start: {', '.join(dead)}"
    if how == "keep":
        return f"{found}; kept (dead_heads: keep), they may never learn"
    if how == "bias":
        network.conv_out[2].bias.copy_(torch.tensor([COLOUR_BIAS] * 3 + [DEPTH_BIAS]))
    else:
        for attempt in range(1, ATTEMPTS + 1):
            for layer in (network.conv_out[0], network.conv_out[2]):
                layer.reset_parameters()
            if min(alive_shares(network(stack))) >= ALIVE:
                return f"{found}; alive after drawing the last two layers {attempt} times"
        return f"{found}; still so after {ATTEMPTS} draws: use dead_heads: bias"
    after = min(alive_shares(network(stack)))
    return f"{found}; bias lifted, now at least {after:.0%} of the pixels of each output are alive"
