"""The objective of DeepVoxels: 200 x L1 plus a patch GAN (CVPR 2019, section 3.6).

    generator:      l1_weight |I - I*|  -  gan_weight mean log D(I)
    discriminator:  -1/2 (mean log D(I*) + mean log (1 - D(I)))

With `model.colour_head` (not in the paper) the generator also pays head_weight |C - C*| for the colours C
that one layer reads in the projected features; C* is I* at the feature map's size.

D is the sigmoid of the discriminator's logits. The released code adds 1e-9 inside the logarithm; softplus of
the logits is the same up to that constant and does not overflow.
"""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["crop_border", "discriminator_loss", "generator_gan_loss", "head_loss", "loss_terms"]


def head_loss(coarse: Tensor, truth: Tensor) -> Tensor:
    """L1 of the colour head's [N, 3, h, w] against images [N, 3, S, S] averaged over its pixels."""
    return F.l1_loss(coarse, F.adaptive_avg_pool2d(truth, coarse.shape[-2:]))


def loss_terms(rendered: Tensor, truth: Tensor, discriminator: nn.Module | None) -> dict[str, Tensor]:
    """The terms `l1` and, with a discriminator, `gan` and `discriminator`; images [N, 3, H, W] in [0, 1].

    All are taken before either network moves. The discriminator's weights are frozen for the term `gan`, so
    that it cannot leak into the discriminator's own gradient.
    """
    terms = {"l1": F.l1_loss(rendered, truth)}
    if discriminator is not None:
        terms["discriminator"] = discriminator_loss(discriminator(truth), discriminator(rendered.detach()))
        discriminator.requires_grad_(False)
        terms["gan"] = generator_gan_loss(discriminator(rendered))
        discriminator.requires_grad_(True)
    return terms


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Cross entropy of the discriminator, half the sum of the real and the fake term."""
    return 0.5 * (F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean())


def generator_gan_loss(logits_fake: Tensor) -> Tensor:
    """Non-saturating generator loss, -mean log D(fake)."""
    return F.softplus(-logits_fake).mean()


def crop_border(image: Tensor, border_px: int) -> Tensor:
    """Cut `border_px` pixels from each side of `image` [..., H, W]."""
    height, width = image.shape[-2:]
    return image[..., border_px : height - border_px, border_px : width - border_px]
