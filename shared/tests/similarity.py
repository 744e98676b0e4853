"""The similarity that takes one set of camera centres to another (Umeyama, PAMI 1991)."""

import torch
from torch import Tensor

__all__ = ["align_similarity"]


def align_similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, rotation [3, 3], translation [3]: target [N, 3] ~ scale * rotation @ source + translation."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    source_offset, target_offset = source - source_mean, target - target_mean
    u, singular_values, vt = torch.linalg.svd(target_offset.T @ source_offset / len(source))
    signs = torch.ones_like(singular_values)
    signs[2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))  # never a reflection
    rotation = (u * signs) @ vt
    scale = (singular_values * signs).sum() / source_offset.square().sum(1).mean()
    return scale, rotation, target_mean - scale * rotation @ source_mean
