"""Pictures through a thin lens: every pixel is the mean over many points of the aperture.

A point in focus at z = focus_m is seen by all lens points through the same pixel. Seen from the lens point
(ax, ay) (metres off the axis) a point at depth z moves by f (1 / z - 1 / focus_m) (-ax, -ay) pixels, f the
focal length of K; so its blur disc is f * aperture * |1 / z - 1 / focus_m| pixels wide. With f = v / pitch,
where the sensor sits at v = F focus_m / (focus_m - F) behind a lens of focal length F, that is the
thin-lens formula aperture * F / (focus_m - F) * |z - focus_m| / z. K is the same for every focus: no focus
breathing.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scenes.rendering import Render, check_camera, pixel_rays, render, tiles
from scenes.scene import Scene, beam_candidates, trace
from scenes.shading import shade

__all__ = ["circle_of_confusion_px", "lens_points", "render_focal_stack", "render_thin_lens"]

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def circle_of_confusion_px(
    depth_m: Tensor, focus_m: float, aperture_diameter_m: float, focal_px: float
) -> Tensor:
    """Diameter in pixels of the blur disc of points at z-depth `depth_m`; `focal_px` is K[0, 0]."""
    return focal_px * aperture_diameter_m * (1.0 / depth_m - 1.0 / focus_m).abs()


def lens_points(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the unit disc [count, 2] and pixel offsets [count, 2] in (-0.5, 0.5) that go with them.

    The disc is the sunflower spiral of Vogel (1979), the offsets are the R2 sequence of Roberts (2018):
    both are even in every prefix, and independent enough that each half of the lens covers the whole pixel.
    """
    index = torch.arange(count, dtype=torch.float64)
    radius, angle = ((index + 0.5) / count).sqrt(), index * _GOLDEN_ANGLE
    disc = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    golden = 1.32471795724474602596
    step = torch.tensor([1 / golden, 1 / golden**2], dtype=torch.float64)
    offsets = (0.5 + index[:, None] * step) % 1.0 - 0.5
    return disc.to(like), offsets.to(like)


def render_thin_lens(
    scene: Scene,
    K: Tensor,
    world_from_cam: Tensor,
    height: int,
    width: int,
    focus_m: float,
    aperture_diameter_m: float,
    lens_samples: int = 64,
) -> Render:
    """Render one view with the plane z = focus_m in focus; depth, mask and normals are the pinhole's.

    Each of the `lens_samples` lens points casts one ray per pixel, at its own offset inside the pixel, so
    the samples also antialias; as the aperture goes to 0 the picture becomes the pinhole's. Units are the
    scene's.
    """
    return render_focal_stack(
        scene, K, world_from_cam, height, width, [focus_m], aperture_diameter_m, lens_samples
    )[0]


def render_focal_stack(
    scene: Scene,
    K: Tensor,
    world_from_cam: Tensor,
    height: int,
    width: int,
    focus_m: Sequence[float],
    aperture_diameter_m: float,
    lens_samples: int = 64,
) -> list[Render]:
    """One `Render` per focus distance; the slices share lens points, depth, mask and normals."""
    check_camera(K, world_from_cam, height, width, lens_samples)
    if not all(f > 0 for f in focus_m) or aperture_diameter_m < 0:
        raise ValueError(
            f"focus must be positive and the aperture not negative, got {focus_m}, {aperture_diameter_m}"
        )
    world_from_cam = world_from_cam.to(K)
    sharp = render(scene, K, world_from_cam, height, width, antialias=1)
    disc, offsets = lens_points(lens_samples, K)
    stack = []
    for focus in focus_m:
        image = torch.empty_like(sharp.image)
        for rows, columns in tiles(height, width, 1):
            lens = disc * (aperture_diameter_m / 2)
            image[:, rows, columns] = _lens_tile(
                scene, K, world_from_cam, rows, columns, focus, lens, offsets
            )
        stack.append(sharp._replace(image=image))
    return stack


def _lens_tile(
    scene: Scene,
    K: Tensor,
    world_from_cam: Tensor,
    rows: slice,
    columns: slice,
    focus: float,
    lens: Tensor,
    offsets: Tensor,
) -> Tensor:
    """Mean colour [3, h, w] of a tile over lens points [L, 2] in scene units."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    total = K.new_zeros(3, height * width)
    x, y = (torch.arange(s.start, s.stop, device=K.device, dtype=K.dtype) for s in (columns, rows))
    spread = 1.0 / (float(K[0, 0].abs()) * math.sqrt(len(lens)))
    for point, offset in zip(lens, offsets, strict=True):
        start = torch.cat([point, point.new_zeros(1)])[:, None]  # on the lens, camera frame
        directions = pixel_rays(K, x + offset[0], y + offset[1]) - start / focus  # z stays 1: t is z-depth
        origin = world_from_cam[:3, :3] @ start + world_from_cam[:3, 3:]
        directions = world_from_cam[:3, :3] @ directions
        hits = trace(scene, origin, directions, beam_candidates(scene, origin, directions))
        total += shade(scene, origin, directions, hits, spread)[0]
    return (total / len(lens)).view(3, height, width)
