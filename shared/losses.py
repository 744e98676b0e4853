"""Losses that two papers or more use: edge-aware smoothness, and photometric L1 + SSIM."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.ssim import ssim_map

__all__ = ["edge_aware_smoothness", "photometric_l1_ssim"]

GradientOperator = Literal["forward", "sobel", "sobel_zero_pad", "backward_zero_pad"]


def edge_aware_smoothness(
    values: Tensor,
    image: Tensor,
    edge_weight: float = 1.0,
    gradient: GradientOperator = "forward",
    edges: Literal["mean", "per_channel"] = "mean",
    mean_normalised: bool = False,
) -> Tensor:
    """Mean of |dx v| exp(-w |dx I|) plus the same along y: slopes cost less where the image has an edge.

    values: [B, 1, H, W] disparity, inverse depth or depth; image: [B, C, H, W]. The gradient reaches both.
    edge_weight is w, in units of one over the image range. edges: |dI| averaged over the channels, or one
    weight per channel. mean_normalised divides each map by its mean, so that shrinking it does not pay.
    Papers: monodepth2 (mean_normalised); nvs_depth (w = 10, images in [-1, 1]); diffdiffdepth ("sobel",
    released code "sobel_zero_pad"); dfd_selfsup (released code "backward_zero_pad", "per_channel"). The
    zero-padding operators see a step at the border and pull the map towards 0 there.
    Raises ValueError for other shapes and for maps below 2x2.
    """
    height, width = values.shape[-2:]
    if values.ndim != 4 or values.shape[1] != 1 or image.ndim != 4 or min(height, width) < 2:
        raise ValueError(
            "smoothness needs values [B, 1, H, W] of at least 2x2 and an image [B, C, H, W], "
            f"got {list(values.shape)} and {list(image.shape)}"
        )
    if image.shape[0] != values.shape[0] or image.shape[-2:] != values.shape[-2:]:
        raise ValueError(f"values {list(values.shape)} and image {list(image.shape)} differ in batch or size")
    if edges not in ("mean", "per_channel"):
        raise ValueError(f"unknown edges {edges!r}: use mean or per_channel")
    if mean_normalised:
        values = values / (values.mean(dim=(2, 3), keepdim=True) + 1e-7)

    loss = values.new_zeros(())
    for slope, edge in zip(_gradients(values, gradient), _gradients(image, gradient), strict=True):
        edge = edge.abs()
        if edges == "mean":
            edge = edge.mean(dim=1, keepdim=True)
        loss = loss + (slope.abs() * torch.exp(-edge_weight * edge)).mean()
    return loss


def photometric_l1_ssim(
    prediction: Tensor,
    target: Tensor,
    alpha: float = 0.85,
    mask: Tensor | None = None,
    variant: str = "box3",
    dissimilarity: Literal["halved", "full"] = "halved",
) -> Tensor:
    """alpha * D(SSIM) + (1 - alpha) * |prediction - target|, the mean over the valid pixels; a scalar.

    prediction, target: [B, C, H, W] in [0, 1]. mask: bool [B, 1, H, W] or [B, C, H, W], true where valid. The
    prediction outside it (NaN included) changes nothing; SSIM windows that reach out see the target on both
    sides. A mask without a valid pixel gives 0 with zero gradients.
    dissimilarity: D = (1 - SSIM) / 2 as in monodepth2 (whose clamp to [0, 1] never acts), or D = 1 - SSIM as
    in dfd_selfsup, whose variant is "gaussian11_zero_pad". alpha = 0 is plain L1, of any size (nvs_depth).
    Raises ValueError for other shapes, and for a mask with a variant whose map is smaller than the image.
    """
    if prediction.shape != target.shape or target.ndim != 4:
        raise ValueError(
            "prediction and target must be [B, C, H, W] of one shape, "
            f"got {list(prediction.shape)} and {list(target.shape)}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if dissimilarity not in ("halved", "full"):
        raise ValueError(f"unknown dissimilarity {dissimilarity!r}: use halved or full")
    if mask is not None:
        mask = _check_mask(mask, target)
        # Both images show the target where invalid, so windows across the border compare like with like.
        target = torch.where(mask | torch.isfinite(target), target, torch.zeros_like(target))
        prediction = torch.where(mask, prediction, target)

    loss = (1 - alpha) * _valid_mean((prediction - target).abs(), mask) if alpha < 1 else 0.0
    if alpha > 0:
        similarity = ssim_map(prediction, target, variant)
        if mask is not None and similarity.shape[-2:] != mask.shape[-2:]:
            raise ValueError(f"SSIM variant {variant!r} leaves out the border and cannot take a mask")
        distance = 1 - similarity.mean() if mask is None else _valid_mean(1 - similarity, mask)
        loss = loss + alpha * (distance / 2 if dissimilarity == "halved" else distance)
    return loss


def _gradients(maps: Tensor, operator: GradientOperator) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical derivative of [B, C, H, W]; "forward" is one column (row) smaller."""
    if operator == "forward":
        return maps[..., 1:] - maps[..., :-1], maps[..., 1:, :] - maps[..., :-1, :]
    if operator == "backward_zero_pad":  # the first column (row) is the value itself
        padded = F.pad(maps, (1, 0, 1, 0))
        return maps - padded[..., 1:, :-1], maps - padded[..., :-1, 1:]
    if operator in ("sobel", "sobel_zero_pad"):  # not normalised: a slope of 1 gives 8
        padded = F.pad(maps, (1, 1, 1, 1), mode="replicate" if operator == "sobel" else "constant")
        across, down = padded[..., 2:] - padded[..., :-2], padded[..., 2:, :] - padded[..., :-2, :]
        return (
            across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :],
            down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:],
        )
    raise ValueError(
        f"unknown gradient {operator!r}: use forward, sobel, sobel_zero_pad or backward_zero_pad"
    )


def _check_mask(mask: Tensor, image: Tensor) -> Tensor:
    per_pixel = (image.shape[0], 1, *image.shape[2:])
    if mask.dtype != torch.bool or tuple(mask.shape) not in (per_pixel, tuple(image.shape)):
        raise ValueError(
            f"the mask must be boolean, {list(per_pixel)} or {list(image.shape)}, "
            f"got {mask.dtype} {list(mask.shape)}"
        )
    return mask.expand_as(image)


def _valid_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean()
    if values.shape != mask.shape:  # grey SSIM: one channel, valid where all channels are
        mask = mask.all(dim=1, keepdim=True)
    kept = torch.where(mask, values, torch.zeros_like(values))
    return kept.sum() / mask.sum().clamp(min=1)
