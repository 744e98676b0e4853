"""Lifting and projection as sparse matrices, of a camera that is used again.

For a fixed camera both are linear maps with 4 or 8 weights per output. One application is a sum of table
rows, forward and backward, without scattered writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from deepvoxels.models.volume import SamplingMap

__all__ = ["SparseMatrix", "lift", "matrix_of", "project", "sampled_rows"]


def lift(features: Tensor, maps: Sequence[SamplingMap]) -> Tensor:
    """As `volume.lift`."""
    return torch.stack([_dense(image, where) for image, where in zip(features, maps, strict=True)])


def project(volume: Tensor, maps: Sequence[SamplingMap]) -> Tensor:
    """As `volume.project`."""
    return torch.stack([_dense(volume[0], where) for where in maps])


def _dense(values: Tensor, where: SamplingMap) -> Tensor:
    d, h, w = where.out_shape
    rows = sampled_rows(values, where)
    out = rows.new_zeros(d * h * w, rows.shape[1]).index_copy(0, where.position, rows)
    return out.view(d, h, w, -1).movedim(-1, 0)


def sampled_rows(values: Tensor, where: SamplingMap) -> Tensor:
    """Features [F, *in_shape] interpolated at the map's n points: [n, F]. Differentiable in the features."""
    if values.shape[1:] != where.in_shape:
        raise ValueError(f"a map of {where.in_shape} does not fit features of shape {tuple(values.shape)}")
    return _SparseMatmul.apply(values.movedim(0, -1).flatten(0, -2), matrix_of(where))


def matrix_of(where: SamplingMap) -> "SparseMatrix":
    """The interpolation as a sparse matrix, made on first use and kept with the map."""
    if "matrix" not in where.derived:
        where.derived["matrix"] = SparseMatrix.interpolating(where.coords, where.in_shape)
    return where.derived["matrix"]


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """Compressed sparse rows: r sums weights[i] * input[columns[i]], i from starts[r] to starts[r+1]."""

    columns: Tensor  # [n] int32
    starts: Tensor  # [rows + 1] int32
    weights: Tensor  # [n]
    inputs: int

    @classmethod
    def interpolating(cls, coords: Tensor, in_shape: tuple[int, ...]) -> "SparseMatrix":
        """Multilinear interpolation at `coords` [rows, d] = (x, y[, z]); the border is replicated."""
        columns = torch.zeros(len(coords), 1, device=coords.device, dtype=torch.int32)
        weights = torch.ones(len(coords), 1, device=coords.device, dtype=coords.dtype)
        stride = 1
        for axis, side in enumerate(reversed(in_shape)):  # x is the last axis of the tensor
            position = coords[:, axis : axis + 1].clamp(0, side - 1)
            low = position.floor()
            upper = position - low
            low = low.to(torch.int32)
            pair = torch.cat((low, (low + 1).clamp_(max=side - 1)), dim=1) * stride
            columns = (pair.unsqueeze(-1) + columns.unsqueeze(1)).flatten(1)  # [rows, 2 ** (axis + 1)]
            weights = (torch.cat((1 - upper, upper), dim=1).unsqueeze(-1) * weights.unsqueeze(1)).flatten(1)
            stride *= side
        starts = torch.arange(len(coords) + 1, device=coords.device, dtype=torch.int32) * columns.shape[1]
        return cls(columns.view(-1), starts, weights.view(-1), stride)

    @property
    def rows(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def transposed(self) -> "SparseMatrix":
        """The transposed matrix, which carries gradients back; made on first use and kept."""
        row = torch.arange(self.rows, device=self.starts.device, dtype=torch.int32)
        order = torch.argsort(self.columns, stable=True)
        counts = torch.bincount(self.columns, minlength=self.inputs)
        starts = F.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
        rows = torch.repeat_interleave(row, self.starts.diff())[order]
        return SparseMatrix(rows, starts, self.weights[order], self.rows)

    def apply(self, table: Tensor) -> Tensor:
        """Rows of a table [inputs, F] -> [rows, F], without a graph."""
        weights = self.weights.to(table.dtype)
        return F.embedding_bag(
            self.columns, table, self.starts, mode="sum", include_last_offset=True, per_sample_weights=weights
        )


class _SparseMatmul(torch.autograd.Function):
    """Sparse matrix times dense table, both ways as sums of weighted rows (embedding bags)."""

    @staticmethod
    def forward(ctx: FunctionCtx, table: Tensor, matrix: SparseMatrix) -> Tensor:
        ctx.matrix = matrix
        return matrix.apply(table)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix.transposed.apply(grad.contiguous()), None
