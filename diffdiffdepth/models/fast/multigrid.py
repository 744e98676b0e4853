"""Multigrid-preconditioned conjugate gradients for the 5-point systems of image diffusion, in plain PyTorch.

The matrix is A = diag(pull) + L, with L the graph Laplacian of an image whose neighbouring pixels are
joined by edges of non-negative weight. Three choices make a cycle cheap:

* Checkerboard storage. Red and black pixels live in separate buffers, in which the four neighbours of a
  pixel are the other colour at the same place, one row up, one row down and one column aside (the side
  alternates from row to row). A Gauss-Seidel half sweep is four fused multiply-adds over flat memory,
  without a temporary.
* Symmetric scaling to a unit diagonal, so that no sweep divides.
* The red pixels are eliminated on the finest level: as every cycle ends on a red sweep the red residual
  stays zero, and the vectors of the conjugate gradients have half the length.

Coarse levels join 2x2 pixels: `pull` is summed, edges are summed and halved, because a coarse edge bridges
twice the distance. One sweep before (red, black) and one after (black, red) keep the preconditioner
symmetric and positive.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Hierarchy", "SolveInfo", "degree"]

COARSEST_PIXELS = 64  # solved with a dense inverse


@dataclass(frozen=True)
class SolveInfo:
    """How a solve went: conjugate gradient steps and the estimated relative error in the energy norm."""

    iterations: int
    relative_error: float
    converged: bool


class _Layout:
    """Where the pixels of [B, height, width] are in the buffers [B, length] of the two colours.

    Red is the colour of pixel (0, 0). A row holds every second pixel and one pad, so element k of row y is
    column 2k + y % 2 if red and 2k + 1 - y % 2 if black. Pads, also around the image, always hold zero.
    """

    def __init__(self, batch: int, height: int, width: int):
        self.batch, self.height, self.width = batch, height, width
        self.rows = height + height % 2
        self.columns = (width + 1) // 2
        self.stride = self.columns + 1
        self.length = (self.rows + 2) * self.stride + 2

    def buffers(self, like: Tensor, count: int) -> Tensor:
        return like.new_zeros(count, self.batch, self.length)

    def image(self, like: Tensor) -> Tensor:
        """An image of zeros, padded to whole 2x2 blocks."""
        return like.new_zeros(self.batch, self.rows, 2 * self.columns)

    def padded(self, image: Tensor) -> Tensor:
        """A padded copy of an image that is at most height x width."""
        copy = self.image(image)
        copy[:, : image.shape[1], : image.shape[2]] = image
        return copy

    def colours(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Red and black pixels of a padded image, each [B, rows / 2, 2, columns]."""
        width = 2 * self.columns
        shape = (self.batch, self.rows // 2, 2, self.columns)
        red = image.as_strided(shape, (image.stride(0), 2 * width, width + 1, 2), image.storage_offset())
        strides = (image.stride(0), 2 * width, width - 1, 2)
        return red, image.as_strided(shape, strides, image.storage_offset() + 1)

    def flat(self, buffer: Tensor, row_shift: int = 0) -> Tensor:
        """All rows of a buffer in one run [B, rows * stride]; shifted: one row above (-1) or below (+1)."""
        first = 1 + (1 + row_shift) * self.stride
        return buffer[:, first : first + self.rows * self.stride]

    def sideways(self, buffer: Tensor, even_shift: int, odd_shift: int) -> Tensor:
        """All rows [B, rows / 2, 2, stride], even and odd ones shifted by so many elements."""
        shape = (self.batch, self.rows // 2, 2, self.stride)
        strides = (buffer.stride(0), 2 * self.stride, self.stride + odd_shift - even_shift, 1)
        return buffer.as_strided(shape, strides, buffer.storage_offset() + 1 + self.stride + even_shift)

    def grid(self, buffer: Tensor) -> Tensor:
        """The pixels [B, rows / 2, 2, columns] of a buffer, without pads."""
        return self.sideways(buffer, 0, 0)[..., :-1]


def degree(right: Tensor, down: Tensor) -> Tensor:
    """Sum [B, H, W] of the weights of every pixel's edges."""
    height, width = down.shape[1] + 1, right.shape[2] + 1
    total = right.new_zeros(right.shape[0], height, width)
    total[:, :, :-1] += right
    total[:, :, 1:] += right
    total[:, :-1] += down
    total[:, 1:] += down
    return total


class _Level:
    """One grid of the hierarchy: its scaled couplings, and the buffers and views that a cycle works with."""

    def __init__(self, pull: Tensor, right: Tensor, down: Tensor):
        self.layout = layout = _Layout(*pull.shape)
        diagonal = pull + degree(right, down)  # [B, H, W]
        self.scale = diagonal.rsqrt()  # D^-1/2 of A = D^1/2 (1 - C) D^1/2, C the couplings
        right = right * self.scale[:, :, :-1] * self.scale[:, :, 1:]
        down = down * self.scale[:, :-1] * self.scale[:, 1:]

        constants = layout.buffers(pull, 8)
        inner, outer, below_red, below_black, root_red, root_black, scale_red, scale_black = constants
        for parity, target in ((0, inner), (1, outer)):
            edges = right[:, :, parity::2]
            rows = layout.grid(target).view(layout.batch, layout.rows, layout.columns)
            rows[:, : edges.shape[1], : edges.shape[2]] = edges
        self.split(down, below_red, below_black)
        self.split(diagonal * self.scale, root_red, root_black)
        self.split(self.scale, scale_red, scale_black)

        self.red, self.black, self.rhs_red, self.rhs_black, self.spare = layout.buffers(pull, 5)
        self.couplings = (inner, outer, below_red, below_black)
        self.to_red = self._pairs_to_red(self.black)
        self.to_red_from_rhs = self._pairs_to_red(self.rhs_black)
        self.to_black = (
            (layout.flat(inner), layout.flat(self.red)),
            (layout.flat(below_black), layout.flat(self.red, 1)),
            (layout.flat(below_red, -1), layout.flat(self.red, -1)),
            (layout.sideways(outer, 0, -1), layout.sideways(self.red, 1, -1)),
        )
        self.image = layout.image(pull)
        image_red, image_black = layout.colours(self.image)
        grid = layout.grid
        self.from_image = (  # factor, factor, product: the right-hand side
            (image_red, grid(scale_red), grid(self.rhs_red)),
            (image_black, grid(scale_black), grid(self.rhs_black)),
        )
        self.to_image = (  # the result
            (grid(self.red), grid(scale_red), image_red),
            (grid(self.black), grid(scale_black), image_black),
        )
        self.root = layout.flat(root_red)
        self.root_grid, self.red_grid, self.rhs_red_grid, self.spare_grid = (
            grid(buffer) for buffer in (root_red, self.red, self.rhs_red, self.spare)
        )

    def split(self, image: Tensor, red: Tensor, black: Tensor) -> None:
        image_red, image_black = self.layout.colours(self.layout.padded(image))
        self.layout.grid(red).copy_(image_red)
        self.layout.grid(black).copy_(image_black)

    def join(self, red: Tensor, black: Tensor) -> Tensor:
        """The image [B, H, W] of two buffers."""
        image = self.layout.image(red)
        for target, source in zip(self.layout.colours(image), (red, black), strict=True):
            target.copy_(self.layout.grid(source))
        return image[:, : self.layout.height, : self.layout.width]

    def _pairs_to_red(self, black: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """(coupling, value) pairs whose summed products are what black neighbours add to each red pixel."""
        layout, (inner, outer, below_red, below_black) = self.layout, self.couplings
        return (
            (layout.flat(inner), layout.flat(black)),
            (layout.flat(below_red), layout.flat(black, 1)),
            (layout.flat(below_black, -1), layout.flat(black, -1)),
            (layout.sideways(outer, -1, 0), layout.sideways(black, -1, 1)),
        )

    def combine(self, out: Tensor, pairs, start: Tensor | None = None, sign: float = 1.0) -> None:
        """out = start + sign * (sum over the four neighbours of coupling * value), all of them buffers."""
        flat = self.layout.flat(out)
        coupling, value = pairs[0]
        if start is None:
            torch.mul(coupling, value, out=flat)
        else:
            torch.addcmul(self.layout.flat(start), coupling, value, value=sign, out=flat)
        for coupling, value in pairs[1:3]:
            flat.addcmul_(coupling, value, value=sign)
        coupling, value = pairs[3]
        self.layout.sideways(out, 0, 0).addcmul_(coupling, value, value=sign)

    def restrict(self, coarse: Tensor, red_rhs_is_zero: bool) -> None:
        """Smooth from zero (red, black) and sum the residual, which is left on red alone, over 2x2 pixels."""
        if red_rhs_is_zero:  # the sweep leaves red at zero and black at its right-hand side
            self.combine(self.spare, self.to_red_from_rhs)
        else:
            self.red.copy_(self.rhs_red)
            self.combine(self.black, self.to_black, self.rhs_black)
            self.combine(self.spare, self.to_red)
        self.layout.flat(self.spare).mul_(self.root)
        torch.add(self.spare_grid[:, :, 0], self.spare_grid[:, :, 1], out=coarse)

    def prolong(self, coarse: Tensor, red_rhs_is_zero: bool) -> None:
        """Correct red from the coarse grid (a sweep overwrites black anyway), then smooth (black, red)."""
        coarse = coarse[:, :, None]
        if red_rhs_is_zero:
            torch.mul(self.root_grid, coarse, out=self.red_grid)
        else:
            torch.addcmul(self.rhs_red_grid, self.root_grid, coarse, out=self.red_grid)
        self.combine(self.black, self.to_black, self.rhs_black)
        self.combine(self.red, self.to_red, None if red_rhs_is_zero else self.rhs_red)


def _dense_inverse(pull: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """The inverse [B, HW, HW] of a small system, in float64."""
    batch, height, width = pull.shape
    index = torch.arange(height * width, device=pull.device).view(height, width)
    matrix = torch.diag_embed(pull.double().flatten(1))
    for edges, first, second in ((right, index[:, :-1], index[:, 1:]), (down, index[:-1], index[1:])):
        first, second, edges = first.flatten(), second.flatten(), edges.double().flatten(1)
        matrix[:, first, first] += edges
        matrix[:, second, second] += edges
        matrix[:, first, second] -= edges
        matrix[:, second, first] -= edges
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():  # singular to rounding: a pull more than 1e15 times weaker than the edges
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal += 1e-13 * diagonal.amax(1, keepdim=True)
        factor = torch.linalg.cholesky(matrix)
    return torch.cholesky_inverse(factor)


def _coarsened(pull: Tensor, right: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The system on 2x2 blocks; blocks at an odd border have fewer pixels."""
    height, width = pull.shape[1:]
    rows = pull[:, 0::2].clone()
    rows[:, : height // 2] += pull[:, 1::2]
    coarse_pull = rows[:, :, 0::2].clone()
    coarse_pull[:, :, : width // 2] += rows[:, :, 1::2]
    coarse_right = 0.5 * right[:, 0::2, 1::2]
    coarse_right[:, : height // 2].add_(right[:, 1::2, 1::2], alpha=0.5)
    coarse_down = 0.5 * down[:, 1::2, 0::2]
    coarse_down[:, :, : width // 2].add_(down[:, 1::2, 1::2], alpha=0.5)
    return coarse_pull, coarse_right, coarse_down


class Hierarchy:
    """All grids of one system (diag(pull) + Laplacian(right, down)) x = rhs, ready for any number of solves.

    pull [B, H, W]: what holds each pixel to its own value, non-negative with a positive entry in every
    connected part. right [B, H, W-1], down [B, H-1, W]: weights of the edges to the right and lower
    neighbours. Sizes of one pixel, row or column are fine. The caller checks the values; one solve at a
    time.
    """

    def __init__(self, pull: Tensor, right: Tensor, down: Tensor):
        self.pull = pull
        self.levels: list[_Level] = []
        while pull[0].numel() > COARSEST_PIXELS:
            self.levels.append(_Level(pull, right, down))
            pull, right, down = _coarsened(pull, right, down)
        self.inverse = _dense_inverse(pull, right, down)  # [B, n, n] float64
        self.inverse_rounded = self.inverse.to(pull.dtype)
        self.coarsest = torch.zeros_like(pull)  # [B, h, w]
        self.coarse_images = [
            level.image[:, : level.layout.height, : level.layout.width] for level in self.levels[1:]
        ] + [self.coarsest]

    @torch.no_grad()
    def solve(
        self,
        rhs: Tensor,
        start: Tensor | None = None,
        tolerance: float = 1e-5,
        max_iterations: int = 100,
        energy: Tensor | None = None,
    ) -> tuple[Tensor, SolveInfo]:
        """Solve for x [B, H, W]; stop once the error's energy e.Ae is at most tolerance^2 times `energy` [B].

        `energy` is by default that of x less its mean. The error is estimated as r . M^-1 r (M the multigrid
        cycle), because the plain |r| is ruled by pixels with a large pull and may be tiny while everything
        between them is still far off. `start` warms the solve.
        """
        mean = rhs.sum((1, 2), keepdim=True) / self.pull.sum((1, 2), keepdim=True)
        residual = rhs - self.pull * mean
        if not self.levels:
            x = (self.inverse @ residual.double().flatten(1)[..., None]).to(rhs.dtype).view_as(rhs)
            return x + mean, SolveInfo(0, 0.0, True)
        top = self.levels[0]
        start = None if start is None else (start - mean) / top.scale
        energy = None if energy is None else energy[:, None]
        scaled = residual * top.scale
        solution, info = self._conjugate_gradients(scaled, start, tolerance, max_iterations, energy)
        return solution * top.scale + mean, info

    def _precondition(self) -> None:
        """One V-cycle on the finest level, from rhs_black, with a red right-hand side of zero."""
        steps = list(zip(self.levels, self.coarse_images, strict=True))
        top = self.levels[0]
        for level, coarse in steps:
            if level is not top:
                _multiply(level.from_image)
            level.restrict(coarse, red_rhs_is_zero=level is top)
        solved = self.inverse_rounded @ self.coarsest.flatten(1)[..., None]
        self.coarsest.copy_(solved.view_as(self.coarsest))
        for level, coarse in reversed(steps):
            level.prolong(coarse, red_rhs_is_zero=level is top)
            if level is not top:
                _multiply(level.to_image)

    def _conjugate_gradients(
        self,
        rhs: Tensor,
        start: Tensor | None,
        tolerance: float,
        max_iterations: int,
        energy: Tensor | None,
    ) -> tuple[Tensor, SolveInfo]:
        """Solve the scaled system for its black pixels, then fill in red."""
        top = self.levels[0]
        rhs_red, x, direction, applied, image = top.layout.buffers(rhs, 5)
        residual = top.rhs_black
        top.split(rhs, rhs_red, residual)
        top.red.copy_(rhs_red)
        top.combine(residual, top.to_black, residual)  # the right-hand side once red is eliminated
        solved = _dot(rhs_red, rhs_red)  # energy of the current x
        if start is not None:
            top.split(start, top.red, x)
            top.black.copy_(x)
            top.combine(top.red, top.to_red)
            top.combine(image, top.to_black, top.black, -1)
            residual -= image
            solved += _dot(x, image)
        tiny = torch.finfo(rhs.dtype).tiny
        previous = None
        for iteration in range(max_iterations + 1):
            self._precondition()
            error = _dot(residual, top.black)  # squared, in the energy norm
            reference = solved if energy is None else energy
            relative = (error / reference.clamp_min(tiny)).max().item()
            if relative <= tolerance**2 or iteration == max_iterations:
                break
            top.combine(image, top.to_black, top.black, -1)
            if previous is None:
                direction.copy_(top.black)
                applied.copy_(image)
            else:
                beta = error / previous.clamp_min(tiny)
                torch.addcmul(top.black, beta, direction, out=direction)
                torch.addcmul(image, beta, applied, out=applied)
            curvature = _dot(direction, applied)
            if not (curvature > 0).logical_or(error == 0).all():  # rounding has used up all digits
                break
            step = error / curvature.clamp_min(tiny)
            x.addcmul_(step, direction)
            residual.addcmul_(step, applied, value=-1)
            solved += step * error
            previous = error
        top.black.copy_(x)
        top.combine(rhs_red, top.to_red, rhs_red)
        info = SolveInfo(iteration, max(relative, 0.0) ** 0.5, relative <= tolerance**2)
        return top.join(rhs_red, x), info


def _multiply(triples) -> None:
    for source, scale, target in triples:
        torch.mul(source, scale, out=target)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [B, 1] of the rows of a and b."""
    return torch.bmm(a[:, None], b[..., None])[..., 0]
