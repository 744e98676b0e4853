"""Light-field depth as a whole, from images to a dense map, next to what comes with OpenCV and SciPy.

The maps differ, so their errors against the truth stand beside the times: MSE x 100 and the share of pixels
off by more than 0.07 and 0.3 px. The scene is the embedded light field, with REAL_DATA antinous as well.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter, median_filter
from torch import Tensor

from benchmarks.harness import Case, Trial
from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.datasets.embedded import make_embedded_light_field
from diffdiffdepth.inputs import load_light_field
from diffdiffdepth.predict import PREVIEW
from diffdiffdepth.scene import LightField

__all__ = ["CASES", "semi_global", "structure_tensor"]

FINEST = 16  # OpenCV's disparities are in sixteenths of a pixel


def semi_global(light_field: LightField, limit: float) -> Tensor:
    """Disparity [H, W] by OpenCV's SGBM: the centre with the outermost view on its left and on its right.

    `limit`: the largest absolute disparity per unit of offset. A pixel takes the mean where both pairs know
    it, one where one does (what is hidden on one side shows on the other), its nearest neighbour elsewhere.
    """
    grey = [_grey(image) for image in (light_field.centre, *light_field.views)]
    found = []
    for view, (u, v) in zip(grey[1:], light_field.offsets.tolist(), strict=True):
        if v != 0 or abs(u) != light_field.offsets[:, 0].abs().max():
            continue
        # SGBM looks for what has moved to the left; with offset u, things move by u times their disparity.
        low = int(np.floor(-limit * abs(u)))
        count = int(np.ceil((-2 * low + 1) / 16)) * 16
        smooth = {"P1": 8 * 25, "P2": 32 * 25, "uniquenessRatio": 5, "disp12MaxDiff": 1}
        matcher = cv2.StereoSGBM.create(low, count, 5, mode=cv2.StereoSGBM_MODE_HH, **smooth)
        pair = [np.pad(image, ((0, 0), (count, count)), "edge") for image in (grey[0], view)]
        moved = matcher.compute(*pair)[:, count:-count].astype(np.float32) / FINEST
        found.append(np.where(moved >= low, -moved / u, np.nan))
    both = np.stack(found)
    known = np.isfinite(both)
    mean = np.where(known, both, 0).sum(0) / np.maximum(known.sum(0), 1)
    rows, columns = distance_transform_edt(~known.any(0), return_distances=False, return_indices=True)
    return torch.from_numpy(cv2.medianBlur(mean[rows, columns].astype(np.float32), 5))


def structure_tensor(light_field: LightField, limit: float) -> Tensor:
    """Disparity [H, W] from the slope of the lines in EPIs (Wanner and Goldluecke, CVPR 2012), both arms.

    Slopes beyond one pixel per view are out of a derivative's reach: the EPIs are sheared by whole pixels,
    and each pixel takes the most coherent of all answers; a median of 5 x 5 px after it.
    """
    best = np.zeros(light_field.centre.shape[1:], np.float32)
    trust = np.full_like(best, -1)
    for vertical in (False, True):
        stack = _arm(light_field, vertical)  # [U, H, W], lines along x
        middle = len(stack) // 2
        for shear in range(-int(np.ceil(limit)), int(np.ceil(limit)) + 1):
            moved = np.stack([np.roll(view, -shear * (u - middle), 1) for u, view in enumerate(stack)])
            moved = gaussian_filter(moved, (0.8, 0, 0.8))
            by_u, by_x = np.gradient(moved, axis=(0, 2))
            products = (by_x * by_x, by_x * by_u, by_u * by_u)
            xx, xu, uu = (gaussian_filter(p, (2, 1, 1))[middle] for p in products)
            slope = np.clip(-xu / np.maximum(xx, 1e-12), -1, 1)
            coherence = ((xx - uu) ** 2 + 4 * xu**2) / np.maximum((xx + uu) ** 2, 1e-12)
            coherence *= (np.abs(slope) < 0.8) * np.minimum(1, xx / 1e-4)
            disparity, coherence = (part.T if vertical else part for part in (slope + shear, coherence))
            better = coherence > trust
            best[better], trust[better] = disparity[better], coherence[better]
    return torch.from_numpy(median_filter(best, 5))


def _grey(image: Tensor) -> np.ndarray:
    return cv2.cvtColor((255 * image).byte().permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)


def _arm(light_field: LightField, vertical: bool) -> np.ndarray:
    """The views [U, H, W] in one line with the centre, in order, grey in [0, 1]."""
    images = [(0.0, light_field.centre)]
    for image, (u, v) in zip(light_field.views, light_field.offsets.tolist(), strict=True):
        along, across = (v, u) if vertical else (u, v)
        images += [(along, image)] if across == 0 else []
    stack = [_grey(image).astype(np.float32) / 255 for _, image in sorted(images, key=lambda pair: pair[0])]
    return np.stack([view.T if vertical else view for view in stack])


def prepare_depth(load: Callable[[], LightField], limit: float) -> Trial:
    """All four from the same images in memory; each writes down its errors when it has run."""
    light_field = load()
    scores: dict[str, dict[str, float]] = {}

    def ours(*settings: str) -> Tensor:
        overrides = dict(setting.split("=") for setting in settings)
        return DiffusedDepth("hci", "cpu", **overrides).fit(light_field, progress=False).values

    def scored(label: str, run: Callable[[], Tensor]) -> Callable[[], None]:
        def candidate() -> None:
            error = (run() - light_field.truth)[light_field.truth.isfinite()].abs()
            shares = {f"BP({off})": 100 * (error > off).float().mean().item() for off in (0.07, 0.3)}
            scores[label] = {"MSE x 100": 100 * error.square().mean().item()} | shares

        return candidate

    runs = {
        "ours": ours,
        "ours, preview": lambda: ours(*PREVIEW),
        "OpenCV SGBM, three views": lambda: semi_global(light_field, limit),
        "structure tensor, 17 views": lambda: structure_tensor(light_field, limit),
    }
    return Trial({label: scored(label, run) for label, run in runs.items()}, scores=scores)


def embedded() -> LightField:
    """The light field of the quick run; its points are found in the images, not taken from the truth."""
    with tempfile.TemporaryDirectory() as folder:
        return load_light_field(make_embedded_light_field(Path(folder) / "scene", (192, 240)))


CASES = [
    Case(
        "diffdiffdepth/light-field",
        "depth of the embedded light field, 81 views of 240x192, from images to a map",
        lambda: prepare_depth(embedded, 2.0),
        seconds=1,
    )
]
if "REAL_DATA" in os.environ:
    antinous = Path(os.environ["REAL_DATA"]) / "hci_antinous"
    CASES.append(
        Case(
            "diffdiffdepth/light-field-antinous",
            "depth of the HCI scene antinous, 81 views of 512x512, from images to a map",
            lambda: prepare_depth(lambda: load_light_field(antinous), 4.0),
            seconds=1,
        )
    )
