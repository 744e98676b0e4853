"""Pictures of an optimisation as it goes: the centre view, the points, the map, and its error if known."""

import numpy as np
import torch
from torch import Tensor

from diffdiffdepth.scene import LightField, MultiViewScene, SparsePoints
from shared.files.images import to_uint8
from shared.show.pictures import colorize_depth, contact_sheet, depth_range

__all__ = ["points_picture", "progress_sheet"]


def points_picture(points: SparsePoints, image: Tensor, low: float, high: float) -> np.ndarray:
    """Points as coloured pixels on a darkened grey image [3, H, W]; near points over far ones."""
    height, width = image.shape[-2:]
    order = points.labels.argsort(descending=not points.near_is_large)
    x, y = points.positions_px[order].round().long().unbind(1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x[inside].cpu().numpy(), y[inside].cpu().numpy()
    picture = to_uint8(0.35 * image.mean(0, keepdim=True)).copy()
    colours = colorize_depth(points.labels[order][inside][None], vmin=low, vmax=high)[0]
    picture[y, x] = colours
    return picture


def progress_sheet(scene: LightField | MultiViewScene, dense: Tensor, points: SparsePoints) -> np.ndarray:
    """One row: centre view, points, map [H, W] and, with ground truth, truth and absolute error."""
    shown = dense if scene.truth is None else torch.where(torch.isfinite(scene.truth), scene.truth, dense)
    low, high = depth_range(shown, None if scene.truth is None else scene.valid)
    row = [
        scene.centre,
        points_picture(points, scene.centre, low, high),
        colorize_depth(dense, vmin=low, vmax=high),
    ]
    kind, unit = ("disparity", "px") if isinstance(scene, LightField) else ("depth", "scene units")
    captions = ["centre view", f"{len(points)} points", f"{kind} {low:.3g} to {high:.3g} {unit}"]
    if scene.truth is not None:
        error = (dense - scene.truth).abs()
        limit = 0.05 * (high - low)
        row += [
            colorize_depth(scene.truth, scene.valid, low, high),
            colorize_depth(error, scene.valid, 0.0, limit, colormap="magma"),
        ]
        captions += ["ground truth", f"error 0 to {limit:.2g} {unit}"]
    return contact_sheet([row], captions, cell_width=max(192, scene.centre.shape[-1]))
