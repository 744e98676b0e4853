"""Refinement of points with all views of a full grid, not only those of the two arms.

A 9 x 9 light field has 80 views besides the centre, its arms only 16: the noise of the disparities falls to
less than half. One Gauss-Newton step from the alignment along the arms is enough. Views are taken one by one,
so memory holds a few patches per point for any number of views.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdiffdepth.points.align import NOISE_FACTOR, Alignment
from diffdiffdepth.points.planes import catmull_rom, differences, normal_matrix, plane_basis, plane_step
from diffdiffdepth.points.stacks import blurred_lightness
from diffdiffdepth.scene import LightField

__all__ = ["refine_with_grid"]

POINTS_AT_ONCE = 8_000  # their patches stay in the cache
NEXT_TO_CENTRE = 1.3  # views up to this offset make the reference patch: they hardly hide anything


def refine_with_grid(
    light_field: LightField,
    positions_px: Tensor,
    aligned: Alignment,
    *,
    radius: int,
    max_change: float,
    occlusion_px: float,
    noise: float,
) -> tuple[Tensor, Tensor]:
    """Disparities [n] and their standard errors [n] after one step with all views that agree with a point.

    A view counts for a point if its patch differs from the reference, the mean of the views next to the
    centre, by no more than `occlusion_px` of misalignment and `noise` (variance of lightness) explain.
    """
    images = [blurred_lightness(image) for image in (light_field.centre, *light_field.views)]
    images = F.pad(torch.stack(images)[None], (_margin(radius),) * 4, mode="replicate")[0]  # [V, H, W]
    offsets = torch.cat([light_field.offsets.new_zeros(1, 2), light_field.offsets])
    parts = []
    for start in range(0, max(1, len(positions_px)), POINTS_AT_ONCE):
        chunk = slice(start, start + POINTS_AT_ONCE)
        step = _GridStep(images, offsets, positions_px[chunk], aligned.plane[chunk], radius)
        parts.append(step.solve(max_change, occlusion_px, noise))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _margin(radius: int) -> int:
    """Pixels that go around the pictures: as wide as the widest block of pixels that is looked at."""
    return 2 * radius + 6


class _GridStep:
    """The patches of some points in all views, and one step of their planes.

    Patches are [P, n]: long rows, which are several times as fast here as the short ones of [n, P].
    """

    def __init__(self, images: Tensor, offsets: Tensor, positions_px: Tensor, plane: Tensor, radius: int):
        self.images, self.offsets, self.plane, self.radius = images, offsets, plane, radius
        self.pixels = positions_px.round().long()
        self.off_pixel = positions_px - self.pixels
        self.basis = plane_basis(radius, radius, positions_px)

    def solve(self, max_change: float, occlusion_px: float, noise: float) -> tuple[Tensor, Tensor]:
        """Disparities and standard errors [n]."""
        patch, along_x, along_y = self._reference()
        energy = (along_x.square() + along_y.square()).mean(0) / 2
        bound = occlusion_px**2 * energy + 2 * NOISE_FACTOR * noise
        slant = self.basis[:, 1:] @ self.plane[:, 1:].T  # [P, n]: the samples only follow the plane's level
        slant_x, slant_y = slant * along_x, slant * along_y
        size, n = patch.shape
        levers = patch.new_zeros(6, n)
        loads = patch.new_zeros(3, size, n)  # sums over views of the difference D, of u D and of v D
        squares = patch.new_zeros(n)
        for image, (u, v) in zip(self.images, self.offsets.tolist(), strict=True):
            difference = self._values(image, u, v, self.radius).sub_(patch)
            difference.add_(slant_x, alpha=u).add_(slant_y, alpha=v)
            seen = (difference.square().mean(0) <= bound).to(patch.dtype)
            difference.sub_(difference.mean(0)).mul_(seen)
            levers += patch.new_tensor([1.0, u, v, u * u, u * v, v * v])[:, None] * seen
            for load, factor in zip(loads, (1.0, u, v), strict=True):
                load.add_(difference, alpha=factor)
            squares += difference.square_().sum(0)
        # Sums are taken about their mean over the views, so that the unknown true patch drops out.
        count, u, v = levers[:3]
        count = count.clamp(min=1)
        plain, by_u, by_v = loads
        pull = along_x * (by_u - u * plain / count) + along_y * (by_v - v * plain / count)
        error = squares - plain.square().sum(0) / count
        freedom = ((count - 1) * (size - 1) - 3).clamp(min=1)
        variance = error.clamp(min=1e-12) / freedom
        normal = normal_matrix(levers, along_x.T, along_y.T, self.basis, free_brightness=True)
        plane = plane_step(normal, pull.T @ self.basis, variance, self.plane)
        level = plane[:, 0].clamp(self.plane[:, 0] - max_change, self.plane[:, 0] + max_change)
        disparity = level + (plane[:, 1:] * self.off_pixel).sum(1)
        return disparity, (variance / normal[:, 0, 0].clamp(min=1e-9)).sqrt()

    def _reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean patch [P, n] of the centre and the views next to it, and its derivatives in x and y."""
        near = (self.offsets.abs() <= NEXT_TO_CENTRE).all(1).nonzero().flatten().tolist()
        wide = self.radius + 1
        total = sum(self._values(self.images[i], *self.offsets[i].tolist(), wide) for i in near) / len(near)
        patch = total.unflatten(0, (2 * wide + 1, 2 * wide + 1))
        along_x, along_y = differences(patch, 1)[1:-1], differences(patch, 0)[:, 1:-1]
        return tuple(part.flatten(0, 1) for part in (patch[1:-1, 1:-1], along_x, along_y))

    def _values(self, image: Tensor, u: float, v: float, radius: int) -> Tensor:
        """Patches [P, n] of the given radius in the view with offset (u, v), shifted by the planes' level."""
        run = 2 * radius + 4
        x, y = self.pixels[:, 0] + self.plane[:, 0] * u, self.pixels[:, 1] + self.plane[:, 0] * v
        column, row = x.floor(), y.floor()
        height, width = image.shape
        margin = _margin(self.radius)
        top = (row.long() - radius - 1 + margin).clamp(0, height - run)
        left = (column.long() - radius - 1 + margin).clamp(0, width - run)
        step = torch.arange(run, device=image.device)
        place = (step[:, None] * width + step)[:, :, None] + (top * width + left)
        block = image.flatten().index_select(0, place.flatten()).view(run, run, -1)
        rows = catmull_rom(block, x - column, 1)  # [run, 2 radius + 1, n]
        return catmull_rom(rows, y - row, 0).flatten(0, 1)
