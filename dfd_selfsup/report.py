"""What a run shows: contact sheets of stacks, the table next to the paper's, and the HTML report."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.stack import Estimate, FocalStack
from dfd_selfsup.losses import TERMS
from dfd_selfsup.measures import METHOD_NAMES
from shared.files.disk import write_bytes
from shared.files.images import encode_png
from shared.show.pictures import colorize_depth, contact_sheet, depth_legend, depth_range
from shared.show.report import Curves, Picture, Section, write_report
from shared.show.tables import Column, ResultsTable

__all__ = ["SHEET_STACKS", "paper_tables", "run_tables", "stack_sheet", "write_run_report"]

SHEET_STACKS = 4  # at most so many rows of a contact sheet
CELL = 180  # px, of the contact sheet
SMALLEST_DEPTH = 1e-6
LABELS = {"delta1": "δ1", "delta2": "δ2", "delta3": "δ3", "rmse": "RMSE", "abs_rel": "AbsRel"}
PUBLISHED = tuple(LABELS)  # the paper does not measure the all-in-focus image on these data
LABELS |= {"psnr": "AIF PSNR", "ssim": "AIF SSIM", "lpips": "AIF LPIPS", "mg": "MG", "sf": "SF"}
BETTER = dict.fromkeys(("delta1", "delta2", "delta3", "psnr", "ssim"), "higher")
BETTER |= dict.fromkeys(("rmse", "abs_rel", "lpips"), "lower")
DIGITS = {"psnr": 2, "mg": 4, "sf": 4}
# Re-rendered DefocusNet data, depth to 3 m
TABLE_1 = {
    "DefocusNet (supervised)": (0.912, 0.967, 0.983, 0.194, 0.090),
    "DFF-FV (supervised)": (0.883, 0.953, 0.980, 0.231, 0.107),
    "DFF-DFV (supervised)": (0.921, 0.977, 0.990, 0.219, 0.104),
    "The paper (self-supervised)": (0.746, 0.883, 0.938, 0.351, 0.177),
}

# NYUv2 with synthetic defocus, depth to 10 m; the first five rows are quoted from other protocols
TABLE_2 = {
    "Moeller et al. (analytical)": (0.670, 0.778, 0.912, 0.985, 0.263),
    "Suwajanakorn et al. (analytical)": (0.688, 0.802, 0.917, 0.950, 0.250),
    "Gur and Wolf (all-in-focus known)": (0.720, 0.887, 0.951, 0.649, 0.184),
    "Defocus-Net (all-in-focus known)": (0.732, 0.887, 0.951, 0.623, 0.176),
    "Focus-Net (all-in-focus known)": (0.748, 0.892, 0.949, 0.611, 0.172),
    "DFF-FV (supervised)": (0.956, 0.979, 0.988, 0.285, 0.470),
    "DFF-DFV (supervised)": (0.967, 0.980, 0.990, 0.232, 0.445),
    "The paper (self-supervised)": (0.950, 0.979, 0.987, 0.325, 0.170),
}


def run_tables(results: Mapping[str, Any]) -> list[ResultsTable]:
    """The methods of a run, given by its eval.json, as eval.py, report.html and RESULTS.md show them."""
    low, high = results["depth_limits_m"]
    definitions = dict(results["definitions"])
    definitions |= dict.fromkeys(PUBLISHED, f"{definitions['depth']}; limits {low:g} to {high:g} m")
    definitions |= dict.fromkeys(("mg", "sf"), definitions["sharpness"])
    labels = [key for key in LABELS if key != "lpips" or key in definitions]  # older runs do not say
    columns = _columns(labels, "this run", results["data"], definitions)
    rows = [
        {"method": METHOD_NAMES[name], **{key: row[key] for key in labels if key in row}}
        for name, row in results["mean"].items()
    ]
    oracles = [index for index, name in enumerate(results["mean"]) if name in ("oracle", "best_slice")]
    return [ResultsTable("Methods on the test stacks", columns, rows, oracles=oracles)]


def paper_tables() -> list[ResultsTable]:
    """The paper's tables 2 and 1."""
    definition = "over all pixels, mean over images; depth clipped to the data's limits"
    published = {2: ("NYUv2, synthetic defocus", TABLE_2), 1: ("DefocusNet data, re-rendered", TABLE_1)}
    tables = []
    for number, (dataset, figures) in published.items():
        columns = _columns(PUBLISHED, "paper", dataset, dict.fromkeys(PUBLISHED, definition))
        rows = [{"method": name, **dict(zip(PUBLISHED, row, strict=True))} for name, row in figures.items()]
        tables.append(ResultsTable(f"Table {number} of the paper", columns, rows))
    return tables


def _columns(names: Iterable[str], source: str, dataset: str, definitions: Mapping[str, str]) -> list[Column]:
    figures = [
        Column(name, LABELS[name], source, dataset, definitions[name], BETTER.get(name), DIGITS.get(name, 3))
        for name in names
    ]
    return [Column("method", "Method"), *figures]


def write_run_report(
    config: TrainConfig,
    stacks: Sequence[FocalStack],
    estimates: Mapping[str, Sequence[Estimate]],
    results: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write test_stacks.png and report.html into the run folder: some stacks, and each method's estimates."""
    own = results["method"]
    shown = {own: "network", "selfsup_descent": "then descent", "focus_even": "focus measure"}
    sheet = stack_sheet(stacks, {shown[name]: estimates[name] for name in shown if name in estimates})
    write_bytes(folder / "test_stacks.png", encode_png(sheet))
    mean, focus = results["mean"][own], results["mean"]["focus_even"]
    facts = {"Test stacks": results["test_stacks"], "Training stacks": results["train_stacks"]}
    if "abs_rel" in mean:
        facts["AbsRel"] = f"{mean['abs_rel']:.3f} (depth from focus {focus['abs_rel']:.3f})"
        facts["δ1"] = f"{mean['delta1']:.3f}"
    if "psnr" in mean:
        facts["All-in-focus"] = f"{mean['psnr']:.1f} dB (focus composite {focus['psnr']:.1f} dB)"
    terms = [term for term in TERMS if getattr(config.loss, term) > 0]
    if own != "selfsup":
        terms = [term for term in ("depth", "aif") if config.supervise in (term, "both")]
    caption = (
        "Test stacks: the slices focused nearest and farthest; the network's all-in-focus image and depth, "
        "its depth after descent of its losses, that of a focus measure, and the truth. "
        f"Depth: {stacks[0].depth_in_words}, in {stacks[0].depth_unit}; one range for each stack; "
        "grey: no true depth."
    )
    sections = [
        Section("Stacks it was not trained on", [Picture(sheet, caption)]),
        Section("How close it is", run_tables(results)),
        *([] if config.data.kind == "folders" else [Section("The paper", paper_tables())]),
        Section("Training", [Curves(["loss", "validation_loss", *terms])]),
    ]
    title = f"Depth from defocus, {METHOD_NAMES[own].removesuffix(' (ours)')}: {results['data']}"
    then = ["python -m dfd_selfsup.predict MY_STACK/ --run RUN: depth and a sharp picture of your photos"]
    write_report(folder, title, sections, facts=facts, then=then)


def stack_sheet(stacks: Sequence[FocalStack], estimates: Mapping[str, Sequence[Estimate]]) -> np.ndarray:
    """One row per stack: two slices, the first estimate's image, all depths in one range, the truth."""
    first, *_ = estimates
    rows: list[dict[str, Any]] = []
    for index, stack in enumerate(stacks):
        found = {name: row[index] for name, row in estimates.items()}
        limits, truth = depth_range(found[first].depth), None
        if stack.depth is not None and stack.valid.any():
            truth = stack.depth_map(1 / stack.depth.clamp(min=SMALLEST_DEPTH), stack.valid)
            limits = tuple(value.item() for value in truth.values[truth.valid].aminmax())
        row = {"nearest focus": stack.images[0], "farthest focus": stack.images[-1]}
        row[f"{first}: image"] = found[first].aif
        row |= {f"{name}: depth": colorize_depth(each.depth, None, *limits) for name, each in found.items()}
        row["true image"] = stack.aif
        row["true depth"] = None if truth is None else colorize_depth(truth, None, *limits)
        near = found[first].depth.near_is_large
        row[""] = depth_legend(CELL, *limits, stack.depth_unit, stack.depth_in_words, near)
        rows.append(row)
    captions = [caption for caption in rows[0] if any(row[caption] is not None for row in rows)]
    grid = [[row[caption] for caption in captions] for row in rows]
    return contact_sheet(grid, captions, [stack.name for stack in stacks], cell_width=CELL)
