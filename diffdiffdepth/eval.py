"""Measure a finished run, and set the figures beside the paper's table 1 or 2.

    python eval.py --run runs/diffdiffdepth-quick

Beside the run's map stand three others: nearest label and diffusion without optimisation, from the same
points, and the run's map after a weighted median filter. Writes eval.json, maps.png and report.html.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffdiffdepth.config import PointsConfig, TrainConfig
from diffdiffdepth.evaluation import measure_run
from diffdiffdepth.inputs import load_scene
from diffdiffdepth.report import run_tables, summary, write_run_report
from diffdiffdepth.scene import LightField, MultiViewScene
from shared.errors import RunError
from shared.runs.command import command_line, parse_eval_args, select_device
from shared.runs.config import load_config
from shared.runs.folder import write_results

__all__ = ["evaluate", "load_run"]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_eval_args(__doc__, argv, has_checkpoints=False)
    config, scene = load_run(args.run)
    results = evaluate(config, scene.to(select_device(args.device)), args.run)
    write_results(args.run, results)
    for table in run_tables(results):
        print(table.text())  # noqa: T201
    print(summary(results))  # noqa: T201


def load_run(folder: Path) -> tuple[TrainConfig, LightField | MultiViewScene]:
    """The configuration and the scene of a run folder, with the points that the run started from."""
    if not (folder / "config.yaml").exists():
        raise RunError(f"{folder}: there is no run here; train first with train.py --out {folder}")
    config = load_config(TrainConfig, folder / "config.yaml")
    initial = folder / "points_initial.npz"
    if not initial.exists():
        raise RunError(f"{folder}: the run has not finished; go on with train.py --resume --out {folder}")
    points = PointsConfig(source="file", file=str(initial))
    return config, load_scene(replace(config.data, points=points), config.seed)


def evaluate(config: TrainConfig, scene: LightField | MultiViewScene, folder: Path) -> dict[str, Any]:
    """Measure the map of a run folder; pictures and report.html go there. `scene` has the initial points."""
    with torch.no_grad():
        results, maps = measure_run(config, scene, folder)
    write_run_report(scene, maps, results, folder)
    return results


if __name__ == "__main__":
    command_line(main)
