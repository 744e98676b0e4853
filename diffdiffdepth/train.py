"""Optimise the points of one scene until their diffusion explains the other views.

    python train.py --config configs/quick.yaml
    python train.py --config configs/hci.yaml --set data.root=data/hci/dino --out runs/dino
    python train.py --resume --out runs/dino

Points are splatted into a label and a weight map, diffused into a dense map, and the other views are warped
onto the centre by it. The gradient of the remaining difference moves one group of numbers at a time: the
smoothness of the diffusion, then the labels, the weights and the positions of the points.
"""

from diffdiffdepth import arguments
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.train, __doc__)  # --help is answered before PyTorch is loaded

from collections.abc import Sequence

from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.config import TrainConfig
from diffdiffdepth.eval import evaluate
from diffdiffdepth.inputs import load_scene
from diffdiffdepth.points.store import save_points
from diffdiffdepth.report import progress_sheet
from diffdiffdepth.routine import Optimisation
from diffdiffdepth.scene import Scene, scene_facts
from shared.files.maps import write_npy
from shared.runs.config import load_config
from shared.runs.run import Run, open_run


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.train(__doc__, argv)
    config = load_config(TrainConfig, args.config, args.set)
    with open_run(config, args, paper="diffdiffdepth") as run:
        scene = load_scene(config.data, config.seed, say=run.say).to(run.device)
        size = "x".join(str(side) for side in scene.centre.shape[-2:])
        run.say(f"{scene.name}: {size} pixels, {len(scene.views)} views, {len(scene.points)} points")
        work = optimise(run, config, scene)
        run.finish(evaluate(finish(run, work), scene, run.folder))


def optimise(run: Run, config: TrainConfig, scene: Scene) -> Optimisation:
    """Take turns: every group has its own learning rate, and a new Adam at the start of each of its turns."""
    work = Optimisation(config, scene)
    start = run.restore(work.state, {"scene": scene_facts(scene)})
    for step in run.steps(start, config.steps):
        work.begin(step)  # smoothness, labels, weights or positions
        dense = work.model.dense()  # splat the points, diffuse their labels
        terms = work.loss(dense, work.draw_views(step))  # warp other views onto the centre, compare
        run.update(step, work.adam, terms["total"], terms)
        work.end(step)

        if run.every(step, config.log_every):
            run.log(step, **terms, **work.model.solve_steps())
        if run.every(step, config.preview_every):
            run.preview(step, "progress", progress_sheet(scene, dense.detach(), work.model.points()))
        if run.every(step, config.checkpoint_every):
            run.save(step, work.state)
    return work


def finish(run: Run, work: Optimisation) -> DiffusedDepth:
    """Save the final map and points in the last checkpoint and as files; returns the result."""
    result = work.result()
    run.save(run.config.steps, work.state, facts={"result": result})
    fitted = DiffusedDepth.of(run.config, work.scene, result)
    write_npy(run.folder / f"{fitted.points.kind}.npy", fitted.depth.values.cpu().numpy())
    save_points(run.folder / "points.npz", fitted.points)
    save_points(run.folder / "points_initial.npz", work.scene.points)
    return fitted


if __name__ == "__main__":
    command_line(main)
