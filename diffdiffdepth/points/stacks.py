"""The two arms of a light field as stacks of epipolar plane images (EPIs).

Vocabulary of `diffdiffdepth.points`:

    arm      the views in one line with the centre view, horizontal or vertical
    stack    [U, C, N, X]: view u of the arm, channel, EPI n, position x along the arm's direction. In the
             horizontal arm EPI n is image row n and x is the image's x; in the vertical one n is the image's
             x and x its y
    line     (n, x, d): the track of a point of disparity d px at x in the centre view. In view u it is at
             x + d * offset_u
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from diffdiffdepth.filters import gaussian_blur, lab_from_rgb
from diffdiffdepth.scene import LightField
from shared.errors import DataError

__all__ = ["ON_AXIS", "EpiStack", "Rows", "blurred_lightness", "epi_stacks"]

MIN_ARM_VIEWS = 3
BLUR_RADIUS_PX = 2
BLUR_SIGMA_PX = 0.85  # released light-field code
ON_AXIS = 0.3  # views whose offset across the arm is below this many view spacings belong to the arm


@dataclass(frozen=True)
class Rows:
    """Tensors with one row for each line or point."""

    def __getitem__(self, keep: Tensor) -> Self:
        return type(self)(*(getattr(self, field.name)[keep] for field in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class EpiStack:
    """One arm in CIELAB, blurred; views in order of their offsets, the centre view among them at offset 0."""

    lab: Tensor  # [U, 3, N, X]
    offsets: Tensor  # [U] ascending
    vertical: bool

    @property
    def centre(self) -> int:
        """Index of the centre view."""
        return int(self.offsets.abs().argmin())

    @property
    def reach(self) -> float:
        """Largest offset: a disparity step of 1 / reach moves the outermost view by one pixel."""
        return float(self.offsets.abs().max())

    def halves(self) -> list["EpiStack"]:
        """The centre with the views on either side of it: what is hidden on one side shows on the other."""
        sides = (self.offsets <= 0, self.offsets >= 0)
        return [
            EpiStack(self.lab[side], self.offsets[side], self.vertical) for side in sides if side.sum() > 2
        ]

    def line(self, positions_px: Tensor) -> tuple[Tensor, Tensor]:
        """EPI index n (rounded) and position x of image positions [n, 2]."""
        x, y = positions_px.unbind(1)
        return (x.round().long(), y) if self.vertical else (y.round().long(), x)

    def positions(self, epi: Tensor, x: Tensor) -> Tensor:
        """Image positions [n, 2] of lines: the inverse of `line`."""
        other = epi.to(x.dtype)
        return torch.stack([other, x] if self.vertical else [x, other], dim=1)


def epi_stacks(light_field: LightField, blur_sigma_px: float = BLUR_SIGMA_PX) -> list[EpiStack]:
    """EPI stacks of the horizontal and the vertical arm: one or two, those with at least three views.

    Raises DataError for a light field without a line of three views through the centre.
    """
    du, dv = light_field.offsets.unbind(1)
    stacks = []
    for vertical, along, across in ((False, du, dv), (True, dv, du)):
        members = ((across.abs() < ON_AXIS) & (along.abs() > 2 * ON_AXIS)).nonzero().flatten()
        offsets = torch.cat([along[members], along.new_zeros(1)])
        order = offsets.argsort()
        if len(order) < MIN_ARM_VIEWS:
            continue
        images = torch.cat([light_field.views[members], light_field.centre[None]])[order]
        lab = gaussian_blur(lab_from_rgb(images), blur_sigma_px, BLUR_RADIUS_PX)
        stacks.append(EpiStack((lab.mT if vertical else lab).contiguous(), offsets[order], vertical))
    if not stacks:
        reason = f"fewer than {MIN_ARM_VIEWS} views are in the row or the column of the centre view"
        raise DataError(light_field.name, reason, "Edge points need a line of views: copy the missing ones")
    return stacks


def blurred_lightness(image: Tensor) -> Tensor:
    """Lightness [H, W] of an RGB image [3, H, W], blurred like the stacks."""
    return gaussian_blur(lab_from_rgb(image)[None, :1], BLUR_SIGMA_PX, BLUR_RADIUS_PX)[0, 0]
