"""The trap of the released network: an output whose final ReLU is shut everywhere at the start never learns.

With PyTorch's default initialisation the depth map is zero at every pixel in about a third of all seeds,
and some colour in most. Nothing is raised; the run just never gets better. Here it is measured, reported
and mended.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from dfd_selfsup.models.daif_net import DaifNet

__all__ = ["alive_shares", "revive"]

ALIVE = 0.01  # an output counts as dead when fewer of its pixels have a gradient
COLOUR_BIAS, DEPTH_BIAS = 0.5, 0.3
ATTEMPTS = 200


def alive_shares(raw: Tensor) -> list[float]:
    """Share of pixels of each raw map [B, 4, H, W] that the final ReLU lets through."""
    return (raw > 0).float().mean((0, 2, 3)).tolist()


@torch.no_grad()
def revive(network: DaifNet, stack: Tensor, how: Literal["keep", "bias", "reseed"] = "bias") -> str:
    """Look for dead outputs on one batch [B, S, 4, H, W], mend them as told, and say what was found and done.

    `bias` lifts the last layer's bias to 0.5 (colours) and 0.3 (depth), which keeps the weights. `reseed`
    draws the last layers anew until all are alive, as one would rerun the released code with other seeds.
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
                _default_init(layer)
            if min(alive_shares(network(stack))) >= ALIVE:
                return f"{found}; alive after drawing the last two layers {attempt} times"
        return f"{found}; still so after {ATTEMPTS} draws: use dead_heads: bias"
    after = min(alive_shares(network(stack)))
    return f"{found}; bias lifted, now at least {after:.0%} of the pixels of each output are alive"


def _default_init(layer: nn.Conv2d) -> None:
    bound = 1 / math.sqrt(layer.weight[0].numel())  # what kaiming_uniform with a = sqrt(5) comes to
    layer.weight.uniform_(-bound, bound)
    layer.bias.uniform_(-bound, bound)
