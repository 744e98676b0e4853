"""The thin lens: how wide a point at some depth is blurred in a slice focused somewhere else.

With focal length f, f-number N, pixel pitch p, focus distance F and depth d (all metres), a point becomes a
disc of radius (paper, "Optical Model for Defocus Blur")

    sigma = 1 / (2 p) * |d - F| / d * f^2 / (N (F - f))        pixels.

The same in inverse depth q = 1 / d (dioptres) is linear: sigma = gain_F * |q - 1 / F|, with gain_F = F a_F
and a_F = f^2 / (2 p N (F - f)) the blur at infinity. Everything below works with that form, because it also
covers stacks whose lens is unknown: there q is the place of the sharpest slice in the stack, and the gain
is one unknown number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

__all__ = ["NEAREST_DEPTH_M", "Defocus", "Lens", "check_focus_m", "scale_of"]

NEAREST_DEPTH_M = 1e-3  # smaller depths, 0 included, are blurred as if they were at a millimetre
ORDER_GAIN_PX = 1.0  # blur per place in a stack of unknown lens, until it is fitted


@dataclass(frozen=True)
class Lens:
    """A camera's lens and pixel; `pixel_pitch_um` belongs to images of the size at hand (see `resized`)."""

    focal_length_mm: float
    f_number: float
    pixel_pitch_um: float

    def __post_init__(self) -> None:
        values = (self.focal_length_mm, self.f_number, self.pixel_pitch_um)
        if not all(0 < value < float("inf") for value in values):
            raise ValueError(f"focal length, f-number and pixel pitch must be positive numbers, got {values}")

    @property
    def focal_length_m(self) -> float:
        return self.focal_length_mm * 1e-3

    @property
    def aperture_m(self) -> float:
        """Diameter of the aperture."""
        return self.focal_length_m / self.f_number

    def blur_at_infinity_px(self, focus_m: float) -> float:
        """a_F, the blur radius of a point at infinity in a slice focused at `focus_m`."""
        return self.gain_px(focus_m) / focus_m

    def gain_px(self, focus_m: float) -> float:
        """F a_F, pixels of blur per dioptre in a slice focused at `focus_m`; infinity has one, too."""
        f = self.focal_length_m
        return f * f / (2 * self.pixel_pitch_um * 1e-6 * self.f_number) / (1 - f / focus_m)

    def resized(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> "Lens":
        """The lens after resizing the pictures: the pitch grows as they shrink.

        Raises ValueError if the picture is squashed: there is then no one pitch; crop first.
        """
        return replace(self, pixel_pitch_um=self.pixel_pitch_um / scale_of(from_hw, to_hw))


def scale_of(from_hw: tuple[int, int], to_hw: tuple[int, int]) -> float:
    """The factor between two sizes; ValueError if the axes differ by more than 2 % (small sizes: a pixel)."""
    scale_y, scale_x = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    if abs(scale_x / scale_y - 1) > max(0.02, 1 / min(to_hw)):
        raise ValueError(f"resizing {from_hw} to {to_hw} squashes the picture; crop it to the shape first")
    return (scale_y * scale_x) ** 0.5


def check_focus_m(focus_m: Sequence[float], lens: Lens | None = None) -> None:
    """Raise ValueError unless the distances are positive, different, and beyond the focal length."""
    values = [float(value) for value in focus_m]
    if not values or not all(value > 0 for value in values):  # NaN fails as well
        raise ValueError(f"focus distances must be positive metres, got {values}")
    if len(set(values)) < len(values):
        raise ValueError(f"two focus distances are equal: {values}")
    if lens is not None and min(values) <= lens.focal_length_m:
        raise ValueError(
            f"the focus distance {min(values)} m is not beyond the focal length {lens.focal_length_m} m; "
            "focus distances are metres, focal lengths millimetres"
        )


@dataclass(frozen=True)
class Defocus:
    """Blur of S slices as a function of inverse depth: sigma_k = gain_px[k] * |q - focus_q[k]|.

    `kind` says what q is: "metric" (1 / metres), "disparity" (pixels, larger is nearer), "order" (place
    in the stack, larger is nearer) or "place" (the same, but which end is near is not known). `focus_q` and
    `gain_px` are [S] tensors or, in a batch of unlike stacks, [B, S].
    """

    focus_q: Tensor
    gain_px: Tensor
    kind: Literal["metric", "disparity", "order", "place"] = "metric"

    @classmethod
    def thin_lens(
        cls,
        lens: Lens,
        focus_m: Sequence[float],
        like: Tensor | None = None,
        breathing_corrected: bool = False,
    ) -> "Defocus":
        """The defocus of a known lens; raises ValueError for impossible focus distances.

        A lens that focuses nearer moves away from the sensor, which enlarges picture and blur by F / (F -
        f). Where the pictures were brought back to one scale (`breathing_corrected`), so was the blur: f^2
        / (2 p N) for all.
        """
        check_focus_m(focus_m, lens)
        f = lens.focal_length_m
        gains = [lens.gain_px(focus) for focus in focus_m]
        if breathing_corrected:
            gains = [gain * (1 - f / focus) for gain, focus in zip(gains, focus_m, strict=True)]
        reference = torch.empty(0) if like is None else like
        return cls(reference.new_tensor([1 / focus for focus in focus_m]), reference.new_tensor(gains))

    @classmethod
    def ordered(cls, count: int, kind: Literal["order", "place"] = "order") -> "Defocus":
        """A stack of unknown lens, nearest slice first: q falls from count - 1 to 0 in steps of 1."""
        return cls(torch.arange(count - 1.0, -1.0, -1.0), torch.full((count,), ORDER_GAIN_PX), kind)

    def only(self, chosen: Sequence[int]) -> "Defocus":
        """That of some of the slices."""
        return replace(self, focus_q=self.focus_q[..., chosen], gain_px=self.gain_px[..., chosen])

    @classmethod
    def by_distance(
        cls, focus_m: Sequence[float], lens: Lens | None = None, breathing_corrected: bool = False
    ) -> tuple["Defocus", list[int]]:
        """The defocus of slices sorted nearest first, and their order; without a lens only the order counts.

        Raises ValueError for impossible distances.
        """
        check_focus_m(focus_m, lens)
        order = sorted(range(len(focus_m)), key=lambda index: focus_m[index])
        if lens is None:
            return cls.ordered(len(order)), order
        distances = [float(focus_m[index]) for index in order]
        return cls.thin_lens(lens, distances, breathing_corrected=breathing_corrected), order

    def to(self, like: Tensor | torch.device) -> "Defocus":
        return replace(self, focus_q=self.focus_q.to(like), gain_px=self.gain_px.to(like))

    @property
    def span(self) -> Tensor:
        """The range of focus in inverse depth, [] or [B]."""
        return self.focus_q.amax(-1) - self.focus_q.amin(-1)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Inverse depth (far, near), [] or [B], that a stack can tell: its focus and half a step beyond."""
        low, high = self.focus_q.amin(-1), self.focus_q.amax(-1)
        margin = 0.5 * (high - low) / (self.focus_q.shape[-1] - 1)
        far = torch.maximum(low - margin, 0.1 * low) if self.kind == "metric" else low - margin
        return far, high + margin

    @property
    def q_range(self) -> tuple[float, float]:
        """The `ends` of one stack."""
        far, near = self.ends
        return float(far), float(near)

    def sigma_px(self, q: Tensor) -> Tensor:
        """Blur radius [B, S, H, W] in every slice of points at inverse depth q [B, 1, H, W]."""
        focus, gain = self.focus_q[..., None, None], self.gain_px[..., None, None]
        return gain * (q - focus).abs()

    def sigma_at_depth_px(self, depth_m: Tensor) -> Tensor:
        """Blur radius [B, S, H, W] of metric depths [B, 1, H, W]."""
        if self.kind != "metric":
            raise ValueError(f"a stack of kind {self.kind!r} knows no metres")
        return self.sigma_px(1 / depth_m.clamp(min=NEAREST_DEPTH_M))
