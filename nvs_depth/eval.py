"""Measure a trained run on its test pairs, next to showing the source, plain warps and a constant depth.

    python eval.py --run runs/nvs_depth-quick
    python eval.py --run runs/nvs_depth-quick --data DIR      where the data have moved to

Writes eval.json (per pair and mean), pictures, a video and report.html; prints the tables.
"""

from nvs_depth import arguments
from shared.runs.command import begin, command_line, rendering, say_done

if __name__ == "__main__":
    begin(arguments.evaluate, __doc__)  # --help is answered before PyTorch is loaded

import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nvs_depth.api import PairPrediction, ViewSynthesizer
from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import PairBatch, PairSet, load_pairs
from nvs_depth.datasets.select import Split, load_split
from nvs_depth.datasets.views import ViewSet
from nvs_depth.models.options import DEPTH_RANGES
from nvs_depth.report import IMAGE_LABELS, run_tables, write_run_report
from shared.quality.metrics import LPIPS_MISSING, Lpips, depth_errors, l1, psnr
from shared.quality.ssim import SSIM_VARIANTS, ssim
from shared.runs.folder import data_in_place, write_results

__all__ = ["evaluate", "load_test_pairs", "summary"]

BATCH = 8
NARROW_SSIM = "grey11_sigma0.5"
SCALINGS = ("none", "median")
CONSTANT_VIEWS = 64  # training views whose true depth makes the constant


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.evaluate(__doc__, argv)
    synthesizer = ViewSynthesizer.load(args.run, args.device, args.checkpoint)
    with data_in_place(synthesizer.config, "--data "):
        split = load_test_pairs(synthesizer.config, args.data)
    results = evaluate(synthesizer, split, args.run)
    write_results(args.run, results)
    for table in run_tables(results):
        print(table.text())  # noqa: T201
    print(summary(results))  # noqa: T201
    say_done(args.run / "report.html", "open it in a browser")


def load_test_pairs(config: TrainConfig, data: Path | None = None) -> Split:
    """The pairs that a run was trained and is tested on, from `data` or else from where its config says."""
    if data is not None:
        config.data = replace(config.data, root=str(data))
    side, count = config.model.image_side, config.evaluate_pairs
    return load_split(config.data, side, count, say=lambda text: print(text, file=sys.stderr))  # noqa: T201


@torch.no_grad()
def evaluate(synthesizer: ViewSynthesizer, split: Split, folder: Path) -> dict[str, Any]:
    """Predict and measure the test pairs; pictures and report.html go to `folder`."""
    synthesizer.network.eval()
    config, device = synthesizer.config, synthesizer.device
    learned = Lpips.if_there(config.model.image_side)
    learned = learned and learned.to(device)
    limits, unit = depth_limits(config, split.test.views)
    constant = constant_depth(split.train)
    rows: list[dict[str, Any]] = []
    seconds = 0.0
    parts = split.test_pairs.split(BATCH)
    for indices in rendering(parts, len(parts), f"batch of {BATCH} pairs"):
        batch = load_pairs(split.test.views, indices).to(device)
        started = time.perf_counter()
        prediction = synthesizer.predict_pairs(batch)
        seconds += time.perf_counter() - started
        measured = measure_images(prediction, batch, learned)
        depths = measure_depths(prediction, batch, limits, unit, constant)
        for place, (source, target) in enumerate(indices.tolist()):
            names = split.test.views.names
            row: dict[str, Any] = {"source": names[source], "target": names[target]}
            for key, measures in measured.items():
                row[key] = {name: float(values[place]) for name, values in measures.items()}
            rows.append(row | depths[place])
    results = {
        "paper": "nvs_depth",
        "method": config.label,
        "data": _data_name(config),
        "image_side": config.model.image_side,
        "training_sources": len(split.train),
        "test_pairs": len(rows),
        "steps": config.steps,
        "seed": config.seed,
        "definitions": _definitions(learned, limits),
        "images": {key: _means([row[key] for row in rows]) for key in IMAGE_LABELS},
        "depth": _depth_means(rows),
        "depth_l1_between": sum(row["depth_l1_between"] for row in rows) / len(rows),
        "depth_unit": synthesizer.unit,
        "depth_limits": limits,
        "constant_depth": None if constant is None else unit * constant,
        "seconds_per_pair": seconds / len(rows),
        "notes": list(split.notes),
        "per_pair": rows,
    }
    write_run_report(synthesizer, split, results, folder)
    return results


def measure_images(
    prediction: PairPrediction, batch: PairBatch, learned: Lpips | None
) -> dict[str, dict[str, Tensor]]:
    """Measures [B] of the rows of `report.IMAGE_LABELS`; L1 is on [-1, 1], as the paper's code prints it."""
    shown = {
        "method": prediction.image,
        "inverse_warp": prediction.inverse_warp,
        "direct_warp": prediction.direct_warp,
        "identity": batch.image_source,
    }
    found = {}
    for key, image in shown.items():
        target = batch.image_target
        found[key] = {
            "l1": 2 * l1(image, target),
            "ssim_narrow": ssim(image, target, NARROW_SSIM, reduction="image"),
            "ssim": ssim(image, target, reduction="image"),
            "psnr": psnr(image, target),
        }
        if learned is not None:
            found[key]["lpips"] = learned(image, target)
    return found


def measure_depths(
    prediction: PairPrediction,
    batch: PairBatch,
    limits: tuple[float, float],
    unit: float,
    constant: float | None,
) -> list[dict[str, Any]]:
    """For each pair, errors of the target's depth where the truth is known; also the L1 between D_t and D_b.

    `unit` turns depths into metres (1 where scene units stay), `limits` are in that unit.
    """
    between = unit * l1(prediction.depth_new, prediction.depth_read)
    rows = []
    for index in range(len(between)):
        row: dict[str, Any] = {"depth_l1_between": float(between[index])}
        truth = unit * batch.depth_target[index]
        valid = batch.valid_target[index] & (truth > limits[0]) & (truth < limits[1])
        maps = {"depth_new": prediction.depth_new[index], "depth_read": prediction.depth_read[index]}
        if constant is not None:
            maps["constant"] = torch.full_like(truth, constant)
        if valid.any():
            row["depth"] = {}
            for (name, depth), scaling in itertools.product(maps.items(), SCALINGS):
                errors = depth_errors(unit * depth, truth, valid, *limits, scaling=scaling)
                row["depth"][f"{name}_{scaling}"] = {k: v for k, v in errors.items() if k != "record"}
        rows.append(row)
    return rows


def depth_limits(config: TrainConfig, views: ViewSet) -> tuple[tuple[float, float], float]:
    """The depths that are measured and the factor to their unit: KITTI in metres up to 80."""
    if views.unit_m:
        return (1e-3, 80.0), views.unit_m
    return (1e-3, DEPTH_RANGES[config.model.depth_range][1]), 1.0


def constant_depth(pairs: PairSet) -> float | None:
    """Median true depth over some training views, in the unit of the translations; None if unknown."""
    if not pairs.views.has_depth:
        return None
    used = pairs.used
    chosen = torch.linspace(0, len(used) - 1, min(CONSTANT_VIEWS, len(used))).long().tolist()
    samples = [pairs.views.load(used[place]) for place in chosen]
    known = torch.cat([sample.depth[sample.valid] for sample in samples])
    return known.median().item() if len(known) else None


def summary(results: dict[str, Any]) -> str:
    """The result in one line."""
    own, identity = results["images"]["method"], results["images"]["identity"]
    text = f"{results['method']} on {results['data']}: L1 {own['l1']:.4f}"
    text += (
        f" ({own['l1'] / max(identity['l1'], 1e-12):.2f} of showing the source), PSNR {own['psnr']:.2f} dB"
    )
    if results["depth"]:
        depth = results["depth"]
        text += f"; D_t off by {depth['depth_new_none']['abs_rel']:.1%}"
        if "constant_none" in depth:
            text += f", a constant by {depth['constant_none']['abs_rel']:.1%}"
    return text


def _data_name(config: TrainConfig) -> str:
    if config.data.embedded is not None:
        return f"embedded {config.data.embedded.kind}, held-out"
    return f"{Path(config.data.root).name} ({config.data.layout})"


def _definitions(learned: Lpips | None, limits: tuple[float, float]) -> dict[str, str]:
    return {
        "l1": "mean over all pixels, images in [-1, 1]",
        "ssim_narrow": SSIM_VARIANTS[NARROW_SSIM].label,
        "ssim": SSIM_VARIANTS["gaussian11"].label,
        "psnr": "RGB, per image, then mean",
        "lpips": learned.label if learned else LPIPS_MISSING,
        "depth": f"per image, then mean; truth in ({limits[0]:g}, {limits[1]:g})",
    }


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _depth_means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over the pairs whose target has true depth; empty where none has."""
    known = [row["depth"] for row in rows if "depth" in row]
    return {key: _means([depth[key] for depth in known]) for key in known[0]} if known else {}


if __name__ == "__main__":
    command_line(main)
