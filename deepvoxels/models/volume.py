"""Where the voxel grid and the canonical view volume lie in space, and resampling one into the other.

Lifting reads a feature map at the projection of every voxel; projection reads the grid along the rays of a
camera. For a fixed camera both are sparse linear maps (4 or 8 weights per output) that the caller may keep;
one application is a sum of table rows, forward and backward, with no scattered writes.

Tensors of volumes are [B, F, Z, Y, X]; voxel coordinates are (x, y, z) in units of voxels, and world axes are
grid axes. `lattice` names the half-offset rule:

* `centred`: voxel i of G is the cube [i, i + 1) / G of the grid and is sampled at its centre; depth plane
  k is the middle of its slab; pixel centres are integers (resizing by s maps c to (c + 0.5) s - 0.5).
* `released`: the released code's rule, needed by its weights: voxel i sits at i - G/2, plane k at near +
  k spacing, principal points scale by s alone. Grid, planes and pixels are each half a step off centre.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from deepvoxels.models.layout import full_precision
from deepvoxels.models.options import LATTICES

__all__ = ["FrustumMap", "SparseMap", "VolumeGeometry", "lift", "project"]


@dataclass(frozen=True)
class VolumeGeometry:
    """A cubic voxel grid in the world and the depth planes through which cameras see it.

    `origin` is the grid's centre, `side_length` its side, `near` the z-depth at which the first depth slab
    begins, all in scene units. `far` ends the last slab; None makes slabs one voxel thick.
    """

    origin: tuple[float, float, float]
    side_length: float
    near: float
    grid_side: int
    depth_planes: int
    lattice: str = "centred"
    far: float | None = None

    def __post_init__(self) -> None:
        if self.lattice not in LATTICES:
            raise ValueError(f"lattice must be one of {LATTICES}, got {self.lattice!r}")
        numbers = (*self.origin, self.side_length, self.near, 0.0 if self.far is None else self.far)
        if len(self.origin) != 3 or not all(map(math.isfinite, numbers)):
            raise ValueError(f"origin must be three finite numbers, lengths finite: {self}")
        if self.side_length <= 0 or self.near <= 0 or self.grid_side < 2 or self.depth_planes < 1:
            raise ValueError(f"side_length and near must be positive, grid_side at least 2: {self}")
        if self.far is not None and self.far <= self.near:
            raise ValueError(f"far ({self.far}) must exceed near ({self.near})")

    @property
    def voxel_size(self) -> float:
        """Side of a voxel in scene units."""
        return self.side_length / self.grid_side

    @property
    def plane_spacing(self) -> float:
        """Distance of neighbouring depth planes in scene units of z-depth."""
        return self.voxel_size if self.far is None else (self.far - self.near) / self.depth_planes

    @property
    def _half(self) -> float:
        return 0.5 if self.lattice == "centred" else 0.0

    def voxel_positions(self, like: Tensor) -> Tensor:
        """World position of every voxel: [G, G, G, 3] in tensor order (z, y, x), last axis (x, y, z)."""
        steps = torch.arange(self.grid_side, device=like.device, dtype=like.dtype)
        axis = (steps + (self._half - self.grid_side / 2)) * self.voxel_size
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        return torch.stack((x, y, z), dim=-1) + like.new_tensor(self.origin)

    def plane_depths(self, like: Tensor) -> Tensor:
        """z-depth of every plane: [D], scene units."""
        steps = torch.arange(self.depth_planes, device=like.device, dtype=like.dtype)
        return self.near + (steps + self._half) * self.plane_spacing

    def metric_depth(self, depth_fraction: Tensor) -> Tensor:
        """z-depth in scene units from the network's mean of (plane - D/2) / D."""
        plane = (depth_fraction + 0.5) * self.depth_planes
        return self.near + (plane + self._half) * self.plane_spacing

    def map_intrinsics(self, K: Tensor, image_side: int, map_side: int) -> Tensor:
        """Intrinsics of the square image [3, 3] -> of the feature map, by the lattice's pixel rule."""
        scale = map_side / image_side
        scaled = K * K.new_tensor([scale, scale, 1.0]).unsqueeze(-1)
        scaled[:2, 2] += self._half * (scale - 1)
        return scaled

    def project_voxels(
        self, K_map: Tensor, world_from_cam: Tensor, map_side: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel of every voxel in a feature map.

        Returns uv [G^3, 2] in pixels, z-depth [G^3], and which voxels lie in front of the camera and inside
        the map (u and v in [-0.5, side - 0.5)), in the order x + G y + G^2 z.
        """
        points_world = self.voxel_positions(world_from_cam).view(-1, 3)
        points_cam = (points_world - world_from_cam[:3, 3]) @ world_from_cam[:3, :3]  # R^T (p - t)
        z = points_cam[:, 2]
        in_front = z > 0
        focal = torch.stack((K_map[0, 0], K_map[1, 1]))
        uv = focal * points_cam[:, :2] / torch.where(in_front, z, 1.0).unsqueeze(-1) + K_map[:2, 2]
        inside = ((uv >= -0.5) & (uv < map_side - 0.5)).all(dim=-1)
        return uv, z, in_front & inside

    def frustum_coordinates(
        self, K_map: Tensor, world_from_cam: Tensor, map_side: int
    ) -> tuple[Tensor, Tensor]:
        """Voxel coordinates (x, y, z) of every sample of a camera's view volume, and which lie in the grid.

        Samples are at the pixels of the map and the depth planes, ray by ray: [h, h, D, 3] (v, u, plane) and
        [h, h, D].
        """
        pixels = torch.arange(map_side, device=K_map.device, dtype=K_map.dtype)
        v, u, z = torch.meshgrid(pixels, pixels, self.plane_depths(K_map), indexing="ij")
        x, y = (u - K_map[0, 2]) / K_map[0, 0] * z, (v - K_map[1, 2]) / K_map[1, 1] * z
        points_world = torch.stack((x, y, z), dim=-1) @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
        coords = (points_world - K_map.new_tensor(self.origin)) / self.voxel_size + self.grid_side / 2
        inside = ((coords >= 0) & (coords < self.grid_side)).all(dim=-1)
        return coords - self._half, inside

    def lifting(self, K: Tensor, world_from_cam: Tensor, image_side: int, map_side: int) -> "SparseMap":
        """Map from a feature map [h, h] to the grid [G, G, G] for one camera; voxels out of view become 0.

        K [3, 3] belongs to the square image of `image_side` pixels, `world_from_cam` is [4, 4].
        """
        K_map = self.map_intrinsics(K, image_side, map_side)
        uv, _, visible = self.project_voxels(K_map, world_from_cam, map_side)
        return SparseMap.interpolating(uv, visible, (map_side,) * 2)

    def projection(self, K: Tensor, world_from_cam: Tensor, image_side: int, map_side: int) -> "FrustumMap":
        """Map from the grid [G, G, G] to the samples of a camera's view volume [D, h, h] inside the grid.

        Arguments as in `lifting`.
        """
        K_map = self.map_intrinsics(K, image_side, map_side)
        coords, inside = self.frustum_coordinates(K_map, world_from_cam, map_side)
        sparse = SparseMap.interpolating(coords[inside], None, (self.grid_side,) * 3)
        pixel, plane = inside.view(-1, self.depth_planes).nonzero().unbind(dim=1)
        starts = F.pad(inside.view(-1, self.depth_planes).sum(dim=1).cumsum(dim=0), (1, 0))
        return FrustumMap(
            sparse,
            (plane * map_side**2 + pixel),
            starts.to(torch.int32),
            (self.depth_planes, map_side, map_side),
        )


@dataclass(frozen=True, eq=False)
class SparseMap:
    """A linear map as compressed sparse rows: row r sums `weights[i] * input[columns[i]]`.

    i runs from `starts[r]` to `starts[r + 1]`. `visible` counts the rows that are not empty.
    """

    columns: Tensor  # [n] int32
    starts: Tensor  # [rows + 1] int32
    weights: Tensor  # [n]
    inputs: int
    visible: int

    @classmethod
    def interpolating(cls, coords: Tensor, valid: Tensor | None, in_shape: tuple[int, ...]) -> "SparseMap":
        """Multilinear interpolation at `coords` [rows, d] = (x, y[, z]); the border is replicated.

        Rows that are not `valid` are empty; None means that all are.
        """
        kept = coords if valid is None else coords[valid]
        columns = torch.zeros(len(kept), 1, device=kept.device, dtype=torch.int32)
        weights = torch.ones(len(kept), 1, device=kept.device, dtype=kept.dtype)
        stride = 1
        for axis, side in enumerate(reversed(in_shape)):  # x is the last axis of the tensor
            position = kept[:, axis : axis + 1].clamp(0, side - 1)
            low = position.floor()
            upper = position - low
            low = low.to(torch.int32)
            pair = torch.cat((low, (low + 1).clamp_(max=side - 1)), dim=1) * stride
            columns = (pair.unsqueeze(-1) + columns.unsqueeze(1)).flatten(1)  # [kept, 2 ** (axis + 1)]
            weights = (torch.cat((1 - upper, upper), dim=1).unsqueeze(-1) * weights.unsqueeze(1)).flatten(1)
            stride *= side
        if valid is None:
            valid = torch.ones(len(kept), device=kept.device, dtype=torch.bool)
        starts = F.pad((valid * columns.shape[1]).cumsum(0), (1, 0)).to(torch.int32)
        return cls(columns.view(-1), starts, weights.view(-1), stride, len(kept))

    @property
    def rows(self) -> int:
        """Number of outputs, empty ones included."""
        return len(self.starts) - 1

    @cached_property
    def transposed(self) -> "SparseMap":
        """The transposed map, which carries gradients back; built on first use and kept."""
        row = torch.arange(self.rows, device=self.starts.device, dtype=torch.int32)
        order = torch.argsort(self.columns, stable=True)
        counts = torch.bincount(self.columns, minlength=self.inputs)
        starts = F.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
        return SparseMap(
            torch.repeat_interleave(row, self.starts.diff())[order],
            starts,
            self.weights[order],
            self.rows,
            int((counts > 0).sum()),
        )

    def apply(self, table: Tensor) -> Tensor:
        """Rows of a table [inputs, F] -> [rows, F], without a graph."""
        return F.embedding_bag(
            self.columns,
            table,
            self.starts,
            mode="sum",
            include_last_offset=True,
            per_sample_weights=self.weights.to(table.dtype),
        )


@dataclass(frozen=True, eq=False)
class FrustumMap:
    """How a camera's view volume samples the grid. Only samples inside the grid exist, ordered ray by ray."""

    sparse: SparseMap  # a row per sample
    position: Tensor  # [n] index of each sample in [D, h, w], flattened
    ray_starts: Tensor  # [h w + 1] int32, the samples of ray r are ray_starts[r] ... ray_starts[r + 1] - 1
    shape: tuple[int, int, int]  # D, h, w

    @property
    def visible(self) -> int:
        """Number of samples; 0 means that the camera does not see the grid at all."""
        return self.sparse.visible


class _SparseMatmul(torch.autograd.Function):
    """Sparse matrix times dense table, both ways as sums of weighted rows (embedding bags)."""

    @staticmethod
    def forward(ctx: FunctionCtx, table: Tensor, matrix: SparseMap) -> Tensor:
        ctx.matrix = matrix
        return matrix.apply(table)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix.transposed.apply(grad.contiguous()), None


def lift(features: Tensor, liftings: Sequence[SparseMap], grid_side: int) -> Tensor:
    """Feature maps [B, F, h, w] of B cameras -> what every voxel sees [B, F, G, G, G].

    Differentiable in the features. The result has its channels contiguous.
    """
    if len(features) != len(liftings) or features[0, 0].numel() != liftings[0].inputs:
        raise ValueError(
            f"{len(liftings)} lifting map(s) over {liftings[0].inputs} pixels do not fit "
            f"feature maps of shape {tuple(features.shape)}"
        )
    tables = full_precision(features).movedim(1, -1).flatten(1, 2)  # [B, h w, F]
    rows = [_SparseMatmul.apply(table, m) for table, m in zip(tables, liftings, strict=True)]
    return torch.stack(rows).view(len(rows), *(grid_side,) * 3, -1).movedim(-1, 1)


def project(volume: Tensor, maps: Sequence[FrustumMap]) -> list[Tensor]:
    """Grid [1, F, G, G, G] -> samples [n, F] along the rays of each camera. Differentiable in the volume."""
    if len(volume) != 1 or any(m.sparse.inputs != volume[0, 0].numel() for m in maps):
        raise ValueError(
            f"projection maps of {maps[0].sparse.inputs} voxels do not fit a volume of shape "
            f"{tuple(volume.shape)}"
        )
    table = full_precision(volume[0]).movedim(0, -1).flatten(0, 2)  # [G^3, F]
    return [_SparseMatmul.apply(table, m.sparse) for m in maps]
