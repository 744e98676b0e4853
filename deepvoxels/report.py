"""What a run shows: contact sheets, the orbit video, the table next to the paper's, and the HTML report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepvoxels.api import DeepVoxels
from deepvoxels.config import TrainConfig
from deepvoxels.datasets.scene import PosedScene
from deepvoxels.paths import camera_path
from deepvoxels.published import ABLATION, METHOD_NAMES, PAPER_DATA, TABLE_1
from shared.files.disk import write_bytes
from shared.files.images import encode_png
from shared.results import DepthMap, Views
from shared.show.pictures import (
    colorize_depth,
    contact_sheet,
    depth_legend,
    depth_picture,
    depth_range,
    evenly,
)
from shared.show.report import Curves, Picture, Section, Video, write_report
from shared.show.tables import Column, ResultsTable
from shared.show.video import write_video

__all__ = [
    "comparison_sheet",
    "comparison_table",
    "depth_limits",
    "run_tables",
    "table_of_methods",
    "write_run_report",
    "write_view_video",
]

SHEET_VIEWS = 6
VIDEO_FRAMES = 60
PREVIEWS = "preview_psnr: dB on a few validation views; on test views where the data set has no others."
UNIT, STATUS = "scene units", "z-depth, in the units of the camera poses"


def comparison_sheet(true: PosedScene, views: Views) -> np.ndarray:
    """True and rendered image, and depth, of a few of these views; one rendered view for each true one."""
    chosen = evenly(len(true), SHEET_VIEWS)
    rows = [list(true.batch(chosen)), list(views.images[chosen])]
    captions = ["true", "rendered"]
    limits = depth_limits(views.depth, true)
    if views.depth is not None:
        rows.append([colorize_depth(views.depth[i], None, *limits) for i in chosen])
        captions.append("depth")
    if true.depth is not None:
        rows.append([colorize_depth(true.depth[i], true.depth_valid[i], *limits) for i in chosen])
        captions.append("true depth")
    legend = depth_legend(400, *limits, UNIT, STATUS) if len(rows) > 2 else None
    return contact_sheet(rows, [true.names[i] for i in chosen], captions, legend=legend)


def depth_limits(depth: DepthMap | None, true: PosedScene | None = None) -> tuple[float, float]:
    """The range of depth that pictures show: the object's where true depth is known, else of valid depth."""
    if true is not None and true.depth is not None:
        return depth_range(true.depth.flatten(0, 1), true.depth_valid.flatten(0, 1))
    return (0.0, 1.0) if depth is None else depth_range(depth.values.flatten(0, 1), depth.valid.flatten(0, 1))


def write_view_video(path: Path, views: Views, *, fps: float = 24) -> Path:
    """Write rendered views as a video, colour next to depth where there is depth; returns the file made."""
    if views.depth is None:
        return write_video(path, views.images, fps)
    side = max(views.images.shape[-1], 256)
    shown = {**dict(zip(("vmin", "vmax"), depth_limits(views.depth), strict=True)), "grey": "no surface"}
    shown["min_width"] = side
    frames = (
        contact_sheet([[image, depth_picture(depth, **shown)]], ("rendered", "depth"), cell_width=side)
        for image, depth in zip(views.images, views.depth, strict=True)
    )
    return write_video(path, frames, fps)


def run_tables(results: Mapping[str, Any]) -> list[ResultsTable]:
    """All tables of one run, given by its eval.json, as eval.py, report.html and RESULTS.md show them."""
    return [comparison_table(results)]


def comparison_table(results: Mapping[str, Any]) -> ResultsTable:
    """A run's figures, and those of the nearest training view, in the rows of the paper's table 1."""
    nearest = {**results, "mean": results["nearest_neighbour"]}
    return table_of_methods({"nearest_neighbour": nearest, results["row"]: results})


def table_of_methods(results: Mapping[str, Mapping[str, Any]]) -> ResultsTable:
    """The rows of the paper's table 1 with those of runs next to them, each under its own data set.

    The figures of the paper say nothing about a scene of your own: then the table has the runs alone.
    `results` holds the content of an eval.json for each row, all measured on the same views.
    """
    any_run = next(iter(results.values()))
    scene = any_run["data"].split(",")[0]
    column = scene if scene in TABLE_1["deepvoxels"] else "mean"
    paper = {"source": "paper", "dataset": PAPER_DATA, "definition": "not stated", "better": "higher"}
    own = {
        "source": "this run",
        "dataset": f"{any_run['data']}, {any_run['image_side']} px",
        "better": "higher",
    }
    own["definition"] = any_run["definitions"]["cut"]
    is_published = scene in TABLE_1["deepvoxels"] or "embedded" in any_run["data"]
    of_paper = [Column(f"paper_{n.lower()}", f"{n} {column}", **paper) for n in ("PSNR", "SSIM")]
    columns = [
        Column("method", "Method"),
        *(of_paper if is_published else ()),
        Column("psnr", "PSNR", **own),
        Column("ssim", "SSIM", digits=3, **own),
    ]
    if "lpips" in any_run["definitions"]:
        learned = {"definition": any_run["definitions"]["lpips"], "better": "lower", "digits": 3}
        columns.append(Column("lpips", "LPIPS", **own | learned))
    rows = []
    for key, name in METHOD_NAMES.items():
        if not (is_published or key in results):
            continue
        row = {"method": name}
        if is_published and key in TABLE_1:
            row |= dict(zip(("paper_psnr", "paper_ssim"), TABLE_1[key][column], strict=True))
        elif is_published and column in ABLATION:
            row["paper_psnr"] = ABLATION[column]
        if key in results:
            mean = results[key]["mean"]
            row |= {name: mean[name] for name in ("psnr", "ssim", "lpips") if name in mean}
        rows.append(row)
    title = "Table 1 of the paper, and this run" if is_published else "This run"
    return ResultsTable(title, columns, rows)


def write_run_report(
    scene: Any,
    config: TrainConfig,
    train_views: PosedScene,
    test_views: PosedScene,
    views: Views,
    results: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write test_views.png, moving_camera.mp4 and report.html into the run folder.

    `scene` renders the moving camera, `views` are its test views.
    """
    sheet = comparison_sheet(test_views, views)
    write_bytes(folder / "test_views.png", encode_png(sheet))
    path = camera_path(train_views, VIDEO_FRAMES)
    video = write_view_video(folder / "moving_camera.mp4", scene.render(path, train_views.K[0]))
    mean, nearest = results["mean"], results["nearest_neighbour"]
    facts = {
        "PSNR": f"{mean['psnr']:.2f} dB",
        "SSIM": f"{mean['ssim']:.3f}",
        "Nearest training view": f"{nearest['psnr']:.2f} dB",
        "Training views": len(train_views),
        "Test views": len(test_views),
    }
    if results["depth"] is not None:
        facts["Depth error"] = f"{results['depth']['abs_rel']:.1%} (mean relative, on the object)"
    caption = "Held-out views."
    if views.depth is not None:
        caption += f" Depth: {STATUS}, the mean along each ray; grey: no surface, or no true depth."
    moving = "Rendered from the learned voxel grid." if isinstance(scene, DeepVoxels) else "New views."
    sections = [
        Section("Views it was not trained on", [Picture(sheet, caption)]),
        Section("A moving camera", [Video(video, moving, width=640)]),
        Section("How close they are", run_tables(results)),
    ]
    if config.method != "nearest_neighbour":
        names = ["preview_psnr", "l1", *(["gan", "discriminator"] if config.gan_weight > 0 else [])]
        names += ["head"] if config.model.colour_head else []
        names += ["planes_per_ray"] if views.depth is not None else []
        sections.append(Section("Training", [PREVIEWS, Curves(names)]))
    title = f"{results['method']}: {results['data']}"
    then = ["python -m deepvoxels.predict --run RUN --path orbit: views, depth, cameras, points, a video"]
    write_report(folder, title, sections, summary=_summary(results), facts=facts, then=then)


def _summary(results: Mapping[str, Any]) -> str:
    gain = results["mean"]["psnr"] - results["nearest_neighbour"]["psnr"]
    relation = "above" if gain >= 0 else "below"
    text = (
        f"{results['test_views']} held-out views, {abs(gain):.1f} dB {relation} showing the nearest of the "
        f"{results['training_views']} training views."
    )
    return " ".join([text, *(f"Note: {note}." for note in results["notes"])])
