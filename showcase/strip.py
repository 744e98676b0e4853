"""Make the picture on the front page: a row for each paper, from shipped weights and a finished quick run.

    python -m showcase.strip --light-field runs/diffdiffdepth-quick --out docs/strip.png

What goes in, what comes out, its depth, and the truth it can be compared with. Nothing is picked by eye: the
middle test view of DeepVoxels, the scene of diffdiffdepth, the first of the test set of the others.
"""

if __name__ == "__main__":
    from shared.runs.command import begin

    begin()

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from deepvoxels import DeepVoxels
from deepvoxels.datasets.scene import load_views, nearest_neighbour
from dfd_selfsup import DepthFromDefocus
from dfd_selfsup.datasets.splits import load_splits
from diffdiffdepth import DiffusedDepth
from diffdiffdepth.report import points_picture
from diffdiffdepth.scene import depth_map
from nvs_depth import ViewSynthesizer
from nvs_depth.datasets.pairs import load_pairs
from nvs_depth.eval import load_test_pairs
from shared.files.disk import write_bytes
from shared.files.images import encode_png
from shared.runs.command import command_line
from shared.show.pictures import captioned, colorize_depth, contact_sheet, depth_range

__all__ = ["Row", "strip"]

CELL = 208
WHITE, BLACK = 0.95, 0.05  # backgrounds of the embedded cube and chairs, whose depth means nothing


@dataclass(frozen=True)
class Row:
    """Pictures of one paper, each with a few words, and its name."""

    title: str
    cells: list[tuple[Any, str]]


def main(argv: Sequence[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    run = Path("runs/diffdiffdepth-quick")
    parser.add_argument("--light-field", type=Path, default=run, metavar="DIR", help="run of diffdiffdepth")
    parser.add_argument("--out", type=Path, default=Path("docs/strip.png"), metavar="FILE")
    args = parser.parse_args(argv)
    rows = [
        deepvoxels_row("cube"),
        diffdiffdepth_row(args.light_field),
        dfd_selfsup_row("rooms"),
        nvs_depth_row("chairs"),
    ]
    write_bytes(args.out, encode_png(strip(rows)))
    print(args.out)  # noqa: T201


def strip(rows: Sequence[Row]) -> np.ndarray:
    """The rows below each other, uint8 [H, W, 3]."""
    cells = [[captioned(image, text, CELL) for image, text in row.cells] for row in rows]
    return contact_sheet(cells, row_captions=[row.title for row in rows], cell_width=CELL)


@torch.no_grad()
def deepvoxels_row(run: Path | str) -> Row:
    """A held-out view, and the training view nearest to it."""
    scene = DeepVoxels.load(run, "cpu")
    train_views, test_views = load_views(scene.config)
    chosen = len(test_views) // 2
    pose = test_views.world_from_cam[chosen]
    nearest = int(nearest_neighbour(train_views.world_from_cam, pose[None])[0])
    view = scene.render(pose, test_views.K[chosen])
    size = view.images.shape[-2:]
    depth = F.interpolate(view.depth.values[:, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    shown = (view.images[0] < WHITE).any(0)
    low, high = depth_range(depth, shown)
    return Row(
        "DeepVoxels\nCVPR 2019",
        [
            (train_views.image(nearest), f"1 of {len(train_views)} photos (the nearest)"),
            (view.images[0], "new view, rendered"),
            (colorize_depth(depth, shown, low, high), f"its depth: {low:.2g} to {high:.2g} units"),
            (test_views.image(chosen), "new view, true"),
        ],
    )


@torch.no_grad()
def diffdiffdepth_row(run: Path | str) -> Row:
    """The embedded light field: points with their noise, and the map optimised from them."""
    fitted = DiffusedDepth.load(run)
    scene = fitted.scene
    low, high = depth_range(scene.truth, scene.valid)
    return Row(
        "Differentiable\ndiffusion\nCVPR 2021",
        [
            (scene.centre, f"1 of {len(scene.offsets) + 1} views"),
            (points_picture(scene.points, scene.centre, low, high), f"{len(scene.points)} noisy points"),
            (colorize_depth(fitted.depth, None, low, high), f"disparity: {low:.2g} to {high:.2g} px"),
            (colorize_depth(depth_map(scene, scene.truth, scene.valid), None, low, high), "disparity, true"),
        ],
    )


def dfd_selfsup_row(run: Path | str) -> Row:
    """A test stack: its nearest focus, and what the network and the descent of its losses make of it."""
    method = DepthFromDefocus.load(run, "cpu")
    stack = load_splits(method.config.data)["test"][0]
    estimate = method.descend(stack, method.predict(stack))
    low, high = depth_range(stack.depth, stack.valid)
    near = int(stack.defocus.focus_q.argmax())
    focus_m = 1 / stack.defocus.focus_q[near].item()
    return Row(
        "Depth from\ndefocus\nCVPR 2023",
        [
            (stack.images[near], f"1 of {len(stack.images)}: focus at {focus_m:.1f} m"),
            (estimate.aif, "sharp everywhere"),
            (colorize_depth(estimate.depth.values, vmin=low, vmax=high), f"depth: {low:.2g} to {high:.2g} m"),
            (colorize_depth(stack.depth, stack.valid, low, high), "depth, true"),
        ],
    )


@torch.no_grad()
def nvs_depth_row(run: Path | str) -> Row:
    """The first test pair: a chair that training has not seen."""
    synthesizer = ViewSynthesizer.load(run, "cpu")
    split = load_test_pairs(synthesizer.config)
    batch = load_pairs(split.test.views, split.test_pairs[:1])
    predicted = synthesizer.predict_pairs(batch)
    shown = (predicted.image[0] > BLACK).any(0)
    depth = predicted.depth_new[0, 0]
    low, high = depth_range(depth, shown)
    return Row(
        "One picture\nIROS 2023",
        [
            (batch.image_source[0], "the only picture"),
            (predicted.image[0], "new view, predicted"),
            (colorize_depth(depth, shown, low, high), f"its depth: {low:.2g} to {high:.2g} units"),
            (batch.image_target[0], "new view, true"),
        ],
    )


if __name__ == "__main__":
    command_line(main)
