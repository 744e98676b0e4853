"""The losses of the paper and its released code, and the supervised ones it is compared with.

    total = 1000 MIX(re-blurred stack, stack) + 100 MIX(aif, coarse aif) + 10 BLUR(aif) + 10 BLUR(coarse aif)
            + 10 beta SMOOTH(depth, aif),        MIX = 0.85 (1 - SSIM) + 0.15 L1

The coarse all-in-focus image is picked from the input by the predicted depth. Where it is picked by an
argmin, as in the released code, BLUR(coarse aif) is a constant: no gradient flows through integer indices.
A soft pick (`LossOptions.soft_coarse_px`) gives the published idea the gradient it lacks.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.config import LossOptions
from dfd_selfsup.models.focus_measure import focus_guess, focus_response
from dfd_selfsup.models.heads import Prediction, coarse_aif
from dfd_selfsup.models.thin_lens import Defocus
from shared.quality.losses import edge_aware_smoothness
from shared.quality.ssim import ssim_map

__all__ = ["TERMS", "guide_losses", "mix", "selfsup_losses", "supervised_losses"]

TERMS = ("recon", "sharp", "aif", "aif_blur", "coarse_blur", "smooth")  # with a weight in LossOptions
DEPTH_WEIGHT, AIF_WEIGHT = 100.0, 100.0  # of the supervised losses
DESCENT_GUIDE_WEIGHT = 5.0  # of the same with a guide, which has to be heard over the re-blurring error
FOCUS_GUIDE_WEIGHT = 300.0  # enough to lead while the re-blurring error is large


def selfsup_losses(
    prediction: Prediction, rendered: Tensor, images: Tensor, options: LossOptions
) -> dict[str, Tensor]:
    """The weighted terms, scalars by name; their sum is what is minimised. Terms of weight 0 are left out.

    rendered and images are [B, S, 3, H, W]: the all-in-focus image re-blurred by the predicted depth, and
    the input.
    """
    coarse = coarse_aif(images, prediction.sigma_px, options.soft_coarse_px)
    terms = {
        "recon": lambda: mix(rendered.flatten(0, 1), images.flatten(0, 1)),
        "sharp": lambda: F.l1_loss(sharpness(rendered.flatten(0, 1)), sharpness(images.flatten(0, 1))),
        "aif": lambda: mix(prediction.aif, coarse.detach()),
        "aif_blur": lambda: blur_loss(prediction.aif),
        "coarse_blur": lambda: blur_loss(coarse),
        "smooth": lambda: smooth_loss(prediction, options),
    }
    weights = {name: getattr(options, name) for name in TERMS}
    return {name: weight * terms[name]() for name, weight in weights.items() if weight}


def guide_losses(
    prediction: Prediction, images: Tensor, defocus: Defocus, guide: Tensor | None, share: float
) -> dict[str, Tensor]:
    """Terms that lead to a guide, by `share`: what descent found (`guide` [B, 4, H, W]) or a focus measure.

    The guide is inverse depth and image, and takes the place of the truth in the supervised losses. Without
    metres, inverse depth may be 0 or less: its error then is linear, over the stack's focus range.
    """
    if guide is None:
        return {"guide": FOCUS_GUIDE_WEIGHT * share * focus_guide_loss(prediction, images, defocus)}
    q, aif = guide[:, :1], guide[:, 1:]
    if defocus.kind == "metric":
        depth = (prediction.q.log() - q.log()).abs().mean()
    else:
        depth = ((prediction.q - q).abs().mean((1, 2, 3)) / defocus.span).mean()
    weight = share * DESCENT_GUIDE_WEIGHT
    return {
        "guide_depth": weight * DEPTH_WEIGHT * depth,
        "guide_aif": weight * AIF_WEIGHT * mix(prediction.aif, aif),
    }


def focus_guide_loss(prediction: Prediction, images: Tensor, defocus: Defocus) -> Tensor:
    """Mean distance of inverse depth to what a focus measure finds, over the stack's focus range.

    images [B, S, 3, H, W]. No truth: it leads the first steps out of the flat depth that re-blurring alone
    leaves slowly. A pixel counts by how far its measure's peak is above its mean over the slices;
    being a median, what is learned has fewer outliers than the measure itself.
    """
    response = focus_response(images, "ring")
    trust = 1 - response.mean(1, keepdim=True) / response.amax(1, keepdim=True)  # [B, 1, H, W]
    error = trust * (prediction.q - focus_guess(images, defocus, "ring")).abs()
    return (error.sum((1, 2, 3)) / trust.sum((1, 2, 3)).clamp(min=1e-6) / defocus.span).mean()


def supervised_losses(
    prediction: Prediction,
    depth: Tensor,
    valid: Tensor,
    aif: Tensor,
    targets: Literal["depth", "aif", "both"],
) -> dict[str, Tensor]:
    """What the same network minimises when the truth is known: |log depth| error, MIX on the image, or both.

    depth, valid [B, 1, H, W] (metres, bool), aif [B, 3, H, W]. Invalid pixels, NaN included, have no
    influence.
    """
    terms = {}
    if targets in ("depth", "both"):
        safe = torch.where(valid, depth, 1.0)
        error = (safe.log() + prediction.q.log()).abs() * valid  # log d - log (1 / q)
        per_stack = error.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)
        terms["depth"] = DEPTH_WEIGHT * per_stack.mean()
    if targets in ("aif", "both"):
        terms["aif"] = AIF_WEIGHT * mix(prediction.aif, aif)
    return terms


def mix(prediction: Tensor, target: Tensor) -> Tensor:
    """0.85 (1 - SSIM) + 0.15 L1 of images [B, 3, H, W]; SSIM: 11 x 11 Gaussian, zero border."""
    similarity = ssim_map(prediction, target, "gaussian11_zero_pad").mean()
    return 0.85 * (1 - similarity) + 0.15 * (prediction - target).abs().mean()


def smooth_loss(prediction: Prediction, options: LossOptions) -> Tensor:
    """beta * edge-aware slopes of the depth; the gradient reaches the image as well, as released."""
    values = prediction.depth if options.smooth_on == "depth" else prediction.q
    gradient = "forward" if options.border_fix else "backward_zero_pad"
    return options.beta * edge_aware_smoothness(
        values, prediction.aif, gradient=gradient, edges="per_channel"
    )


def blur_loss(image: Tensor) -> Tensor:
    """BLUR: minus the log of the Laplacian-of-Gaussian energy of [B, 3, H, W] in grey; sharper is smaller."""
    grey = image.mean(1, keepdim=True)
    energy = _MirroredFilter.apply(grey, _laplacian_of_gaussian(grey)).square().sum((1, 2, 3))
    pixels = grey[0].numel() - grey.mean((1, 2, 3)) ** 2
    return -0.25 * (energy / pixels + 1e-8).log().mean()


def sharpness(image: Tensor) -> Tensor:
    """Gur and Wolf's sharpness map of [B, C, H, W]: -(dx^2 + dy^2) - |(I - mu) / mu| - (I - mu)^2."""
    mean = F.avg_pool2d(image, 7, stride=1, padding=3, count_include_pad=False) + 1e-8
    padded = F.pad(image, (1, 0, 1, 0))
    slope_x, slope_y = image - padded[..., 1:, :-1], image - padded[..., :-1, 1:]
    return -(slope_x.square() + slope_y.square()) - ((image - mean) / mean).abs() - (image - mean).square()


class _MirroredFilter(torch.autograd.Function):
    """Convolution of [B, 1, H, W], zero border, by a kernel that is the same mirrored, so its own adjoint.

    PyTorch's own backward pass of a single channel takes ten times as long on a CPU.
    """

    @staticmethod
    def forward(ctx, grey: Tensor, kernel: Tensor) -> Tensor:
        ctx.kernel = kernel
        return F.conv2d(grey, kernel.to(grey), padding=kernel.shape[-1] // 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _MirroredFilter.apply(grad, ctx.kernel), None


def _laplacian_of_gaussian(like: Tensor) -> Tensor:
    """[1, 1, 7, 7], s = 1; its taps do not sum to zero, so that flat images have a response too."""
    offsets = torch.arange(-3, 4, device=like.device, dtype=like.dtype)
    half = (offsets[:, None] ** 2 + offsets**2) / 2
    return ((1 - half) * torch.exp(-half) / torch.pi)[None, None]
