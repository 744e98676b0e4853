"""What a run shows: contact sheets, a moving camera from one picture, tables, and the HTML report."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import PairBatch, load_pairs
from nvs_depth.datasets.select import Split
from nvs_depth.models.synthesis import SourceView, ViewSynthesizer
from nvs_depth.paths import relative_path
from nvs_depth.prediction import predict_pairs
from nvs_depth.published import REPORT_2022, REPORT_2022_DATA
from shared.files.disk import write_bytes
from shared.files.images import encode_png
from shared.show.pictures import colorize_depth, contact_sheet, depth_legend, depth_picture
from shared.show.report import Curves, Picture, Section, Video, write_report
from shared.show.tables import Column, ResultsTable
from shared.show.video import write_video

__all__ = [
    "IMAGE_LABELS",
    "depth_table",
    "image_table",
    "depth_spread",
    "paper_tables",
    "preview_sheet",
    "render_path",
    "run_tables",
    "view_frames",
    "write_run_report",
]

SHEET_PAIRS = 8
VIDEO_FRAMES = 48
CELL = 128
AT_ONCE = 8  # new views per pass
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


def preview_sheet(network: ViewSynthesizer, batch: PairBatch, unit_m: float | None = None) -> np.ndarray:
    """Source, truth, prediction, both warps and depths of a few pairs, one column each.

    All depths share one range, which is printed below in metres where `unit_m` says what a unit is.
    """
    prediction = predict_pairs(network, batch)
    low, high = _common_range(batch, prediction.depth_read)
    scale, unit = (unit_m, "m") if unit_m else (1.0, "scene units")
    width = min(400, len(batch.image_source) * CELL)
    legend = depth_legend(width, scale * low, scale * high, unit, DEPTH_STATUS)
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
    if bool(batch.valid_target.any()):
        rows["true depth"] = coloured(batch.depth_target, batch.valid_target)
    return contact_sheet(list(rows.values()), row_captions=list(rows), cell_width=CELL, legend=legend)


@torch.no_grad()
def render_path(
    network: ViewSynthesizer, source: SourceView, K: Tensor, target_from_source: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """View [3, S, S] and depth [1, S, S], on the CPU, from each camera [N, 4, 4] relative to ONE source."""
    for poses in target_from_source.split(AT_ONCE):
        poses = poses.to(source.K.device)
        rendered = network.views(source, K.to(poses.device).expand(len(poses), 3, 3), poses)
        yield from zip(rendered.images[0].float().cpu(), rendered.depth.full.cpu(), strict=True)


def view_frames(
    image: Tensor, views: Iterable[tuple[Tensor, Tensor]], limits: tuple[float, float], unit: str, status: str
) -> Iterator[np.ndarray]:
    """Video frames: the given image beside each view and its depth, coloured within `limits`."""
    for view, depth in views:
        side = max(256, view.shape[-1])
        low, high = limits
        shown = depth_picture(depth, unit=unit, status=status, vmin=low, vmax=high, min_width=side)
        yield contact_sheet(
            [[image, view, shown]], columns=("given", "new view", "its depth"), cell_width=side
        )


def run_tables(results: Mapping[str, Any]) -> list[ResultsTable]:
    """All tables of one run, given by its eval.json, as eval.py, report.html and RESULTS.md show them."""
    tables = [image_table(results)]
    return [*tables, depth_table(results)] if results["depth"] else tables


def paper_tables() -> list[ResultsTable]:
    """No table of the paper was at hand: related figures, labelled as what they are."""
    return [orientation_table(kind) for kind in REPORT_2022]


def image_table(results: Mapping[str, Any]) -> ResultsTable:
    """This run beside plain warps and the source itself."""
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
    """Related figures from elsewhere for a kind of objects, labelled as what they are."""
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
    config: TrainConfig, network: ViewSynthesizer, split: Split, results: Mapping[str, Any], folder: Path
) -> None:
    """Write test_pairs.png, moving_camera.mp4 and report.html into the run folder."""
    device = next(network.parameters()).device
    chosen = torch.linspace(0, len(split.test_pairs) - 1, min(SHEET_PAIRS, len(split.test_pairs))).long()
    views = split.test.views
    sheet = preview_sheet(network, load_pairs(views, split.test_pairs[chosen]).to(device), views.unit_m)
    write_bytes(folder / "test_pairs.png", encode_png(sheet))
    video = write_video(folder / "moving_camera.mp4", _video_frames(config, network, split), fps=16)
    tables = run_tables(results)
    tables += [orientation_table(kind) for kind in REPORT_2022 if kind in results["data"]]
    terms = [name for name, weight in vars(config.weights).items() if weight]
    caption = f"Test pairs. Depths are z-depth in {results['depth_unit']}, {DEPTH_STATUS}; all share the "
    caption += "range of colours that is printed below them. Grey: no true depth."
    sections = [
        Section("New views", [Picture(sheet, caption)]),
        Section("Moving camera", [Video(video, "One given picture, new views, their depth.", width=800)]),
        Section("Results", tables),
        Section("Training", [Curves(["loss", *terms])]),
    ]
    own, identity = results["images"]["method"], results["images"]["identity"]
    facts = {"L1": f"{own['l1']:.4f}", "L1 of showing the source": f"{identity['l1']:.4f}",
             "PSNR": f"{own['psnr']:.2f} dB", "Test pairs": results["test_pairs"]}  # fmt: skip
    if results["depth"]:
        facts["Target depth off by"] = f"{results['depth']['depth_new_none']['abs_rel']:.1%}"
    summary = (
        "; ".join(split.notes) or "A second view and its depth, from a single image and the camera's motion."
    )
    title = f"Single-image view synthesis, {results['method'].lower()}: {results['data']}"
    write_report(folder, title, sections, summary=summary, facts=facts)


def _video_frames(config: TrainConfig, network: ViewSynthesizer, split: Split) -> Iterator[np.ndarray]:
    """A camera that moves about the first test source."""
    views = split.test.views
    sample = views.load(int(split.test_pairs[len(split.test_pairs) // 2, 0]))
    if config.model.depth_range == "scene":
        path = relative_path("sway", VIDEO_FRAMES, amount=0.5 / (views.unit_m or 1.0))
    else:
        path = relative_path("swing", VIDEO_FRAMES, amount=35.0)
    device = next(network.parameters()).device
    with torch.no_grad():
        source = network.encode(sample.image[None].to(device), sample.K[None].to(device))
    unit_m = views.unit_m or 1.0
    shown = ((view, unit_m * depth) for view, depth in render_path(network, source, sample.K, path))
    limits = depth_spread(unit_m * source.depth.full)
    unit = "m" if views.unit_m else "scene units"
    return view_frames(sample.image, shown, limits, unit, DEPTH_STATUS)


def _common_range(batch: PairBatch, depth: Tensor) -> tuple[float, float]:
    """Colour range of a sheet: of the true depths where there are any."""
    known = batch.depth_target[batch.valid_target]
    return depth_spread(known if len(known) else depth)


def depth_spread(values: Tensor) -> tuple[float, float]:
    """A range of colours for depths: their 2nd and 98th percentile."""
    low, high = np.percentile(values.detach().cpu().numpy(), [2, 98])
    return float(low), float(high) if high > low else float(low) + 1e-3
