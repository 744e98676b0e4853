"""Train DAIF-Net on focal stacks alone, or with their truth for comparison.

    python train.py --config configs/quick.yaml
    python train.py --config configs/quick.yaml --set method=supervised --out runs/supervised
    torchrun --nproc-per-node 2 -m dfd_selfsup.train --config configs/nyuv2.yaml

Each step predicts depth and an all-in-focus image, re-blurs the image by the depth through the lens, and
compares with the stack that went in. No truth is used; it is only measured against, where there is any.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.splits import StackSet, load_splits
from dfd_selfsup.datasets.stack import FocalStack, StackBatch, collate, crop_stack
from dfd_selfsup.descent import with_guides
from dfd_selfsup.eval import evaluate, summary, validate
from dfd_selfsup.losses import GUIDE_WEIGHT, guide_loss, guided_losses, selfsup_losses, supervised_losses
from dfd_selfsup.methods import build_model
from dfd_selfsup.models.daif_net import pad_to_multiple
from dfd_selfsup.models.dead_heads import revive
from dfd_selfsup.models.heads import StackModel
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.released import load_released
from dfd_selfsup.report import preview_sheet
from shared.errors import RunError
from shared.runs.checkpoint import weights_and_gradients
from shared.runs.command import command_line, parse_train_args
from shared.runs.config import load_config
from shared.runs.run import Run, open_run
from shared.runs.seeds import step_generator

__all__ = ["draw_batch", "main", "train", "training_losses"]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_train_args(__doc__, argv)
    config = load_config(TrainConfig, args.config, args.set)
    with open_run(config, args, paper="dfd_selfsup") as run:
        splits = load_in_turn(run, config)
        run.say(", ".join(f"{len(stacks)} {split} stacks" for split, stacks in splits.items()))
        model = build_model(config).to(run.device)
        train(run, config, model, splits)
        if run.is_main:
            results = evaluate(config, model, splits, run.folder, run.device)
            run.say(summary(results))
            run.finish(results)


def train(run: Run, config: TrainConfig, model: StackModel, splits: dict[str, StackSet]) -> None:
    """Minimise the losses of random crops of training stacks with AdamW under a cosine schedule."""
    if config.released_checkpoint:
        load_released(config.released_checkpoint, model.network)
    betas = (0.9, config.beta2)
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, betas, weight_decay=config.weight_decay, fused=True
    )
    state = {"model": model, "optimizer": optimizer}
    start = run.restore(state)
    if start == 0:
        run.say(look_for_dead_heads(config, model, splits["train"], run))
    stacks = splits["train"]
    if config.guide == "descent" and config.guide_steps > start and config.method == "selfsup":
        stacks = with_guides(stacks, model.q_range, config.psf, config.loss, config.heads.measure)
    network = run.wrap_ddp(model)
    network.train()
    for step in run.steps(start, config.steps):
        batch, names = draw_batch(step, config, stacks, run.rank, run.world_size)
        batch = batch.to(run.device)
        run.check_tensors(step, {"images": batch.images, "focus": batch.defocus.focus_q}, names)
        losses = training_losses(config, network, batch, step)
        loss = sum(losses.values())
        run.check_finite(step, samples=names, **losses, loss=loss)

        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        run.check_tensors(step, weights_and_gradients(model=network), names)
        optimizer.step()

        if run.every(step, config.log_every):
            run.log(step, loss=loss, **losses, learning_rate=learning_rate(step, config))
        score = None
        if run.every(step, config.validate_every):
            score = validate(config, model, splits["validation"], run.device)
            run.log(step, validation_loss=-score)
            run.preview(step, "validation", preview_sheet(model, splits["validation"], run.device))
        if run.every(step, config.checkpoint_every):
            run.save(step, state, score=score)


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


def training_losses(config: TrainConfig, model: nn.Module, batch: StackBatch, step: int) -> dict[str, Tensor]:
    """The weighted loss terms of one batch."""
    prediction = model(batch.images, batch.defocus)
    if config.method == "supervised":
        return supervised_losses(prediction, batch.depth, batch.valid, batch.aif, config.supervise)
    rendered = render_stack(prediction.aif, prediction.sigma_px, config.psf)
    losses = selfsup_losses(prediction, rendered, batch.images, config.loss)
    if step <= config.guide_steps:
        share = 1 - step / (config.guide_steps + 1)
        if batch.guide is None:
            losses["guide"] = GUIDE_WEIGHT * share * guide_loss(prediction, batch.images, batch.defocus)
        else:
            losses |= guided_losses(prediction, batch.guide, batch.defocus, share)
    return losses


def draw_batch(
    step: int, config: TrainConfig, stacks: StackSet, rank: int = 0, world_size: int = 1
) -> tuple[StackBatch, list[str]]:
    """This process's share of a step's crops, which depend on nothing but seed and step, and their names.

    Stacks come in a random order, epoch by epoch; the crops of a batch are divided over the processes.
    """
    if config.batch_size % world_size:
        raise RunError(f"batch_size {config.batch_size} cannot be divided over {world_size} processes")
    share = config.batch_size // world_size
    crops = []
    for place in range(rank * share, (rank + 1) * share):
        epoch, index = divmod((step - 1) * config.batch_size + place, len(stacks))
        order = torch.randperm(len(stacks), generator=step_generator(config.seed, epoch, "epoch"))
        draw = step_generator(config.seed, step, "crop", place)
        crops.append(random_crop(stacks[int(order[index])], config, draw))
    return collate(crops), [crop.name for crop in crops]


def random_crop(stack: FocalStack, config: TrainConfig, draw: torch.Generator) -> FocalStack:
    height, width = stack.size
    side = config.crop or max(height, width)
    top = int(torch.randint(max(height - side, 0) + 1, (), generator=draw))
    left = int(torch.randint(max(width - side, 0) + 1, (), generator=draw))
    flip = config.flip and bool(torch.randint(2, (), generator=draw))
    crop = crop_stack(stack, top, left, side, flip)
    if config.noise_std > 0:
        noise = config.noise_std * torch.randn(crop.images.shape, generator=draw)
        crop = FocalStack(**{**vars(crop), "images": (crop.images + noise).clamp(0, 1)})
    return crop


def look_for_dead_heads(config: TrainConfig, model: StackModel, stacks: StackSet, run: Run) -> str:
    """Mend outputs that a final ReLU would keep shut for ever, and say what was found."""
    if config.heads.depth in ("inverse", "refine") and config.heads.aif != "clip":
        return "heads: no ReLU at the end, nothing can be dead"
    batch, _ = draw_batch(1, config, stacks)
    batch = batch.to(run.device)
    stack, _ = pad_to_multiple(model.with_focus_plane(batch.images, batch.defocus))
    return f"heads: {revive(model.network, stack, config.dead_heads)}"


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear over `warmup_steps`, then half a cosine to 0."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    share = (step - 1 - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


if __name__ == "__main__":
    command_line(main)
