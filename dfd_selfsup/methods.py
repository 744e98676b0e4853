"""The rows of the tables behind one call: a focal stack in, depth and all-in-focus image out."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.stack import FocalStack, StackBatch, collate
from dfd_selfsup.descent import descend
from dfd_selfsup.models.daif_net import DaifNet, keep_variance
from dfd_selfsup.models.focus_measure import FocusResult, depth_from_focus
from dfd_selfsup.models.heads import StackModel, coarse_aif
from dfd_selfsup.models.plane_sweep import plane_sweep
from dfd_selfsup.models.thin_lens import NEAREST_DEPTH_M

__all__ = [
    "Estimate",
    "METHOD_NAMES",
    "build_model",
    "classical_methods",
    "followed_by_descent",
    "network_method",
]

METHOD_NAMES = {
    "constant": "Constant depth",
    "best_slice": "Best single slice (needs truth)",
    "focus_sml": "Depth from focus, SML",
    "focus_ring": "Depth from focus, ring difference",
    "plane_sweep": "Plane sweep by re-blurring",
    "descent": "Descent of the same losses, pixel by pixel",
    "supervised_depth": "DAIF-Net, supervised by depth",
    "supervised_aif": "DAIF-Net, supervised by image",
    "supervised_both": "DAIF-Net, supervised by both",
    "selfsup": "DAIF-Net, self-supervised (ours)",
    "selfsup_descent": "DAIF-Net, then descent of the same losses",
    "oracle": "True depth (needs truth)",
}


class Estimate(NamedTuple):
    """Inverse depth q [H, W] and all-in-focus image [3, H, W] of one stack; None where a method has none."""

    q: Tensor | None
    aif: Tensor | None

    @property
    def depth(self) -> Tensor | None:
        return None if self.q is None else 1 / self.q.clamp(min=1e-6)


Estimator = Callable[[FocalStack], Estimate]


def build_model(config: TrainConfig, q_range: tuple[float, float] | None = None) -> StackModel:
    """The untrained network of a config with its heads."""
    network = DaifNet(base_width=config.network.base_width, levels=config.network.levels)
    if config.network.init == "he":
        keep_variance(network)
    return StackModel(network, config.heads, q_range)


def network_method(model: StackModel, device: torch.device) -> Estimator:
    """A trained model as a method; the model is left in the mode it was in."""

    @torch.no_grad()
    def estimate(stack: FocalStack) -> Estimate:
        was_training = model.training
        model.eval()
        batch: StackBatch = collate([stack]).to(device)
        prediction = model(batch.images, batch.defocus)
        model.train(was_training)
        return Estimate(prediction.q[0, 0].cpu(), prediction.aif[0].cpu())

    return estimate


def followed_by_descent(method: Estimator, config: TrainConfig) -> Estimator:
    """A network's answer as the start of the descent of its own losses; nothing but the stack is needed."""
    q_range = (1 / config.heads.far_m, 1 / config.heads.near_m)

    def estimate(stack: FocalStack) -> Estimate:
        start = method(stack)
        start = FocusResult(start.q[None], start.aif)
        found = descend(stack, q_range, config.psf, config.loss, config.heads.measure, start=start)
        return Estimate(found.q[0], found.aif)

    return estimate


def classical_methods(config: TrainConfig, median_depth_m: float) -> dict[str, Estimator]:
    """Everything that needs no training but the median depth of the training stacks."""
    q_range = (1 / config.heads.far_m, 1 / config.heads.near_m)

    def constant(stack: FocalStack) -> Estimate:
        return Estimate(torch.full(stack.size, 1 / median_depth_m), None)

    def focus(stack: FocalStack, measure: str) -> Estimate:
        found = depth_from_focus(stack.images, stack.defocus, measure)
        return Estimate(found.q[0], found.aif)

    def sweep(stack: FocalStack) -> Estimate:
        found = plane_sweep(stack.images, stack.defocus, q_range, config.psf)
        return Estimate(found.q[0], found.aif)

    def descent(stack: FocalStack) -> Estimate:
        found = descend(stack, q_range, config.psf, config.loss, config.heads.measure)
        return Estimate(found.q[0], found.aif)

    def oracle(stack: FocalStack) -> Estimate:
        q = 1 / stack.depth.clamp(min=NEAREST_DEPTH_M)
        sigma = stack.defocus.sigma_px(q[None, None])
        return Estimate(q, coarse_aif(stack.images[None], sigma)[0])

    return {
        "constant": constant,
        "focus_sml": partial(focus, measure="sml"),
        "focus_ring": partial(focus, measure="ring"),
        "plane_sweep": sweep,
        "descent": descent,
        "oracle": oracle,
    }
