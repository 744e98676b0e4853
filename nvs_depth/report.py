"""What a run shows: contact sheets, a moving camera from one picture, tables, and the HTML report."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nvs_depth.api import EncodedImage, ViewSynthesizer
from nvs_depth.datasets.pairs import load_pairs
from nvs_depth.datasets.select import Split
from nvs_depth.paths import relative_path
from shared.files.disk import write_bytes
from shared.files.images import encode_png
from shared.results import Views
from shared.show.pictures import colorize_depth, contact_sheet, depth_legend, depth_picture, depth_range
from shared.show.report import Curves, Picture, Section, Video, write_report
from shared.show.tables import Column, ResultsTable
from shared.show.video import write_video

__all__ = [
    "IMAGE_LABELS",
    "depth_table",
    "image_table",
    "paper_tables",
    "pair_sheet",
    "run_tables",
    "view_frames",
    "write_run_report",
]

SHEET_PAIRS = 8
VIDEO_FRAMES = 48
CELL = 128
IMAGE_LABELS = {
    "method": "This run",
    "inverse_warp": "Source fetched by D_t",
    "direct_warp": "Source splatted by D_s",
    "identity": "Source shown as target",
}
DEPTH_LABELS = {
    "depth_new": "D_t: target depth from the source image",
    "depth_read": "D_b: depth read from the target image",
    "constant": "Constant (median of training truth)",
}
LABELS = {"abs_rel": "AbsRel", "rmse": "RMSE", "silog": "SILog", "delta1": "δ1"}
LABELS |= {"l1": "L1", "ssim_narrow": "SSIM narrow"}
DEPTH_STATUS = "at the scale of the training poses"
DEPTH_COLUMNS = (  # measure, scaling, which is better, digits
    ("abs_rel", "none", "lower", 4),
    ("rmse", "none", "lower", 3),
    ("silog", "none", "lower", 2),
    ("delta1", "none", "higher", 3),
    ("abs_rel", "median", "lower", 4),
    ("delta1", "median", "higher", 3),
)
# For orientation, never as the paper's figures: its tables were not at hand. The first author's course report
# of May 2022 (an earlier network without direct warps, other renders, single runs) has these for 40 degrees.
REPORT_2022_DATA = "course report of 2022, earlier network, other renders, 40 degrees"

# (SSIM narrow window, L1 on [-1, 1], abs_rel, rmse, delta1): depth read from the target image, median-scaled
REPORT_2022 = {
    "chair": {
        "Hou et al., the report's own run": (0.906, 0.136, 0.110, 0.197, 0.818),
        "earlier version of this method": (0.880, 0.080, 0.063, 0.113, 0.953),
    },
    "car": {
        "Hou et al., the report's own run": (0.930, 0.109, 0.268, 0.327, 0.496),
        "earlier version of this method": (0.900, 0.064, 0.041, 0.105, 0.950),
    },
}


@torch.no_grad()
def pair_sheet(synthesizer: ViewSynthesizer, split: Split, count: int) -> np.ndarray:
    """Source, truth, prediction, both warps and depths of a few test pairs, one column each.

    All depths share one range, which is printed below.
    """
    views, pairs = split.test.views, split.test_pairs
    chosen = torch.linspace(0, len(pairs) - 1, min(count, len(pairs))).long()
    batch = load_pairs(views, pairs[chosen]).to(synthesizer.device)
    prediction = synthesizer.predict_pairs(batch)
    known = batch.depth_target[batch.valid_target]
    low, high = depth_range((known if len(known) else prediction.depth_read).reshape(1, -1))
    scale, width = views.unit_m or 1.0, min(400, len(chosen) * CELL)
    legend = depth_legend(width, scale * low, scale * high, synthesizer.unit, DEPTH_STATUS)
    error = (prediction.image - batch.image_target).abs().mean(1, keepdim=True)

    def coloured(depths: Tensor, valid: Tensor | None = None) -> list[np.ndarray]:
        masks = [None] * len(depths) if valid is None else list(valid.cpu())
        return [colorize_depth(d.cpu(), m, low, high) for d, m in zip(depths, masks, strict=True)]

    rows = {
        "source": list(batch.image_source),
        "true target": list(batch.image_target),
        "prediction": list(prediction.image),
        "error x3": list((3 * error).clamp(0, 1)),
        "splatted by D_s": list(prediction.direct_warp),
        "fetched by D_t": list(prediction.inverse_warp),
        "D_t": coloured(prediction.depth_new),
        "D_b": coloured(prediction.depth_read),
    }
    if len(known):
        rows["true depth"] = coloured(batch.depth_target, batch.valid_target)
    return contact_sheet(list(rows.values()), row_captions=list(rows), cell_width=CELL, legend=legend)


def view_frames(source: EncodedImage, views: Views) -> Iterator[np.ndarray]:
    """Video frames: the given image, each view and its depth, coloured over the given image's range."""
    low, high = depth_range(source.depth)
    side = max(256, views.images.shape[-1])
    for view, depth in zip(views.images, views.depth, strict=True):
        shown = depth_picture(depth, status=DEPTH_STATUS, vmin=low, vmax=high, min_width=side)
        row = [source.image, view, shown]
        yield contact_sheet([row], columns=("given", "new view", "its depth"), cell_width=side)


def run_tables(results: Mapping[str, Any]) -> list[ResultsTable]:
    """All tables of one run, given by its eval.json, as eval.py, report.html and RESULTS.md show them."""
    tables = [image_table(results)]
    return [*tables, depth_table(results)] if results["depth"] else tables


def paper_tables() -> list[ResultsTable]:
    """No table of the paper was at hand: related figures, with their origin."""
    return [orientation_table(kind) for kind in REPORT_2022]


def image_table(results: Mapping[str, Any]) -> ResultsTable:
    """This run next to plain warps and the source itself."""
    common = {"source": "this run", "dataset": f"{results['data']}, {results['image_side']} px"}
    d = results["definitions"]
    columns = [
        Column("row", "Row"),
        Column("l1", "L1", definition=d["l1"], better="lower", digits=4, **common),
        Column(
            "ssim_narrow", "SSIM narrow", definition=d["ssim_narrow"], better="higher", digits=3, **common
        ),
        Column("ssim", "SSIM", definition=d["ssim"], better="higher", digits=3, **common),
        Column("psnr", "PSNR", definition=d["psnr"], better="higher", **common),
        Column("lpips", "LPIPS", definition=d["lpips"], better="lower", digits=3, **common),
    ]
    labels = IMAGE_LABELS | {"method": results["method"]}
    rows = [{"row": label, **results["images"][key]} for key, label in labels.items()]
    return ResultsTable("Novel views", columns, rows)


def depth_table(results: Mapping[str, Any]) -> ResultsTable:
    """Errors of the target's depth, without and with a median scale per image."""
    common = {"source": "this run", "dataset": f"{results['data']}, depth in {results['depth_unit']}"}
    definition = results["definitions"]["depth"]
    columns = [Column("row", "Depth")]
    for name, scaling, better, digits in DEPTH_COLUMNS:
        label = LABELS[name] if scaling == "none" else f"{LABELS[name]} (median-scaled)"
        text = definition if scaling == "none" else f"{definition}; each image scaled by its median first"
        columns.append(
            Column(f"{name}_{scaling}", label, definition=text, better=better, digits=digits, **common)
        )
    rows = []
    for key, label in DEPTH_LABELS.items():
        row = {"row": label}
        for name, scaling, *_ in DEPTH_COLUMNS:
            row[f"{name}_{scaling}"] = results["depth"].get(f"{key}_{scaling}", {}).get(name)
        rows.append(row)
    note = f"Mean |D_t - D_b| {results['depth_l1_between']:.4g} {results['depth_unit']}, over all pixels."
    return ResultsTable("Depth of the target view", columns, rows, note=note)


def orientation_table(kind: str) -> ResultsTable:
    """Related figures from elsewhere for a kind of objects, with their origin."""
    other = {"source": "not the paper", "dataset": REPORT_2022_DATA}
    names = ("ssim_narrow", "l1", "abs_rel", "rmse", "delta1")
    definitions = ("as printed there", "images in [-1, 1]", *["D_b, median-scaled over the batch"] * 3)
    columns = [Column("row", "Method")] + [
        Column(name, LABELS[name], definition=definition, digits=3, **other)
        for name, definition in zip(names, definitions, strict=True)
    ]
    rows = [{"row": name, **dict(zip(names, v, strict=True))} for name, v in REPORT_2022[kind].items()]
    return ResultsTable(f"For orientation: figures for {kind}s from elsewhere", columns, rows)


def write_run_report(
    synthesizer: ViewSynthesizer, split: Split, results: Mapping[str, Any], folder: Path
) -> None:
    """Write test_pairs.png, moving_camera.mp4 and report.html into the run folder."""
    sheet = pair_sheet(synthesizer, split, SHEET_PAIRS)
    write_bytes(folder / "test_pairs.png", encode_png(sheet))
    video = write_video(folder / "moving_camera.mp4", _moving_camera(synthesizer, split), fps=16)
    tables = run_tables(results)
    tables += [orientation_table(kind) for kind in REPORT_2022 if kind in results["data"]]
    terms = [name for name, weight in vars(synthesizer.config.weights).items() if weight]
    caption = f"Test pairs. Depths are z-depth in {results['depth_unit']}, {DEPTH_STATUS}; all share the "
    caption += "range of colours that is printed below them. Grey: no true depth."
    sections = [
        Section("New views of things it was not trained on", [Picture(sheet, caption)]),
        Section("A moving camera", [Video(video, "One given picture, new views, their depth.", width=800)]),
        Section("How close they are", tables),
        Section("Training", [Curves(["loss", *terms])]),
    ]
    method, identity = results["images"]["method"], results["images"]["identity"]
    facts = {
        "L1": f"{method['l1']:.4f}",
        "L1 of showing the source": f"{identity['l1']:.4f}",
        "PSNR": f"{method['psnr']:.2f} dB",
        "Test pairs": results["test_pairs"],
    }
    if results["depth"]:
        facts["Target depth off by"] = f"{results['depth']['depth_new_none']['abs_rel']:.1%}"
    then = ["python -m nvs_depth.predict --run RUN MY_PICTURE.png: a moving camera out of a picture"]
    default = "A second view and its depth, from a single image and the camera's motion."
    title = f"Single-image view synthesis, {results['method'].lower()}: {results['data']}"
    write_report(folder, title, sections, summary="; ".join(split.notes) or default, facts=facts, then=then)


def _moving_camera(synthesizer: ViewSynthesizer, split: Split) -> Iterator[np.ndarray]:
    """A camera that moves about the source of a test pair."""
    sample = split.test.views.load(int(split.test_pairs[len(split.test_pairs) // 2, 0]))
    if synthesizer.config.model.depth_range == "scene":
        path = relative_path("sway", VIDEO_FRAMES, amount=0.5)
    else:
        path = relative_path("swing", VIDEO_FRAMES, amount=35.0)
    source = synthesizer.encode(sample.image, sample.K)
    return view_frames(source, source.views(path))
