"""The dense map of a set of points, and the four groups of numbers it is optimised by (paper, Sec. 3.4-3.5).

smoothness  Q [H, W]   theta = exp(-Q) + 0.00001, low where depth may jump; at first from the image gradient
labels      Z [n]      disparity or depth of every point, in units of `LabelScale`
weights     R [n]      the label counts exp(-R)
positions   P [n, 2]   pixels of the centre view
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from diffdiffdepth.models import diffusion, splatting
from diffdiffdepth.models.edges import onto_their_sides
from diffdiffdepth.models.fast import diffusion as fast_diffusion
from diffdiffdepth.models.fast import splatting as fast_splatting
from diffdiffdepth.models.splatting import Opacity
from diffdiffdepth.points.border import border_points
from diffdiffdepth.scene import LabelKind, SparsePoints
from shared.errors import RunError
from shared.runs.config import STRICT

__all__ = [
    "GROUPS",
    "DepthOptions",
    "Group",
    "LabelScale",
    "PointDepth",
    "image_edges",
    "initial_smoothness",
    "sobel_magnitude",
]

Group = Literal["smoothness", "labels", "weights", "positions"]
LEAST_SMOOTHNESS = 1e-5  # so that parts without labels are not cut off further than can be solved for
BARRIER_BLUR_PX = 0.8
BARRIER_LIMIT = 10.0
GROUPS: tuple[Group, ...] = ("smoothness", "labels", "weights", "positions")


@pydantic.dataclasses.dataclass(config=STRICT, frozen=True)
class DepthOptions:
    """How points become a map; `ghost_border` and `opacity` know the released code's variants."""

    supersampling: Annotated[int, Field(ge=1, le=8)] = 2  # finer grid of splatting and diffusion; 1 is fast
    half_size: Annotated[int, Field(ge=1, le=20)] = 3  # of the splatting kernel, in pixels of the finer grid
    opacity: Opacity = "analytic"
    ghost_border: bool = False
    initial_smoothness: Literal["gradient", "barrier"] = "gradient"  # the released code's, or see `barrier`
    smoothness_gain: NonNegativeFloat = 6.0  # gradient: Q per unit of image gradient
    barrier_level: PositiveFloat = 0.004  # barrier: image gradient from which Q rises
    barrier_px: Annotated[int, Field(ge=0, le=10)] = 2  # barrier: widened by so much on either side
    side_px: Annotated[float, Field(ge=0, le=3)] = 0.0  # so far edge points move onto their own surface
    extend: bool = False  # of disparities: planes through the points go on to the border, see `border_points`
    tolerance: Annotated[float, Field(ge=1e-12, le=0.5)] = 1e-4  # of the diffusion and of its adjoint


@dataclass(frozen=True)
class LabelScale:
    """What the labels mean that are diffused and optimised: disparity or depth over a unit."""

    kind: LabelKind
    unit: float

    @classmethod
    def of(cls, points: SparsePoints, unit: float | None = None) -> "LabelScale":
        """The scale of a point set; by default 90 % of the labels span four units.

        So a step of one learning rate means the same for every scene: in the paper's light fields, with
        disparities from about -2 to 2 px, a unit is about a pixel.
        """
        labels = points.labels
        if unit is None:
            low, high = torch.quantile(labels.double(), torch.tensor([0.05, 0.95]).to(labels.device).double())
            unit = max((high - low).item() / 4, 1e-3 * labels.abs().mean().item(), 1e-12)
        return cls(points.kind, unit)

    def encode(self, values: Tensor) -> Tensor:
        """Labels of disparities or depths."""
        return values / self.unit

    def decode(self, labels: Tensor) -> Tensor:
        """Disparities or depths of labels; depths stay positive."""
        if self.kind == "disparity":
            return labels * self.unit
        # far below any label of a point: only a wild optimisation step gets there
        return (labels * self.unit).clamp(min=1e-3 * self.unit)


class PointDepth:
    """Points, their diffusion into a dense map, and the numbers that optimisation may change.

    The state is kept by `state_dict` and `load_state_dict`, also if points were added meanwhile. `plain`: by
    the equations as they are written in `models/`, for small scenes, instead of their fast twins.
    """

    def __init__(
        self,
        points: SparsePoints,
        image: Tensor,
        options: DepthOptions,
        scale: LabelScale,
        plain: bool = False,
    ):
        self.options, self.scale = options, scale
        self.plain = plain
        self._splat = splatting.splat if plain else fast_splatting.splat
        self._diffuse = diffusion.diffuse if plain else fast_diffusion.diffuse
        self.size = tuple(image.shape[-2:])
        weights = torch.ones_like(points.labels) if points.weights is None else points.weights
        self.groups: dict[str, Tensor] = {
            "smoothness": initial_smoothness(image, options),
            "labels": scale.encode(points.labels),
            "weights": -weights.log(),
            "positions": points.positions_px.clone(),
        }
        if options.ghost_border:  # the released code softens the pull of its border this way
            q = self.groups["smoothness"]
            q[0], q[-1], q[:, 0], q[:, -1] = (q.max(),) * 4
        self.report = fast_diffusion.DiffusionReport()
        self._start: Tensor | None = None  # the last solution
        self._splatted: tuple[Tensor, Tensor] | None = None
        self.hiding: Tensor | None = None  # labels by which points hide each other while these move
        self._frozen: fast_splatting.FrozenSplat | None = None

    def choose(self, group: Group | None) -> Tensor | None:
        """Let gradients reach one group only (None: no group); returns its tensor."""
        for name, values in self.groups.items():
            self.groups[name] = values.detach().requires_grad_(name == group)
        self._splatted = self._frozen = None
        self.hiding = self.groups["labels"].detach().clone() if group == "labels" else None
        return None if group is None else self.groups[group]

    def dense(self, remember: bool = True) -> Tensor:
        """The map [H, W], disparity or depth in the unit of the scene, from the last solution remembered."""
        theta = torch.exp(-self.groups["smoothness"]) + LEAST_SMOOTHNESS
        factor = self.options.supersampling
        if factor > 1:
            theta = F.interpolate(theta[None, None], None, factor, "bilinear", align_corners=False)[0, 0]
        try:
            label_map, weight_map = self._splat_points()
            solution = self._diffuse(
                weight_map,
                label_map,
                theta,
                ghost_border=self.options.ghost_border,
                start=self._start,
                tolerance=self.options.tolerance,
                report=self.report,
            )
        except ValueError as error:  # all points outside the image, or weights beyond the range of floats
            raise RunError(f"{error}; lower the rates of the schedule") from error
        if remember:
            self._start = solution.detach()
        if factor > 1:
            solution = F.avg_pool2d(solution[None, None], factor)[0, 0]
        return self.scale.decode(solution)

    def restart(self) -> None:
        """Let the next solve start from nothing."""
        self._start = None

    def solve_steps(self) -> dict[str, float]:
        """Iterations of the last two solves, for the log."""
        forward, adjoint = self.report.forward, self.report.adjoint
        return {"solve_steps": forward.iterations, "adjoint_steps": adjoint.iterations}

    def _splat_points(self) -> tuple[Tensor, Tensor]:
        """Label and weight map; kept while no point can have moved."""
        if self._splatted is not None:
            return self._splatted
        positions, labels = self.groups["positions"], self.groups["labels"]
        weights = torch.exp(-self.groups["weights"])
        options = {
            "near_is_large": self.scale.kind == "disparity",
            "supersampling": self.options.supersampling,
            "half_size": self.options.half_size,
            "opacity": self.options.opacity,
        }
        if not self.plain and (labels.requires_grad or weights.requires_grad):  # many steps, points at rest
            if self._frozen is None:
                order = labels if self.hiding is None else self.hiding
                self._frozen = fast_splatting.FrozenSplat(positions, order, self.size, **options)
            return self._frozen(labels, weights)
        maps = self._splat(positions, labels, weights, self.size, **options)
        if not any(values.requires_grad for name, values in self.groups.items() if name != "smoothness"):
            self._splatted = maps
        return maps

    def points(self) -> SparsePoints:
        """The points as they are now, in the scene's unit."""
        positions, labels, weights = (self.groups[n].detach() for n in ("positions", "labels", "weights"))
        kind, labels = self.scale.kind, self.scale.decode(labels)
        return SparsePoints(positions.clone(), labels, kind, torch.exp(-weights))

    def add_points(self, positions_px: Tensor, dense: Tensor) -> None:
        """Add points [k, 2] on pixels, labelled from a dense map [H, W]; all weights become 1 again."""
        x, y = positions_px.long().unbind(1)
        added = {"positions": positions_px.to(dense), "labels": self.scale.encode(dense[y, x])}
        for name, values in added.items():
            self.groups[name] = torch.cat([self.groups[name].detach(), values.detach()])
        self.groups["weights"] = torch.zeros_like(self.groups["labels"])
        self.choose(None)

    @torch.no_grad()
    def take_sides(self, image: Tensor) -> None:
        """Move points at depth edges onto the surface that they label, by the map as it is now."""
        labels, dense = self.groups["labels"], self.scale.encode(self.dense())
        moved = onto_their_sides(self.groups["positions"], labels, image, dense, self.options.side_px)
        self.groups["positions"], self._splatted = moved, None
        self.restart()

    @torch.no_grad()
    def extend(self, image: Tensor) -> None:
        """Add points on the border where there are none; disparities only, as a plane is linear in those."""
        held = self.groups
        positions, labels = border_points(held["positions"], held["labels"], image)
        added = {"positions": positions, "labels": labels, "weights": torch.zeros_like(labels)}
        self.groups = held | {name: torch.cat([held[name], values]) for name, values in added.items()}
        self._splatted = None
        self.restart()

    def state_dict(self) -> dict[str, Any]:
        groups = {name: values.detach() for name, values in self.groups.items()}
        state = {**groups, "start": self._start, "hiding": self.hiding}
        return {**state, "kind": self.scale.kind, "unit": self.scale.unit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if tuple(state["smoothness"].shape) != self.size:
            held = f"{state['smoothness'].shape[1]} x {state['smoothness'].shape[0]}"
            raise ValueError(f"the state is of {held} pixels, the image has {self.size[1]} x {self.size[0]}")
        like = self.groups["smoothness"]
        self.groups = {name: state[name].to(like.device) for name in GROUPS}
        self._start = None if state["start"] is None else state["start"].to(like.device)
        self.hiding = None if state["hiding"] is None else state["hiding"].to(like.device)
        self._splatted = self._frozen = None
        self.scale = LabelScale(state["kind"], state["unit"])


def initial_smoothness(image: Tensor, options: DepthOptions) -> Tensor:
    """Q [H, W] of an RGB image [3, H, W] before any step.

    "gradient" is gain * |grad I|, which hardly holds back the diffusion where edges are faint. "barrier" is
    log(1 + (|grad I| / level)^3) of the slightly blurred image, at most 10, widened by `barrier_px`. Within a
    wide barrier the map is a ramp between the labels on either side; a narrow one needs labels that are on
    their own side (`side_px`), or the near surface flows out over pixels of mixed colour.
    """
    if options.initial_smoothness == "gradient":
        return options.smoothness_gain * sobel_magnitude(image)
    import cv2

    blurred = cv2.GaussianBlur(image.detach().cpu().permute(1, 2, 0).numpy(), (0, 0), BARRIER_BLUR_PX)
    magnitude = sobel_magnitude(torch.from_numpy(blurred).permute(2, 0, 1).to(image))
    q = torch.log1p((magnitude / options.barrier_level) ** 3).clamp(max=BARRIER_LIMIT)
    side = 2 * options.barrier_px + 1
    return F.max_pool2d(q[None, None], side, stride=1, padding=options.barrier_px)[0, 0]


def sobel_magnitude(image: Tensor) -> Tensor:
    """Gradient magnitude [H, W] of the luminance of an RGB image [3, H, W], as in scikit-image's `sobel`.

    Sobel kernels over 4, border mirrored, root mean square of the two directions.
    """
    luminance = (image * image.new_tensor([0.2125, 0.7154, 0.0721])[:, None, None]).sum(0)
    smooth, slope = image.new_tensor([1.0, 2.0, 1.0]) / 4, image.new_tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    # replicating one pixel is what scipy.ndimage calls "reflect"
    padded = F.pad(luminance[None, None], (1, 1, 1, 1), mode="replicate")
    return (F.conv2d(padded, kernels)[0].square().sum(0) / 2).sqrt()


def image_edges(image: Tensor) -> Tensor:
    """Edge pixels [k, 2] (x, y) of the red channel of an image [3, H, W]: Canny, as in the released code."""
    import cv2

    red = cv2.GaussianBlur(image[0].detach().cpu().float().numpy(), (0, 0), 1.0)
    levels = np.rint(np.clip(red, 0, 1) * 255).astype(np.uint8)
    edges = cv2.Canny(levels, 0.1 * 255, 0.2 * 255, L2gradient=True)
    y, x = np.nonzero(edges)
    return torch.from_numpy(np.stack([x, y], 1)).to(image)
