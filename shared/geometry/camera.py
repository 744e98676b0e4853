"""Pinhole cameras: intrinsics, poses, projection and rays.

Vocabulary, used all over the project (docs/conventions.md):

    K               [..., 3, 3] intrinsics in pixels: [[fx, skew, cx], [0, fy, cy], [0, 0, 1]]
    world_from_cam  [..., 4, 4] pose: maps points in camera coordinates to world coordinates
    camera axes     x right, y down, z forward (OpenCV)
    pixels          [..., 2] in (x, y) order; (0, 0) is the centre of the top-left pixel
    depth           z in camera coordinates, not the length of the ray

Batches: a matrix with batch shape B applies to points of shape B + (any further dimensions) + (3,), so that
`K` [V, 3, 3] goes with points [V, N, 3] or [V, H, W, 3], and a single `K` [3, 3] goes with everything.
Everything here is element-wise on purpose: under autocast a matrix product would lose its digits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.geometry import check_shape

__all__ = [
    "camera_rays",
    "check_pose",
    "crop_intrinsics",
    "depth_from_ray_distance",
    "intrinsics_matrix",
    "invert_pose",
    "look_at",
    "opencv_from_opengl_pose",
    "pixel_grid",
    "project",
    "ray_distance_from_depth",
    "relative_pose",
    "resize_intrinsics",
    "rotate_vectors",
    "transform_points",
    "unproject",
]


MIN_DEPTH = 1e-6  # points nearer than this to the camera plane are projected as if they were at this depth


# ---------------------------------------------------------------------------------------- intrinsics


def intrinsics_matrix(
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Pinhole matrix [3, 3] from focal lengths and principal point, all in pixels.

    The middle of a W x H image is cx = (W - 1) / 2, cy = (H - 1) / 2, since (0, 0) is a pixel centre.
    Raises ValueError for a focal length that is not positive.
    """
    if not (fx > 0 and fy > 0):
        raise ValueError(f"focal lengths must be positive pixels, got fx={fx}, fy={fy}")
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=dtype, device=device)


def resize_intrinsics(K: Tensor, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    """Intrinsics [..., 3, 3] of an image resized from `from_hw` to `to_hw`, each (height, width).

    Focal lengths scale by s, the principal point moves to (c + 0.5) s - 0.5: the outer borders of the image
    stay together, as in `interpolate(align_corners=False)` and `cv2.resize`.

        >>> resize_intrinsics(intrinsics_matrix(100.0, 100.0, 31.5, 23.5), (48, 64), (24, 32))
        tensor([[50.0000,  0.0000, 15.5000],
                [ 0.0000, 50.0000, 11.5000],
                [ 0.0000,  0.0000,  1.0000]])
    """
    check_shape(K, "... 3 3", "K")
    if min(*from_hw, *to_hw) <= 0:
        raise ValueError(f"image sizes must be positive, got from_hw={from_hw}, to_hw={to_hw}")
    scale_x, scale_y = to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]
    row_scale = K.new_tensor([scale_x, scale_y, 1.0])[:, None]
    shift = K.new_tensor([[0.0, 0.0, 0.5 * scale_x - 0.5], [0.0, 0.0, 0.5 * scale_y - 0.5], [0.0, 0.0, 0.0]])
    return K * row_scale + shift


def crop_intrinsics(K: Tensor, left: float, top: float) -> Tensor:
    """Intrinsics [..., 3, 3] after cutting `left` columns and `top` rows (pixels; negative pads)."""
    check_shape(K, "... 3 3", "K")
    return K - K.new_tensor([[0.0, 0.0, left], [0.0, 0.0, top], [0.0, 0.0, 0.0]])


# --------------------------------------------------------------------------------------------- poses


def invert_pose(world_from_cam: Tensor) -> Tensor:
    """Inverse of rigid transforms [..., 4, 4]: `cam_from_world`, by the transpose of the rotation."""
    check_shape(world_from_cam, "... 4 4", "world_from_cam")
    rotation = world_from_cam[..., :3, :3].transpose(-1, -2)
    translation = -(rotation * world_from_cam[..., None, :3, 3]).sum(-1)
    return _pose_from_parts(rotation, translation)


def relative_pose(world_from_target: Tensor, world_from_source: Tensor) -> Tensor:
    """`target_from_source` [..., 4, 4]: takes points in source camera coordinates to the target camera.

    target_from_source = (world_from_target)⁻¹ world_from_source

        >>> ahead = torch.eye(4)
        >>> ahead[2, 3] = 1.0  # one unit further along the optical axis
        >>> relative_pose(torch.eye(4), ahead)[:3, 3]
        tensor([0., 0., 1.])
    """
    target_from_world = invert_pose(world_from_target)
    check_shape(world_from_source, "... 4 4", "world_from_source")
    return (target_from_world[..., :, :, None] * world_from_source[..., None, :, :]).sum(-2)


def transform_points(target_from_source: Tensor, points_source: Tensor) -> Tensor:
    """Points [..., 3] in source coordinates moved to target coordinates by [..., 4, 4]."""
    check_shape(target_from_source, "... 4 4", "target_from_source")
    translation = _line_up(target_from_source[..., :3, 3], 1, points_source.ndim - 1)
    return rotate_vectors(target_from_source, points_source) + translation


def rotate_vectors(target_from_source: Tensor, vectors_source: Tensor) -> Tensor:
    """Directions [..., 3] turned by the rotation part of [..., 4, 4] (or [..., 3, 3]); no translation."""
    check_shape(vectors_source, "... 3", "points")
    rotation = _line_up(target_from_source[..., :3, :3], 2, vectors_source.ndim - 1)
    x, y, z = vectors_source.split(1, dim=-1)
    return rotation[..., 0] * x + rotation[..., 1] * y + rotation[..., 2] * z


def check_pose(matrix: Tensor, name: str, tolerance: float = 1e-3) -> None:
    """Raise ValueError, saying what is wrong and how to mend it, unless `matrix` [..., 4, 4] is a rigid pose.

    Checked in turn: shape, finite numbers, last row 0 0 0 1, orthonormal rotation (each entry of
    R Rᵀ - I within `tolerance`), right-handedness. `name` starts the message (a file, a frame number).
    """
    if matrix.shape[-2:] == (3, 4):
        raise ValueError(f"{name}: a pose must be 4x4, got 3x4; append the row 0 0 0 1")
    check_shape(matrix, "... 4 4", f"{name}: a pose")
    if not torch.isfinite(matrix).all():
        raise ValueError(f"{name}: NaN or infinite entries; remove this view or estimate it again")
    last_row = matrix[..., 3, :]
    if (last_row - last_row.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().max() > tolerance:
        found = last_row.reshape(-1, 4)[0].tolist()
        raise ValueError(
            f"{name}: the last row of the pose must be 0 0 0 1, got {found}; if the translation is there, "
            "the matrix is transposed"
        )
    rotation = matrix[..., :3, :3].double()
    gram = (rotation[..., :, None, :] * rotation[..., None, :, :]).sum(-1)
    error = (gram - torch.eye(3, dtype=gram.dtype, device=gram.device)).abs().max().item()
    if error > tolerance:
        scale = gram.diagonal(dim1=-2, dim2=-1).mean().sqrt().item()
        raise ValueError(
            f"{name}: the rotation is not orthonormal (largest entry of R Rᵀ - I is {error:.3g}, "
            f"mean axis length {scale:.4g}); if the pose carries a scale, divide the 3x3 part by it"
        )
    if (torch.linalg.det(rotation) < 0).any():
        raise ValueError(
            f"{name}: the pose is left-handed (determinant -1): one axis is mirrored; negate the column "
            "of the axis that does not point x right, y down, z forward"
        )


def opencv_from_opengl_pose(world_from_cam_opengl: Tensor) -> Tensor:
    """`world_from_cam` [..., 4, 4] of a camera given with OpenGL / Blender / NeRF axes (y up, z backward).

    The camera's own axes change (right product with diag(1, -1, -1, 1)); the world stays. Its own inverse.
    """
    check_shape(world_from_cam_opengl, "... 4 4", "world_from_cam_opengl")
    return world_from_cam_opengl * world_from_cam_opengl.new_tensor([1.0, -1.0, -1.0, 1.0])


def look_at(
    position: Tensor | Sequence[float],
    target: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
    up: Tensor | Sequence[float] = (0.0, 0.0, 1.0),
) -> Tensor:
    """`world_from_cam` [..., 4, 4] of a camera at `position` [..., 3] looking at `target`, level with `up`.

    Where the view direction is parallel to `up`, any level camera will do and one fixed choice is made.
    Raises ValueError where position and target coincide.

        >>> world_from_cam = look_at([2.0, 0.0, 0.0])
        >>> world_from_cam[:3, 2]  # forward
        tensor([-1.,  0.,  0.])
    """
    position = torch.as_tensor(position)
    dtype = position.dtype if position.is_floating_point() else torch.get_default_dtype()
    # In float64: near the pole the cross product below loses as many digits as the view comes close to `up`.
    position, target, up = torch.broadcast_tensors(
        *(torch.as_tensor(v, dtype=torch.float64, device=position.device) for v in (position, target, up))
    )
    forward = target - position
    distance = forward.norm(dim=-1, keepdim=True)
    if not (distance > 0).all():
        raise ValueError("look_at: position and target must be finite and differ")
    forward = forward / distance

    right = torch.linalg.cross(forward, up)
    parallel = right.norm(dim=-1, keepdim=True) <= 1e-7 * up.norm(dim=-1, keepdim=True)
    least = torch.zeros_like(forward).scatter(-1, forward.abs().argmin(-1, keepdim=True), 1.0)
    right = torch.where(parallel, torch.linalg.cross(forward, least), right)
    right = right / right.norm(dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    return _pose_from_parts(torch.stack([right, down, forward], dim=-1), position).to(dtype)


# ---------------------------------------------------------------------------------------- projection


def project(points_cam: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [..., 2] and depth [...] of points [..., 3] in camera coordinates: u = fx x / z + cx, v alike.

    The caller must mask with `depth > 0`. Points at or behind the camera plane (depth <= 1e-6) get the finite
    pixel of a point moved to depth 1e-6, which means nothing, and pass back a gradient of exactly zero.

        >>> K = intrinsics_matrix(100.0, 100.0, 31.5, 23.5)
        >>> project(torch.tensor([0.2, 0.0, 2.0]), K)
        (tensor([41.5000, 23.5000]), tensor(2.))
    """
    check_shape(K, "... 3 3", "K")
    check_shape(points_cam, "... 3", "points")
    x, y, depth = points_cam.unbind(-1)
    in_front = depth > MIN_DEPTH
    z = torch.where(in_front, depth, MIN_DEPTH)
    x, y = (torch.where(in_front, v, v.detach()) / z for v in (x, y))
    fx, skew, cx, fy, cy = _pinhole_parameters(K, depth.ndim)
    return torch.stack([fx * x + skew * y + cx, fy * y + cy], dim=-1), depth


def unproject(pixels: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """Points [..., 3] in camera coordinates of pixels [..., 2] at z-depth [...]; inverse of `project`.

    x = z (u - cx) / fx, y alike. One grid [H, W, 2] goes with depths [B, H, W]: the two broadcast.

        >>> K = intrinsics_matrix(100.0, 100.0, 31.5, 23.5)
        >>> unproject(torch.tensor([41.5, 23.5]), torch.tensor(2.0), K)
        tensor([0.2000, 0.0000, 2.0000])
    """
    check_shape(K, "... 3 3", "K")
    check_shape(pixels, "... 2", "pixels")
    u, v, depth = torch.broadcast_tensors(pixels[..., 0], pixels[..., 1], depth)
    fx, skew, cx, fy, cy = _pinhole_parameters(K, depth.ndim)
    y = (v - cy) / fy
    x = (u - cx - skew * y) / fx
    return torch.stack([x * depth, y * depth, depth.expand_as(x)], dim=-1)


def pixel_grid(
    height: int,
    width: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Pixel centres [H, W, 2] in (x, y) order: grid[row, column] = (column, row)."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype),
        torch.arange(width, device=device, dtype=dtype),
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)


def camera_rays(K: Tensor, world_from_cam: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Origins [..., 3] and directions [..., H, W, 3], in world coordinates, of the rays of all pixel centres.

    Directions are scaled to z = 1 in the camera, so `origin + t * direction` is the point at z-depth t.
    """
    check_shape(K, "... 3 3", "K")
    check_shape(world_from_cam, "... 4 4", "world_from_cam")
    batch = torch.broadcast_shapes(K.shape[:-2], world_from_cam.shape[:-2])
    pixels = pixel_grid(height, width, K.device, K.dtype).expand(*batch, height, width, 2)
    directions_cam = unproject(pixels, pixels.new_ones(()), K.expand(*batch, 3, 3))
    world_from_cam = world_from_cam.expand(*batch, 4, 4)
    return world_from_cam[..., :3, 3], rotate_vectors(world_from_cam, directions_cam)


def ray_distance_from_depth(depth: Tensor, K: Tensor) -> Tensor:
    """Distance along the ray from the camera centre [..., H, W] of a z-depth map [..., H, W], same unit."""
    return depth * _ray_lengths(depth, K)


def depth_from_ray_distance(ray_distance: Tensor, K: Tensor) -> Tensor:
    """z-depth map [..., H, W] of distances along the ray [..., H, W], same unit."""
    return ray_distance / _ray_lengths(ray_distance, K)


# ------------------------------------------------------------------------------------------- helpers


def _ray_lengths(image: Tensor, K: Tensor) -> Tensor:
    """Length of the z = 1 ray of every pixel of `image` [..., H, W]."""
    pixels = pixel_grid(*image.shape[-2:], image.device, K.dtype).expand(*image.shape, 2)
    return unproject(pixels, pixels.new_ones(()), K).norm(dim=-1)


def _pinhole_parameters(K: Tensor, ndim: int) -> tuple[Tensor, ...]:
    """fx, skew, cx, fy, cy, each shaped to broadcast with a tensor of `ndim` batch dimensions."""
    K = _line_up(K, 2, ndim)
    return K[..., 0, 0], K[..., 0, 1], K[..., 0, 2], K[..., 1, 1], K[..., 1, 2]


def _line_up(matrix: Tensor, core_dims: int, ndim: int) -> Tensor:
    """Insert size-1 dimensions after the batch ones, so that these meet the leading ones of the points."""
    batch = matrix.shape[: matrix.ndim - core_dims]
    missing = max(ndim - len(batch), 0) if batch else 0
    return matrix.reshape(*batch, *[1] * missing, *matrix.shape[matrix.ndim - core_dims :])


def _pose_from_parts(rotation: Tensor, translation: Tensor) -> Tensor:
    """[..., 4, 4] from [..., 3, 3] and [..., 3]."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)
