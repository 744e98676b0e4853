"""The voxel grid and the view volume of a camera in space, and sampling the one into the other.

Lifting reads a feature map at the projection of every voxel; projection reads the grid along the rays of a
camera. Both are interpolations at points that depend on the camera alone (`SamplingMap`).

Tensors of volumes are [B, F, Z, Y, X]; voxel coordinates are (x, y, z) in units of voxels, and world axes are
grid axes. `lattice` names the half-offset rule:

* `centred`: voxel i of G is the cube [i, i + 1) / G of the grid and is sampled at its centre; depth plane
  k is the middle of its slab; pixel centres are integers (resizing by s maps c to (c + 0.5) s - 0.5).
* `released`: the released code's rule, needed by its weights: voxel i is at i - G/2, plane k at near +
  k spacing, principal points scale by s alone. Grid, planes and pixels are each half a step off centre.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deepvoxels.config import Lattice

__all__ = ["SamplingMap", "VolumeGeometry", "lift", "project"]


@dataclass(frozen=True, eq=False)
class SamplingMap:
    """Where one camera samples: n points of an image or grid, and where their values go in the output.

    Outputs without a point are 0. `derived` has room for what `models/fast` makes of the map.
    """

    coords: Tensor  # [n, d], (x, y[, z]) in pixels or voxels of the input
    position: Tensor  # [n] int64, index in the flattened output
    in_shape: tuple[int, ...]
    out_shape: tuple[int, int, int]
    derived: dict[str, Any] = field(default_factory=dict)

    @property
    def visible(self) -> int:
        """Number of points; 0 means that the camera does not see the grid at all."""
        return len(self.coords)

    @property
    def nbytes(self) -> int:
        """Memory of the map, and of the sparse matrix and its transpose that `models/fast` makes of it."""
        entries = self.visible << self.coords.shape[1]
        return self.coords.nbytes + self.position.nbytes + 2 * entries * (4 + self.coords.element_size())


def lift(features: Tensor, maps: Sequence[SamplingMap]) -> Tensor:
    """Feature maps [B, F, h, w] of B cameras -> what each voxel sees [B, F, G, G, G], 0 where out of view."""
    return torch.stack([_sample(image, where) for image, where in zip(features, maps, strict=True)])


def project(volume: Tensor, maps: Sequence[SamplingMap]) -> Tensor:
    """Grid [1, F, G, G, G] -> view volumes [N, F, D, h, w] of N cameras, 0 outside the grid."""
    return torch.stack([_sample(volume[0], where) for where in maps])


def _sample(values: Tensor, where: SamplingMap) -> Tensor:
    """Multilinear interpolation of [F, *in_shape] at every point, borders replicated: [F, *out_shape].

    f(x) = sum over the 2^d neighbours c of x:  f(c) prod_axis (1 - |x - c|)
    """
    if values.shape[1:] != where.in_shape:
        raise ValueError(f"a map of {where.in_shape} does not fit features of shape {tuple(values.shape)}")
    last = where.coords.new_tensor(where.in_shape[::-1]) - 1
    coords = where.coords.clamp(min=0).minimum(last)
    low = coords.floor()
    found = values.new_zeros(len(values), where.visible)
    for step in itertools.product((0, 1), repeat=coords.shape[1]):
        corner = (low + low.new_tensor(step)).minimum(last)
        weight = (1 - (coords - low - low.new_tensor(step)).abs()).prod(dim=1)
        found = found + weight * values[(slice(None), *corner.long().flip(1).unbind(1))]
    out = values.new_zeros(len(values), math.prod(where.out_shape)).index_copy(1, where.position, found)
    return out.view(len(values), *where.out_shape)


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
    lattice: Lattice = "centred"
    far: float | None = None

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

        Returns uv [G^3, 2] in pixels, z-depth [G^3], and which voxels are in front of the camera and inside
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
        """Voxel coordinates (x, y, z) of every sample of a camera's view volume, and which are in the grid.

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

    def lifting(self, K: Tensor, world_from_cam: Tensor, image_side: int, map_side: int) -> SamplingMap:
        """Map from a feature map [h, h] to the grid [G, G, G] for one camera; voxels out of view become 0.

        K [3, 3] belongs to the square image of `image_side` pixels, `world_from_cam` is [4, 4].
        """
        K_map = self.map_intrinsics(K, image_side, map_side)
        uv, _, visible = self.project_voxels(K_map, world_from_cam, map_side)
        return SamplingMap(uv[visible], visible.nonzero()[:, 0], (map_side,) * 2, (self.grid_side,) * 3)

    def projection(self, K: Tensor, world_from_cam: Tensor, image_side: int, map_side: int) -> SamplingMap:
        """Map from the grid [G, G, G] to a camera's view volume [D, h, h], its points ordered ray by ray.

        Arguments as in `lifting`.
        """
        K_map = self.map_intrinsics(K, image_side, map_side)
        coords, inside = self.frustum_coordinates(K_map, world_from_cam, map_side)
        pixel, plane = inside.view(-1, self.depth_planes).nonzero().unbind(dim=1)
        position, out_shape = plane * map_side**2 + pixel, (self.depth_planes, map_side, map_side)
        return SamplingMap(coords[inside], position, (self.grid_side,) * 3, out_shape)
