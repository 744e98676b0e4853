"""A light field or a few posed photos around one centre view, and labelled points in it."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from shared.geometry import check_shape
from shared.geometry.camera import intrinsics_matrix
from shared.results import DepthMap

__all__ = [
    "GridCamera",
    "LabelKind",
    "LightField",
    "MultiViewScene",
    "Scene",
    "SparsePoints",
    "depth_map",
    "scene_facts",
    "scene_from_facts",
]

LabelKind = Literal["disparity", "depth"]


class _Tensors:
    """What the dataclasses of tensors here have in common."""

    def to(self, device: torch.device | str) -> Self:
        """A copy with every tensor (also of points inside it) on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor | SparsePoints)}
        return replace(self, **moved)


@dataclass(frozen=True)
class SparsePoints(_Tensors):
    """Labelled points in the centre view; pixel (0, 0) is the centre of the top-left pixel.

    `kind` says what `labels` are: "disparity" in pixels per unit of view offset (larger is nearer), or
    z-"depth" in scene units (smaller is nearer). `weights` are positive; None means all 1.
    """

    positions_px: Tensor  # [n, 2] x, y
    labels: Tensor  # [n]
    kind: LabelKind
    weights: Tensor | None = None  # [n]

    def __len__(self) -> int:
        return self.labels.numel()

    def inside(self, size: tuple[int, int]) -> Tensor:
        """Which points [n] are on a pixel of an image of `size` (H, W)."""
        limits = self.positions_px.new_tensor([size[1] - 0.5, size[0] - 0.5])
        return ((self.positions_px >= -0.5) & (self.positions_px <= limits)).all(1)

    def checked(self) -> "SparsePoints":
        """The points themselves; ValueError for none, wrong shapes, NaN, depths or weights <= 0."""
        n = len(self)
        if self.kind not in ("disparity", "depth"):
            raise ValueError(f"kind must be 'disparity' or 'depth', got {self.kind!r}")
        if n == 0:
            raise ValueError("the point set is empty; at least one labelled point is needed")
        for name, layout in (("positions_px", "n 2"), ("labels", "n"), ("weights", "n")):
            values = getattr(self, name)
            if values is None:
                continue
            check_shape(values, layout, name, {"n": n})
            if not torch.isfinite(values).all():
                raise ValueError(f"{name} contains NaN or infinity")
        if self.kind == "depth" and not (self.labels > 0).all():
            raise ValueError("depth labels must be positive: points behind the camera")
        if self.weights is not None and not (self.weights > 0).all():
            raise ValueError("weights must be positive")
        return self


@dataclass(frozen=True)
class GridCamera:
    """The camera of a light field on a regular grid, as `parameters.cfg` of the HCI benchmark says it.

    A point at depth Z has disparity (b f N / s) (1 / Z - 1 / Z_focus) px between adjacent views, with N the
    longer image side in pixels; it is positive in front of the plane of focus.
    """

    width: int
    height: int
    focal_length_mm: float
    sensor_size_mm: float
    num_cams_x: int
    num_cams_y: int
    baseline_mm: float
    focus_distance_m: float

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return self.focal_length_mm / self.sensor_size_mm * max(self.width, self.height)

    @property
    def K(self) -> Tensor:
        """Intrinsics [3, 3] of the centre view."""
        return intrinsics_matrix(self.focal_px, self.focal_px, (self.width - 1) / 2, (self.height - 1) / 2)

    def disparity_from_depth(self, depth_m: Tensor) -> Tensor:
        """Disparity in px between adjacent views of z-depth in metres."""
        return self.focal_px * self.baseline_mm / 1000 * (1 / depth_m - 1 / self.focus_distance_m)

    def depth_from_disparity(self, disparity_px: Tensor) -> Tensor:
        """z-depth in metres of a disparity; infinite at and beyond the disparity of infinity."""
        inverse = disparity_px / (self.focal_px * self.baseline_mm / 1000) + 1 / self.focus_distance_m
        return torch.where(inverse > 0, 1 / inverse.clamp(min=1e-12), torch.inf)


@dataclass(frozen=True)
class LightField(_Tensors):
    """A centre view and its neighbours on a plane.

    A point of disparity d at (x, y) in the centre is at (x + d du, y + d dv) in the view with offset
    (du, dv): on a regular grid, columns u to the right, rows v downwards, (du, dv) = (u_c - u, v_c - v).
    `views` does not contain the centre. Images are RGB in [0, 1]; `truth` is the centre's disparity. Raises
    ValueError, naming the field, for shapes that do not fit.
    """

    centre: Tensor  # [3, H, W]
    views: Tensor  # [m, 3, H, W]; none of a light field from a checkpoint
    offsets: Tensor  # [m, 2] du, dv
    name: str = "light field"
    points: SparsePoints | None = None
    truth: Tensor | None = None  # [H, W] disparity
    valid: Tensor | None = None  # [H, W] bool; None: all of truth is valid
    camera: GridCamera | None = None  # without it depth in metres is unknown
    notes: tuple[str, ...] = ()  # what the user should know about the pictures

    def __post_init__(self) -> None:
        _check_shapes(self, "disparity", offsets="m 2")

    @classmethod
    def from_grid(cls, views: Tensor | np.ndarray, **details: Any) -> "LightField":
        """A light field of all views of a grid: floats in [0, 1] or uint8, both sides of the grid odd.

        A tensor [rows, columns, 3, H, W] or an array [rows, columns, H, W, 3]; rows run downwards, columns
        to the right. `details` are further fields: name, truth, ...

            >>> LightField.from_grid(torch.rand(3, 5, 3, 20, 30)).offsets[0].tolist()
            [2.0, 1.0]
        """
        if isinstance(views, np.ndarray) and views.ndim == 5:
            views = torch.from_numpy(np.ascontiguousarray(views)).permute(0, 1, 4, 2, 3)
        if not isinstance(views, Tensor) or views.ndim != 5 or views.shape[2] != 3:
            got = list(views.shape) if hasattr(views, "shape") else type(views).__name__
            expected = "a tensor [rows, columns, 3, H, W] or an array [rows, columns, H, W, 3]"
            raise ValueError(f"views must be {expected}, got {got}")
        rows, columns = views.shape[:2]
        if rows % 2 == 0 or columns % 2 == 0 or rows * columns < 3:
            raise ValueError(f"views are {rows} x {columns}: both must be odd, or there is no centre view")
        if not views.is_floating_point():
            views = views.float() / 255
        v, u = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        offsets = torch.stack([columns // 2 - u, rows // 2 - v], -1).flatten(0, 1).float()
        images, middle = views.flatten(0, 1).float(), rows * columns // 2
        others = torch.arange(rows * columns) != middle
        return cls(images[middle], images[others], offsets[others], **details)


@dataclass(frozen=True)
class MultiViewScene(_Tensors):
    """A centre view and posed neighbours; `points` and `truth` are z-depth of the centre in scene units.

    Raises ValueError, naming the field, for shapes that do not fit.
    """

    centre: Tensor  # [3, H, W]
    views: Tensor  # [m, 3, H, W], without the centre
    centre_K: Tensor  # [3, 3]
    view_K: Tensor  # [m, 3, 3]
    view_from_centre: Tensor  # [m, 4, 4] rigid, OpenCV axes
    points: SparsePoints | None = None
    name: str = "multi-view scene"
    truth: Tensor | None = None  # [H, W] z-depth
    valid: Tensor | None = None  # [H, W] bool; None: all of truth is valid
    world_from_centre: Tensor | None = None  # [4, 4], to put the depth of several images together
    notes: tuple[str, ...] = ()  # what the user should know about the photos

    def __post_init__(self) -> None:
        layouts = {"centre_K": "3 3", "view_K": "m 3 3", "view_from_centre": "m 4 4"}
        _check_shapes(self, "depth", **layouts, world_from_centre="4 4")


Scene = LightField | MultiViewScene


def _check_shapes(scene: Scene, kind: LabelKind, **layouts: str) -> None:
    layouts = {"centre": "3 H W"} | layouts | {"truth": "H W", "valid": "H W"}
    layouts["views"] = "m 3 H W" if len(scene.views) else "0 3 H W"
    sizes: dict[str, int] = {}
    for name, layout in layouts.items():
        if getattr(scene, name) is not None:
            sizes = check_shape(getattr(scene, name), layout, f"{scene.name}: {name}", sizes)
    if scene.points is not None and scene.points.kind != kind:
        raise ValueError(f"{scene.name}: points must have labels of kind {kind!r}, not {scene.points.kind!r}")


def depth_map(scene: Scene, values: Tensor, seen: Tensor | None = None) -> DepthMap:
    """A map [H, W] of the scene's centre with its meaning; `seen` [H, W]: which pixels another view shows."""
    invalid = "seen by no other view, not checked"
    if isinstance(scene, MultiViewScene):
        scale = "up to the scale of the camera poses"
        return DepthMap(values, "z_depth", "scene units", scale, seen, invalid, scene.centre_K)
    scale = "between neighbouring views, positive in front of the plane of focus"
    return DepthMap(values, "disparity_px", "px", scale, seen, invalid)


def scene_facts(scene: Scene) -> dict[str, Any]:
    """All of a scene but a light field's views, as plain values and tensors for a checkpoint."""
    facts = vars(scene) | {"points": vars(scene.points)}
    if isinstance(scene, MultiViewScene):
        return facts | {"views": (255 * scene.views).round().byte()}
    return facts | {"views": None, "camera": scene.camera and vars(scene.camera)}


def scene_from_facts(facts: dict[str, Any]) -> Scene:
    """The scene of `scene_facts`; a light field without its views."""
    points, notes = SparsePoints(**facts["points"]), tuple(facts.get("notes", ()))
    facts = {**facts, "points": points, "notes": notes}
    if "offsets" not in facts:
        return MultiViewScene(**facts | {"views": facts["views"].float() / 255})
    camera = facts["camera"] and GridCamera(**facts["camera"])
    return LightField(**facts | {"views": facts["centre"][None][:0], "camera": camera})
