"""A toy training run: its configuration, its network, its loop, and what it logged."""

import argparse
import dataclasses
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn

from shared.runs.checkpoint import plain
from shared.runs.log import read_metrics
from shared.runs.run import open_run
from shared.runs.seeds import rng_state, step_generator

__all__ = ["ToyConfig", "arguments", "logged", "toy_state", "train"]


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    seed: int = 3
    steps: int = 20
    learning_rate: float = 0.02
    save_every: int = 5


def arguments(out: Path, resume: bool = False) -> argparse.Namespace:
    """What the command line of a training run would give."""
    return argparse.Namespace(config=Path("toy.yaml"), out=out, resume=resume, device="cpu", set=[])


def toy_state(width: int = 8) -> dict:
    """Model, optimizer and scheduler, with every kind of state: weights, buffers, moments, a step count."""
    model = nn.Sequential(
        nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.3), nn.Flatten(), nn.LazyLinear(1)
    )
    model(torch.zeros(2, 2, 5, 7))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, betas=(0.5, 0.9))
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[4, 13], gamma=0.5)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def train(out: Path, until: int, resume: bool = False, save_every: int = 5) -> dict:
    """Train the toy model to step `until`, drawing from every kind of generator; return the final state."""
    with open_run(ToyConfig(steps=until, save_every=save_every), arguments(out, resume), "toy") as run:
        state = toy_state()
        model, optimizer, scheduler = state.values()
        start = run.restore(state)
        for step in run.steps(start, until):
            batch = torch.randn(4, 2, 5, 7, generator=step_generator(3, step, "batch"))  # [B, C, H, W]
            target = random.random() + float(np.random.rand()) + torch.rand(4, 1)  # noqa: NPY002
            loss = (model(batch) - target).square().mean()
            run.check_finite(step, loss=loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            run.log(step, loss=loss)
            if run.every(step, save_every):
                run.save(step, state, {"loss": loss}, score=-loss.item())
        final = {"state": {name: item.state_dict() for name, item in state.items()}, "rng": rng_state()}
        return plain(final, "final")


def logged(out: Path) -> list[dict]:
    """Step and loss of every row of the log, without its times."""
    return [{key: row[key] for key in ("step", "loss")} for row in read_metrics(out / "metrics.jsonl")]
