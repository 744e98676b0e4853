"""Adapting DAIF-Net to one focal stack, from a trained run or from scratch; no truth is needed.

The self-supervised losses are first descended pixel by pixel (`descent.py`). The network is led to what
that finds, ever less, while it minimises the same losses on random crops of the stack. Where the lens is
unknown its strength, one number, is found on the way: pixels of blur per place in the stack.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.stack import Estimate, FocalStack, collate, random_crop
from dfd_selfsup.descent import with_guide
from dfd_selfsup.losses import guide_losses, mix, selfsup_losses
from dfd_selfsup.models.focus_measure import depth_from_focus
from dfd_selfsup.models.heads import StackModel, coarse_aif
from dfd_selfsup.models.options import PsfOptions
from dfd_selfsup.models.psf import render_stack
from shared.runs.seeds import step_generator

__all__ = ["fit_stack", "guess_gain"]

GAIN_CANDIDATES = 12
CROP = 128  # side, px
LEARNING_RATE = 7e-4  # one cycle


@torch.no_grad()
def guess_gain(stack: FocalStack, psf: PsfOptions) -> FocalStack:
    """For an unknown lens: the blur per place that lets focus-measure depth explain the stack best."""
    q = depth_from_focus(stack.images, stack.defocus).q
    widest = float(stack.defocus.span)
    best, best_error = stack, math.inf
    for gain in torch.logspace(math.log10(1 / widest), math.log10(16 / widest), GAIN_CANDIDATES).tolist():
        defocus = replace(stack.defocus, gain_px=torch.full_like(stack.defocus.gain_px, gain))
        sigma = defocus.sigma_px(q[None, None])
        rendered = render_stack(coarse_aif(stack.images[None], sigma), sigma, psf)
        error = F.l1_loss(rendered[0], stack.images).item()
        if error < best_error:
            best, best_error = replace(stack, defocus=defocus), error
    return best


def fit_stack(
    model: StackModel,
    stack: FocalStack,
    config: TrainConfig,
    steps: int,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda step, value: None,
    start: Estimate | None = None,
) -> FocalStack:
    """Train `model` in place on one stack; returns the stack, its gain fitted if the lens is unknown.

    seed: of the crops. report: is told every step and its re-blurring error. start: where descent starts.
    """
    device = next(model.parameters()).device
    log_gain = nn.Parameter(torch.zeros((), device=device))
    groups = [{"params": list(model.parameters())}]
    if stack.depth_unit == "slices":
        stack = guess_gain(stack, config.psf)
        groups.append({"params": [log_gain], "lr": 10 * LEARNING_RATE})
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, (0.9, 0.99), weight_decay=5e-4, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, max(steps, 2), pct_start=0.1)
    stack = with_guide(stack, model.q_range, config, start)
    model.train()
    for step in range(1, steps + 1):
        crop = random_crop(stack, CROP, step_generator(seed, step, "fit"), flip=True)
        batch = collate([crop]).to(device)
        defocus = replace(batch.defocus, gain_px=batch.defocus.gain_px * log_gain.exp())
        prediction = model(batch.images, defocus)
        rendered = render_stack(prediction.aif, prediction.sigma_px, config.psf)
        value = mix(rendered.flatten(0, 1), batch.images.flatten(0, 1))
        terms = selfsup_losses(prediction, rendered, batch.images, config.loss)
        share = 1 - step / (steps + 1)
        terms |= guide_losses(prediction, batch.images, batch.defocus, batch.guide, share)
        optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        optimizer.step()
        schedule.step()
        report(step, value.item())
    model.eval()
    gain = stack.defocus.gain_px * float(log_gain.detach().exp())
    return replace(stack, defocus=replace(stack.defocus, gain_px=gain))
