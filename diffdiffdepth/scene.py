"""What loaders and point detectors hand over; what optimisation, evaluation and prediction take."""

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

__all__ = ["LabelKind", "LightField", "MultiViewScene", "SparsePoints"]

LabelKind = Literal["disparity", "depth"]


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _moved(instance, device: torch.device | str):
    """A copy of a dataclass with every tensor (also of a dataclass inside it) on `device`."""
    changes = {}
    for field in fields(instance):
        value = getattr(instance, field.name)
        if isinstance(value, (Tensor, SparsePoints)):
            changes[field.name] = value.to(device)
    return replace(instance, **changes)


@dataclass(frozen=True)
class SparsePoints:
    """Labelled points in the centre view; pixel (0, 0) is the centre of the top-left pixel.

    `kind` says what `labels` are: "disparity" in pixels per unit of view offset (larger is nearer), or
    z-"depth" in scene units (smaller is nearer). `weights` are positive; None means all 1.
    """

    positions_px: Tensor  # [n, 2] x, y
    labels: Tensor  # [n]
    kind: LabelKind
    weights: Tensor | None = None  # [n]

    def __post_init__(self) -> None:
        n = self.labels.numel()
        _need(self.kind in ("disparity", "depth"), f"kind must be 'disparity' or 'depth', got {self.kind!r}")
        _need(n > 0, "the point set is empty; at least one labelled point is needed")
        _need(
            tuple(self.labels.shape) == (n,) and tuple(self.positions_px.shape) == (n, 2),
            f"points need positions_px [n, 2] and labels [n], got {tuple(self.positions_px.shape)} and "
            f"{tuple(self.labels.shape)}",
        )
        _need(bool(torch.isfinite(self.positions_px).all()), "positions_px contains NaN or infinity")
        _need(bool(torch.isfinite(self.labels).all()), "labels contains NaN or infinity")
        if self.kind == "depth":
            _need(bool((self.labels > 0).all()), "depth labels must be positive: points behind the camera")
        if self.weights is not None:
            _need(
                tuple(self.weights.shape) == (n,), f"weights must be [{n}], got {tuple(self.weights.shape)}"
            )
            _need(bool((self.weights > 0).all()), "weights must be positive")

    def __len__(self) -> int:
        return self.labels.numel()

    @property
    def near_is_large(self) -> bool:
        """True for disparity, False for depth."""
        return self.kind == "disparity"

    def inside(self, size: tuple[int, int]) -> Tensor:
        """Which points [n] lie on a pixel of an image of `size` (H, W)."""
        limits = self.positions_px.new_tensor([size[1] - 0.5, size[0] - 0.5])
        return ((self.positions_px >= -0.5) & (self.positions_px <= limits)).all(1)

    def to(self, device: torch.device | str) -> "SparsePoints":
        return _moved(self, device)


def _check_images(name: str, centre: Tensor, views: Tensor) -> tuple[int, int, int]:
    _need(
        centre.ndim == 3 and centre.shape[0] == 3,
        f"{name}: centre must be [3, H, W], got {tuple(centre.shape)}",
    )
    _need(
        views.ndim == 4 and len(views) > 0 and views.shape[1:] == centre.shape,
        f"{name}: views must be [m, 3, H, W] with m > 0 and the centre's size {tuple(centre.shape[1:])}, "
        f"got {tuple(views.shape)}",
    )
    return len(views), centre.shape[1], centre.shape[2]


def _check_truth(name: str, truth: Tensor | None, valid: Tensor | None, size: tuple[int, int]) -> None:
    for label, tensor in (("truth", truth), ("valid", valid)):
        _need(
            tensor is None or tuple(tensor.shape) == size,
            f"{name}: {label} must be {list(size)}, got {None if tensor is None else tuple(tensor.shape)}",
        )
    _need(valid is None or valid.dtype == torch.bool, f"{name}: the validity mask must be bool")


@dataclass(frozen=True)
class LightField:
    """A centre view and its neighbours on a plane.

    A point of disparity d at (x, y) in the centre lies at (x + d du, y + d dv) in the view with offset
    (du, dv): on a regular grid, columns u to the right, rows v downwards, (du, dv) = (u_c - u, v_c - v).
    `views` does not contain the centre. Images are RGB in [0, 1]; `truth` is the centre's disparity.
    """

    centre: Tensor  # [3, H, W]
    views: Tensor  # [m, 3, H, W]
    offsets: Tensor  # [m, 2] du, dv
    name: str = "light field"
    points: SparsePoints | None = None
    truth: Tensor | None = None  # [H, W] disparity
    valid: Tensor | None = None  # [H, W] bool; None: all of truth is valid

    def __post_init__(self) -> None:
        m, height, width = _check_images(self.name, self.centre, self.views)
        _need(
            tuple(self.offsets.shape) == (m, 2),
            f"{self.name}: offsets must be [{m}, 2], got {tuple(self.offsets.shape)}",
        )
        _check_truth(self.name, self.truth, self.valid, (height, width))
        _need(
            self.points is None or self.points.kind == "disparity",
            f"{self.name}: a light field needs disparities",
        )

    def to(self, device: torch.device | str) -> "LightField":
        return _moved(self, device)


@dataclass(frozen=True)
class MultiViewScene:
    """A centre view and posed neighbours; `points` and `truth` are z-depth of the centre in scene units."""

    centre: Tensor  # [3, H, W]
    views: Tensor  # [m, 3, H, W], without the centre
    centre_K: Tensor  # [3, 3]
    view_K: Tensor  # [m, 3, 3]
    view_from_centre: Tensor  # [m, 4, 4] rigid, OpenCV axes
    points: SparsePoints | None = None
    name: str = "multi-view scene"
    truth: Tensor | None = None  # [H, W] z-depth
    valid: Tensor | None = None  # [H, W] bool; None: all of truth is valid

    def __post_init__(self) -> None:
        m, height, width = _check_images(self.name, self.centre, self.views)
        expected = {"centre_K": (3, 3), "view_K": (m, 3, 3), "view_from_centre": (m, 4, 4)}
        for label, shape in expected.items():
            got = tuple(getattr(self, label).shape)
            _need(got == shape, f"{self.name}: {label} must be {list(shape)}, got {list(got)}")
        _check_truth(self.name, self.truth, self.valid, (height, width))
        _need(
            self.points is None or self.points.kind == "depth",
            f"{self.name}: a multi-view scene needs depth labels",
        )

    def to(self, device: torch.device | str) -> "MultiViewScene":
        return _moved(self, device)
