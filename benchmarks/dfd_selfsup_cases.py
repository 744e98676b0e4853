"""Depth from defocus: the pixel-wise blur next to its unfold formulation, and the time of a training step."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Case, Goal, Sample, Trial
from benchmarks.shared_cases import largest_difference
from dfd_selfsup.config import TrainConfig
from dfd_selfsup.losses import selfsup_losses
from dfd_selfsup.models.daif_net import DaifNet
from dfd_selfsup.models.heads import Prediction, StackModel
from dfd_selfsup.models.options import PsfOptions
from dfd_selfsup.models.psf import plain_blur, render_stack
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.runs.command import keep_large_buffers

__all__ = ["CASES"]

Blur = Callable[[Tensor, Tensor, PsfOptions], Tensor]
UNFOLD = "unfold formulation"
SIDE, SLICES = 256, 5
FOCUS_M = (1.0, 1.5, 2.5, 4.0, 6.0)


# ----------------------------------------------------------------------------------------------- blur


def prepare_blur() -> Trial:
    """Values and both gradients of one stack as the released code blurs it; memory is what autograd keeps."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, SIDE, SIDE, generator=generator).requires_grad_()
    sigma = (8 * torch.rand(1, SLICES, SIDE, SIDE, generator=generator)).requires_grad_()
    upstream = torch.randn(1, SLICES, 3, SIDE, SIDE, generator=generator)
    options = PsfOptions(window=7)

    def measured(blur: Blur) -> Callable[[], Sample]:
        kept_gb = saved_gb(lambda: blur(image, sigma, options))
        torch.autograd.grad(blur(image, sigma, options), (image, sigma), upstream)  # warm

        def work() -> Sample:
            start, start_cpu = time.perf_counter(), time.process_time()
            stack = blur(image, sigma, options)
            gradients = torch.autograd.grad(stack, (image, sigma), upstream)
            times = time.perf_counter() - start, time.process_time() - start_cpu
            return Sample(*times, memory_gb=kept_gb, value=(stack.detach(), *gradients))

        return work

    candidates = {"ours": measured(render_stack), UNFOLD: measured(plain_blur)}
    return Trial(candidates, largest_difference, 1e-3)  # gradients are of the order of 10


def saved_gb(function: Callable[[], Tensor]) -> float:
    """What autograd keeps for the backward pass, in 10^9 bytes; a storage kept twice counts once."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del result
    return total / 1e9


# -------------------------------------------------------------------------------------- training step


def training_parts(side: int = SIDE, stacks: int = 1) -> tuple[TrainConfig, StackModel, Tensor, Defocus]:
    """The network and losses of the paper, stacks of noise, and the paper's NYUv2 lens."""
    keep_large_buffers()  # as every run on the CPU does
    torch.manual_seed(0)
    config = TrainConfig()
    images = torch.rand(stacks, SLICES, 3, side, side)
    defocus = Defocus.thin_lens(Lens(50, 8, 12), FOCUS_M)
    batch = Defocus(defocus.focus_q[None], defocus.gain_px[None])
    return config, StackModel(config.network, config.heads), images, batch


def training_step(unfold: bool, side: int = SIDE, stacks: int = 1, half: bool = False) -> Callable[[], float]:
    config, model, images, defocus = training_parts(side, stacks)
    model.half = half
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, fused=True)
    blur = plain_blur if unfold else render_stack

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        prediction = model(images, defocus)
        rendered = blur(prediction.aif, prediction.sigma_px, config.psf)
        loss = sum(selfsup_losses(prediction, rendered, images, config.loss).values())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def prepare_step() -> Trial:
    """In processes of their own, which also say how much memory they needed; the first losses must agree."""
    here = "benchmarks.dfd_selfsup_cases:training_step"
    candidates = {
        "ours": lambda: in_fresh_process(here, unfold=False),
        "with the unfold blur": lambda: in_fresh_process(here, unfold=True),
    }
    return Trial(candidates, lambda other, ours: abs(other[0] / ours[0] - 1), 1e-4)


def prepare_shares() -> Trial:
    """A training step, and its parts one by one, each with its own backward pass."""
    config, model, images, defocus = training_parts()
    network: DaifNet = model.network
    stack = model.with_focus_plane(images, defocus)
    raw = torch.randn(1, 4, SIDE, SIDE)
    q = (0.1 + torch.rand(1, 1, SIDE, SIDE)).requires_grad_()
    aif = torch.rand(1, 3, SIDE, SIDE).requires_grad_()
    sigma = defocus.sigma_px(q.detach()).requires_grad_()
    rendered = render_stack(aif, sigma, config.psf).detach().requires_grad_()

    def blur() -> None:
        torch.autograd.grad(render_stack(aif, sigma, config.psf), (aif, sigma), images)

    def losses() -> None:
        prediction = Prediction(q, aif, sigma)
        total = sum(selfsup_losses(prediction, rendered, images, config.loss).values())
        torch.autograd.grad(total, (q, aif, rendered))

    parts = {"network": lambda: network(stack).backward(raw), "blur": blur, "losses": losses}
    return Trial({"ours": training_step(unfold=False)} | parts)


CASES = [
    Case(
        "dfd_selfsup/blur",
        "5x3x256x256, window 7, forward and backward",
        prepare_blur,
        seconds=20,
        goals=(Goal(UNFOLD, "ratio", at_least=20), Goal(UNFOLD, "memory_ratio", at_least=20)),
    ),
    Case(
        "dfd_selfsup/step",
        "training step on one stack of 5x256x256, the released code's losses",
        prepare_step,
        seconds=20,
        goals=(Goal("with the unfold blur", "memory_ratio", at_least=1),),
    ),
    Case(
        "dfd_selfsup/shares",
        "the same step and its parts",
        prepare_shares,
        seconds=20,
        parts=True,
        goals=(Goal("network", "ratio", at_least=0.85),),
    ),
]
