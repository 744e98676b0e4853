"""Train on pairs of views: the second is predicted from the first, and depth is learned from nothing else.

    python train.py --config configs/quick.yaml
    python train.py --config configs/quick.yaml --set steps=4000 model.width=0.5 --out runs/longer
    python train.py --resume --out runs/longer
    torchrun --nproc-per-node 2 train.py --config configs/shapenet_chairs.yaml

Each step renders the target from the source, reads the depth of the true target image as well, and takes one
step of Adam on the weighted sum of reconstruction, perceptual, photometric, consistency and smoothness terms.
"""

from nvs_depth import arguments
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.train, __doc__)  # --help is answered before PyTorch is loaded

from collections.abc import Sequence

import torch
from torch import Tensor

from nvs_depth.api import ViewSynthesizer
from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import PairBatch, PairOrder, pair_batches, varied
from nvs_depth.datasets.select import Split, load_split
from nvs_depth.eval import evaluate, summary
from nvs_depth.losses import LossWeights, loss_terms, perceptual_network
from nvs_depth.models.synthesis import SynthesisNetwork, View
from nvs_depth.report import pair_sheet
from shared.geometry.camera import invert_pose
from shared.quality.losses import VggFeatures
from shared.runs.config import load_config
from shared.runs.run import Run, open_run
from shared.runs.seeds import step_generator

__all__ = ["learning_rate", "main", "step_terms"]

PREVIEW_PAIRS = 6


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.train(__doc__, argv)
    config = load_config(TrainConfig, args.config, args.set)
    free = ("evaluate_pairs",)
    with open_run(config, args, "nvs_depth", may_change=free, rate=resumed_rate, distributed=True) as run:
        split = load_split(config.data, config.model.image_side, config.evaluate_pairs, run.say)
        for line in describe(split):
            run.say(line)
        views = split.train.views
        network = SynthesisNetwork(config.model).to(run.device)
        synthesizer = ViewSynthesizer(network, config, views.K[0], views.unit_m)
        vgg = perceptual_network(config.losses).to(run.device) if config.weights.perceptual else None
        train(run, synthesizer, split, vgg)
        if run.is_main:
            results = evaluate(synthesizer, split, run.folder)
            run.say(summary(results))
            run.finish(results)


def train(run: Run, synthesizer: ViewSynthesizer, split: Split, vgg: VggFeatures | None) -> None:
    """Minimise the weighted sum of the terms over random pairs."""
    config, network = synthesizer.config, synthesizer.network
    freeze_untrained(network, config.weights)
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate, config.betas, fused=True)
    state = {"model": network, "optimizer": optimizer}
    start = run.restore(state, synthesizer.facts)
    wrapped = run.wrap_ddp(network)
    redraw = config.data.pairs.redraw
    order = PairOrder(split.train, config.batch_size, config.seed, redraw, run.rank, run.world_size)
    batches = pair_batches(order, start, config.steps, config.workers)
    steps_per_epoch = max(1, len(split.train) // (config.batch_size * run.world_size))
    network.train()
    for step, batch in zip(run.steps(start, config.steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps_per_epoch, config)
        if config.data.pairs.vary:
            batch = varied(batch, step_generator(config.seed, step, "vary", run.rank))
        terms = step_terms(wrapped, batch.to(run.device), config, vgg)
        loss = sum(getattr(config.weights, name) * term for name, term in terms.items())
        run.update(step, optimizer, loss, terms, samples=batch.indices.tolist())

        if run.every(step, config.log_every):
            run.log(step, loss=loss, **terms, learning_rate=optimizer.param_groups[0]["lr"])
        if run.every(step, config.preview_every):
            network.eval()
            run.preview(step, "test_pairs", pair_sheet(synthesizer, split, PREVIEW_PAIRS))
            network.train()
        if run.every(step, config.checkpoint_every):
            run.save(step, state)


def freeze_untrained(network: SynthesisNetwork, weights: LossWeights) -> None:
    """Take what no term reaches out of training: under torchrun its gradients would be waited for."""
    if not weights.reconstruction:
        network.view_decoder.heads[:-1].requires_grad_(False)  # the coarse pictures
        if not weights.perceptual:
            network.view_decoder.requires_grad_(False)


def step_terms(
    network: SynthesisNetwork, batch: PairBatch, config: TrainConfig, vgg: VggFeatures | None
) -> dict[str, Tensor]:
    """The unweighted terms of one batch; convolutions at the configured precision, geometry in float32."""
    source, target = View(batch.image_source, batch.K_source), View(batch.image_target, batch.K_target)
    source_from_target = invert_pose(batch.target_from_source)
    half = config.precision == "bfloat16"
    with torch.autocast(batch.image_source.device.type, torch.bfloat16, enabled=half):
        outputs = network(source, target, batch.target_from_source)
        options = config.weights, config.losses, vgg, config.model.intrinsics
        return loss_terms(outputs, source, target, source_from_target, *options)


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Constant for `constant_epochs`, then linear in epochs as published; or the `decay_steps` rule."""
    if config.decay_steps:
        left = min(1.0, (config.steps - step) / config.decay_steps)
        return config.learning_rate * (0.05 + 0.95 * left)
    epoch = (step - 1) // steps_per_epoch
    factor = 1 - max(0, epoch + 1 - config.constant_epochs) / config.decay_epochs
    return config.learning_rate * max(factor, 0.02)  # beyond the published number of epochs it stays small


def resumed_rate(step: int, config: TrainConfig) -> float:
    """The rate as far as the number of steps has a say in it: epochs are of one length before and after."""
    return learning_rate(step, 1, config)


def describe(split: Split) -> list[str]:
    """What was loaded, and what about it the user should know."""
    train, test = ({pairs.views.groups[i] for i in pairs.used} for pairs in (split.train, split.test))
    counts = f"{len(split.train)} training sources in {len(train)} groups"
    first = f"{split.train.views.path}: {counts}, {len(split.test_pairs)} test pairs in {len(test)}"
    return [first, *(f"note: {note}" for note in split.notes)]


if __name__ == "__main__":
    command_line(main)
