"""What a run shows: contact sheets of stacks, the table next to the paper's, and the HTML report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.stack import Estimate, FocalStack
from dfd_selfsup.losses import TERMS
from dfd_selfsup.measures import METHOD_NAMES
from dfd_selfsup.published import COLUMNS, TABLE_1, TABLE_2
from shared.files.disk import write_bytes
from shared.files.images import encode_png
from shared.show.pictures import (
    colorize_depth,
    contact_sheet,
    depth_legend,
    depth_picture,
    depth_range,
)
from shared.show.report import Curves, Picture, Section, write_report
from shared.show.tables import Column, ResultsTable

__all__ = [
    "SHEET_STACKS",
    "comparison_table",
    "paper_table",
    "paper_tables",
    "run_tables",
    "stack_cells",
    "stack_sheet",
    "write_run_report",
]

SHEET_STACKS = 4  # at most so many rows of a contact sheet
CELL = 180  # px, of the contact sheet
LABELS = {"delta1": "δ1", "delta2": "δ2", "delta3": "δ3", "rmse": "RMSE", "abs_rel": "AbsRel"}
HIGHER = ("delta1", "delta2", "delta3", "psnr", "ssim")
DIGITS = 3
SMALLEST_DEPTH = 1e-6


def run_tables(results: Mapping[str, Any]) -> list[ResultsTable]:
    """All tables of one run, given by its eval.json, as eval.py, report.html and RESULTS.md show them."""
    return [comparison_table(results)]


def paper_tables() -> list[ResultsTable]:
    """The paper's tables 2 and 1."""
    return [paper_table(2), paper_table(1)]


def comparison_table(results: Mapping[str, Any]) -> ResultsTable:
    """This run's methods on its test stacks."""
    low, high = results["depth_limits_m"]
    definitions = results["definitions"]
    where = {"source": "this run", "dataset": results["data"], "digits": DIGITS}
    depth = f"{definitions['depth']}; limits {low:g} to {high:g} m"
    columns = [Column("method", "Method")]
    for name in COLUMNS:
        better = "higher" if name in HIGHER else "lower"
        columns.append(Column(name, LABELS[name], definition=depth, better=better, **where))
    for name, label in (("psnr", "AIF PSNR"), ("ssim", "AIF SSIM")):
        digits = {**where, "digits": 2} if name == "psnr" else where
        columns.append(Column(name, label, definition=definitions[name], better="higher", **digits))
    for name, label in (("mg", "MG"), ("sf", "SF")):
        columns.append(Column(name, label, definition=definitions["sharpness"], **{**where, "digits": 4}))
    known = {column.key for column in columns}
    rows = [
        {"method": METHOD_NAMES[name], **{key: value for key, value in row.items() if key in known}}
        for name, row in results["mean"].items()
    ]
    oracles = [index for index, name in enumerate(results["mean"]) if name in ("oracle", "best_slice")]
    return ResultsTable("Methods on the test stacks", columns, rows, oracles=oracles)


def paper_table(number: int) -> ResultsTable:
    """Table 1 or 2 of the paper."""
    rows, dataset = {
        1: (TABLE_1, "DefocusNet data, re-rendered"),
        2: (TABLE_2, "NYUv2, synthetic defocus"),
    }[number]
    note = "over all pixels, mean over images; depth clipped to the data's limits"
    columns = [Column("method", "Method")]
    for name in COLUMNS:
        better = "higher" if name in HIGHER else "lower"
        what = {"source": "paper", "dataset": dataset, "definition": note, "digits": DIGITS}
        columns.append(Column(name, LABELS[name], better=better, **what))
    filled = [
        {"method": method, **dict(zip(COLUMNS, values, strict=True))} for method, values in rows.items()
    ]
    return ResultsTable(f"Table {number} of the paper", columns, filled)


def stack_cells(stack: FocalStack, estimates: Sequence[Estimate]) -> list[Any]:
    """Cells for one stack: nearest and farthest slice, then image and depth of each estimate."""
    cells: list[Any] = [stack.images[0], stack.images[-1]]
    for estimate in estimates:
        values = estimate.depth.values
        cells += [estimate.aif, depth_picture(values, unit=stack.depth_unit, status=stack.depth_in_words)]
    return cells


def write_run_report(
    config: TrainConfig,
    stacks: Sequence[FocalStack],
    estimates: Mapping[str, Sequence[Estimate]],
    results: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write test_stacks.png and report.html into the run folder: some stacks, and each method's estimates."""
    own = results["method"]
    shown = {own: "network", "selfsup_descent": "then descent", "focus_sml": "focus measure"}
    sheet = stack_sheet(stacks, {shown[name]: estimates[name] for name in shown if name in estimates})
    write_bytes(folder / "test_stacks.png", encode_png(sheet))
    mean, focus = results["mean"][own], results["mean"]["focus_sml"]
    facts = {"Test stacks": results["test_stacks"], "Training stacks": results["train_stacks"]}
    if "abs_rel" in mean:
        facts["AbsRel"] = f"{mean['abs_rel']:.3f} (depth from focus {focus['abs_rel']:.3f})"
        facts["δ1"] = f"{mean['delta1']:.3f}"
    if "psnr" in mean:
        facts["All-in-focus"] = f"{mean['psnr']:.1f} dB (focus composite {focus['psnr']:.1f} dB)"
    names = ["loss", "validation_loss"]
    names += [t for t in TERMS if getattr(config.loss, t) > 0] if own == "selfsup" else ["depth"]
    caption = (
        "Test stacks: the slices focused nearest and farthest; the network's all-in-focus image and depth, "
        "its depth after descent of its losses, that of a focus measure (SML), and the truth. "
        f"Depth: {stacks[0].depth_in_words}, in {stacks[0].depth_unit}; one range for each stack; "
        "grey: no true depth."
    )
    sections = [
        Section("Stacks", [Picture(sheet, caption)]),
        Section("Results", run_tables(results)),
        Section("The paper", paper_tables()),
        Section("Training", [Curves(names)]),
    ]
    title = f"Depth from defocus, {METHOD_NAMES[own].removesuffix(' (ours)')}: {results['data']}"
    write_report(folder, title, sections, facts=facts)


def stack_sheet(stacks: Sequence[FocalStack], estimates: Mapping[str, Sequence[Estimate]]) -> np.ndarray:
    """One row per stack: two slices, the first estimate's image, all depths in one range, the truth."""
    first, *_ = estimates
    rows: list[dict[str, Any]] = []
    for index, stack in enumerate(stacks):
        found = {name: row[index] for name, row in estimates.items()}
        limits, truth = depth_range(found[first].depth.values), None
        if stack.depth is not None and stack.valid.any():
            truth = stack.depth_map(1 / stack.depth.clamp(min=SMALLEST_DEPTH), stack.valid)
            limits = tuple(value.item() for value in truth.values[truth.valid].aminmax())
        cells: dict[str, Any] = {
            "nearest focus": stack.images[0],
            "farthest focus": stack.images[-1],
            f"{first}: image": found[first].aif,
        }
        for name, estimate in found.items():
            cells[f"{name}: depth"] = colorize_depth(estimate.depth.values, None, *limits)
        cells["true image"] = stack.aif
        if truth is not None:
            cells["true depth"] = colorize_depth(truth.values, truth.valid, *limits)
        cells[""] = depth_legend(CELL, *limits, stack.depth_unit, stack.depth_in_words)
        rows.append(cells)
    known = dict.fromkeys(caption for cells in rows for caption in cells)
    captions = [caption for caption in known if any(cells.get(caption) is not None for cells in rows)]
    grid = [[cells.get(caption) for caption in captions] for cells in rows]
    return contact_sheet(grid, captions, [stack.name for stack in stacks], cell_width=CELL)
