"""Measure a trained run on its test stacks beside the methods that need no training, and the paper's tables.

    python eval.py --run runs/dfd_selfsup-quick

Writes eval.json (per stack and mean), test_stacks.png and report.html.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.splits import StackSet, load_splits
from dfd_selfsup.datasets.stack import FocalStack, collate
from dfd_selfsup.losses import mix
from dfd_selfsup.measures import DEFINITIONS, best_slice, mean_row, measure_stack
from dfd_selfsup.methods import (
    METHOD_NAMES,
    Estimator,
    build_model,
    classical_methods,
    followed_by_descent,
    network_method,
)
from dfd_selfsup.models.heads import StackModel
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.report import run_tables, write_run_report
from shared.runs.checkpoint import load_checkpoint
from shared.runs.command import command_line, parse_eval_args, select_device
from shared.runs.config import config_from_dict
from shared.runs.folder import find_checkpoint, write_results

__all__ = ["evaluate", "load_run", "main", "measure", "row_key", "summary", "validate"]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_eval_args(__doc__, argv)
    device = select_device(args.device)
    config, model = load_run(args.run, args.checkpoint, device)
    results = evaluate(config, model, load_splits(config.data), args.run, device)
    write_results(args.run, results)
    for table in run_tables(results):
        print(table.text())  # noqa: T201
    print(summary(results))  # noqa: T201


def load_run(folder: Path, which: str, device: torch.device) -> tuple[TrainConfig, StackModel]:
    """Rebuild the model of a run folder with its trained weights."""
    checkpoint = load_checkpoint(find_checkpoint(folder, which), paper="dfd_selfsup")
    config = config_from_dict(TrainConfig, checkpoint.config, str(checkpoint.path))
    model = build_model(config)
    checkpoint.load_into({"model": model})
    return config, model.to(device)


def evaluate(
    config: TrainConfig, model: StackModel, splits: dict[str, StackSet], folder: Path, device: torch.device
) -> dict[str, Any]:
    """Run all methods on the test stacks, write pictures and report.html to `folder`; returns the results."""
    stacks = list(splits["test"])
    if config.evaluate_stacks:
        stacks = stacks[: config.evaluate_stacks]
    own = row_key(config)
    methods = {
        **classical_methods(config, _median_depth(splits["train"])),
        own: network_method(model, device),
    }
    if any(stack.depth is None for stack in stacks):
        del methods["oracle"]
    if not config.compare_slow:
        del methods["plane_sweep"], methods["descent"]
    elif own == "selfsup":
        methods["selfsup_descent"] = followed_by_descent(methods[own], config)
    rows, seconds = {}, {}
    for name, method in methods.items():
        started = time.perf_counter()
        rows[name] = measure(method, stacks, config)
        seconds[name] = (time.perf_counter() - started) / len(stacks)
    rows["best_slice"] = [
        measure_stack(stack, None, best_slice(stack), _limits(config)) if stack.aif is not None else {}
        for stack in stacks
    ]
    height, width = stacks[0].size
    results = {
        "paper": "dfd_selfsup",
        "method": own,
        "data": f"{config.data.kind} stacks, {width} x {height}",
        "train_stacks": len(splits["train"]),
        "test_stacks": len(stacks),
        "depth_limits_m": list(_limits(config)),
        "definitions": DEFINITIONS,
        "mean": {name: mean_row(rows[name]) for name in METHOD_NAMES if name in rows},
        "seconds_per_stack": seconds,
        "per_stack": {
            name: [{"stack": s.name, **row} for s, row in zip(stacks, rows[name], strict=True)]
            for name in rows
        },
    }
    write_run_report(config, methods, stacks, results, folder)
    return results


def measure(method: Estimator, stacks: Iterable[FocalStack], config: TrainConfig) -> list[dict[str, float]]:
    """One row of figures per stack; stacks without depth truth are left to methods that need none."""
    rows = []
    for stack in stacks:
        estimate = method(stack)
        rows.append(measure_stack(stack, estimate.depth, estimate.aif, _limits(config)))
    return rows


@torch.no_grad()
def validate(config: TrainConfig, model: StackModel, stacks: StackSet, device: torch.device) -> float:
    """A score without any truth, higher is better: minus the mean re-blurring error (MIX)."""
    model.eval()
    total = 0.0
    for stack in stacks:
        batch = collate([stack]).to(device)
        prediction = model(batch.images, batch.defocus)
        rendered = render_stack(prediction.aif, prediction.sigma_px, config.psf)
        total += mix(rendered[0], batch.images[0]).item()
    model.train()
    return -total / len(stacks)


def row_key(config: TrainConfig) -> str:
    """The key of a configured method in METHOD_NAMES."""
    return "selfsup" if config.method == "selfsup" else f"supervised_{config.supervise}"


def summary(results: dict[str, Any]) -> str:
    """The result in one line."""
    own, focus = results["mean"][results["method"]], results["mean"]["focus_sml"]
    parts = [f"{METHOD_NAMES[results['method']]} on {results['test_stacks']} {results['data']}"]
    if "abs_rel" in own:
        parts.append(
            f"AbsRel {own['abs_rel']:.3f}, RMSE {own['rmse']:.3f} m, delta1 {own['delta1']:.3f} "
            f"(depth from focus: {focus['abs_rel']:.3f}, {focus['rmse']:.3f} m, {focus['delta1']:.3f})"
        )
    if "psnr" in own:
        parts.append(f"AIF {own['psnr']:.2f} dB (focus composite {focus['psnr']:.2f} dB)")
    return "; ".join(parts)


def _limits(config: TrainConfig) -> tuple[float, float]:
    return config.heads.near_m, config.heads.far_m


def _median_depth(stacks: StackSet) -> float:
    """Median of the training stacks' true depths; 1 m where there is no truth."""
    values = [stack.depth[stack.valid][::17] for stack in stacks if stack.depth is not None]
    return float(torch.cat(values).median()) if values else 1.0


if __name__ == "__main__":
    command_line(main)
