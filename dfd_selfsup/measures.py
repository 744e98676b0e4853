"""What is measured, of which methods: depth errors, and the all-in-focus image with and without truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dfd_selfsup.datasets.stack import Estimate, FocalStack
from shared.quality.metrics import Lpips, depth_errors, psnr
from shared.quality.ssim import SSIM_VARIANTS, ssim

__all__ = ["DEFINITIONS", "METHOD_NAMES", "best_slice", "mean_row", "measure_stack", "rank_correlation"]

METHOD_NAMES = {
    "constant": "Constant depth",
    "best_slice": "Best single slice (needs truth)",
    "focus_sml": "Depth from focus, SML",
    "focus_ring": "Depth from focus, ring difference",
    "focus_even": "Depth from focus, as predict.py without a network",
    "plane_sweep": "Plane sweep by re-blurring",
    "descent": "Descent of the same losses, pixel by pixel",
    "supervised_depth": "DAIF-Net, supervised by depth",
    "supervised_aif": "DAIF-Net, supervised by image",
    "supervised_both": "DAIF-Net, supervised by both",
    "selfsup": "DAIF-Net, self-supervised (ours)",
    "selfsup_descent": "DAIF-Net, then descent of the same losses",
    "oracle": "True depth (needs truth)",
}
SSIM_VARIANT = "gaussian11"
DEFINITIONS = {
    "depth": "per stack over all valid pixels within the depth limits, prediction clamped to them, "
    "no scaling; then the mean over stacks",
    "psnr": "RGB, full frame, mean over stacks",
    "ssim": SSIM_VARIANTS[SSIM_VARIANT].label,
    "sharpness": "mean gradient and spatial frequency, backward differences, zero border, no truth",
}


def measure_stack(
    stack: FocalStack, estimate: Estimate, limits_m: tuple[float, float], learned: Lpips | None = None
) -> dict[str, float]:
    """One row of figures for what a method found in a stack; what lacks truth is left out."""
    row: dict[str, float] = {}
    depth, aif = estimate.depth, estimate.aif
    if depth is not None and depth.kind == "z_depth" and stack.depth is not None:
        errors = depth_errors(depth.values[None], stack.depth[None], stack.valid[None], *limits_m)
        row |= {name: value for name, value in errors.items() if name != "record"}
    if aif is not None:
        row |= {"mg": mean_gradient(aif[None]).item(), "sf": spatial_frequency(aif[None]).item()}
        if stack.aif is not None:
            row["psnr"] = psnr(aif[None], stack.aif[None]).item()
            row["ssim"] = ssim(aif[None], stack.aif[None], SSIM_VARIANT).item()
            if learned is not None:
                row["lpips"] = learned(aif[None], stack.aif[None]).item()
    return row


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Column means over the rows that have the column."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows)
        for name in names
    }


def best_slice(stack: FocalStack) -> Tensor:
    """The single slice [3, H, W] nearest to the all-in-focus truth in PSNR."""
    values = psnr(stack.images, stack.aif.expand_as(stack.images))
    return stack.images[values.argmax()]


def mean_gradient(image: Tensor) -> Tensor:
    """MG of [B, C, H, W]: mean of sqrt((dx^2 + dy^2) / 2), backward differences with zero border; [B]."""
    across, down = _backward_differences(image)
    return ((across.square() + down.square()) / 2).sqrt().flatten(1).mean(1)


def spatial_frequency(image: Tensor) -> Tensor:
    """SF of [B, C, H, W]: sqrt(mean dx^2 + mean dy^2), backward differences with zero border; [B]."""
    across, down = _backward_differences(image)
    return (across.square().flatten(1).mean(1) + down.square().flatten(1).mean(1)).sqrt()


def rank_correlation(a: Tensor, b: Tensor, valid: Tensor | None = None) -> float:
    """Spearman's rank correlation of two maps, ties by their mean rank."""
    from scipy.stats import spearmanr

    inside = torch.ones_like(a, dtype=torch.bool) if valid is None else valid
    return float(spearmanr(a[inside].cpu().numpy(), b[inside].cpu().numpy()).statistic)


def _backward_differences(image: Tensor) -> tuple[Tensor, Tensor]:
    across = torch.diff(image, dim=-1, prepend=torch.zeros_like(image[..., :1]))
    down = torch.diff(image, dim=-2, prepend=torch.zeros_like(image[..., :1, :]))
    return across, down
