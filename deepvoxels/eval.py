"""Measure a trained run on its test views, and show the figures next to the paper's table 1.

    python eval.py --run runs/deepvoxels-quick

Writes eval.json (per view and mean), test_views.png, a video in colour and depth, and report.html.
"""

from deepvoxels import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.evaluate, __doc__)  # --help is answered before PyTorch is loaded

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from deepvoxels.api import TrainedScene
from deepvoxels.config import TrainConfig
from deepvoxels.datasets.scene import PosedScene, load_views, nearest_neighbour
from deepvoxels.losses import crop_border
from deepvoxels.published import METHOD_NAMES, row_name
from deepvoxels.report import run_tables, write_run_report
from shared.quality.metrics import LPIPS_MISSING, Lpips, depth_errors, psnr
from shared.quality.ssim import ssim
from shared.results import DepthMap, Views
from shared.runs.folder import data_in_place, write_results

__all__ = ["DEFINITIONS", "NearestNeighbour", "evaluate", "measure", "summary"]

# The paper does not define its measure; the first of these is the authors' own practice one year later.
DEFINITIONS = {
    "cut": "PSNR over RGB; SSIM uniform 7x7; border cut as in training",
    "full": "PSNR over RGB; SSIM uniform 7x7; full frame",
    "gaussian": "PSNR over RGB; SSIM Gaussian 11x11, sigma 1.5; border cut as in training",
}


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.evaluate(__doc__, argv)
    scene = TrainedScene.load(args.run, args.device, args.checkpoint)
    config = scene.config
    if args.data:
        config = replace(config, data=replace(config.data, root=str(args.data)))
    with data_in_place(config, "--data "):
        views = load_views(config)
    results = evaluate(scene, config, *views, args.run)
    write_results(args.run, results)
    for table in run_tables(results):
        print(table.text())  # noqa: T201
    print(summary(results))  # noqa: T201
    say_done(args.run / "report.html", "open it in a browser")


class NearestNeighbour:
    """The row of the table that learns nothing: the training photo taken in the most similar direction."""

    def __init__(self, views: PosedScene) -> None:
        self.views = views

    def render(self, world_from_cam: Tensor, K: Tensor | None = None, progress: bool = False) -> Views:
        """A photo [3, S, S] for each camera [N, 4, 4]; it takes no time to show the progress of."""
        return Views(self.views.batch(nearest_neighbour(self.views.world_from_cam, world_from_cam)))


def evaluate(
    scene: TrainedScene | NearestNeighbour,
    config: TrainConfig,
    train_views: PosedScene,
    test_views: PosedScene,
    folder: Path,
) -> dict[str, Any]:
    """Render and measure the test views; pictures, video and report.html go to `folder`."""
    started = time.perf_counter()
    views = scene.render(test_views.world_from_cam, test_views.K, progress=True)
    seconds_per_view = (time.perf_counter() - started) / len(test_views)
    nearest = NearestNeighbour(train_views).render(test_views.world_from_cam)
    learned = Lpips.if_there(test_views.image_side - 2 * config.border_px)
    rows = measure(views.images, test_views, config.border_px, learned)
    row = row_name(config.method, config.model.occlusion)
    results = {
        "paper": "deepvoxels",
        "row": row,
        "method": METHOD_NAMES[row],
        "data": f"{config.data.scene or test_views.path.name}"
        + (", embedded scene" if config.data.embedded is not None else ""),
        "image_side": test_views.image_side,
        "training_views": len(train_views),
        "test_views": len(test_views),
        "definitions": DEFINITIONS | {"lpips": learned.label if learned else LPIPS_MISSING},
        "mean": _means(rows),
        "nearest_neighbour": _means(measure(nearest.images, test_views, config.border_px, learned)),
        "depth": measure_depth(views.depth, test_views),
        "seconds_per_view": seconds_per_view,
        "notes": list(train_views.notes),
        "per_view": [{"view": name, **row} for name, row in zip(test_views.names, rows, strict=True)],
    }
    write_run_report(scene, config, train_views, test_views, views, results, folder)
    return results


def measure(
    images: Tensor, scene: PosedScene, border_px: int, learned: Lpips | None = None
) -> list[dict[str, float]]:
    """PSNR and SSIM of every view in the three definitions, and LPIPS if given, one row per view."""
    rows = []
    for i in range(len(images)):  # one at a time: a thousand views of 512 px would need tens of GB
        image, truth = images[i : i + 1], scene.batch([i])
        cut, cut_truth = crop_border(image, border_px), crop_border(truth, border_px)
        row = {
            "psnr": psnr(cut, cut_truth),
            "ssim": ssim(cut, cut_truth, "uniform7"),
            "psnr_full": psnr(image, truth),
            "ssim_full": ssim(image, truth, "uniform7"),
            "ssim_gaussian": ssim(cut, cut_truth, "gaussian11"),
        }
        if learned is not None:
            row["lpips"] = learned(cut, cut_truth)
        rows.append({name: value.item() for name, value in row.items()})
    return rows


def measure_depth(depth: DepthMap | None, scene: PosedScene) -> dict[str, Any] | None:
    """Errors of rendered depth against the scene's own, where it has one, on the object only."""
    if depth is None or scene.depth is None:
        return None
    size = scene.depth.shape[-2:]
    full = F.interpolate(depth.values[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    seen = scene.depth_valid.flatten(1).any(1)
    return depth_errors(full[seen], scene.depth[seen], scene.depth_valid[seen], max_depth=None)


def summary(results: dict[str, Any]) -> str:
    """The result in one line."""
    mean, nearest = results["mean"], results["nearest_neighbour"]
    text = f"{results['method']} on {results['data']}: PSNR {mean['psnr']:.2f} dB, SSIM {mean['ssim']:.3f}"
    text += f" ({mean['psnr'] - nearest['psnr']:+.2f} dB against the nearest training view)"
    depth = results["depth"]
    return text if depth is None else f"{text}; depth off by {depth['abs_rel']:.1%}"


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


if __name__ == "__main__":
    command_line(main)
