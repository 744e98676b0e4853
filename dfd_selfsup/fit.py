"""Adapting DAIF-Net to one focal stack, from a trained run or from scratch; no truth is needed.

The self-supervised losses are first descended pixel by pixel (`descent.py`). The network is led to what
that finds, ever less, while it minimises the same losses on random crops of the stack. Where the lens is
unknown its strength, one number, is found on the way: pixels of blur per place in the stack.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfd_selfsup.datasets.stack import FocalStack, collate, crop_stack
from dfd_selfsup.descent import descend
from dfd_selfsup.losses import LossOptions, guided_losses, mix, selfsup_losses
from dfd_selfsup.models.focus_measure import depth_from_focus
from dfd_selfsup.models.heads import StackModel, coarse_aif
from dfd_selfsup.models.psf import PsfOptions, render_stack
from shared.runs.seeds import step_generator

__all__ = ["FitOptions", "fit_stack", "guess_gain", "q_range_of"]

GAIN_CANDIDATES = 12


@dataclass(frozen=True)
class FitOptions:
    """Steps, size of the crops, learning rate (one cycle), and the seed of the crops."""

    steps: int = 300
    crop: int = 128
    learning_rate: float = 7e-4
    seed: int = 0


def q_range_of(stack: FocalStack) -> tuple[float, float]:
    """Inverse depth (far, near) a stack can speak about: its focus range and half a step beyond."""
    focus = stack.defocus.focus_q
    low, high = float(focus.min()), float(focus.max())
    margin = 0.5 * (high - low) / (len(focus) - 1)
    return (max(low - margin, 0.1 * low), high + margin) if stack.is_metric else (low - margin, high + margin)


@torch.no_grad()
def guess_gain(stack: FocalStack, psf: PsfOptions) -> FocalStack:
    """For an unknown lens: the blur per place that lets focus-measure depth explain the stack best."""
    found = depth_from_focus(stack.images, stack.defocus)
    widest = float(stack.defocus.focus_q.max() - stack.defocus.focus_q.min())
    best, best_error = stack, math.inf
    for gain in torch.logspace(math.log10(1 / widest), math.log10(16 / widest), GAIN_CANDIDATES).tolist():
        defocus = replace(stack.defocus, gain_px=torch.full_like(stack.defocus.gain_px, gain))
        sigma = defocus.sigma_px(found.q[None])
        rendered = render_stack(coarse_aif(stack.images[None], sigma), sigma, psf)
        error = F.l1_loss(rendered[0], stack.images).item()
        if error < best_error:
            best, best_error = replace(stack, defocus=defocus), error
    return best


def fit_stack(
    model: StackModel,
    stack: FocalStack,
    psf: PsfOptions,
    loss: LossOptions,
    options: FitOptions,
    report: Callable[[int, float], None] = lambda step, value: None,
) -> FocalStack:
    """Train `model` in place on one stack; returns the stack, its gain fitted if the lens is unknown."""
    device = next(model.parameters()).device
    log_gain = nn.Parameter(torch.zeros((), device=device))
    learns_gain = stack.defocus.kind == "order"
    groups = [{"params": list(model.parameters())}]
    if learns_gain:
        stack = guess_gain(stack, psf)
        groups.append({"params": [log_gain], "lr": 10 * options.learning_rate})
    optimizer = torch.optim.AdamW(groups, options.learning_rate, (0.9, 0.99), weight_decay=5e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=max(options.steps, 2),
        pct_start=0.1,
    )
    found = descend(stack, model.q_range, psf, loss, model.heads.measure)
    stack = replace(stack, guide=torch.cat([found.q, found.aif]))
    model.train()
    for step in range(1, options.steps + 1):
        crop = _crop(stack, options, step)
        batch = collate([crop]).to(device)
        defocus = replace(batch.defocus, gain_px=batch.defocus.gain_px * log_gain.exp())
        prediction = model(batch.images, defocus)
        rendered = render_stack(prediction.aif, prediction.sigma_px, psf)
        value = mix(rendered.flatten(0, 1), batch.images.flatten(0, 1))
        terms = selfsup_losses(prediction, rendered, batch.images, loss)
        share = 1 - step / (options.steps + 1)
        terms |= guided_losses(prediction, batch.guide, batch.defocus, share)
        total: Tensor = sum(terms.values())
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        schedule.step()
        report(step, value.item())
    model.eval()
    gain = stack.defocus.gain_px * float(log_gain.detach().exp())
    return replace(stack, defocus=replace(stack.defocus, gain_px=gain))


def _crop(stack: FocalStack, options: FitOptions, step: int) -> FocalStack:
    draw = step_generator(options.seed, step, "fit")
    height, width = stack.size
    top = int(torch.randint(max(height - options.crop, 0) + 1, (), generator=draw))
    left = int(torch.randint(max(width - options.crop, 0) + 1, (), generator=draw))
    flip = bool(torch.randint(2, (), generator=draw))
    return crop_stack(stack, top, left, options.crop, flip)
