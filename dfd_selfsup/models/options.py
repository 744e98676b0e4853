"""The options of the network, its heads and the blur; the defaults are the released code's."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from dfd_selfsup.models.focus_measure import Measure
from shared.errors import FieldError
from shared.runs.config import STRICT

__all__ = ["HeadOptions", "NetworkOptions", "PsfOptions"]


@dataclass(config=STRICT, frozen=True)
class NetworkOptions:
    """Size of DAIF-Net, the paper's by default. init: PyTorch's (released) or He's, which keeps variance."""

    base_width: PositiveInt = 16
    levels: Annotated[int, Field(ge=1, le=8)] = 4
    init: Literal["default", "he"] = "default"


@dataclass(config=STRICT, frozen=True)
class HeadOptions:
    """How the raw maps are read (`models.heads`), depths in metres.

    near, far: the range of depth for all heads but `raw`. range: that one, or for `inverse` and `refine`
    the focus of each stack and half a step beyond, whatever its unit. focus_input: the constant plane of
    each slice, its focus distance in metres or its place between far (0) and near (1) in inverse depth.
    `sharpest` is the latter, raised by a floor, but only where the slice is sharper than the others by a
    focus measure, so that the maximum over the stack that the network takes anyway is a first guess of
    the depth. composite_px: how many pixels of blur a slice may be worse than another and still count 1 /
    e as much. measure: the focus measure of the depths `refine` and `sharpest` start from. image_steps:
    how many steps down the re-blurring error the picture of `sharpest` takes before it is corrected,
    where the lens is known.
    """

    depth: Literal["norm", "clip", "raw", "inverse", "refine"] = "norm"
    aif: Literal["clip", "composite", "sharpest"] = "clip"
    near_m: PositiveFloat = 0.1
    far_m: PositiveFloat = 10.0
    focus_input: Literal["metres", "inverse", "sharpest"] = "metres"
    composite_px: PositiveFloat = 0.5
    measure: Measure = "ring"
    image_steps: NonNegativeInt = 0
    range: Literal["fixed", "stack"] = "fixed"

    def __post_init__(self) -> None:
        if not self.near_m < self.far_m:
            raise FieldError("far_m", f"must be larger than near_m = {self.near_m}, got {self.far_m}")
        if self.range == "stack" and self.need_metres:
            raise FieldError("range", "stack is for heads without metres (depth: inverse or refine)")

    @property
    def q_range(self) -> tuple[float, float]:
        """Inverse depth (far, near), 1 / metres."""
        return 1 / self.far_m, 1 / self.near_m

    @property
    def need_metres(self) -> bool:
        """Whether only stacks of a known lens can be read."""
        return self.depth not in ("inverse", "refine") or self.focus_input == "metres"


@dataclass(config=STRICT, frozen=True)
class PsfOptions:
    """How pixels are blurred (`models.psf`); `psf_std_scale` 1 is the paper's formula.

    A disc of radius sigma has standard deviation sigma / 2 along each axis, so 0.5 is its second-moment
    match.
    """

    window: Annotated[int, Field(ge=1, le=255)] = 7
    psf_std_scale: PositiveFloat = 0.5
    threshold_px: Annotated[float, Field(ge=0.05)] = 1.0  # sigma^-3 in the gradient stays harmless in float32

    def __post_init__(self) -> None:
        if self.window % 2 == 0:
            raise FieldError("window", f"must be odd, got {self.window}")
