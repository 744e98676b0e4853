"""Depth and image of one stack as free variables: the self-supervised losses descended pixel by pixel.

No network: inverse depth starts from the mean of the slices weighted by a focus measure and follows the
gradient of re-blurring and smoothness; then the image, copied from the sharpest slices, follows that of the
squared re-blurring error, for a few steps only, because it would go on to explain what the blur's model
lacks. The answer takes seconds per stack. As a guide it gives a network, which needs one pass, what to aim
for: the loss alone tells it the right direction too faintly to be learned in minutes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.splits import StackSet
from dfd_selfsup.datasets.stack import Estimate, FocalStack
from dfd_selfsup.losses import TERMS, selfsup_losses
from dfd_selfsup.models.focus_measure import focus_mean, sharpest_slices
from dfd_selfsup.models.heads import Prediction, coarse_aif
from dfd_selfsup.models.options import PsfOptions
from dfd_selfsup.models.psf import improve_image, render_stack
from shared.runs.command import rendering
from shared.runs.workers import read_ahead

__all__ = ["better_of", "descend", "with_guide", "with_guides"]

DESCENDED = ("recon", "sharp", "smooth")  # terms of the loss that depth follows
DEPTH_STEPS, DEPTH_RATE = 30, 0.1  # logits of inverse depth within its range
IMAGE_STEPS = 8
COMPOSITE_PX = 0.5
EVIDENCE_PX = 9  # side of the square in which two estimates are compared
JUMP_PX = 1.0  # of blur between neighbours, in any slice
EDGE_OF_RANGE = 0.03  # the start keeps off the ends of the sigmoid, where no gradient is


@torch.enable_grad()
def descend(
    stack: FocalStack,
    q_range: tuple[float, float],
    config: TrainConfig,
    start: Estimate | None = None,
    depth_steps: int = DEPTH_STEPS,
    image_steps: int = IMAGE_STEPS,
) -> Estimate:
    """Inverse depth within q_range (far, near) and image of one stack, under the blur and losses of a config.

    It starts from `start`, a network's answer for example, or else from the focus measure. Of the losses only
    re-blurring and smoothness count.
    """
    images, defocus, psf = stack.images[None], stack.defocus, config.psf
    loss = replace(config.loss, **{name: 0.0 for name in TERMS if name not in DESCENDED})
    low, high = q_range
    guess = focus_mean(images, defocus, config.heads.measure) if start is None else start.q[None, None]
    share = (guess - low) / (high - low)
    logits = torch.logit(share.clamp(EDGE_OF_RANGE, 1 - EDGE_OF_RANGE)).requires_grad_()
    optimizer = torch.optim.Adam([logits], betas=(0.9, 0.95))
    for step in range(depth_steps):
        optimizer.param_groups[0]["lr"] = DEPTH_RATE * (1 - step / depth_steps)
        q = low + (high - low) * logits.sigmoid()
        sigma = defocus.sigma_px(q)
        aif = coarse_aif(images, sigma, COMPOSITE_PX)
        rendered = render_stack(aif, sigma, psf)
        optimizer.zero_grad()
        sum(selfsup_losses(Prediction(q, aif, sigma), rendered, images, loss).values()).backward()
        optimizer.step()
    q = (low + (high - low) * logits.sigmoid()).detach()
    sigma = defocus.sigma_px(q)
    aif = sharpest_slices(images) if start is None else start.aif[None]
    aif = improve_image(aif, images, sigma, psf, image_steps)
    return stack.estimate(q[0, 0], aif[0])


@torch.no_grad()
def better_of(stack: FocalStack, start: Estimate, found: Estimate, psf: PsfOptions) -> Estimate:
    """An estimate that takes from `found` what explains the slices better than `start`, pixel by pixel.

    Both are compared by what re-blurring leaves of the slices around a pixel, each with the image that its
    depth picks from them, in the slices whose blur the kernels can hold. The blur knows no occlusion, and
    explains the slices best with near things that are a few pixels too wide: close to a jump of depth nothing
    comes nearer. The confidence is that of `start`.
    """
    images, reach = stack.images[None], psf.window // 2
    sigmas = [stack.defocus.sigma_px(each.q[None, None]) for each in (start, found)]
    held = (torch.maximum(*sigmas) < reach)[0]
    left = [
        render_stack(coarse_aif(images, sigma, COMPOSITE_PX), sigma, psf)[0] - images[0] for sigma in sigmas
    ]
    errors = [_around((held * each.square().sum(1)).sum(0)) for each in left]
    low, high = (F.max_pool2d(sign * sigmas[0], 3, 1, 1) * sign for sign in (-1, 1))
    jump = F.max_pool2d((high - low).amax(1, keepdim=True), 2 * reach + 1, 1, reach)[0, 0] > JUMP_PX
    nearer = (found.q > start.q) | (stack.defocus.kind == "place")  # which does not know what is nearer
    wider = jump & nearer & ((sigmas[1] - sigmas[0]).abs().amax(1)[0] > JUMP_PX / 2)
    taken = (errors[1] < errors[0]) & ~wider
    q, aif = torch.where(taken, found.q, start.q), torch.where(taken, found.aif, start.aif)
    return replace(stack.estimate(q, aif, start.confidence), defocus=found.defocus)


def _around(error: Tensor) -> Tensor:
    """Mean [H, W] over the square around each pixel."""
    return F.avg_pool2d(error[None, None], EVIDENCE_PX, 1, EVIDENCE_PX // 2, count_include_pad=False)[0, 0]


def with_guide(
    stack: FocalStack, q_range: tuple[float, float], config: TrainConfig, start: Estimate | None = None
) -> FocalStack:
    """The same stack with what `descend` finds in it as its `guide`."""
    found = descend(stack, q_range, config, start)
    return replace(stack, guide=torch.cat([found.q[None], found.aif]))


def with_guides(
    stacks: StackSet,
    needed: Sequence[int],
    q_range: tuple[float, float] | None,
    config: TrainConfig,
    workers: int | None = None,
) -> StackSet:
    """The stacks, those needed with their guides, which processes find; q_range None: that of each stack."""
    found = read_ahead(partial(_guide_of, stacks, q_range, config), needed, workers)
    guides = (guide.clone() for guide in found)  # out of the memory that is shared with a worker
    known = dict(zip(needed, rendering(guides, len(needed), "stack"), strict=True))
    return StackSet([partial(_guided, stacks, index, known.get(index)) for index in range(len(stacks))])


def _guide_of(
    stacks: StackSet, q_range: tuple[float, float] | None, config: TrainConfig, index: int
) -> Tensor:
    stack = stacks[index]
    return with_guide(stack, q_range or stack.defocus.q_range, config).guide


def _guided(stacks: StackSet, index: int, guide: Tensor | None) -> FocalStack:
    return replace(stacks[index], guide=guide)
