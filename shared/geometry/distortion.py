"""Lens distortion of the OpenCV model (k1, k2, p1, p2[, k3]): distort, undistort, and undistorted images.

With x, y = X / Z, Y / Z the normalised ("z = 1") coordinates of a camera and r² = x² + y²,

    x' = x (1 + k1 r² + k2 r⁴ + k3 r⁶) + 2 p1 x y + p2 (r² + 2 x²)
    y' = y (1 + k1 r² + k2 r⁴ + k3 r⁶) + p1 (r² + 2 y²) + 2 p2 x y

are where the lens puts the point. COLMAP's OPENCV model is the same with k3 = 0; its SIMPLE_RADIAL and RADIAL
are (k, 0, 0, 0) and (k1, k2, 0, 0).
"""

import torch
from torch import Tensor

from shared.geometry.camera import pixel_grid, project, unproject
from shared.geometry.warp import BORDER_SLACK_PX, sample_pixels

__all__ = [
    "distort_normalized",
    "undistort_image",
    "undistort_normalized",
]


def distort_normalized(points: Tensor, distortion: Tensor) -> Tensor:
    """Distorted normalised coordinates [..., 2] of ideal ones [..., 2].

    `distortion` is [4], [5], or broadcasts: [..., 4 or 5]. Raises ValueError for another number of
    coefficients.
    """
    x, y, r2, radial, (_, _, _, p1, p2) = _radial_terms(points, distortion)
    return torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        dim=-1,
    )


def undistort_normalized(
    points_distorted: Tensor, distortion: Tensor, max_iterations: int = 50
) -> tuple[Tensor, Tensor]:
    """Ideal normalised coordinates [..., 2] of distorted ones, and where the inverse was found [...] (bool).

    Newton's method from the distorted point. Not found: beyond the radius at which the polynomial folds back,
    where no ideal point exists; such points are returned as they came. Gradients are those of the inverse
    function.
    """
    goal = torch.broadcast_tensors(points_distorted, distortion[..., :1])[0]
    tolerance = 16 * torch.finfo(goal.dtype).eps
    with torch.no_grad():
        points = goal
        for _ in range(max_iterations):
            step = _newton_step(points, goal, distortion)
            points = points + step
            if step.abs().amax() <= tolerance:
                break
        residual = (distort_normalized(points, distortion) - goal).abs().amax(-1)
        found = (residual <= tolerance * (1 + goal.abs().amax(-1))) & _keeps_orientation(points, distortion)
        points = torch.where(found[..., None], points, goal)
    # One more step, now with gradients: points - J⁻¹ (distort(points) - goal) with J held fixed has the
    # derivative that the implicit function theorem gives.
    return torch.where(found[..., None], points + _newton_step(points, goal, distortion), goal), found


def undistort_image(
    image: Tensor,
    K: Tensor,
    distortion: Tensor,
    K_new: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Image [B, C, h, w] as an ideal pinhole camera sees it, and its validity [B, 1, h, w].

    `image` [B, C, H, W] was taken with `K` and `distortion`, [..., 3, 3] and [..., 4 or 5] with batch B or
    none. `K_new` (default `K`) and `size` (h, w; default that of `image`) describe the ideal camera. Bilinear
    at pixel centres; pixels that the photograph does not show are invalid and repeat its border.
    """
    if image.ndim != 4:
        raise ValueError(f"image must be [B, C, H, W], got {list(image.shape)}")
    height, width = size or image.shape[-2:]
    K_new = K if K_new is None else K_new
    grid = pixel_grid(height, width, image.device, K.dtype).expand(len(image), -1, -1, -1)
    ideal = unproject(grid, grid.new_ones(()), K_new)[..., :2]  # [B, h, w, 2]
    if distortion.ndim > 1:
        distortion = distortion[:, None, None]
    distorted = distort_normalized(ideal, distortion)
    pixels, _ = project(torch.cat([distorted, torch.ones_like(distorted[..., :1])], dim=-1), K)
    last = pixels.new_tensor([image.shape[-1] - 1, image.shape[-2] - 1])
    inside = ((pixels >= -BORDER_SLACK_PX) & (pixels <= last + BORDER_SLACK_PX)).all(-1)
    valid = inside & _keeps_orientation(ideal, distortion)  # beyond the fold everything is seen a second time
    return sample_pixels(image, pixels), valid[:, None]


def _radial_terms(points: Tensor, distortion: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """x, y, r², the radial factor, and the coefficients k1, k2, k3, p1, p2."""
    if distortion.shape[-1] not in (4, 5):
        raise ValueError(f"distortion must be [..., 4 or 5]: k1 k2 p1 p2 [k3], got {list(distortion.shape)}")
    x, y = points.unbind(-1)
    k1, k2, p1, p2, *rest = distortion.unbind(-1)
    k3 = rest[0] if rest else torch.zeros_like(k1)
    r2 = x * x + y * y
    return x, y, r2, 1 + r2 * (k1 + r2 * (k2 + r2 * k3)), [k1, k2, k3, p1, p2]


def _jacobian(points: Tensor, distortion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dx'/dx, dx'/dy and dy'/dy, each [...]; dy'/dx equals dx'/dy."""
    x, y, r2, radial, (k1, k2, k3, p1, p2) = _radial_terms(points, distortion)
    slope = 2 * (k1 + r2 * (2 * k2 + 3 * r2 * k3))  # of the radial factor: slope x along x, slope y along y
    dxx = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    dxy = slope * x * y + 2 * p1 * x + 2 * p2 * y
    dyy = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
    return dxx, dxy, dyy


def _newton_step(points: Tensor, goal: Tensor, distortion: Tensor) -> Tensor:
    """Step [..., 2] that takes the linearised distortion from `points` to `goal`."""
    with torch.no_grad():
        dxx, dxy, dyy = _jacobian(points, distortion)
        determinant = dxx * dyy - dxy * dxy
        determinant = torch.where(determinant.abs() > 1e-6, determinant, 1e-6)
    error_x, error_y = (goal - distort_normalized(points, distortion)).unbind(-1)
    step = torch.stack([dyy * error_x - dxy * error_y, dxx * error_y - dxy * error_x], dim=-1)
    return step / determinant[..., None]


def _keeps_orientation(points: Tensor, distortion: Tensor) -> Tensor:
    """Mask [...] of points inside the fold: there the (symmetric) Jacobian is positive definite."""
    dxx, dxy, dyy = _jacobian(points, distortion)
    return (dxx + dyy > 0) & (dxx * dyy - dxy * dxy > 0)
