"""A blur with a kernel for every pixel: the optical model that the network trains through.

For slice k with blur radii sigma, window Omega of K x K pixels and Gaussian weight

    g(sigma; u, v) = sigma^-2 exp(-(u^2 + v^2) / (2 std^2)),      std = psf_std_scale * sigma,

the released code computes, with sigma owned by the SOURCE pixel Q and normalised at the output pixel P,

    J(P) = I(P)                                                        where sigma(P) <= threshold, else
    J(P) = sum_Q g(sigma(Q); Q - P) I(Q) / sum_Q g(sigma(Q); Q - P)    over the Q in Omega(P), inside the
                                                                       image, with sigma(Q) > threshold.

Sharp pixels neither give nor take: that is all its treatment of occlusion.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.models.fast.psf import fast_blur
from dfd_selfsup.models.options import PsfOptions
from shared.geometry import check_shape

__all__ = ["improve_image", "plain_blur", "render_stack"]

IMAGE_RATE = 1.5  # of a step down half the mean squared error over the slices; from 2 on it may diverge


def render_stack(
    image: Tensor,
    sigma_px: Tensor,
    options: PsfOptions = PsfOptions(),  # noqa: B008
    blur: Callable[[Tensor, Tensor, PsfOptions], Tensor] = fast_blur,
) -> Tensor:
    """Blur image [B, C, H, W] with radii sigma_px [B, S, H, W] into a stack [B, S, C, H, W].

    Differentiable once in both; half precision is computed in float32, also under autocast. A constant
    image stays constant and no value leaves the range of the image. `blur`: `fast_blur`, or `plain_blur`, the
    equation above, which needs tens of times the time and memory. Raises ValueError for shapes that do not
    fit.

        >>> image, sigma = torch.rand(1, 3, 24, 32), torch.full((1, 5, 24, 32), 2.0)
        >>> render_stack(image, sigma).shape
        torch.Size([1, 5, 3, 24, 32])
    """
    check_shape(sigma_px, "B S H W", "sigma_px", check_shape(image, "B C H W", "image"))
    dtype = torch.promote_types(torch.promote_types(image.dtype, sigma_px.dtype), torch.float32)
    return blur(image.to(dtype), sigma_px.to(dtype), options)


@torch.enable_grad()
def improve_image(image: Tensor, stack: Tensor, sigma_px: Tensor, options: PsfOptions, steps: int) -> Tensor:
    """The image [B, 3, H, W] after steps down its squared re-blurring error; sigma stays, without gradient.

    Where the kernels cannot hold the blur of a slice, that slice has no say. Few steps are best: later ones
    explain what the blur's model lacks.
    """
    image, sigma_px = image.detach(), sigma_px.detach()
    held = (sigma_px < options.window // 2).unsqueeze(2) / stack.shape[1]
    for _ in range(steps):
        image.requires_grad_()
        error = (held * (render_stack(image, sigma_px, options) - stack).square()).sum() / 2
        (slope,) = torch.autograd.grad(error, image)
        image = image.detach() - IMAGE_RATE * slope
    return image.clamp(0, 1)


def plain_blur(image: Tensor, sigma: Tensor, options: PsfOptions) -> Tensor:
    """The equation above, written down: image [B, C, H, W], sigma [B, S, H, W] to [B, S, C, H, W]."""
    m = options.window // 2
    v, u = torch.meshgrid(torch.arange(-m, m + 1), torch.arange(-m, m + 1), indexing="ij")
    square = (u**2 + v**2).flatten()[:, None, None].to(image)  # [K^2, 1, 1]

    def around(maps: Tensor) -> Tensor:  # the K^2 neighbours of every pixel, 0 outside the image
        columns = F.unfold(maps, options.window, padding=m)
        return columns.unflatten(1, (maps.shape[1], -1)).unflatten(-1, maps.shape[-2:])

    radius = around(sigma)  # [B, S, K^2, H, W]
    live = radius > options.threshold_px
    radius = radius.clamp(min=options.threshold_px)  # where it counts it is larger
    weight = live * radius**-2 * torch.exp(-square / (2 * (options.psf_std_scale * radius) ** 2))
    total = torch.einsum("bskhw,bckhw->bschw", weight, around(image))
    blurred = total / weight.sum(2).clamp(min=1e-30).unsqueeze(2)
    return torch.where((sigma > options.threshold_px).unsqueeze(2), blurred, image.unsqueeze(1))
