"""Measure a trained run on its test stacks, with the methods that need no training, and the paper's tables.

    python eval.py --run runs/dfd_selfsup-quick [--data DIR]

Writes eval.json (per stack and mean), test_stacks.png and report.html.
"""

from dfd_selfsup import arguments
from shared.runs.command import begin, command_line, rendering, say_done

if __name__ == "__main__":
    begin(arguments.evaluate, __doc__)  # --help is answered before PyTorch is loaded

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dfd_selfsup.api import DepthFromDefocus, depth_and_image
from dfd_selfsup.datasets.splits import StackSet, load_splits
from dfd_selfsup.datasets.stack import Estimate, FocalStack
from dfd_selfsup.losses import mix
from dfd_selfsup.measures import DEFINITIONS, METHOD_NAMES, best_slice, mean_row, measure_stack
from dfd_selfsup.models.focus_measure import depth_from_focus
from dfd_selfsup.models.heads import coarse_aif
from dfd_selfsup.models.plane_sweep import plane_sweep
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.thin_lens import NEAREST_DEPTH_M
from dfd_selfsup.report import SHEET_STACKS, run_tables, write_run_report
from shared.quality.metrics import LPIPS_MISSING, Lpips
from shared.runs.folder import data_in_place, write_results
from shared.show.pictures import evenly

__all__ = ["evaluate", "main", "summary", "validate"]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.evaluate(__doc__, argv)
    method = DepthFromDefocus.load(args.run, args.device, args.checkpoint)
    data = replace(method.config.data, root=args.data or method.config.data.root)
    with data_in_place(replace(method.config, data=data), "--data "):
        splits = load_splits(data)
    results = evaluate(method, splits, args.run)
    write_results(args.run, results)
    for table in run_tables(results):
        print(table.text())  # noqa: T201
    print(summary(results))  # noqa: T201
    say_done(args.run / "report.html", "open it in a browser")


def evaluate(method: DepthFromDefocus, splits: dict[str, StackSet], folder: Path) -> dict[str, Any]:
    """Run all methods on the test stacks, write pictures and report.html to `folder`; returns the results."""
    config, test = method.config, splits["test"]
    stacks = [test[index] for index in range(min(config.evaluate_stacks or len(test), len(test)))]
    shown, limits_m = evenly(len(stacks), SHEET_STACKS), (config.heads.near_m, config.heads.far_m)
    learned = Lpips.if_there(min(min(stack.size) for stack in stacks))
    rows: dict[str, list[dict[str, float]]] = {}
    seconds, examples = {}, {}
    for name, estimate in compared_methods(method, stacks, _median_depth_m(splits["train"])).items():
        started = time.perf_counter()
        found = [estimate(stack) for stack in rendering(stacks, len(stacks), f"stack, {name}")]
        seconds[name] = (time.perf_counter() - started) / len(stacks)
        pairs = zip(stacks, found, strict=True)
        rows[name] = [measure_stack(*pair, limits_m, learned) for pair in pairs]
        examples[name] = [found[index] for index in shown]
    height, width = stacks[0].size
    results = {
        "paper": "dfd_selfsup",
        "method": config.name,
        "data": f"{config.data.kind} stacks, {width} x {height}",
        "train_stacks": len(splits["train"]),
        "test_stacks": len(stacks),
        "depth_limits_m": list(limits_m),
        "definitions": DEFINITIONS | {"lpips": learned.label if learned else LPIPS_MISSING},
        "mean": {name: mean_row(rows[name]) for name in METHOD_NAMES if name in rows},
        "seconds_per_stack": {name: seconds[name] for name in rows if name != "best_slice"},
        "per_stack": {
            name: [{"stack": s.name, **row} for s, row in zip(stacks, rows[name], strict=True)]
            for name in rows
        },
    }
    write_run_report(config, [stacks[index] for index in shown], examples, results, folder)
    return results


def compared_methods(
    method: DepthFromDefocus, stacks: Sequence[FocalStack], median_depth_m: float
) -> dict[str, Callable[[FocalStack], Estimate]]:
    """The rows of the table, each a function of one stack; those that need truth only where it is known."""
    config = method.config

    def constant(stack: FocalStack) -> Estimate:
        return stack.estimate(torch.full(stack.size, 1 / median_depth_m), None)

    def sweep(stack: FocalStack) -> Estimate:
        q_range = method.q_range_for(stack)
        return stack.estimate(*plane_sweep(stack.images, stack.defocus, q_range, config.psf))

    def oracle(stack: FocalStack) -> Estimate:
        q = 1 / stack.depth.clamp(min=NEAREST_DEPTH_M)
        sigma = stack.defocus.sigma_px(q[None, None])
        return stack.estimate(q, coarse_aif(stack.images[None], sigma)[0])

    methods = {
        "constant": constant,
        "focus_sml": lambda stack: stack.estimate(*depth_from_focus(stack.images, stack.defocus, "sml")),
        "focus_ring": lambda stack: stack.estimate(*depth_from_focus(stack.images, stack.defocus, "ring")),
        "focus_even": depth_and_image,
        config.name: method.predict,
    }
    if config.compare_slow:
        methods |= {"plane_sweep": sweep, "descent": method.descend}
        if config.name == "selfsup":
            methods["selfsup_descent"] = lambda stack: method.descend(stack, method.predict(stack))
    if all(stack.depth is not None for stack in stacks):
        methods["oracle"] = oracle
    if all(stack.aif is not None for stack in stacks):
        methods["best_slice"] = lambda stack: stack.estimate(None, best_slice(stack))
    return methods


@torch.no_grad()
def validate(method: DepthFromDefocus, stacks: StackSet) -> float:
    """A score without any truth, higher is better: minus the mean re-blurring error (MIX)."""
    total = 0.0
    for stack in stacks:
        found = method.predict(stack)
        sigma = stack.defocus.sigma_px(found.q[None, None])
        rendered = render_stack(found.aif[None], sigma, method.config.psf)
        total += mix(rendered[0], stack.images).item()
    return -total / len(stacks)


def summary(results: dict[str, Any]) -> str:
    """The result in one line."""
    own, focus = results["mean"][results["method"]], results["mean"]["focus_even"]
    parts = [f"{METHOD_NAMES[results['method']]} on {results['test_stacks']} {results['data']}"]
    if "abs_rel" in own:
        parts.append(
            f"AbsRel {own['abs_rel']:.3f}, RMSE {own['rmse']:.3f} m, delta1 {own['delta1']:.3f} "
            f"(depth from focus: {focus['abs_rel']:.3f}, {focus['rmse']:.3f} m, {focus['delta1']:.3f})"
        )
    if "psnr" in own:
        parts.append(f"AIF {own['psnr']:.2f} dB (focus composite {focus['psnr']:.2f} dB)")
    return "; ".join(parts)


def _median_depth_m(stacks: StackSet) -> float:
    """Median of the training stacks' true depths; 1 m where there is no truth."""
    values = [stack.depth[stack.valid][::17] for stack in stacks if stack.depth is not None]
    return float(torch.cat(values).median()) if values else 1.0


if __name__ == "__main__":
    command_line(main)
