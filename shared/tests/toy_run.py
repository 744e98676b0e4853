"""A toy training run, started like any train.py: `main(["--config", ...])`."""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import nn

from shared.runs.command import parse_train_args
from shared.runs.config import STRICT, load_config
from shared.runs.run import Run, open_run
from shared.runs.seeds import step_generator

__all__ = ["ToyConfig", "arguments", "main", "toy_state"]


@dataclass(config=STRICT)
class ToyConfig:
    seed: int = 3
    steps: int = 20
    learning_rate: float = 0.02
    checkpoint_every: int = 5
    init_from: str = ""


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_train_args(__doc__, argv)
    config = load_config(ToyConfig, args.config, args.set)
    with open_run(config, args, "toy", distributed=True) as run:
        train(run, config)
        run.finish({"done": True})


def train(run: Run, config: ToyConfig) -> None:
    """Draws from every kind of generator."""
    state = toy_state()
    model, optimizer, scheduler = state.values()
    for step in run.steps(run.restore(state, {"width": 8}), config.steps):
        batch = torch.randn(4, 2, 5, 7, generator=step_generator(config.seed, step, "batch"))  # [B, C, H, W]
        target = random.random() + float(np.random.rand()) + torch.rand(4, 1)  # noqa: NPY002
        loss = (model(batch) - target).square().mean()
        run.update(step, optimizer, loss, samples=[step])
        scheduler.step()
        run.log(step, loss=loss, rate=scheduler.get_last_lr()[0])
        if run.every(step, config.checkpoint_every):
            run.save(step, state, score=-loss.item())


def toy_state(width: int = 8) -> dict:
    """Model, optimizer and scheduler, with every kind of state: weights, buffers, moments, a step count."""
    model = nn.Sequential(
        nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.3), nn.Flatten(), nn.LazyLinear(1)
    )
    model(torch.zeros(2, 2, 5, 7))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, betas=(0.5, 0.9))
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[4, 13], gamma=0.5)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def arguments(out: Path | None, resume: bool = False) -> argparse.Namespace:
    """What the command line of a training run would give."""
    return argparse.Namespace(config=Path("toy.yaml"), out=out, resume=resume, device="cpu", set=[])
