"""What an evaluation shows: maps and errors as pictures, the paper's tables next to this run, report.html."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffdiffdepth import published
from diffdiffdepth.published import METHODS, ROW_NAMES, TABLE_2, THRESHOLDS, paper_scene
from diffdiffdepth.scene import Scene, SparsePoints, depth_map
from shared.files.disk import write_bytes
from shared.files.images import encode_png, to_uint8
from shared.show.pictures import colorize_depth, contact_sheet, depth_picture, depth_range
from shared.show.report import Curves, Picture, Section, write_report
from shared.show.tables import Column, ResultsTable

__all__ = [
    "maps_sheet",
    "paper_tables",
    "points_picture",
    "progress_sheet",
    "run_tables",
    "summary",
    "write_run_report",
]

PAPER_HCI = ("sideboard", "dino", "cotton", "boxes")
MAP_NAMES = {"nearest": "nearest label", "diffusion": "not optimised", "ours": "optimised"}
MAP_NAMES |= {"median": "median at edges"}
PAPER_DEFINITIONS = {
    "mse_x100": "all pixels of 512 x 512",
    "bp": "all pixels of 512 x 512",
    "mse": "smallest of ten scale fits, unit not stated",
    "q25_x100": "smallest of ten scale fits, factor not stated",
}
ERROR_SHARE = 0.05  # of the range of the map: the end of the scale of error pictures


def points_picture(points: SparsePoints, image: Tensor, low: float, high: float) -> np.ndarray:
    """Points as coloured pixels on a darkened grey image [3, H, W]; near points over far ones."""
    height, width = image.shape[-2:]
    order = points.labels.argsort(descending=points.kind == "depth")
    x, y = points.positions_px[order].round().long().unbind(1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x[inside].cpu().numpy(), y[inside].cpu().numpy()
    picture = to_uint8(0.35 * image.mean(0, keepdim=True)).copy()
    colours = colorize_depth(
        points.labels[order][inside][None], vmin=low, vmax=high, near_is_large=points.kind == "disparity"
    )[0]
    picture[y, x] = colours
    return picture


def progress_sheet(scene: Scene, dense: Tensor, points: SparsePoints) -> np.ndarray:
    """One row: centre view, points, map [H, W] and, with ground truth, truth and absolute error."""
    low, high, limit = _colour_range(scene, dense)
    unit = depth_map(scene, dense).unit
    row = [scene.centre, points_picture(points, scene.centre, low, high)]
    row.append(colorize_depth(depth_map(scene, dense), vmin=low, vmax=high))
    captions = ["centre view", f"{len(points)} points", f"{points.kind} {low:.3g} to {high:.3g} {unit}"]
    if scene.truth is not None:
        row += _truth_and_errors(scene, [dense])
        captions += ["ground truth", f"error 0 to {limit:.2g} {unit}"]
    return contact_sheet([row], captions, cell_width=max(192, scene.centre.shape[-1]))


def maps_sheet(scene: Scene, maps: Mapping[str, Tensor]) -> np.ndarray:
    """The maps of an evaluation in one colour scale and, with truth, their absolute errors below."""
    low, high, limit = _colour_range(scene, maps["ours"])
    unit = " px" if scene.points.kind == "disparity" else "\nscene units"
    rows = [
        [
            scene.centre,
            *(colorize_depth(depth_map(scene, dense), vmin=low, vmax=high) for dense in maps.values()),
        ]
    ]
    names = [f"{scene.points.kind}\n{low:.3g} to {high:.3g}{unit}"]
    if scene.truth is not None:
        rows.append(_truth_and_errors(scene, maps.values()))
        names.append(f"truth, and errors\n0 to {limit:.2g}{unit}")
    captions = ["centre view", *(MAP_NAMES[name] for name in maps)]
    return contact_sheet(rows, captions, names, cell_width=max(192, min(320, scene.centre.shape[-1])))


def _colour_range(scene: Scene, dense: Tensor) -> tuple[float, float, float]:
    """The ends of the colours of maps, by the truth where there is one, and of their errors."""
    low, high = depth_range(dense if scene.truth is None else scene.truth, scene.valid)
    return low, high, ERROR_SHARE * (high - low)


def _truth_and_errors(scene: Scene, maps: Iterable[Tensor]) -> list[np.ndarray]:
    low, high, limit = _colour_range(scene, scene.truth)
    errors = ((dense - scene.truth).abs() for dense in maps)
    shown = [colorize_depth(error, scene.valid, 0.0, limit, colormap="magma") for error in errors]
    return [colorize_depth(depth_map(scene, scene.truth, scene.valid), None, low, high), *shown]


def paper_tables() -> list[ResultsTable]:
    """Table 2 of the paper in full: MSE x 100 and the middle threshold of BP for every method and scene."""
    rows = [{"method": name} for name in METHODS.values()]
    columns = [Column("method", "Method")]
    for scene, figures in TABLE_2.items():
        middle = THRESHOLDS["own" if scene in ("living room", "piano") else "hci"][1]
        labels = {"source": "paper", "dataset": scene.title(), "definition": "all pixels", "better": "lower"}
        for measure, label in (("mse_x100", "MSE x 100"), (f"bp_{middle:g}", f"BP({middle:g})")):
            columns.append(Column(f"{scene} {measure}", label, **labels))
            for row, method in zip(rows, METHODS, strict=True):
                row[f"{scene} {measure}"] = figures[method][measure]
    return [ResultsTable("Table 2 of the paper", columns, rows)]


def run_tables(results: Mapping[str, Any]) -> list[ResultsTable]:
    """The table of a run, given by its eval.json: its rows next to those of the paper's table 2 or 1.

    The paper's figures are those of the scene that the data are named after, else the mean of its four HCI
    scenes (of its two multi-view scenes). Without truth only the run's colour error is left. What only one
    side has keeps dashes on the other.
    """
    title, dataset, methods, paper, measures = _published(results)
    height, width = results["size"]
    columns = [Column("method", "Method")]
    where = f"{results['data']}, {width} x {height} px"
    for name in (name for name in measures if paper and name in paper["ours"]):
        label = "Q25" if name == "q25_x100" else _label(name)
        how = PAPER_DEFINITIONS["bp" if name.startswith("bp") else name]
        columns.append(Column(f"paper_{name}", label, "paper", dataset, how, "lower"))
    for name in (*measures, "lab"):
        how = results["definitions"]["bp" if name.startswith("bp") else name]
        columns.append(Column(name, _label(name), "this run", where, how, "lower", 4 if name == "mse" else 2))
    known = {column.key for column in columns}
    rows = []
    for key, name in (methods | {k: n for k, n in ROW_NAMES.items() if k not in methods}).items():
        found = {f"paper_{k}": value for k, value in paper.get(key, {}).items()}
        found |= results["rows"].get(key, {})
        rows.append({"method": name} | {k: value for k, value in found.items() if k in known})
    note = f"This run: {results['initial_points']} initial points, images compared by {results['features']}."
    if paper and paper_scene(results["data"]) is None:
        note += " The paper's figures are on its own data: the two sides cannot be compared."
    return [ResultsTable(title, columns, rows, note)]


def _published(results: Mapping[str, Any]) -> tuple[str, str, dict, dict, list[str]]:
    """What the paper has for such results: table, data set, methods, their figures, and the measures."""
    if not results["has_truth"]:
        return "This run, without truth", "", {}, {}, []
    if results["kind"] == "multi-view":
        title, dataset = "Table 1 of the paper, and this run", "mean of Living Room-MVS and Piano-MVS"
        return title, dataset, published.MVS_METHODS, published.TABLE_1["average"], ["mse", "q25_x100"]
    scene = paper_scene(results["data"])
    scenes = [scene] if scene else list(PAPER_HCI)
    thresholds = THRESHOLDS["own"] if scene in ("living room", "piano") else THRESHOLDS["hci"]
    measures = ["mse_x100", *(f"bp_{threshold:g}" for threshold in thresholds)]
    paper = {
        method: {name: sum(TABLE_2[s][method][name] for s in scenes) / len(scenes) for name in measures}
        for method in METHODS
    }
    dataset = scene.title() if scene else "mean of " + ", ".join(name.title() for name in PAPER_HCI)
    return "Table 2 of the paper, and this run", dataset, METHODS, paper, [*measures, "q25_x100"]


def _label(name: str) -> str:
    names = {"mse_x100": "MSE x 100", "q25_x100": "Q25 x 100", "mse": "MSE", "lab": "LAB error"}
    return names.get(name) or f"BP({name.removeprefix('bp_')})"


def summary(results: Mapping[str, Any]) -> str:
    """The result in one line."""
    ours, plain = results["rows"]["ours"], results["rows"]["diffusion"]
    names = ("mse_x100", "bp_0.03", "bp_0.07") if results["kind"] == "light field" else ("mse", "q25_x100")
    names = names if results["has_truth"] else ("lab",)
    parts = [f"{_label(name)} {ours[name]:.4g} (before optimisation {plain[name]:.4g})" for name in names]
    return f"{results['data']}: " + ", ".join(parts)


def write_run_report(
    scene: Scene, maps: Mapping[str, Tensor], confidence: Tensor, results: Mapping[str, Any], folder: Path
) -> None:
    """Write maps.png and report.html into the run folder; `confidence` [H, W] is that of the result."""
    sheet = maps_sheet(scene, maps)
    write_bytes(folder / "maps.png", encode_png(sheet))
    low, high = depth_range(maps["median"])
    points = points_picture(scene.points, scene.centre, low, high)
    depth = depth_map(scene, maps["median"])
    picture = depth_picture(depth, vmin=low, vmax=high)
    where = f"{scene.points.kind} {depth.scale}; {low:.3g} to {high:.3g} {depth.unit}"
    caption = "Left the range of the colours, from blue (far) to red (near), which all maps share."
    if scene.truth is not None:
        caption += " Below: the truth, and absolute errors from black (none) to white."
    facts = {"Initial points": len(scene.points), "Views": results["views"]}
    facts |= {"Pixels": " x ".join(str(side) for side in reversed(results["size"]))}
    facts |= {"Note": "; ".join(scene.notes)} if scene.notes else {}
    pictures = [Picture(picture, f"The map that is exported: {where}.")]
    pictures.append(Picture(to_uint8(confidence.expand(3, -1, -1)), _confidence_caption(results)))
    pictures.append(Picture(points, f"Initial points: {where}."))
    sections = [
        Section("The depth that was found", pictures),
        Section("Next to simpler ways", [Picture(sheet, caption)]),
        Section("How close they are", run_tables(results)),
    ]
    if (folder / "metrics.jsonl").exists():
        sections.append(Section("Optimisation", [Curves(["total", "data", "edge", "smoothness"])]))
    title = f"Differentiable diffusion: {results['data']}"
    write_report(folder, title, sections, summary=summary(results), facts=facts)


def _confidence_caption(results: Mapping[str, Any]) -> str:
    text = "How far each pixel can be trusted, white most: by views, colours, points near by."
    if "trusted_half" not in results:
        return text
    name = "mse_x100" if results["kind"] == "light field" else "mse"
    half, whole = results["trusted_half"][name], results["rows"]["median"][name]
    return f"{text} In the more trusted half {_label(name)} is {half:.3g}, in all {whole:.3g}."
