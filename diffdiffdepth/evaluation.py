"""How good a map is: against the truth as in the paper's tables, and against the other views without one."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.filters import lab_from_rgb
from diffdiffdepth.losses import warp_to_centre
from diffdiffdepth.published import THRESHOLDS
from diffdiffdepth.routine import build_model
from diffdiffdepth.scene import LightField, MultiViewScene, Scene, SparsePoints
from shared.errors import DataError
from shared.geometry.camera import pixel_grid
from shared.quality.metrics import bad_pixels, least_squares_scale, mse_x100, q25

__all__ = ["DEFINITIONS", "corner_views", "lab_error", "label_errors", "measure", "measure_run"]
__all__ += ["nearest_fill", "scaled_errors"]

FITS, FIT_PIXELS = 10, 500
DEFINITIONS = {
    "mse_x100": "mean squared error of the disparity in px, times 100, all valid pixels",
    "bp": "per cent of valid pixels whose disparity is off by more than the threshold in px",
    "q25_x100": "25th percentile of the absolute error, times 100",
    "mse": f"mean squared error of the depth after a least-squares scale on {FIT_PIXELS} random pixels, the "
    f"smallest of {FITS} fits, scene units squared",
    "lab": "mean CIELAB distance between the centre and the corner views (of a cross the ends of its arms, "
    "of photos all views) warped onto it, over the pixels that each view sees",
}


def measure_run(fitted: DiffusedDepth, scene: Scene) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Measure a result and three other maps from the same initial points; returns the maps [H, W] too.

    `scene` is the result's with its views. Rows: nearest label, diffusion of the initial points, optimised
    diffusion, and the result, which is that after a weighted median at depth edges. `trusted_half` has the
    measures of the result where its confidence is in the upper half.
    """
    config, ours = fitted.config, fitted.diffused.to(scene.centre.device)
    size = tuple(scene.centre.shape[-2:])
    if ours.shape != size:
        reason = f"has images of {list(size)} pixels, the result has {list(ours.shape)}"
        raise DataError(scene.name, reason, "Name the data that the run was made from")
    maps = {
        "nearest": nearest_fill(scene.points, size),
        "diffusion": build_model(config, scene).dense(),
        "ours": ours,
        "median": fitted.depth.values.to(scene.centre.device),
    }
    results = {
        "paper": "diffdiffdepth",
        "data": scene.name,
        "kind": "light field" if isinstance(scene, LightField) else "multi-view",
        "size": list(size),
        "views": len(scene.views) + 1,
        "initial_points": len(scene.points),
        "features": config.features,
        "has_truth": scene.truth is not None,
        "definitions": DEFINITIONS,
        "rows": {name: measure(scene, dense, config.seed) for name, dense in maps.items()},
    }
    if scene.truth is not None:  # does the confidence know where the map is good?
        sure = fitted.confidence.to(scene.centre.device)
        valid = torch.ones_like(sure, dtype=torch.bool) if scene.valid is None else scene.valid
        half = replace(scene, valid=valid & (sure >= sure[valid].median()))
        results["trusted_half"] = measure(half, maps["median"], config.seed)
    return results, maps


def measure(scene: Scene, dense: Tensor, seed: int = 0) -> dict[str, float]:
    """All measures of a map [H, W] that the scene allows: with truth the paper's, always the colour error."""
    results = {"lab": lab_error(scene, dense)}
    if scene.truth is None:
        return results
    truth, valid = scene.truth[None], None if scene.valid is None else scene.valid[None]
    if isinstance(scene, MultiViewScene):
        return scaled_errors(dense, scene.truth, scene.valid, seed) | results
    errors = {"mse_x100": mse_x100(dense[None], truth, valid).item()}
    for threshold in (*THRESHOLDS["hci"], *THRESHOLDS["own"]):
        errors[f"bp_{threshold:g}"] = bad_pixels(dense[None], truth, threshold, valid).item()
    errors["q25_x100"] = 100 * q25(dense[None], truth, valid).item()
    return errors | results


def scaled_errors(depth: Tensor, truth: Tensor, valid: Tensor | None, seed: int = 0) -> dict[str, float]:
    """MSE and Q25 (x 100) of a depth map [H, W] known up to scale, the smallest of ten fits (Sec. 4.2).

    Each fit takes the least-squares scale of 500 random valid pixels; MSE and Q25 are smallest on their own.
    Without a fit, `mse_unscaled` shows what the scale hides.
    """
    valid = torch.ones_like(truth, dtype=torch.bool) if valid is None else valid
    prediction, target = depth[valid].double(), truth[valid].double()
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(FITS):
        chosen = torch.randperm(len(target), generator=generator)[:FIT_PIXELS].to(target.device)
        scale, _ = least_squares_scale(prediction[chosen], target[chosen])
        error = scale * prediction - target
        rows.append((error.square().mean().item(), error.abs().quantile(0.25).item(), scale))
    return {
        "mse": min(row[0] for row in rows),
        "q25_x100": 100 * min(row[1] for row in rows),
        "scale": min(rows)[2],
        "mse_unscaled": (prediction - target).square().mean().item(),
    }


def label_errors(points: SparsePoints, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Absolute errors [k] of the labels, by the truth [H, W] of the pixel they are in; only valid pixels."""
    height, width = truth.shape
    inside = points.inside((height, width))
    x, y = points.positions_px[inside].round().long().unbind(1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    errors = (points.labels[inside] - truth[y, x]).abs()
    return errors if valid is None else errors[valid[y, x]]


@torch.no_grad()
def lab_error(scene: Scene, dense: Tensor) -> float:
    """Mean CIELAB distance between the centre and the outer views warped onto it by the map [H, W].

    Pixels that a view does not see (outside, or behind something nearer) do not count; NaN if none is seen.
    The paper warps the other way and leaves the averaging to a supplement.
    """
    views = corner_views(scene.offsets) if isinstance(scene, LightField) else None
    warped, visible = warp_to_centre(scene, dense, views)
    distance = (lab_from_rgb(warped) - lab_from_rgb(scene.centre)).square().sum(1, keepdim=True).sqrt()
    return distance[visible.bool()].mean().item()


def corner_views(offsets: Tensor) -> Tensor:
    """Indices of the four corner views of a grid; of a cross, the ends of its arms."""
    diagonal = offsets.new_tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    is_grid = bool((offsets.abs() > 0.5).all(1).any())
    directions = diagonal if is_grid else offsets.new_tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])
    return (directions @ offsets.T).argmax(1).unique()


def nearest_fill(points: SparsePoints, size: tuple[int, int]) -> Tensor:
    """Map [H, W] in which each pixel has the label of the point nearest to its centre."""
    from scipy.spatial import cKDTree

    pixels = pixel_grid(*size).reshape(-1, 2).numpy()
    _, nearest = cKDTree(points.positions_px.detach().cpu().double().numpy()).query(pixels)
    return points.labels[torch.from_numpy(nearest).to(points.labels.device)].reshape(size)
