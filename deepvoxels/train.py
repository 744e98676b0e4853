"""Train DeepVoxels, or one of the methods it is compared with, on the posed views of one scene.

    python train.py --config configs/quick.yaml
    python train.py --config configs/quick.yaml --set steps=4000 model.grid_side=48 --out runs/longer
    python train.py --resume --out runs/longer

Each step takes one source view and a few target views. The source is lifted into the voxel grid and merged
with what earlier steps left there; the targets are rendered from the grid and compared with the true images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepvoxels.config import TrainConfig
from deepvoxels.datasets.scene import PosedScene, nearest_views
from deepvoxels.datasets.views import load_views
from deepvoxels.eval import evaluate, summary
from deepvoxels.losses import crop_border, discriminator_loss, generator_gan_loss, l1_loss
from deepvoxels.methods import Method, build_method
from deepvoxels.models.discriminator import Discriminator
from deepvoxels.report import preview_sheet
from shared.runs.checkpoint import weights_and_gradients
from shared.runs.command import command_line, parse_train_args
from shared.runs.config import load_config
from shared.runs.run import Run, open_run
from shared.runs.seeds import step_generator


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_train_args(__doc__, argv)
    config = load_config(TrainConfig, args.config, args.set)
    with open_run(config, args, paper="deepvoxels", may_change=("evaluate_views", "map_cache_mb")) as run:
        train_views, test_views = load_views(config)
        for line in describe(train_views, test_views):
            run.say(line)
        method = build_method(config, train_views, run.device)
        if method.network is not None:
            train(run, config, method, train_views, test_views)
        results = evaluate(config, method, train_views, test_views, run.folder)
        run.say(summary(results))
        run.finish(results)


def train(run: Run, config: TrainConfig, method: Method, views: PosedScene, test_views: PosedScene) -> None:
    """Minimise 200 x L1 + GAN over random source and target views; both networks step in every iteration."""
    network = method.network
    discriminator = Discriminator().to(run.device) if config.gan_weight > 0 else None
    state = {"model": network, "optimizer": adam(network, config)}
    if discriminator is not None:
        state |= {"discriminator": discriminator, "optimizer_d": adam(discriminator, config)}

    start = run.restore(state)
    neighbours = nearest_views(views.world_from_cam, config.nearest_sources)
    network.train()
    for step in run.steps(start, config.steps):
        source, targets = draw_views(step, config, neighbours)
        rendered = method.training_views(source, targets)
        method.remember()

        rendered = crop_border(rendered, config.border_px)
        truth = crop_border(views.batch(targets).to(run.device), config.border_px)
        losses = {"l1": l1_loss(rendered, truth)}
        loss = config.l1_weight * losses["l1"]
        if discriminator is not None:
            losses |= gan_losses(discriminator, rendered, truth)
            loss = loss + config.gan_weight * losses["gan"]
        samples = {"source": source, "targets": targets}
        run.check_finite(step, samples=samples, **losses)

        set_learning_rate(state, learning_rate(step, config))
        backward(state["optimizer"], loss)
        run.check_tensors(step, weights_and_gradients(model=network), samples)
        state["optimizer"].step()
        if discriminator is not None:
            backward(state["optimizer_d"], losses["discriminator"])
            run.check_tensors(step, weights_and_gradients(discriminator=discriminator), samples)
            state["optimizer_d"].step()

        if run.every(step, config.log_every):
            run.log(step, **losses, learning_rate=learning_rate(step, config))
        if run.every(step, config.preview_every):
            run.preview(step, "test_views", preview_sheet(method, test_views))
        if run.every(step, config.checkpoint_every):
            run.save(step, state)


def draw_views(step: int, config: TrainConfig, neighbours: Tensor) -> tuple[int, list[int]]:
    """The source and target views of a step, which depend on nothing but the seed and the step.

    The first target runs through a random permutation of all views, epoch by epoch. The source is one of its
    nearest neighbours; the other targets are any views at all (paper, section 4).
    """
    count = len(neighbours)
    epoch, place = divmod(step - 1, count)
    order = torch.randperm(count, generator=step_generator(config.seed, epoch, "epoch"))
    draw = step_generator(config.seed, step, "views")
    first = int(order[place])
    source = int(neighbours[first, torch.randint(neighbours.shape[1], (1,), generator=draw)])
    others = torch.randint(count, (config.targets - 1,), generator=draw).tolist()
    return source, [first, *others]


def gan_losses(discriminator: nn.Module, rendered: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """What the discriminator has to minimise, and the generator against it.

    Both are taken before either network moves. The discriminator's weights are frozen for the generator's
    term, so that this term cannot leak into the discriminator's own gradient.
    """
    own = discriminator_loss(discriminator(truth), discriminator(rendered.detach()))
    discriminator.requires_grad_(False)
    against = generator_gan_loss(discriminator(rendered))
    discriminator.requires_grad_(True)
    return {"gan": against, "discriminator": own}


def describe(train_views: PosedScene, test_views: PosedScene) -> list[str]:
    """What was loaded, and what about it the user should know."""
    lines = [f"{train_views.path}: {len(train_views)} training and {len(test_views)} test views"]
    lines += [f"note: {note}" for note in train_views.notes]
    if train_views.blind_views:
        lines.append(
            f"note: {len(train_views.blind_views)} views show no voxel: {', '.join(train_views.blind_views)}"
        )
    return lines


def adam(network: nn.Module, config: TrainConfig) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Constant, as in the paper, but for the last `decay_steps`: linearly down to a twentieth."""
    if config.decay_steps == 0:
        return config.learning_rate
    left = min(1.0, (config.steps - step) / config.decay_steps)
    return config.learning_rate * (0.05 + 0.95 * left)


def set_learning_rate(state: dict, value: float) -> None:
    for name, optimizer in state.items():
        if name.startswith("optimizer"):
            for group in optimizer.param_groups:
                group["lr"] = value


def backward(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()


if __name__ == "__main__":
    command_line(main)
