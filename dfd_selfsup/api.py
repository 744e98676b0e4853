"""Depth from defocus as one object: load a trained network or start without one, then ask it for depth."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.config import LossOptions, TrainConfig
from dfd_selfsup.datasets.folder import Order
from dfd_selfsup.datasets.splits import open_folder
from dfd_selfsup.datasets.stack import Estimate, FocalStack, collate, fit_to_size, focal_stack
from dfd_selfsup.descent import better_of, descend
from dfd_selfsup.fit import fit_stack
from dfd_selfsup.models.focus_measure import depth_of_photos, full_size_image
from dfd_selfsup.models.heads import StackModel
from dfd_selfsup.models.options import HeadOptions, NetworkOptions, PsfOptions
from dfd_selfsup.models.thin_lens import Lens
from shared.runs.checkpoint import load_trained
from shared.runs.command import select_device
from shared.runs.config import config_from_dict

__all__ = ["DepthFromDefocus", "depth_and_image", "new_model", "open_source", "shrunk"]

MAX_SIDE, MAX_SLICES = 512, 12  # of stacks that are not given as a FocalStack
Stack = FocalStack | str | Path | Sequence[Any] | Tensor


def fitting_config() -> TrainConfig:
    """What `fit` trains where no trained network is given."""
    return TrainConfig(
        network=NetworkOptions(init="he"),
        heads=HeadOptions(
            depth="refine", aif="sharpest", focus_input="sharpest", measure="even", image_steps=4
        ),
        psf=PsfOptions(window=15, threshold_px=0.2),
        loss=LossOptions(aif=0, aif_blur=0, coarse_blur=0, smooth=40, smooth_on="inverse", border_fix=True),
    )


def new_model(config: TrainConfig, q_range: tuple[float, float] | None) -> StackModel:
    """The network of a config, untrained; q_range: inverse depth (far, near) that its heads span."""
    return StackModel(config.network, config.heads, q_range, config.psf)


def open_source(
    stack: Stack, focus_m: Sequence[float] | None = None, lens: Lens | None = None, order: Order | None = None
) -> FocalStack:
    """A focal stack at full size: a folder opened (`datasets.folder`), images, or a FocalStack as it is."""
    if isinstance(stack, FocalStack):
        return stack
    if isinstance(stack, str | Path):
        return open_folder(stack, order)
    return focal_stack(stack, focus_m, lens)


def depth_and_image(stack: FocalStack) -> Estimate:
    """What a focus measure finds in all slices at their full size; photos on disk are gone through twice."""
    q, confidence = depth_of_photos(stack.images, stack.defocus)
    return stack.estimate(q, full_size_image(stack.images, stack.defocus, q), confidence)


def shrunk(start: Estimate, stack: FocalStack) -> Estimate:
    """An estimate at the size of a smaller stack; depth is averaged by its confidence."""
    if start.q.shape == stack.size:
        return stack.estimate(start.q, start.aif, start.confidence)
    trust = torch.ones_like(start.q) if start.confidence is None else start.confidence
    both = torch.stack([start.q * trust, trust])[None]
    total, weight = F.interpolate(both, stack.size, mode="area")[0]
    q, aif = total / weight.clamp(min=1e-6), F.interpolate(start.aif[None], stack.size, mode="area")[0]
    return stack.estimate(q, aif, weight)


class DepthFromDefocus:
    """DAIF-Net with its lens model: a focal stack in, depth and all-in-focus image out.

    `DepthFromDefocus.load(source)` has a trained network; `DepthFromDefocus()` has none yet: it answers by a
    focus measure, and `fit` trains a network on the stack at hand. Public: `config`, `model` (a StackModel or
    None), `device`.

        >>> stack = [torch.rand(3, 24, 32) for _ in range(3)]
        >>> estimate = DepthFromDefocus(device="cpu").fit(stack, steps=2)      # a real one takes 300
        >>> estimate.depth.values.shape, estimate.depth.unit, estimate.aif.shape
        (torch.Size([24, 32]), 'slices', torch.Size([3, 24, 32]))
    """

    def __init__(
        self,
        config: TrainConfig | None = None,
        model: StackModel | None = None,
        device: torch.device | str = "auto",
        kind: str = "metric",
        about: str = "",
    ):
        """model: trained with `config`, on stacks of this `kind` of defocus; about: shipped weights' data."""
        self.config = config or fitting_config()
        self.device = device if isinstance(device, torch.device) else select_device(device)
        self.model = None if model is None else model.to(self.device)
        self.kind, self.about = kind, about

    @classmethod
    def load(
        cls, source: str | Path, device: torch.device | str = "auto", checkpoint: str = "best"
    ) -> "DepthFromDefocus":
        """A trained network: a run folder, a checkpoint file, or the name of shipped weights.

        Needs no data set. Raises CheckpointError or RunError for what cannot be loaded.
        """
        found = load_trained(source, "dfd_selfsup", checkpoint)
        config = config_from_dict(TrainConfig, found.config, str(found.path))
        with found.using("facts"):
            q_range, kind = found.facts["q_range"], found.facts["kind"]
            if q_range is not None:
                far, near = q_range
                q_range = float(far), float(near)
        model = found.network(lambda: new_model(config, q_range))
        return cls(config, model.eval(), device, kind, found.about)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint must hold besides config and weights."""
        q_range = self.model.q_range
        return {"q_range": q_range and list(q_range), "kind": self.kind}

    @torch.no_grad()
    def predict(
        self, stack: Stack, focus_m: Sequence[float] | None = None, lens: Lens | None = None
    ) -> Estimate:
        """Depth and image of a stack by one pass of the network; without one, by a focus measure.

        The focus measure uses all slices at their full size, and photos on disk are read one at a time; a
        network is shown folders and images of at most 512 pixels and 12 slices.
        stack: a FocalStack, a folder of photos with stack.yaml, or slices (paths, tensors [3, H, W], arrays
        [H, W, 3], a tensor [S, 3, H, W]) with their focus distances in metres and the `Lens`. Raises
        ValueError, naming the argument, for wrong shapes and ranges; RunError where the network needs another
        kind of stack.
        """
        opened = open_source(stack, focus_m, lens)
        if self.model is None:
            return depth_and_image(opened)
        stack = opened if opened is stack else fit_to_size(opened, MAX_SIDE, MAX_SLICES)
        model = self._model_for(stack)
        was_training = model.training
        model.eval()
        batch = collate([stack]).to(self.device)
        prediction = model(batch.images, batch.defocus)
        model.train(was_training)
        return stack.estimate(prediction.q[0, 0].cpu(), prediction.aif[0].cpu())

    def fit(
        self,
        stack: Stack,
        focus_m: Sequence[float] | None = None,
        lens: Lens | None = None,
        *,
        steps: int = 300,
        seed: int = 0,
        report: Callable[[int, float], None] = lambda step, error: None,
        start: Estimate | None = None,
    ) -> Estimate:
        """Depth and image of a stack after training on this very stack; its answer is followed by `descend`.

        Goes on from `start`, by default what a focus measure finds in all slices at full size, and returns
        what explains the slices better, pixel by pixel (`descent.better_of`). Trains the loaded network,
        which stays as it is, or a new one drawn by `seed`. Where the lens is unknown, its strength is fitted
        as well. report: is told every step and its re-blurring error.
        """
        opened = open_source(stack, focus_m, lens)
        start = start or depth_and_image(opened)
        stack = opened if opened is stack else fit_to_size(opened, MAX_SIDE, MAX_SLICES)
        start = shrunk(start, stack)
        if self.model is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = new_model(self.config, stack.defocus.q_range)
        else:
            model = copy.deepcopy(self._model_for(stack))
        fitted = DepthFromDefocus(self.config, model, self.device, stack.defocus.kind)
        stack = fit_stack(fitted.model, stack, self.config, steps, seed, report, start)
        found = fitted.descend(stack, fitted.predict(stack))
        return better_of(stack, start, found, self.config.psf)

    def descend(self, stack: FocalStack, start: Estimate | None = None) -> Estimate:
        """The losses of `config` descended pixel by pixel, from an estimate or else from a focus measure."""
        return descend(stack, self.q_range_for(stack), self.config, start)

    def q_range_for(self, stack: FocalStack) -> tuple[float, float]:
        """That of training, if it was on stacks like this one; else what the stack itself can tell."""
        if self.model is not None and self.model.q_range and self.kind == stack.defocus.kind == "metric":
            return self.model.q_range
        return stack.defocus.q_range

    def _model_for(self, stack: FocalStack) -> StackModel:
        """The network for the depth range of this stack; the weights are shared."""
        self.model.check_kind(stack.defocus)
        model = copy.copy(self.model)
        model.q_range, model.psf = self.q_range_for(stack), self.config.psf
        return model
