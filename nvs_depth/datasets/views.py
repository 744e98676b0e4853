"""Posed views on disk as square images: what every data set becomes before pairs are drawn from it."""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.errors import DataError
from shared.files.images import read_image, undistort_image
from shared.files.maps import read_depth_png, read_exr
from shared.geometry.camera import crop_intrinsics, depth_from_ray_distance, resize_intrinsics

__all__ = ["DepthFormat", "Framing", "ViewSet", "ViewSample"]

BLACK = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Framing:
    """How a stored image becomes a square: resized to `resize_hw` if given, cut out, shrunk to `side`.

    crop: (top, left, side) in pixels of the resized image; None: the largest square in the middle.
    """

    side: int
    resize_hw: tuple[int, int] | None = None
    crop: tuple[int, int, int] | None = None
    method: Literal["area", "nearest"] = "area"

    def window(self, stored_hw: tuple[int, int]) -> tuple[int, int, int]:
        """(top, left, side) of the square in the resized image; ValueError if it does not fit."""
        height, width = self.resize_hw or stored_hw
        if self.crop is None:
            side = min(height, width)
            return (height - side) // 2, (width - side) // 2, side
        top, left, side = self.crop
        if min(top, left) < 0 or top + side > height or left + side > width:
            raise ValueError(
                f"the square of {side} px at row {top}, column {left} leaves {height} x {width} px"
            )
        return self.crop

    def K(self, K: Tensor, stored_hw: tuple[int, int]) -> Tensor:
        """Intrinsics [..., 3, 3] of the square from those of the stored image."""
        top, left, side = self.window(stored_hw)
        if self.resize_hw is not None:
            K = resize_intrinsics(K, stored_hw, self.resize_hw)
        return resize_intrinsics(crop_intrinsics(K, left, top), (side, side), (self.side, self.side))

    def image(self, image: Tensor) -> Tensor:
        """[3, H, W] to [3, side, side]."""
        top, left, side = self.window(image.shape[-2:])
        if self.resize_hw is not None and self.resize_hw != tuple(image.shape[-2:]):
            image = self._resize(image, self.resize_hw)
        return self._resize(image[:, top : top + side, left : left + side], (self.side, self.side))

    def depth(self, depth: Tensor, valid: Tensor, sparse: bool) -> tuple[Tensor, Tensor]:
        """[H, W] to [side, side]: dense maps take the nearest pixel, sparse ones the least depth per cell."""
        top, left, side = self.window(depth.shape)
        if self.resize_hw is not None and self.resize_hw != tuple(depth.shape):
            depth, valid = _resize_depth(depth, valid, self.resize_hw, sparse)
        inside = slice(top, top + side), slice(left, left + side)
        return _resize_depth(depth[inside], valid[inside], (self.side, self.side), sparse)

    def _resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(image.shape[-2:]) == tuple(size):
            return image
        if self.method == "nearest":
            return F.interpolate(image[None], size, mode="nearest-exact")[0]
        if size[0] > image.shape[-2] or size[1] > image.shape[-1]:
            return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
        return F.interpolate(image[None], size, mode="area")[0]


@dataclass(frozen=True)
class DepthFormat:
    """What the numbers in depth files mean."""

    unit: float = 1.0  # of the file's numbers, in the unit of the translations
    ray_length: bool = False  # distances along the ray instead of z
    sparse: bool = False  # LiDAR: pixels without depth between those that have one


class ViewSample(NamedTuple):
    """One view as tensors; `depth` and `valid` are [1, S, S] and all invalid where no depth is known."""

    image: Tensor
    depth: Tensor
    valid: Tensor
    K: Tensor
    world_from_cam: Tensor


@dataclass
class ViewSet:
    """N posed views in groups (objects, drives); poses in the unit the networks work in.

    `coordinates` [N, 2] holds azimuth and elevation in degrees for views on a grid, for sequences
    (frame number, 0).
    """

    path: Path
    layout: str
    framing: Framing
    names: list[str]
    groups: list[str]
    images: list[Path]
    world_from_cam: Tensor  # float64 [N, 4, 4]
    K_stored: Tensor  # float64 [N, 3, 3], of the stored images
    stored_hw: tuple[int, int]
    coordinates: Tensor
    depths: list[Path | None] | None = None
    depth_format: DepthFormat = field(default_factory=DepthFormat)
    distortion: Tensor | None = None  # float64 [N, 4]
    orientations: list[int] | None = None  # for `read_image`; None: the pixels of all images as stored
    held_out: frozenset[str] = frozenset()  # names of views that the data set itself keeps for the test
    background: tuple[float, float, float] | None = BLACK  # under transparent pixels; None: refuse these
    unit_m: float | None = None  # metres per unit of the translations; None: scene units
    notes: tuple[str, ...] = ()
    cache_mb: int = 0

    def __post_init__(self) -> None:
        K = self.K_stored
        bad = ~((K.diagonal(dim1=1, dim2=2)[:, :2] > 0).all(1) & (K[:, 2] == K.new_tensor([0, 0, 1])).all(1))
        if bool(bad.any()):
            index = int(bad.nonzero()[0])
            reason = f"view {self.names[index]}: the intrinsics are {K[index].tolist()}"
            remedy = "A focal length is a positive number of pixels, the last row is 0 0 1"
            raise DataError(self.path, reason, remedy)
        try:
            self.K = self.framing.K(self.K_stored, self.stored_hw).float()
        except ValueError as error:
            remedy = "Choose another crop, or check the size of the images"
            raise DataError(self.path, str(error), remedy) from None
        self._cache: OrderedDict[int, ViewSample] = OrderedDict()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def side(self) -> int:
        return self.framing.side

    @property
    def has_depth(self) -> bool:
        return self.depths is not None and any(path is not None for path in self.depths)

    def load(self, index: int) -> ViewSample:
        """Read one view; DataError names a file that is missing, damaged or of another size."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        sample = self._read(index)
        room = self.cache_mb * 2**20 // (17 * self.side**2 + 1)  # bytes per pixel: 3 floats, depth, mask
        if room:
            self._cache[index] = sample
            if len(self._cache) > room:
                self._cache.popitem(last=False)
        return sample

    def _read(self, index: int) -> ViewSample:
        orientation = 1 if self.orientations is None else self.orientations[index]
        image = read_image(self.images[index], background=self.background, orientation=orientation)
        if tuple(image.shape[-2:]) != tuple(self.stored_hw):
            (height, width), (h, w) = self.stored_hw, image.shape[-2:]
            reason = f"is {w} x {h} pixels, the others are {width} x {height}"
            raise DataError(self.images[index], reason, "All images of a set have one size")
        if self.distortion is not None and bool((self.distortion[index] != 0).any()):
            image, _ = undistort_image(image, self.K_stored[index], self.distortion[index])
        depth, valid = self._read_depth(index)
        return ViewSample(
            self.framing.image(image), depth, valid, self.K[index], self.world_from_cam[index].float()
        )

    def _read_depth(self, index: int) -> tuple[Tensor, Tensor]:
        path = self.depths[index] if self.depths is not None else None
        if path is None:
            shape = (1, self.side, self.side)
            return torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
        if path.suffix == ".exr":
            depth = read_exr(path)
            valid = torch.isfinite(depth) & (depth > 0) & (depth < 1e9)
        else:
            depth, valid = read_depth_png(path, unit_m=1.0)
        if tuple(depth.shape) != tuple(self.stored_hw):
            reason = f"the depth is {list(depth.shape)}, its image {list(self.stored_hw)}"
            raise DataError(path, reason, "Depth maps have the size of their images")
        depth = torch.where(valid, depth * self.depth_format.unit, 0.0)
        if self.depth_format.ray_length:
            depth = depth_from_ray_distance(depth, self.K_stored[index].float())
        depth, valid = self.framing.depth(depth, valid, self.depth_format.sparse)
        return depth[None], valid[None]


def _resize_depth(depth: Tensor, valid: Tensor, size: tuple[int, int], sparse: bool) -> tuple[Tensor, Tensor]:
    if tuple(depth.shape) == tuple(size):
        return depth, valid
    if not sparse:
        both = F.interpolate(torch.stack([depth, valid.to(depth)])[None], size, mode="nearest-exact")[0]
        return both[0], both[1] > 0.5
    height, width = depth.shape
    row, column = valid.nonzero(as_tuple=True)
    cell = (row * size[0] // height) * size[1] + column * size[1] // width
    nearest = torch.full((size[0] * size[1],), torch.inf).scatter_reduce(0, cell, depth[row, column], "amin")
    nearest = nearest.reshape(size)
    return torch.where(nearest.isfinite(), nearest, 0.0), nearest.isfinite()
