"""Measure a finished run, and print the figures next to the paper's table 1 or 2.

    python eval.py --run runs/diffdiffdepth-quick
    python eval.py --run runs/dino --data DIR          where the data have moved

Three other maps are measured with the run's: nearest label and diffusion without optimisation, from the same
points, and the optimised diffusion before the median at depth edges. Writes eval.json, maps.png and
report.html.
"""

from diffdiffdepth import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.evaluate, __doc__)  # --help is answered before PyTorch is loaded

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.evaluation import measure_run
from diffdiffdepth.inputs import load_scene
from diffdiffdepth.report import run_tables, summary, write_run_report
from diffdiffdepth.scene import Scene
from shared.runs.command import select_device
from shared.runs.folder import data_in_place, write_results

__all__ = ["evaluate"]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.evaluate(__doc__, argv)
    fitted = DiffusedDepth.load(args.run)
    data = fitted.config.data
    if args.data is not None:
        data = replace(data, root=str(args.data), embedded=None)
    with data_in_place(replace(fitted.config, data=data), "--data "):
        scene = load_scene(data, points=fitted.scene.points)
    results = evaluate(fitted, scene.to(select_device(args.device)), args.run)
    write_results(args.run, results)
    for table in run_tables(results):
        print(table.text())  # noqa: T201
    print(summary(results))  # noqa: T201
    say_done(args.run / "report.html", "open it in a browser")


def evaluate(fitted: DiffusedDepth, scene: Scene, folder: Path) -> dict[str, Any]:
    """Measure a result on its scene with all views; pictures and report.html go into the run folder."""
    with torch.no_grad():
        results, maps = measure_run(fitted, scene)
    write_run_report(scene, maps, fitted.confidence, results, folder)
    return results


if __name__ == "__main__":
    command_line(main)
