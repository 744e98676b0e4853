"""Sub-step refinement and verification of EPI lines by aligning small patches along them.

A line is right if the patch around it looks the same in every view that sees it. What difference remains,
divided by the image gradient, is a misalignment in pixels: a measure of error that does not depend on
contrast. It takes the place of three steps of the released code: the entropy search (which there updates only
the first line of each EPI), the gradient-direction test, and the pairwise crossing test for occlusion.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdiffdepth.points.stacks import EpiStack

__all__ = ["Alignment", "align_points"]

CHUNK_VALUES = 24_000_000  # patch samples held at once
NEIGHBOURS = 3  # cubic interpolation reads one pixel before and two after


@dataclass(frozen=True)
class Alignment:
    """Result of `align_points`, one row per point."""

    disparity: Tensor  # [n] refined
    residual_px: Tensor  # [n] RMS misalignment of the patch over the views that see it
    sigma_px: Tensor  # [n] standard error of the disparity
    visible: Tensor  # [n, V] bool: the view shows the point; arms in order, views by offset

    def __getitem__(self, keep: Tensor) -> "Alignment":
        return Alignment(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def align_points(
    stacks: list[EpiStack],
    positions_px: Tensor,
    disparity: Tensor,
    *,
    radius: tuple[int, int] = (2, 2),
    iterations: int = 2,
    max_change: float = 0.1,
    occlusion_px: float | None = 0.7,
) -> Alignment:
    """Gauss-Newton alignment of the patches around points along the lines of all stacks, on lightness.

    positions_px [n, 2], disparity [n]; the patch has 2 radius + 1 pixels along and across the first stack's
    arm. Disparity moves by at most `max_change` (px per unit of offset). A view counts as occluded, and is
    left out, if it and at least one neighbour in its arm (median of three) differ from the centre view by
    more than `occlusion_px` of misalignment; None keeps all views.
    """
    sampler = _PatchSampler(stacks, radius)
    rows = max(1, CHUNK_VALUES // sampler.samples_per_point)
    parts = []
    for start in range(0, max(1, len(disparity)), rows):
        chunk = slice(start, start + rows)
        parts.append(
            _align(sampler, positions_px[chunk], disparity[chunk], iterations, max_change, occlusion_px)
        )
    return Alignment(
        *(torch.cat([getattr(part, name) for part in parts]) for name in Alignment.__dataclass_fields__)
    )


def _align(
    sampler: "_PatchSampler",
    positions_px: Tensor,
    disparity: Tensor,
    iterations: int,
    max_change: float,
    occlusion_px: float | None,
) -> Alignment:
    start, visible = disparity, None
    for step in range(iterations + 1):
        patch, slope = sampler(positions_px, disparity)  # [n, V, P] each
        if visible is None:
            visible = _visible(sampler.stacks, patch, slope, occlusion_px)
            seen = visible[..., None].to(patch.dtype)
            count = seen.sum(1, keepdim=True)
        residual = patch - (seen * patch).sum(1, keepdim=True) / count
        change = sampler.lever[:, None] * slope  # d patch / d disparity, against the mean over the views
        change = change - (seen * change).sum(1, keepdim=True) / count
        curvature = (seen * change.square()).sum((1, 2)).clamp(min=1e-9)
        if step < iterations:
            newton = (seen * residual * change).sum((1, 2)) / curvature
            disparity = torch.clamp(disparity - newton, start - max_change, start + max_change)
    error = (seen * residual.square()).sum((1, 2))
    gradient = (seen * slope.square()).sum((1, 2)).clamp(min=1e-9)
    freedom = ((count[:, 0, 0] - 1) * patch.shape[2] - 1).clamp(min=1)
    return Alignment(disparity, (error / gradient).sqrt(), (error / freedom / curvature).sqrt(), visible)


def _visible(stacks: list[EpiStack], patch: Tensor, slope: Tensor, occlusion_px: float | None) -> Tensor:
    """Views [n, V] whose patch agrees with the centre view's, as a median of three along each arm."""
    if occlusion_px is None:
        return torch.ones(patch.shape[:2], dtype=torch.bool, device=patch.device)
    sizes = [len(stack.offsets) for stack in stacks]
    parts = []
    for stack, arm, arm_slope in zip(stacks, patch.split(sizes, 1), slope.split(sizes, 1), strict=True):
        reference = arm[:, stack.centre : stack.centre + 1]
        energy = arm_slope.square().mean((1, 2))[:, None]
        agrees = (arm - reference).square().mean(2) <= occlusion_px**2 * energy
        padded = torch.cat([agrees[:, :1], agrees, agrees[:, -1:]], dim=1).int()
        median = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:] >= 2
        median[:, stack.centre] = True
        parts.append(median)
    return torch.cat(parts, dim=1)


class _PatchSampler:
    """Lightness and its derivative along the arm, in patches around points in every view of some arms.

    Patches are centred on the pixel nearest to the point, so that both arms see the same one.
    """

    def __init__(self, stacks: list[EpiStack], radius: tuple[int, int]):
        if len({stack.vertical for stack in stacks}) > 1 and radius[0] != radius[1]:
            raise ValueError("a patch for two arms must be square")
        self.stacks = stacks
        self.along, self.across = radius
        self.run = 2 * self.along + 1 + NEIGHBOURS
        self.lever = torch.cat([stack.offsets for stack in stacks])  # [V]
        self.samples_per_point = len(self.lever) * (2 * self.across + 1) * self.run
        # Views (no copies) of all runs of neighbouring pixels: gathering a run reads consecutive memory.
        self.runs = [
            F.pad(stack.lab[:, 0], (self.run, self.run), mode="replicate").unfold(2, self.run, 1)
            for stack in stacks
        ]

    def __call__(self, positions_px: Tensor, disparity: Tensor) -> tuple[Tensor, Tensor]:
        """Patches and derivatives [n, V, P]; the pixels of a patch come in the same order for both arms."""
        patches, slopes = [], []
        for stack, runs in zip(self.stacks, self.runs, strict=True):
            epi, x = stack.line(positions_px)
            track = x.round()[:, None] + disparity[:, None] * stack.offsets  # [n, U]
            whole = track.floor()
            first = (whole.long() - self.along - 1 + self.run).clamp(0, runs.shape[2] - 1)
            rows = epi[:, None] + torch.arange(-self.across, self.across + 1, device=epi.device)
            rows = rows.clamp(0, runs.shape[1] - 1)
            view = torch.arange(len(stack.offsets), device=epi.device)
            pixels = runs[view[None, :, None], rows[:, None, :], first[:, :, None]]  # [n, U, rows, run]
            patch, slope = _catmull_rom(pixels, (track - whole)[..., None, None])
            if stack.vertical != self.stacks[0].vertical:
                patch, slope = patch.transpose(2, 3), slope.transpose(2, 3)
            patches.append(patch.flatten(2))
            slopes.append(slope.flatten(2))
        return torch.cat(patches, dim=1), torch.cat(slopes, dim=1)


def _catmull_rom(pixels: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivatives at `t` after the second pixel of every four neighbours, [..., K - 3]."""
    values, slopes = 0, 0
    size = pixels.shape[-1] - NEIGHBOURS
    weights = (
        (((2 - t) * t - 1) * t / 2, ((-3 * t + 4) * t - 1) / 2),
        (((3 * t - 5) * t * t + 2) / 2, (9 * t - 10) * t / 2),
        ((((4 - 3 * t) * t + 1) * t) / 2, ((-9 * t + 8) * t + 1) / 2),
        ((t - 1) * t * t / 2, (3 * t - 2) * t / 2),
    )
    for tap, (weight, derivative) in enumerate(weights):
        shifted = pixels[..., tap : tap + size]
        values = values + weight * shifted
        slopes = slopes + derivative * shifted
    return values, slopes
