"""Moving the latent points to another camera (transforming auto-encoder)."""

from typing import Literal

import torch
from torch import Tensor

from shared.geometry.camera import rotate_vectors

__all__ = ["move_latent"]


def move_latent(
    latent: Tensor,
    target_from_source: Tensor,
    translate: bool,
    motion: Literal["released", "rigid"] = "released",
) -> Tensor:
    """Latent points [B, P, 3] carried to the target camera [B, 4, 4].

    "rigid": R z (+ t), what the name says. "released": Z R as rows, hence Rᵀ z (+ t): the rotation of the
    opposite direction, which the learned space absorbs and every predecessor has; released weights need it.
    `translate` is for scenes; objects turn about their own middle. Raises ValueError for another motion.
    """
    if motion not in ("released", "rigid"):
        raise ValueError(f"unknown latent motion {motion!r}: use released or rigid")
    pose = target_from_source.to(torch.promote_types(latent.dtype, torch.float32))  # also under autocast
    rotation = pose[..., :3, :3]
    if motion == "released":
        rotation = rotation.transpose(-1, -2)
    moved = rotate_vectors(rotation, latent)
    return moved + pose[..., None, :3, 3] if translate else moved
