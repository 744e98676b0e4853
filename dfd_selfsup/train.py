"""Train DAIF-Net on focal stacks alone, or with their truth for comparison.

    python train.py --config configs/quick.yaml
    python train.py --config configs/quick.yaml --set method=supervised --out runs/supervised
    torchrun --nproc-per-node 2 -m dfd_selfsup.train --config configs/nyuv2.yaml

Each step predicts depth and an all-in-focus image, re-blurs the image by the depth through the lens, and
compares with the stack that went in. No truth is used; it is only measured against, where there is any.
"""

from dfd_selfsup import arguments
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.train, __doc__)  # --help is answered before PyTorch is loaded

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dfd_selfsup.api import DepthFromDefocus, new_model
from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.splits import StackSet, load_splits
from dfd_selfsup.datasets.stack import FocalStack, StackBatch, collate, random_crop, recoloured
from dfd_selfsup.descent import with_guides
from dfd_selfsup.eval import evaluate, summary, validate
from dfd_selfsup.losses import guide_losses, selfsup_losses, supervised_losses
from dfd_selfsup.models.daif_net import pad_to_multiple
from dfd_selfsup.models.heads import Prediction, StackModel
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.released import load_released, revive
from dfd_selfsup.report import SHEET_STACKS, stack_sheet
from shared.errors import RunError
from shared.runs.config import load_config
from shared.runs.run import Run, open_run
from shared.runs.seeds import seed_everything, step_generator
from shared.show.pictures import evenly

__all__ = ["draw_batch", "loss_terms", "main", "train"]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.train(__doc__, argv)
    config = load_config(TrainConfig, args.config, args.set)
    with open_run(config, args, paper="dfd_selfsup", rate=learning_rate, distributed=True) as run:
        splits = load_in_turn(run, config)
        seed_everything(config.seed)  # rendering the stacks, where they were not there yet, drew numbers
        run.say(", ".join(f"{len(stacks)} {split} stacks" for split, stacks in splits.items()))
        defocus = splits["train"][0].defocus
        q_range = config.heads.q_range if defocus.kind == "metric" else defocus.q_range
        model = new_model(config, q_range)
        model.half = config.precision == "bfloat16"
        method = DepthFromDefocus(config, model, run.device, defocus.kind)
        train(run, method, splits)
        if run.is_main:
            results = evaluate(method, splits, run.folder)
            run.say(summary(results))
            run.finish(results)


def train(run: Run, method: DepthFromDefocus, splits: dict[str, StackSet]) -> None:
    """Minimise the losses of random crops of training stacks with AdamW under a cosine schedule."""
    config, model = method.config, method.model
    betas = (0.9, config.beta2)
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, betas, weight_decay=config.weight_decay, fused=True
    )
    state = {"model": model, "optimizer": optimizer}
    start = run.restore(state, method.facts)
    stacks = starting_point(run, config, model, splits["train"], start)
    if config.steps == 0:
        run.save(0, state)  # released weights, to be used as any run
    network = run.wrap_ddp(model)
    network.train()
    for step in run.steps(start, config.steps):
        batch, names = draw_batch(step, config, stacks, run.rank, run.world_size)
        batch = batch.to(run.device)
        prediction = network(batch.images, batch.defocus)
        terms = loss_terms(step, config, prediction, batch)
        loss = sum(terms.values())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        run.update(step, optimizer, loss, terms, names)

        if run.every(step, config.log_every):
            run.log(step, loss=loss, **terms, learning_rate=learning_rate(step, config))
        score = None
        if run.every(step, config.validate_every):
            score = validate(method, splits["validation"])
            run.log(step, validation_loss=-score)
            run.preview(step, "validation", preview(method, splits["validation"]))
        if run.every(step, config.checkpoint_every):
            run.save(step, state, score=score)


def loss_terms(
    step: int, config: TrainConfig, prediction: Prediction, batch: StackBatch
) -> dict[str, Tensor]:
    """The weighted loss terms of one batch by name."""
    if config.method == "supervised":
        return supervised_losses(prediction, batch.depth, batch.valid, batch.aif, config.supervise)
    rendered = render_stack(prediction.aif, prediction.sigma_px, config.psf)
    terms = selfsup_losses(prediction, rendered, batch.images, config.loss)
    if step <= config.guide_steps:
        share = 1 - step / (config.guide_steps + 1)
        terms |= guide_losses(prediction, batch.images, batch.defocus, batch.guide, share)
    return terms


def load_in_turn(run: Run, config: TrainConfig) -> dict[str, StackSet]:
    """The stacks of each split; one process renders or checks them first, the others find them ready."""
    if not run.is_main:
        dist.barrier()
    splits = load_splits(config.data)
    if run.is_main and run.world_size > 1:
        dist.barrier()
    if config.method == "supervised" and any(s.depth is None or s.aif is None for s in splits["train"]):
        raise RunError("method=supervised needs depth and all-in-focus truth for every training stack")
    return splits


def starting_point(
    run: Run, config: TrainConfig, model: StackModel, stacks: StackSet, start: int
) -> StackSet:
    """What comes before step 1: released weights, outputs mended that a final ReLU shuts, and guides.

    Returns the training stacks, each with what descent finds in it if that is to lead the network.
    """
    if start == 0 and config.released_checkpoint:
        load_released(config.released_checkpoint, model.network)
    ends_in_relu = config.heads.depth in ("norm", "clip", "raw") or config.heads.aif == "clip"
    if start == 0 and ends_in_relu:
        batch = draw_batch(1, config, stacks)[0].to(run.device)
        images, _ = pad_to_multiple(
            model.with_focus_plane(batch.images, batch.defocus), 2**model.network.levels
        )
        run.say(f"heads: {revive(model.network, images, config.dead_heads)}")
    if config.guide != "descent" or config.guide_steps <= start or config.method != "selfsup":
        return stacks
    needed: set[int] = set()
    for step in range(start + 1, min(config.steps, config.guide_steps) + 1):
        places = own_places(config, run.rank, run.world_size)
        needed |= {drawn(step, place, config, len(stacks)) for place in places}
        if len(needed) == len(stacks):
            break
    run.say(f"descending the losses in {len(needed)} stacks, for what is to lead the network")
    return with_guides(stacks, sorted(needed), model.q_range, config)


def draw_batch(
    step: int, config: TrainConfig, stacks: StackSet, rank: int = 0, world_size: int = 1
) -> tuple[StackBatch, list[str]]:
    """This process's share of a step's crops, which depend on nothing but seed and step, and their names.

    Stacks come in a random order, epoch by epoch; the crops of a batch are divided over the processes.
    """
    crops = []
    for place in own_places(config, rank, world_size):
        draw = step_generator(config.seed, step, "crop", place)
        stack = some_slices(stacks[drawn(step, place, config, len(stacks))], step, config, draw)
        crop = random_crop(stack, config.crop, draw, config.flip, config.zoom)
        crop = recoloured(crop, draw) if config.recolour else crop
        if config.noise_std:
            noise = config.noise_std * torch.randn(crop.images.shape, generator=draw)
            crop = replace(crop, images=(crop.images + noise).clamp(0, 1))
        crops.append(crop)
    return collate(crops), [crop.name for crop in crops]


def some_slices(stack: FocalStack, step: int, config: TrainConfig, draw: torch.Generator) -> FocalStack:
    """As many slices as this step shows of every stack: one from each of so many equal parts of its range."""
    if config.slices is None:
        return stack
    low, high = config.slices
    several = step_generator(config.seed, step, "slices")
    count = min(int(torch.randint(low, high + 1, (), generator=several)), len(stack.images))
    ends = torch.linspace(0, len(stack.images), count + 1).round()
    return stack.only((ends[:-1] + ends.diff() * torch.rand(count, generator=draw)).int().tolist())


def own_places(config: TrainConfig, rank: int, world_size: int) -> range:
    """The places of every batch that this process fills; RunError where they cannot be divided."""
    if config.batch_size % world_size:
        raise RunError(f"batch_size {config.batch_size} cannot be divided over {world_size} processes")
    share = config.batch_size // world_size
    return range(rank * share, (rank + 1) * share)


def drawn(step: int, place: int, config: TrainConfig, count: int) -> int:
    """Which of so many stacks is at a place of a step's batch."""
    epoch, index = divmod((step - 1) * config.batch_size + place, count)
    return int(torch.randperm(count, generator=step_generator(config.seed, epoch, "epoch"))[index])


def preview(method: DepthFromDefocus, stacks: StackSet) -> np.ndarray:
    """Slices, the network's image and depth, and the truth, of a few stacks."""
    chosen = [stacks[index] for index in evenly(len(stacks), SHEET_STACKS)]
    return stack_sheet(chosen, {"network": [method.predict(stack) for stack in chosen]})


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear over `warmup_steps`, then half a cosine to 0."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    share = (step - 1 - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


if __name__ == "__main__":
    command_line(main)
