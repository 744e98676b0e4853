"""Depth from defocus by trying: re-blur an image for many depths and keep what explains the stack.

For each of N inverse depths the current image is blurred as if all of it were there; the depth whose slices
differ least from the stack in a window around a pixel is its depth. The image, put together from the
sharpest slices, is then improved by descending the difference between stack and re-blurred image, and the
two take turns. No learning, no truth, a known lens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.models.focus_measure import depth_from_focus
from dfd_selfsup.models.heads import coarse_aif
from dfd_selfsup.models.options import PsfOptions
from dfd_selfsup.models.psf import improve_image, render_stack
from dfd_selfsup.models.thin_lens import Defocus

__all__ = ["plane_sweep"]

COMPOSITE_PX = 0.5


def plane_sweep(
    images: Tensor,
    defocus: Defocus,
    q_range: tuple[float, float],
    psf: PsfOptions,
    hypotheses: int = 32,
    window: int = 9,
    rounds: int = 2,
    image_steps: int = 8,
) -> tuple[Tensor, Tensor]:
    """Inverse depth q [H, W] and image [3, H, W] of slices [S, 3, H, W]; q_range is (far, near)."""
    defocus = defocus.to(images)
    candidates = torch.linspace(*q_range, hypotheses, device=images.device, dtype=images.dtype)
    aif = depth_from_focus(images, defocus).aif
    q = torch.empty_like(aif[0])
    for index in range(rounds):
        costs = torch.stack([_cost(images, aif, defocus, value, psf, window) for value in candidates])
        q = _refined_minimum(costs, candidates)
        sigma = defocus.sigma_px(q[None, None])
        start = coarse_aif(images[None], sigma, COMPOSITE_PX) if index == 0 else aif[None]
        aif = improve_image(start, images[None], sigma, psf, image_steps)[0]
    return q, aif


@torch.no_grad()
def _cost(
    images: Tensor, aif: Tensor, defocus: Defocus, value: Tensor, psf: PsfOptions, window: int
) -> Tensor:
    """Windowed squared difference [H, W] between the stack and the image blurred as if all at `value`."""
    sigma = defocus.sigma_px(value.expand(1, 1, *images.shape[-2:]))
    error = (render_stack(aif[None], sigma, psf)[0] - images).square().sum((0, 1))
    padded = F.pad(error[None, None], (window // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, window, stride=1)[0, 0]


def _refined_minimum(costs: Tensor, candidates: Tensor) -> Tensor:
    """Minimum over the first axis of [N, H, W], moved by the parabola through it and its neighbours."""
    best = costs.argmin(0)
    middle = best.clamp(1, len(costs) - 2)
    before, at, after = (costs.gather(0, (middle + offset)[None])[0] for offset in (-1, 0, 1))
    bend = before - 2 * at + after
    move = torch.where(bend > 0, 0.5 * (before - after) / bend.clamp(min=1e-20), 0.0).clamp(-0.5, 0.5)
    step = candidates[1] - candidates[0]
    return torch.where(best == middle, candidates[middle] + move * step, candidates[best])
