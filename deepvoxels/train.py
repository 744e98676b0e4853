"""Train DeepVoxels, or one of the methods it is compared with, on the posed views of one scene.

    python train.py --config configs/quick.yaml
    python train.py --config configs/quick.yaml --set steps=4000 model.grid_side=48 --out runs/longer
    python train.py --resume --out runs/longer

Each step takes one source view and a few target views. The source is lifted into the voxel grid and merged
with what earlier steps left there; the targets are rendered from the grid and compared with the true images.
"""

from deepvoxels import arguments
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.train, __doc__)  # --help is answered before PyTorch is loaded

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepvoxels.api import TrainedScene, build_network, scene_facts, trained_scene
from deepvoxels.config import TrainConfig
from deepvoxels.datasets.scene import PosedScene, load_previewed, load_views, nearest_views
from deepvoxels.eval import NearestNeighbour, evaluate, measure, summary
from deepvoxels.losses import crop_border, head_loss, loss_terms
from deepvoxels.models.generator import Generator
from deepvoxels.models.networks import Discriminator
from deepvoxels.models.released import load_released
from deepvoxels.models.volume import SamplingMap
from deepvoxels.report import comparison_sheet
from shared.runs.config import load_config
from shared.runs.run import Run, open_run
from shared.runs.seeds import step_generator


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.train(__doc__, argv)
    config = load_config(TrainConfig, args.config, args.set)
    free = ("evaluate_views", "map_cache_mb")
    with open_run(config, args, "deepvoxels", may_change=free, rate=learning_rate) as run:
        views, test_views = load_views(config, run.say)
        for line in describe(views, test_views):
            run.say(line)
        learns = config.method != "nearest_neighbour"
        previewed = load_previewed(config, views, test_views)
        scene = train(run, config, views, previewed) if learns else NearestNeighbour(views)
        results = evaluate(scene, config, views, test_views, run.folder)
        run.say(summary(results))
        run.finish(results)


def train(run: Run, config: TrainConfig, views: PosedScene, previewed: PosedScene) -> TrainedScene:
    """Minimise 200 x L1 + GAN over random source and target views; both networks step in every iteration."""
    network = build_network(config).to(run.device)
    state = {"model": network, "optimizer": adam(network)}
    discriminator = Discriminator().to(run.device) if config.gan_weight > 0 else None
    if discriminator is not None:
        state |= {"discriminator": discriminator, "optimizer_d": adam(discriminator)}

    facts = scene_facts(config, views)
    scene = trained_scene(network, facts, config)
    start = run.restore(state, facts)
    if start == 0 and config.released_checkpoint:
        load_released(config.released_checkpoint, network, discriminator)
    neighbours = nearest_views(views.world_from_cam, config.nearest_sources)
    maps = SamplingMaps(scene, views, config.map_cache_mb << 20)
    network.train()
    for step in run.steps(start, config.steps):
        source, targets = draw_views(step, config, neighbours)
        photo, truth = (views.batch(some).to(run.device) for some in ([source], targets))
        coarse = None
        with torch.autocast(run.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            if isinstance(network, Generator):
                grid = network.observe(photo, [maps["lifting", source]])
                network.remember(grid)
                projections = [maps["projection", target] for target in targets]
                seen = network.render(network.inpaint(grid), projections)
                rendered, coarse = seen.images, seen.coarse
            else:  # a baseline, which knows poses only
                cameras = views.world_from_cam[[source]], views.world_from_cam[targets], views.K[targets]
                rendered = network(photo, *(camera.to(run.device) for camera in cameras))

            pair = (crop_border(images, config.border_px) for images in (rendered, truth))
            terms = loss_terms(*pair, discriminator)
        loss = config.l1_weight * terms["l1"] + config.gan_weight * terms.get("gan", 0.0)
        if coarse is not None:
            terms["head"] = head_loss(coarse, truth)
            loss = loss + config.head_weight * terms["head"]
        samples = {"source": source, "targets": targets}

        rate = set_learning_rate(state, step, config)
        run.update(step, state["optimizer"], loss, terms, samples)
        if discriminator is not None:
            run.update(step, state["optimizer_d"], terms["discriminator"], samples=samples)

        if run.every(step, config.log_every):
            run.log(step, **terms, learning_rate=rate)
        if run.every(step, config.preview_every):
            show_progress(run, step, scene, previewed)
        if run.every(step, config.checkpoint_every):
            run.save(step, state)
    if config.steps == 0:  # a released checkpoint, perhaps, to be rendered
        run.save(0, state)
    return scene


def show_progress(run: Run, step: int, scene: TrainedScene, views: PosedScene) -> None:
    """Render the previewed views; their picture, mean PSNR and how many planes a ray mixes go to the run."""
    seen = scene.render(views.world_from_cam, views.K)
    run.preview(step, "views", comparison_sheet(views, seen))
    rows = measure(seen.images, views, scene.config.border_px)
    numbers = {"preview_psnr": sum(row["psnr"] for row in rows) / len(rows)}
    if seen.depth is not None:
        numbers["planes_per_ray"] = seen.depth.facts["planes_per_ray"]
    run.log(step, **numbers)


class SamplingMaps(dict[tuple[str, int], SamplingMap]):
    """By ("lifting" or "projection", view): where its camera samples; kept while memory lasts."""

    def __init__(self, scene: TrainedScene, views: PosedScene, free_bytes: int) -> None:
        super().__init__()
        self.scene, self.views, self.free_bytes = scene, views, free_bytes

    def __missing__(self, key: tuple[str, int]) -> SamplingMap:
        kind, view = key
        camera = (camera[view].to(self.scene.device) for camera in (self.views.K, self.views.world_from_cam))
        made = getattr(self.scene.network, kind)(self.scene.geometry, *camera)
        if made.nbytes <= self.free_bytes:
            self.free_bytes -= made.nbytes
            self[key] = made
        return made


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


def describe(train_views: PosedScene, test_views: PosedScene) -> list[str]:
    """What was loaded, and what about it the user should know."""
    lines = [f"{train_views.path}: {len(train_views)} training and {len(test_views)} test views"]
    lines += [f"note: {note}" for note in train_views.notes]
    if train_views.blind_views:
        lines.append(
            f"note: {len(train_views.blind_views)} views show no voxel: {', '.join(train_views.blind_views)}"
        )
    return lines


def adam(network: nn.Module) -> torch.optim.Adam:
    """Adam, whose rate is set in every step: ten times as high for the colour head, which is to lead."""
    head = [weight for name, weight in network.named_parameters() if name.startswith("renderer.head.")]
    rest = [weight for weight in network.parameters() if all(weight is not other for other in head)]
    groups = [{"params": rest, "times": 1.0}, *([{"params": head, "times": 10.0}] if head else [])]
    return torch.optim.Adam(groups, fused=True)


def set_learning_rate(state: Mapping[str, Any], step: int, config: TrainConfig) -> float:
    """Set the rate of all optimisers to that of the step, and return it."""
    rate = learning_rate(step, config)
    for optimizer in state.values():
        if isinstance(optimizer, torch.optim.Optimizer):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["times"]
    return rate


def learning_rate(step: int, config: TrainConfig) -> float:
    """Constant, as in the paper, but for the last `decay_steps`: linearly down to a twentieth."""
    if config.decay_steps == 0:
        return config.learning_rate
    left = min(1.0, (config.steps - step) / config.decay_steps)
    return config.learning_rate * (0.05 + 0.95 * left)


if __name__ == "__main__":
    command_line(main)
