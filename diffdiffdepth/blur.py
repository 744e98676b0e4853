"""Gaussian blur of image stacks, borders repeated."""

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.quality.ssim import window_mean

__all__ = ["gaussian_blur"]


def gaussian_blur(images: Tensor, sigma_px: float, radius: int) -> Tensor:
    """Images [m, C, H, W] after a separable Gaussian of 2 radius + 1 taps; sigma 0 leaves them alone."""
    if sigma_px <= 0:
        return images
    steps = torch.arange(-radius, radius + 1, dtype=images.dtype)
    taps = torch.exp(-steps.square() / (2 * sigma_px**2))
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    # Transposed, rows are summed before columns: the detector's points hang on how this rounds.
    return window_mean(padded.mT, (taps / taps.sum()).tolist()).mT
