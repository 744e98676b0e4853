"""Pictures of a scene: pinhole cameras with supersampled colour, exact z-depth, mask and normals."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from scenes.scene import Hits, Scene, beam_candidates, trace
from scenes.shading import shade

__all__ = ["Render", "pixel_rays", "render"]

_RAYS_PER_TILE = 40_000  # keeps the working set of a tile in the processor's cache


class Render(NamedTuple):
    """One picture; colours average over the pixel, the rest is its centre ray.

    image [3, H, W] RGB in [0, 1]; depth [H, W] z-depth in scene units, inf where nothing is hit; mask
    [H, W] bool, True where something is hit; normals [3, H, W] world unit vectors towards the camera, 0
    outside the mask.
    """

    image: Tensor
    depth: Tensor
    mask: Tensor
    normals: Tensor


def render(
    scene: Scene, K: Tensor, world_from_cam: Tensor, height: int, width: int, antialias: int = 3
) -> Render:
    """Render one view; pixel (0, 0) is the centre of the top-left pixel and colour is the mean of n x n rays.

    K [3, 3] in pixels, world_from_cam [4, 4] with OpenCV axes. Device and dtype follow K. Raises ValueError
    for wrong shapes or sizes.
    """
    _check_camera(K, world_from_cam, height, width, antialias)
    image, normals = K.new_empty(3, height, width), K.new_empty(3, height, width)
    depth = K.new_empty(height, width)
    for rows, columns in _tiles(height, width, antialias):
        part = _render_tile(scene, K, world_from_cam.to(K), rows, columns, antialias)
        image[:, rows, columns], depth[rows, columns], normals[:, rows, columns] = part
    return Render(image, depth, depth.isfinite(), normals)


def _tiles(height: int, width: int, antialias: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the square tiles a picture is rendered in."""
    side = max(8, int((_RAYS_PER_TILE**0.5) / antialias))
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def pixel_rays(K: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Camera-frame directions [3, len(y) * len(x)] with z = 1 through pixel positions x, y, row by row.

    `shared.geometry.camera.camera_rays` for any positions, in this package's layout.
    """
    ray_y = ((y - K[1, 2]) / K[1, 1])[:, None].expand(-1, len(x))
    ray_x = (x - K[0, 2]) / K[0, 0] - K[0, 1] / K[0, 0] * ray_y
    return torch.stack([ray_x.flatten(), ray_y.flatten(), torch.ones_like(ray_x).flatten()])


def _positions(span: slice, count: int, like: Tensor) -> Tensor:
    """Centres of `count` equal cells in every pixel of the span."""
    index = torch.arange(span.start * count, span.stop * count, device=like.device, dtype=like.dtype)
    return (index + 0.5) / count - 0.5


def _render_tile(
    scene: Scene, K: Tensor, world_from_cam: Tensor, rows: slice, columns: slice, antialias: int
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = rows.stop - rows.start, columns.stop - columns.start
    origin = world_from_cam[:3, 3:]

    def cast(count: int) -> tuple[Tensor, Hits, Tensor]:
        directions = pixel_rays(K, _positions(columns, count, K), _positions(rows, count, K))
        directions = world_from_cam[:3, :3] @ directions
        hits = trace(scene, origin, directions, beam_candidates(scene, origin, directions))
        spread = 1.0 / (float(K[0, 0].abs()) * count)
        colours, normals = shade(scene, origin, directions, hits, spread)
        return colours, hits, normals

    colours, hits, normals = cast(antialias)
    image = colours.view(3, height, antialias, width, antialias).mean((2, 4))
    if antialias % 2 == 0:  # no ray through the pixel's centre yet
        _, hits, normals = cast(1)
        return image, hits.t.view(height, width), normals.view(3, height, width)
    middle = antialias // 2
    depth = hits.t.view(height, antialias, width, antialias)[:, middle, :, middle]
    return image, depth, normals.view(3, height, antialias, width, antialias)[:, :, middle, :, middle]


def _check_camera(K: Tensor, world_from_cam: Tensor, height: int, width: int, antialias: int) -> None:
    """Raise ValueError unless the matrices have their shapes and the numbers are at least 1."""
    if K.shape != (3, 3) or world_from_cam.shape != (4, 4):
        raise ValueError(
            f"K must be [3, 3] and world_from_cam [4, 4], not {list(K.shape)}, {list(world_from_cam.shape)}"
        )
    if min(height, width, antialias) < 1:
        raise ValueError(f"sizes and samples must be at least 1, got {height}, {width}, {antialias}")
