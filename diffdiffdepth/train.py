"""Optimise the points of one scene until their diffusion explains the other views.

    python train.py --config configs/quick.yaml
    python train.py --config configs/hci.yaml --set data.root=data/hci/dino --out runs/dino
    python train.py --resume --out runs/dino

Points are splatted into a label and a weight map, diffused into a dense map, and the other views are warped
onto the centre by it. The gradient of the remaining difference moves one group of numbers at a time: the
smoothness of the diffusion, then the labels, the weights and the positions of the points.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffdiffdepth.config import TrainConfig
from diffdiffdepth.eval import evaluate
from diffdiffdepth.inputs import load_scene
from diffdiffdepth.losses import ReprojectionLoss, feature_network
from diffdiffdepth.models.point_depth import LabelScale, PointDepth, image_edges
from diffdiffdepth.points.store import save_points
from diffdiffdepth.previews import progress_sheet
from diffdiffdepth.routine import GroupAdam, turns
from diffdiffdepth.scene import LightField, MultiViewScene
from shared.errors import RunError
from shared.files.images import write_npy
from shared.runs.command import command_line, parse_train_args
from shared.runs.config import load_config
from shared.runs.run import Run, open_run
from shared.runs.seeds import step_generator


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_train_args(__doc__, argv)
    config = load_config(TrainConfig, args.config, args.set)
    with open_run(config, args, paper="diffdiffdepth") as run:
        scene = load_scene(config.data, config.seed).to(run.device)
        size = "x".join(str(side) for side in scene.centre.shape[-2:])
        run.say(f"{scene.name}: {size} pixels, {len(scene.views)} views, {len(scene.points)} points")
        model = build_model(config, scene)
        optimise(run, config, scene, model)
        save_results(run, scene, model)
        run.finish(evaluate(config, scene, run.folder))


def build_model(config: TrainConfig, scene: LightField | MultiViewScene) -> PointDepth:
    """The model before any step: its map is the plain diffusion of the initial points."""
    if config.depth.inverse_depth and scene.points.kind == "disparity":
        raise RunError("depth.inverse_depth is for photos: disparity goes with one over depth already")
    scale = LabelScale.of(scene.points, config.depth.inverse_depth, config.label_unit)
    return PointDepth(scene.points, scene.centre, config.depth, scale)


def optimise(run: Run, config: TrainConfig, scene: LightField | MultiViewScene, model: PointDepth) -> None:
    """Take turns: every group has its own learning rate, and a new Adam at the start of each of its turns."""
    features = feature_network(config.vgg_weights).to(run.device) if config.features == "vgg" else None
    loss = ReprojectionLoss(scene, config.loss, features, smoothness_unit(config, scene, model))
    adam = GroupAdam(model)
    state = {"model": model, "adam": adam}
    candidates = loss_views(scene, config.views_from)

    start = run.restore(state)
    turn_of = {step: turn for turn in turns(config.schedule) for step in range(turn.first, turn.last + 1)}
    for step in run.steps(start, config.steps):
        turn = turn_of[step]
        if step == turn.first:
            adam.start(turn.group, turn.rate, turn.damping)
        run.check_tensors(step, model.groups)
        try:
            dense = model.dense()
        except ValueError as error:  # all points outside the image, or weights beyond the range of floats
            raise RunError(f"step {step}: {error}; lower the rates of the schedule") from error
        terms = loss(dense, draw_views(config, step, candidates))
        run.check_finite(step, map=dense, **terms)
        gradient = adam.step(terms["total"])
        run.check_tensors(step, {f"the gradient of the {turn.group}": gradient})
        if step == turn.last and turn.densify > 1:
            densify(model, scene.centre, (turn.densify - 1) * len(scene.points), config.seed)

        if run.every(step, config.log_every):
            run.log(step, **terms, **solver_record(model))
        if run.every(step, config.preview_every):
            run.preview(step, "progress", progress_sheet(scene, dense.detach(), model.points()))
        if run.every(step, config.checkpoint_every):
            run.save(step, state)


def smoothness_unit(config: TrainConfig, scene: LightField | MultiViewScene, model: PointDepth) -> float:
    """What counts as one in the smoothness term: disparity or depth, also where 1 / depth is diffused."""
    if not config.depth.inverse_depth:
        return model.scale.unit
    return LabelScale.of(scene.points).unit


def loss_views(scene: LightField | MultiViewScene, preset: str) -> Tensor:
    """Indices of the views the loss may use; RunError if the scene has none of the preset's."""
    every = torch.arange(len(scene.views))
    if preset == "all":
        return every
    if not isinstance(scene, LightField):
        raise RunError(f"{scene.name}: views_from {preset} is for light fields; photos are all used")
    offsets = scene.offsets.abs().cpu()
    farthest = offsets.max(0).values
    is_cross = offsets.min(1).values < 0.25
    chosen = every[is_cross if preset == "cross" else (offsets > farthest - 0.5).all(1)]
    if not len(chosen):
        raise RunError(f"{scene.name}: views_from {preset} finds no view among {len(every)}; take all")
    return chosen


def draw_views(config: TrainConfig, step: int, candidates: Tensor) -> Tensor:
    """The views of a step: a random subset that depends on nothing but the seed and the step."""
    order = torch.randperm(len(candidates), generator=step_generator(config.seed, step, "views"))
    return candidates[order[: config.views_per_step]].sort().values


@torch.no_grad()
def densify(model: PointDepth, image: Tensor, count: int, seed: int) -> None:
    """Add `count` points (as far as there are edge pixels), labelled by the map as it is now."""
    model.choose(None)
    edges = image_edges(image)
    order = torch.randperm(len(edges), generator=torch.Generator().manual_seed(seed))
    model.add_points(edges[order[:count].to(edges.device)], model.dense())


def solver_record(model: PointDepth) -> dict[str, float]:
    """Iterations of the two solves of a step, for the log."""
    report = model.report
    return {"solve_steps": report.forward.iterations, "adjoint_steps": report.adjoint.iterations}


@torch.no_grad()
def save_results(run: Run, scene: LightField | MultiViewScene, model: PointDepth) -> None:
    """Write the final map (NumPy float32) and points, and the initial points for comparison."""
    model.choose(None)
    dense = model.dense().cpu().numpy().astype(np.float32)
    kind = "disparity" if isinstance(scene, LightField) else "depth"
    write_npy(run.folder / f"{kind}.npy", dense)
    save_points(run.folder / "points.npz", model.points())
    save_points(run.folder / "points_initial.npz", scene.points)


if __name__ == "__main__":
    command_line(main)
