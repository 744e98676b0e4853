"""Splatting of all points at once: the fast twin of `models/splatting.py`, to which it is equal.

Every (point, pixel) pair within the kernel is one entry. Entries are sorted once by pixel, front to back
within a pixel, and as log T is a sum, one running sum over all entries gives every transmittance: no tiles,
no limit on the points per pixel, memory linear in the points. While only labels or only weights move, both
maps are linear in them: `FrozenSplat` keeps the entries that show, and a splat is one sum over them.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffdiffdepth.models.splatting import (
    ATTENUATION,
    DENSITY,
    LABEL_SIGMA_PX,
    SAMPLES,
    WEIGHT_SIGMA_PX,
    Opacity,
)
from shared.geometry import check_shape

__all__ = ["FrozenSplat", "splat"]

ENTRIES_PER_BAND = 1 << 17
HIDDEN = 1e-7  # entries of less opacity and less weight than this are left out of a frozen splat


def splat(
    positions_px: Tensor,
    labels: Tensor,
    weights: Tensor,
    size: tuple[int, int],
    *,
    near_is_large: bool,
    supersampling: int = 1,
    half_size: int = 3,
    opacity: Opacity = "analytic",
) -> tuple[Tensor, Tensor]:
    """As `models.splatting.splat`. Raises ValueError on wrong shapes or NaN."""
    _check_points(positions_px, labels, weights)
    fine = (size[0] * supersampling, size[1] * supersampling)
    positions_px = (positions_px + 0.5) * supersampling - 0.5
    return _Splat.apply(positions_px, labels, weights, fine, near_is_large, half_size, opacity)


class FrozenSplat:
    """The splat of points that stay where they are, and stay in their order from front to back.

    Called with labels and weights [n] it returns what `splat` does, as long as the labels have the order of
    those it was made with; beyond that, the points keep hiding each other as they did. Takes the arguments of
    `splat` but the weights. Differentiable in labels and weights.
    """

    @torch.no_grad()
    def __init__(
        self,
        positions_px: Tensor,
        labels: Tensor,
        size: tuple[int, int],
        *,
        near_is_large: bool,
        supersampling: int = 1,
        half_size: int = 3,
        opacity: Opacity = "analytic",
    ):
        _check_points(positions_px, labels, labels)
        self.size = (size[0] * supersampling, size[1] * supersampling)
        positions = (positions_px + 0.5) * supersampling - 0.5
        front_to_back = torch.sort(labels, descending=near_is_large, stable=True).indices
        parts = []
        for band in _bands(positions, front_to_back, self.size, half_size):
            order = torch.sort(band.pixel, stable=True).indices
            seen = band.transmittance(order)
            by_label = band.opacity(opacity)[0].mul_(seen).flatten()
            by_weight = band.weight()[0].mul_(seen).flatten()
            shows = (by_label > HIDDEN) | (by_weight > HIDDEN)
            shown = (shows & (band.pixel < band.pixel_count)).nonzero()[:, 0]
            point = band.points.index_select(0, shown // seen[0].numel())
            pixel = band.pixel.index_select(0, shown) + band.rows.start * self.size[1]
            parts.append((pixel, point.int(), by_label[shown], by_weight[shown]))
        self._pixel, self._point, self._by_label, self._by_weight = (
            torch.cat(column) for column in zip(*parts, strict=True)
        )

    def __call__(self, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Label map and weight map, both of the fine size."""
        _check_points(None, labels, weights)
        pairs = ((labels, self._by_label), (weights, self._by_weight))
        return tuple(self._sum(values, factors) for values, factors in pairs)

    def _sum(self, values: Tensor, factors: Tensor) -> Tensor:
        entries = values.index_select(0, self._point) * factors
        sums = values.new_zeros(self.size[0] * self.size[1])
        return sums.index_add(0, self._pixel, entries).view(self.size)


def _check_points(positions_px: Tensor | None, labels: Tensor, weights: Tensor) -> None:
    count = {"n": labels.numel()}
    named = (("positions_px", positions_px, "n 2"), ("labels", labels, "n"), ("weights", weights, "n"))
    for name, values, layout in named:
        if values is None:
            continue
        check_shape(values, layout, name, count)
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} of the points contain NaN or infinity")


class _Band:
    """All entries of some rows of the image: `points` by `k` by `k`, the points from front to back.

    Entries of those points outside the rows have the extra pixel number `pixel_count`, which nothing reads.
    """

    def __init__(self, points: Tensor, positions: Tensor, rows: tuple[int, int], width: int, half_size: int):
        self.points, self.rows = points, slice(*rows)
        self.shape = (rows[1] - rows[0], width)
        self.pixel_count = self.shape[0] * width
        x_px, y_px = positions[points].unbind(1)
        x, self.dx, x_profile = self._along(x_px, 0, width, half_size)  # [n, k]
        y, self.dy, y_profile = self._along(y_px, rows[0], self.shape[0], half_size)
        pixel = (y * width)[:, :, None] + x[:, None]
        outside = (y < 0)[:, :, None] | (x < 0)[:, None]
        self.pixel = pixel.masked_fill_(outside, self.pixel_count).flatten()
        self.profile = y_profile[:, :, None] * x_profile[:, None]  # G
        self.squared = self.dy.square()[:, :, None] + self.dx.square()[:, None]  # r^2

    @staticmethod
    def _along(positions: Tensor, first: int, extent: int, half_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel number within the band (-1 outside), offset and profile of every step along one axis."""
        steps = torch.arange(2 * half_size + 1, device=positions.device, dtype=positions.dtype)
        pixel = torch.ceil(positions - half_size)[:, None] + steps
        offset = pixel - positions[:, None]
        profile = torch.exp(offset.square() * (-0.5 / LABEL_SIGMA_PX**2))
        number = torch.where((pixel >= first) & (pixel < first + extent), pixel - first, -1)
        return number.int(), offset, profile

    def opacity(self, kind: Opacity) -> tuple[Tensor, Tensor]:
        """A, and its derivative by G."""
        if kind == "analytic":
            through = torch.exp(-DENSITY * self.profile)
            return 1 - through, DENSITY * through
        total, slope = torch.zeros_like(self.profile), torch.zeros_like(self.profile)
        for factor, depth in SAMPLES:
            term = factor * torch.exp(-depth * self.profile)
            total += term * self.profile
            slope += term * (1 - depth * self.profile)
        return total, slope

    def weight(self) -> tuple[Tensor, Tensor]:
        """The super-Gaussian of order 2, and its derivative by r^2."""
        inner = self.squared * (0.5 / WEIGHT_SIGMA_PX**2)
        value = torch.exp(-inner.square())
        return value, value * inner * (-1 / WEIGHT_SIGMA_PX**2)

    def sum_before(self, values: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """For every entry the sum of `values` over the entries before it in its pixel, and after it.

        The running sum crosses all pixels of the band, hence float64.
        """
        flat = values.flatten().double()
        sums = flat.new_zeros(self.pixel_count + 1).index_add_(0, self.pixel, flat)
        ordered = flat.index_select(0, order)
        before = torch.empty_like(flat).scatter_(0, order, torch.cumsum(ordered, 0).sub_(ordered))
        before -= (sums.cumsum(0) - sums).index_select(0, self.pixel)
        after = sums.index_select(0, self.pixel).sub_(before).sub_(flat)
        return before.to(values.dtype).view_as(values), after.to(values.dtype).view_as(values)

    def transmittance(self, order: Tensor) -> Tensor:
        """T of every entry; `order` sorts them by pixel."""
        depth, _ = self.sum_before(self.profile, order)
        return depth.clamp_(min=0).mul_(-ATTENUATION).exp_()

    def summed(self, values: Tensor) -> Tensor:
        """Sum of the entries of every pixel, [rows, width]."""
        sums = values.new_zeros(self.pixel_count + 1).index_add_(0, self.pixel, values.flatten())
        return sums[:-1].view(self.shape)

    def spread(self, image: Tensor) -> Tensor:
        """The value of a whole image [H, W] at every entry, zero outside the band."""
        padded = torch.cat([image[self.rows].flatten(), image.new_zeros(1)])
        return padded.index_select(0, self.pixel).view_as(self.profile)


def _bands(
    positions: Tensor, front_to_back: Tensor, size: tuple[int, int], half_size: int
) -> Iterator[_Band]:
    """The image cut into bands of about ENTRIES_PER_BAND entries."""
    height, width = size
    entries = len(positions) * (2 * half_size + 1) ** 2
    rows = max(4 * half_size, math.ceil(height * ENTRIES_PER_BAND / max(entries, 1)))
    first_row = torch.ceil(positions[:, 1] - half_size)[front_to_back]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        touches = (first_row < bottom) & (first_row >= top - 2 * half_size)
        yield _Band(front_to_back[touches], positions, (top, bottom), width, half_size)


class _Splat(torch.autograd.Function):
    @staticmethod
    def forward(ctx, positions, labels, weights, size, near_is_large, half_size, opacity):
        front_to_back = torch.sort(labels, descending=near_is_large, stable=True).indices
        label_map, weight_map = labels.new_zeros(2, *size)
        saved = []
        for band in _bands(positions, front_to_back, size, half_size):
            order = torch.sort(band.pixel, stable=True).indices
            seen = band.transmittance(order)
            alpha, weight = band.opacity(opacity)[0], band.weight()[0]
            label_map[band.rows] = band.summed(alpha.mul_(seen).mul_(labels[band.points, None, None]))
            weight_map[band.rows] = band.summed(weight.mul_(seen).mul_(weights[band.points, None, None]))
            saved += [order.int(), seen]
        ctx.save_for_backward(positions, labels, weights, front_to_back, *saved)
        ctx.settings = (size, half_size, opacity)
        return label_map, weight_map

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_label_map, grad_weight_map):
        positions, labels, weights, front_to_back, *saved = ctx.saved_tensors
        size, half_size, opacity = ctx.settings
        grads = [torch.zeros_like(x) for x in (positions, labels, weights)]
        bands = _bands(positions, front_to_back, size, half_size)
        for band, order, seen in zip(bands, saved[0::2], saved[1::2], strict=True):
            by_label = band.spread(grad_label_map).mul_(seen)
            by_weight = band.spread(grad_weight_map).mul_(seen)
            (alpha, alpha_slope), (profile, profile_slope) = band.opacity(opacity), band.weight()
            grad_label, grad_weight = alpha.mul_(by_label), profile.mul_(by_weight)
            by_label.mul_(labels[band.points, None, None])
            by_weight.mul_(weights[band.points, None, None])

            # a point also dims what is behind it in the same pixel
            shown = alpha * labels[band.points, None, None] + profile * weights[band.points, None, None]
            _, behind = band.sum_before(shown, order.long())
            by_profile = by_label.mul_(alpha_slope).sub_(behind, alpha=ATTENUATION)
            by_squared = by_profile.mul_(band.profile).mul_(-0.5 / LABEL_SIGMA_PX**2)
            by_squared.addcmul_(by_weight, profile_slope)

            by_x = (by_squared.sum(1) * band.dx).sum(1)  # dx is pixel minus point
            by_y = (by_squared.sum(2) * band.dy).sum(1)
            grads[0].index_add_(0, band.points, -2 * torch.stack([by_x, by_y], 1))
            grads[1].index_add_(0, band.points, grad_label.sum((1, 2)))
            grads[2].index_add_(0, band.points, grad_weight.sum((1, 2)))
        return *grads, None, None, None, None
