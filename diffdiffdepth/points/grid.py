"""Refinement of points with all views of a full grid, not only those of the two arms.

A 9 x 9 light field has 80 views beside the centre and its arms only 16: the noise of the disparities falls to
less than half. One Gauss-Newton step from the alignment along the arms is enough. Views are taken one by one,
so memory holds a few patches per point whatever the number of views.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdiffdepth.points.align import NEIGHBOURS, NOISE_FACTOR, SLANT_SIGMA, Alignment, catmull_rom
from diffdiffdepth.points.stacks import ON_AXIS, blurred_lightness
from diffdiffdepth.scene import LightField

__all__ = ["has_off_axis_views", "refine_with_grid"]

POINTS_AT_ONCE = 100_000
NEXT_TO_CENTRE = 1.3  # views up to this offset make the reference patch: they hardly hide anything


def has_off_axis_views(light_field: LightField) -> bool:
    """Tell whether there are views beside the row and the column of the centre."""
    return bool((light_field.offsets.abs() >= ON_AXIS).all(1).any())


def refine_with_grid(
    light_field: LightField,
    positions_px: Tensor,
    aligned: Alignment,
    *,
    blur_sigma_px: float,
    radius: int,
    max_change: float,
    occlusion_px: float,
    noise: float,
) -> tuple[Tensor, Tensor]:
    """Disparities [n] and their standard errors [n] after one step with all views that agree with a point.

    A view counts for a point if its patch differs from the reference, the mean of the views next to the
    centre, by no more than `occlusion_px` of misalignment and `noise` (variance of lightness) explain.
    """
    parts = []
    for start in range(0, max(1, len(positions_px)), POINTS_AT_ONCE):
        chunk = slice(start, start + POINTS_AT_ONCE)
        step = _GridStep(light_field, positions_px[chunk], aligned[chunk], blur_sigma_px, radius)
        parts.append(step.solve(max_change, occlusion_px, noise))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


class _GridStep:
    def __init__(self, light_field: LightField, positions_px, aligned: Alignment, blur_sigma_px, radius):
        self.light_field, self.blur_sigma_px, self.radius = light_field, blur_sigma_px, radius
        self.pixels, self.plane = positions_px.round().long(), aligned.plane
        self.offset = positions_px - self.pixels
        self.run = 2 * radius + 1 + NEIGHBOURS
        steps = torch.arange(-radius, radius + 1).to(positions_px)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.basis = torch.stack([torch.ones_like(x), x, y], dim=-1).flatten(0, 1)  # [P, 3]

    def solve(self, max_change: float, occlusion_px: float, noise: float) -> tuple[Tensor, Tensor]:
        patch, along_x, along_y = self._reference()
        energy = (along_x.square() + along_y.square()).mean(1) / 2
        bound = occlusion_px**2 * energy + 2 * NOISE_FACTOR * noise
        slant = self.plane[:, 1:] @ self.basis[:, 1:].T  # [n, P]
        n, size = patch.shape
        levers = patch.new_zeros(6, n)  # sums over views of 1, du, dv, du^2, du dv, dv^2
        loads = patch.new_zeros(3, n, size)  # of the difference D, du D, dv D
        squares = patch.new_zeros(n)
        centre = patch.new_zeros(1, 2)
        for image, (du, dv) in zip(
            self._images(), torch.cat([centre, self.light_field.offsets]).tolist(), strict=True
        ):
            values = self._patches(image, du, dv)[0] + slant * (du * along_x + dv * along_y)
            difference = values - patch
            seen = (difference.square().mean(1) <= bound).to(patch.dtype)
            difference = (difference - difference.mean(1, keepdim=True)) * seen[:, None]
            factors = patch.new_tensor([1.0, du, dv, du * du, du * dv, dv * dv])
            levers += factors[:, None] * seen
            for load, factor in zip(loads, (1.0, du, dv), strict=True):
                load.add_(difference, alpha=factor)
            squares += difference.square().sum(1)
        return self._step(levers, loads, squares, along_x, along_y, max_change)

    def _step(self, levers, loads, squares, along_x, along_y, max_change) -> tuple[Tensor, Tensor]:
        """The plane that best explains the differences, its level at the point and the standard error of it.

        All sums are taken about their mean over the views, so that the unknown true patch drops out.
        """
        count, u, v, uu, uv, vv = levers[..., None, None]  # [n, 1, 1] each
        count = count.clamp(min=1)
        x, y = (along[..., None] * self.basis for along in (along_x, along_y))  # [n, P, 3]
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)  # brightness is unknown in every view
        mixed = x.transpose(1, 2) @ y
        normal = (uu - u * u / count) * (x.transpose(1, 2) @ x) + (vv - v * v / count) * (
            y.transpose(1, 2) @ y
        )
        normal = normal + (uv - u * v / count) * (mixed + mixed.transpose(1, 2))
        plain, by_u, by_v = loads
        count, u, v = count[:, 0], u[:, 0], v[:, 0]
        load = torch.einsum("npi,np->ni", x, by_u - u * plain / count)
        load = load + torch.einsum("npi,np->ni", y, by_v - v * plain / count)
        error = squares - plain.square().sum(1) / count[:, 0]
        variance = error.clamp(min=1e-12) / ((count[:, 0] - 1) * (plain.shape[1] - 1) - 3).clamp(min=1)
        ridge = torch.zeros_like(normal)
        ridge[:, 1, 1] = ridge[:, 2, 2] = variance / SLANT_SIGMA**2
        small = 1e-9 * torch.eye(3).to(normal)
        pull = torch.einsum("nij,nj->ni", ridge, self.plane)
        step = torch.linalg.solve(normal + ridge + small, load + pull)
        plane = self.plane - step
        level = plane[:, 0].clamp(self.plane[:, 0] - max_change, self.plane[:, 0] + max_change)
        disparity = level + (plane[:, 1:].clamp(-3 * SLANT_SIGMA, 3 * SLANT_SIGMA) * self.offset).sum(1)
        return disparity, (variance / normal[:, 0, 0].clamp(min=1e-9)).sqrt()

    def _reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean patch [n, P] of the centre and the views next to it, and its derivatives in x and y."""
        near = (self.light_field.offsets.abs() <= NEXT_TO_CENTRE).all(1).nonzero().flatten()
        sums = self._patches(next(self._images()), 0.0, 0.0)
        for index in near.tolist():
            image = blurred_lightness(self.light_field.views[index], self.blur_sigma_px)
            patches = self._patches(image, *self.light_field.offsets[index].tolist())
            sums = tuple(total + part for total, part in zip(sums, patches, strict=True))
        return tuple(total / (len(near) + 1) for total in sums)

    def _images(self):
        """Blurred lightness [H, W] of the centre, then of every view."""
        yield blurred_lightness(self.light_field.centre, self.blur_sigma_px)
        for view in self.light_field.views:
            yield blurred_lightness(view, self.blur_sigma_px)

    def _patches(self, image: Tensor, du: float, dv: float) -> tuple[Tensor, Tensor, Tensor]:
        """Values and derivatives in x and y of the patches in a view with the given offset, [n, P] each."""
        margin, level = self.run, self.plane[:, 0]
        x, y = self.pixels[:, 0] + level * du, self.pixels[:, 1] + level * dv
        column, row = x.floor(), y.floor()
        padded = F.pad(image[None, None], (margin,) * 4, mode="replicate")[0, 0]
        blocks = padded.unfold(0, self.run, 1).unfold(1, self.run, 1)  # a view, not a copy
        top = (row.long() - self.radius - 1 + margin).clamp(0, blocks.shape[0] - 1)
        left = (column.long() - self.radius - 1 + margin).clamp(0, blocks.shape[1] - 1)
        across, sloped = catmull_rom(blocks[top, left], (x - column)[:, None, None])  # [n, run, P^1/2]
        t = (y - row)[:, None, None]
        values, along_y = catmull_rom(across.transpose(1, 2), t)
        along_x, _ = catmull_rom(sloped.transpose(1, 2), t)
        return tuple(part.transpose(1, 2).flatten(1) for part in (values, along_x, along_y))
