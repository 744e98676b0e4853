"""Point sets on disk, and points made worse on purpose."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from diffdiffdepth.scene import SparsePoints
from shared.errors import DataError
from shared.files.maps import read_npz, write_npz

__all__ = ["load_points", "perturb_points", "save_points"]

REMEDY = "Delete the file, then the points are found again"


def save_points(path: str | os.PathLike, points: SparsePoints) -> None:
    """Write points as NPZ: x, y (0-based pixels of the centre view), label, kind and, if given, weight."""
    columns = {"x": points.positions_px[:, 0], "y": points.positions_px[:, 1], "label": points.labels}
    columns |= {} if points.weights is None else {"weight": points.weights}
    arrays = {name: column.detach().cpu().numpy() for name, column in columns.items()}
    write_npz(path, kind=np.array(points.kind), **arrays)


def load_points(path: str | os.PathLike, size: tuple[int, int] | None = None) -> SparsePoints:
    """Read points written by `save_points`, or any NPZ with x, y, label and kind ("disparity" or "depth").

    With the image `size` (H, W), points must be in it. Raises DataError for missing columns, different
    lengths, no points, NaN, labels or weights out of range, and if all points are outside.
    """
    path = Path(path)
    arrays = read_npz(path)
    missing = {"x", "y", "label", "kind"} - set(arrays)
    if missing:
        reason = f"has no column {sorted(missing)[0]!r}"
        raise DataError(path, reason, "It needs x, y, label, kind and maybe weight")
    try:
        x, y, label = (torch.from_numpy(arrays[name].astype(np.float32)) for name in ("x", "y", "label"))
        weight = torch.from_numpy(arrays["weight"].astype(np.float32)) if "weight" in arrays else None
        points = SparsePoints(torch.stack([x, y], dim=1), label, str(arrays["kind"]), weight).checked()
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise DataError(path, f"does not hold points: {error}", REMEDY) from None
    if size is not None and not points.inside(size).any():
        reason = f"all {len(points)} points are outside the {size[1]} x {size[0]} image"
        raise DataError(path, reason, "They belong to another image or size")
    return points


def perturb_points(
    points: SparsePoints,
    generator: torch.Generator,
    label_noise: float = 0.0,
    outlier_share: float = 0.0,
) -> SparsePoints:
    """Points with Gaussian noise on their labels; outliers take the label of some other point.

    `label_noise` is in the unit of the labels for disparity, relative for depth.
    """
    n = len(points)
    noise = torch.randn(n, generator=generator).to(points.labels) * label_noise
    labels = points.labels + (noise if points.kind == "disparity" else noise * points.labels)
    if points.kind == "depth":
        labels = labels.clamp(min=0.1 * float(points.labels.min()))
    wrong = torch.rand(n, generator=generator).to(labels) < outlier_share
    labels = torch.where(wrong, labels[torch.randperm(n, generator=generator)], labels)
    return replace(points, labels=labels)
