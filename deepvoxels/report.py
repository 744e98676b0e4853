"""What a run shows: contact sheets, the orbit video, the table beside the paper's, and the HTML report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepvoxels.config import TrainConfig
from deepvoxels.datasets.scene import PosedScene
from deepvoxels.methods import Method, NovelViews
from deepvoxels.paths import camera_path
from deepvoxels.published import METHOD_NAMES, PAPER_DATA, TABLE_1
from shared.pictures import contact_sheet, depth_picture, encode_png
from shared.files import write_bytes
from shared.report import Column, Curves, Picture, ResultsTable, Section, Video, write_report, write_video

__all__ = ["comparison_table", "comparison_sheet", "preview_sheet", "write_run_report", "write_view_video"]

SHEET_VIEWS = 6
ORBIT_FRAMES = 60
UNIT, STATUS = "scene units", "z-depth, in the units of the camera poses"


def preview_sheet(method: Method, scene: PosedScene) -> np.ndarray:
    """True and rendered image, and depth, of a few test views while training goes on."""
    chosen = _evenly(len(scene))
    method.network.eval()
    with torch.no_grad():
        batches = list(method.novel_views(scene.world_from_cam[chosen], scene.K[chosen]))
    method.network.train()
    images = torch.cat([batch.images.float().cpu() for batch in batches])
    depths = None if batches[0].depth is None else torch.cat([batch.depth.float().cpu() for batch in batches])
    return _sheet(scene, chosen, images, depths)


def comparison_sheet(scene: PosedScene, views: NovelViews) -> np.ndarray:
    """True and rendered image, and depth, of a few test views."""
    chosen = _evenly(len(scene))
    return _sheet(scene, chosen, views.images[chosen], None if views.depth is None else views.depth[chosen])


def write_view_video(
    path: Path, method: Method, scene: PosedScene, world_from_cam: Tensor, *, fps: float = 24
) -> Path:
    """Write a video of the scene from given cameras [N, 4, 4], colour beside depth; returns the file made."""
    K = scene.K[:1].expand(len(world_from_cam), 3, 3)
    method.network.eval() if method.network is not None else None
    with torch.no_grad():
        batches = [NovelViews(*(None if t is None else t.float().cpu() for t in batch))
                   for batch in method.novel_views(world_from_cam, K)]
    images = torch.cat([batch.images for batch in batches])
    if batches[0].depth is None:
        return write_video(path, images, fps)
    depths = torch.cat([batch.depth for batch in batches])
    low, high = scene.near, scene.far
    side = max(images.shape[-1], 256)
    frames = (
        contact_sheet([[image, depth_picture(depth, unit=UNIT, status=STATUS, vmin=low, vmax=high, min_width=side)]],
                      columns=("rendered", "depth"), cell_width=side)
        for image, depth in zip(images, depths, strict=True)
    )
    return write_video(path, frames, fps)


def comparison_table(results: Mapping[str, Any]) -> ResultsTable:
    """The rows of the paper's table 1 with this run's figures beside them, each under its own data set."""
    scene = results["data"].split(",")[0]
    paper = {"source": "paper", "dataset": PAPER_DATA, "better": "higher"}
    run = {"source": "this run", "dataset": f"{results['data']}, {results['image_side']} px", "better": "higher"}
    definition = results["definitions"]["cut"]
    column = scene if scene in TABLE_1["deepvoxels"] else "mean"
    columns = [
        Column("method", "Method"),
        Column("paper_psnr", f"PSNR {column}", definition="not stated", **paper),
        Column("paper_ssim", f"SSIM {column}", definition="not stated", **paper),
        Column("psnr", "PSNR", definition=definition, **run),
        Column("ssim", "SSIM", definition=definition, digits=3, **run),
    ]
    own = {results["method"]: results["mean"], METHOD_NAMES["nearest_neighbour"]: results["nearest_neighbour"]}
    rows = []
    for key, name in METHOD_NAMES.items():
        row = {"method": name}
        if key in TABLE_1:
            row |= dict(zip(("paper_psnr", "paper_ssim"), TABLE_1[key][column], strict=True))
        if name in own:
            row |= {"psnr": own[name]["psnr"], "ssim": own[name]["ssim"]}
        rows.append(row)
    return ResultsTable("Table 1 of the paper, and this run", columns, rows)


def write_run_report(
    config: TrainConfig,
    method: Method,
    train_views: PosedScene,
    test_views: PosedScene,
    views: NovelViews,
    results: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write test_views.png, orbit.mp4 and report.html into the run folder."""
    sheet = comparison_sheet(test_views, views)
    write_bytes(folder / "test_views.png", encode_png(sheet))
    path = camera_path(train_views, ORBIT_FRAMES)
    video = write_view_video(folder / "orbit.mp4", method, train_views, path)
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
    caption = "Held-out views: true image, rendered image, expected z-depth along each ray."
    sections = [
        Section("Novel views", [Picture(sheet, caption)]),
        Section("Moving camera", [Video(video, "Rendered from the learned voxel grid.", width=640)]),
        Section("Results", [comparison_table(results)]),
    ]
    if method.network is not None:
        names = ["l1", "gan", "discriminator"] if config.gan_weight > 0 else ["l1"]
        sections.append(Section("Training", [Curves(names)]))
    title = f"{results['method']}: {results['data']}"
    write_report(folder, title, sections, summary=_summary(results), facts=facts)


def _summary(results: Mapping[str, Any]) -> str:
    gain = results["mean"]["psnr"] - results["nearest_neighbour"]["psnr"]
    relation = "above" if gain >= 0 else "below"
    return (
        f"{results['test_views']} held-out views, {abs(gain):.1f} dB {relation} showing the nearest of the "
        f"{results['training_views']} training views."
    )


def _sheet(scene: PosedScene, chosen: Tensor, images: Tensor, depths: Tensor | None) -> np.ndarray:
    rows = [list(scene.batch(chosen)), list(images)]
    captions = ["true", "rendered"]
    limits = {"unit": UNIT, "status": STATUS, "vmin": scene.near, "vmax": scene.far}
    if depths is not None:
        rows.append([depth_picture(depth, **limits) for depth in depths])
        captions.append("depth")
    if scene.depth is not None:
        rows.append([
            depth_picture(scene.depth[i], scene.depth_valid[i], **limits) for i in chosen.tolist()
        ])
        captions.append("true depth")
    return contact_sheet(rows, columns=[scene.names[i] for i in chosen.tolist()], row_captions=captions)


def _evenly(count: int) -> Tensor:
    """Indices of up to SHEET_VIEWS views, spread over all of them."""
    return torch.linspace(0, count - 1, min(count, SHEET_VIEWS)).round().long()
