"""The objective of DeepVoxels: 200 x L1 plus a patch GAN (CVPR 2019, section 3.6).

The discriminator returns logits; the released code applies a sigmoid and adds 1e-9 inside the logarithm. Both
forms agree up to that constant, but only the logit form survives half precision.
"""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_border", "discriminator_loss", "generator_gan_loss", "l1_loss"]


def crop_border(image: Tensor, border_px: int) -> Tensor:
    """Cut `border_px` pixels from each side of `image` [..., H, W]; ValueError if nothing would remain."""
    height, width = image.shape[-2:]
    if border_px < 0 or 2 * border_px >= min(height, width):
        raise ValueError(f"cannot crop {border_px} px from each side of a {height}x{width} image")
    return image[..., border_px : height - border_px, border_px : width - border_px]


def l1_loss(rendered: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over all pixels and channels; both [N, 3, H, W] in [0, 1]."""
    return F.l1_loss(rendered, target)


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Cross entropy of the discriminator, half the sum of the real and the fake term."""
    return 0.5 * (F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean())


def generator_gan_loss(logits_fake: Tensor) -> Tensor:
    """Non-saturating generator loss, -mean log D(fake)."""
    return F.softplus(-logits_fake).mean()
