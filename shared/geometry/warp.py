"""Warping between views: backward (sampling), forward (z-buffered splatting), and by disparity.

All warps name their views `source` (where colours are taken from) and `target` (the view that is made).
Sampling is bilinear at pixel centres (docs/conventions.md): integer coordinates return the pixel itself, for
any image size.

A pixel u of depth d in one view lands at q ~ K' R K⁻¹ (u, 1) + K' t / d in the other. Written in this
inverse-depth form, an identity or pure-translation warp meets pixel centres exactly, an infinite depth is an
ordinary value, and q_z is the ratio of the two depths.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.geometry import check_shape
from shared.geometry.camera import pixel_grid

__all__ = [
    "backward_warp",
    "disparity_warp",
    "forward_warp",
    "sample_pixels",
]


BORDER_SLACK_PX = 1e-3  # rounding error allowed before a sample counts as outside the outermost pixel centres


def sample_pixels(image: Tensor, pixels: Tensor, padding: Literal["border", "zeros"] = "border") -> Tensor:
    """Bilinear samples [B, C, h, w] of `image` [B, C, H, W] at `pixels` [B, h, w, 2] in (x, y) order.

    Coordinates are pixel centres: (0, 0) and (W - 1, H - 1) return the corner pixels. Outside, `border`
    repeats the outermost pixel and `zeros` fades to 0 over one pixel. Differentiable in the image and in the
    coordinates; NaN coordinates give NaN.
    """
    height, width = image.shape[-2:]
    dtype = torch.promote_types(image.dtype, pixels.dtype)  # coordinates must not be cut to half precision
    # With align_corners=False, -1 and 1 are the outer borders, half a pixel outside the first and last
    # centre; unlike the rule with True this is exact for sides that are powers of two, and it is defined for
    # sides of one pixel.
    grid = (2 * pixels.to(dtype) + 1) / pixels.new_tensor([width, height], dtype=dtype) - 1
    unknown = None
    if grid.device.type == "cpu" and math.isnan(grid.detach().sum()):
        unknown = grid.isnan().any(-1)  # PyTorch's backward on the CPU writes outside the image for these
        grid = grid.masked_fill(unknown[..., None], 0.0)
    sampled = F.grid_sample(image.to(dtype), grid, mode="bilinear", padding_mode=padding, align_corners=False)
    if unknown is not None:
        sampled = sampled.masked_fill(unknown[:, None], math.nan)
    return sampled.to(image.dtype)


def backward_warp(
    image_source: Tensor,
    depth_target: Tensor,
    K_source: Tensor,
    K_target: Tensor,
    source_from_target: Tensor,
    padding: Literal["border", "zeros"] = "border",
    near: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """The target view fetched from `image_source` [B, C, H, W]: image [B, C, h, w] and validity [B, 1, h, w].

    `depth_target` [B, 1, h, w] is z-depth of the target view, in the unit of the translation; `K_*` are [...,
    3, 3] and `source_from_target` [..., 4, 4], with batch B or none. Valid: depth above `near` in both
    cameras (NaN is not), sample within the outermost pixel centres. Samples outside follow `padding`; pixels
    without a sample (bad depth, behind the source camera) are 0 and pass no gradient. Differentiable in
    everything else. Raises ValueError for wrong shapes.

        target(u) = source(q),  q ~ K_source R K_target⁻¹ (u, 1) + K_source t / depth(u)

        >>> K, pose = torch.tensor([[4.0, 0, 1.5], [0, 4.0, 0.5], [0, 0, 1]]), torch.eye(4)
        >>> pose[0, 3] = 0.5  # a pixel at depth 2 moves by 4 * 0.5 / 2 = 1 to the right
        >>> image = torch.arange(4.0).expand(1, 1, 2, 4)
        >>> view, valid = backward_warp(image, torch.full((1, 1, 2, 4), 2.0), K, K, pose)
        >>> view[0, 0, 0], valid[0, 0, 0]
        (tensor([1., 2., 3., 3.]), tensor([ True,  True,  True, False]))
    """
    sizes = check_shape(image_source, "B C H W", "image_source")
    check_shape(depth_target, "B 1 h w", "depth_target", sizes)
    pixels, _, in_front = _reproject(depth_target, K_target, K_source, source_from_target, near)
    return _sample_usable(image_source, pixels, in_front, padding)


def disparity_warp(
    image_source: Tensor,
    disparity_px: Tensor,
    view_offset: Tensor,
    padding: Literal["border", "zeros"] = "border",
) -> tuple[Tensor, Tensor]:
    """Light-field warp, target(x) = source(x + disparity * view_offset), and its validity [B, 1, H, W].

    `disparity_px` [B, 1, H, W] belongs to the target view: pixels between adjacent views, positive in front
    of the focus plane. `view_offset` [2] or [B, 2] is (column, row) of the target view minus that of the
    source view, with columns counted to the right and rows downwards (the HCI benchmark's rule): seen from
    further right, near things move left. For a rectified pair, left target and right source, it is (-1, 0).
    Not-finite disparity is invalid and 0.
    """
    check_shape(disparity_px, "B 1 H W", "disparity_px", check_shape(image_source, "B C H W", "image_source"))
    if view_offset.shape not in ((2,), (1, 2), (len(image_source), 2)):
        raise ValueError(f"view_offset must be [2] or [B, 2], got {list(view_offset.shape)}")
    finite = disparity_px[:, 0].isfinite()
    disparity = torch.where(finite, disparity_px[:, 0], 0.0)[..., None]  # [B, H, W, 1]
    disparity = disparity.to(torch.promote_types(disparity.dtype, torch.float32))
    grid = pixel_grid(*image_source.shape[-2:], disparity.device, disparity.dtype)
    return _sample_usable(image_source, grid + disparity * view_offset.reshape(-1, 1, 1, 2), finite, padding)


def forward_warp(
    features_source: Tensor,
    depth_source: Tensor,
    K_source: Tensor,
    K_target: Tensor,
    target_from_source: Tensor,
    footprint: Literal["square", "pixel"] = "square",
    max_footprint_px: float = 6.0,
    size: tuple[int, int] | None = None,
    near: float = 1e-3,
) -> tuple[Tensor, Tensor, Tensor]:
    """Splat `features_source` [B, C, h, w] into the target view; returns features, depth and validity there.

    These are [B, C, H, W], [B, 1, H, W] and [B, 1, H, W] with (H, W) = `size`, by default the source's. Every
    source pixel is drawn with its depth [B, 1, h, w] as the square it covers in the target (side = ratio of
    depths times ratio of focal lengths, cut at `max_footprint_px`), or as one pixel with `footprint="pixel"`.
    The nearest wins and is copied unblended; at equal depth (to 5e-7) the nearest centre, then the first
    source pixel: the same on every run and for any number of threads. Pixels nobody hits are 0.
    Gradients reach the features only, as in the direct-warper extension that "Depth self-supervision for
    single image novel view synthesis" (IROS 2023) uses; there equal depths are a race. Raises ValueError
    for wrong shapes.

        >>> K, pose = torch.tensor([[4.0, 0, 1.5], [0, 4.0, 0.5], [0, 0, 1]]), torch.eye(4)
        >>> pose[0, 3] = 0.5
        >>> image = torch.arange(1.0, 5.0).expand(1, 1, 2, 4)
        >>> view, depth, valid = forward_warp(image, torch.full((1, 1, 2, 4), 2.0), K, K, pose)
        >>> view[0, 0, 0], valid[0, 0, 0]
        (tensor([0., 1., 2., 3.]), tensor([False,  True,  True,  True]))
    """
    sizes = check_shape(features_source, "B C H W", "features_source")
    check_shape(depth_source, "B 1 H W", "depth_source", sizes)
    if footprint not in ("square", "pixel"):
        raise ValueError(f'footprint must be "square" or "pixel", got {footprint!r}')
    height, width = size or features_source.shape[-2:]
    with torch.no_grad():
        pixels, depth_ratio, in_front = _reproject(depth_source, K_source, K_target, target_from_source, near)
        depth = depth_ratio * depth_source[:, 0]
        side = torch.zeros_like(pixels)
        if footprint == "square":
            focal_target, focal_source = (K.diagonal(dim1=-2, dim2=-1)[..., :2] for K in (K_target, K_source))
            zoom = (focal_target / focal_source).reshape(-1, 1, 1, 2).to(pixels)
            side = (zoom / depth_ratio[..., None]).clamp(max=max_footprint_px)
        first, count = _covered_pixels(pixels, side, in_front, height, width)
        winner = _z_buffer(pixels, depth, first, count, height, width)  # [B, H * W], -1 where nobody is
        valid = (winner >= 0).reshape(-1, 1, height, width)
        winner = winner.clamp(min=0)[:, None]
        depth_target = depth.flatten(1)[:, None].gather(2, winner).reshape(-1, 1, height, width)
    channels = features_source.shape[1]
    features = features_source.flatten(2).gather(2, winner.expand(-1, channels, -1))
    features = torch.where(valid, features.reshape(-1, channels, height, width), 0.0)
    return features, torch.where(valid, depth_target, 0.0), valid


# ------------------------------------------------------------------------------------------- helpers


def _reproject(
    depth: Tensor, K_from: Tensor, K_to: Tensor, to_from_from: Tensor, near: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the pixels of `depth` [B, 1, h, w] land [B, h, w, 2], the depth ratio and `in_front` [B, h, w].

    The ratio is new depth / old depth. Where `in_front` is false, the ratio is 1 and the pixels mean
    nothing, but both are finite with finite gradients, for the caller to mask.
    """
    dtype = torch.promote_types(depth.dtype, torch.float32)
    for matrix, n in ((K_from, 3), (K_to, 3), (to_from_from, 4)):
        if matrix.shape[-2:] != (n, n) or matrix.shape[:-2].numel() not in (1, len(depth)):
            wanted = f"[{n}, {n}] or [{len(depth)}, {n}, {n}]"
            raise ValueError(f"intrinsics or pose must be {wanted}, got {list(matrix.shape)}")
    homography, epipole = (m.to(dtype) for m in _plane_and_parallax(K_from, K_to, to_from_from))
    depth = depth[:, 0].to(dtype)  # [B, h, w]
    usable = depth > near
    inv_depth = 1 / torch.where(usable, depth, 1.0)
    height, width = depth.shape[-2:]
    u = torch.arange(width, device=depth.device, dtype=dtype)
    v = torch.arange(height, device=depth.device, dtype=dtype)[:, None]
    a, b = homography[..., None, None], epipole[..., None, None]  # the batch, row (and column), then h, w
    q_x, q_y, q_z = (a[:, i, 0] * u + (a[:, i, 1] * v + a[:, i, 2]) + b[:, i] * inv_depth for i in range(3))
    in_front = usable & (q_z * depth > near)
    depth_ratio = torch.where(in_front, q_z, 1.0)
    return torch.stack([q_x / depth_ratio, q_y / depth_ratio], dim=-1), depth_ratio, in_front


def _plane_and_parallax(K_from: Tensor, K_to: Tensor, to_from_from: Tensor) -> tuple[Tensor, Tensor]:
    """K' R K⁻¹ [B, 3, 3] and K' t [B, 3] in float64, so that an identity stays one after rounding."""
    K_from, K_to, pose = (m.reshape(-1, *m.shape[-2:]).double() for m in (K_from, K_to, to_from_from))
    free = K_from.new_tensor([[1, 1, 1], [0, 1, 1], [0, 0, 0]])  # the other entries are constants
    K_from, K_to = (K * free + K.new_tensor([0, 0, 1]).diag() for K in (K_from, K_to))
    K_rotation = (K_to[:, :, :, None] * pose[:, None, :3, :3]).sum(-2)
    homography = torch.linalg.solve(K_from, K_rotation, left=False)
    return homography, (K_to * pose[:, None, :3, 3]).sum(-1)


def _sample_usable(
    image: Tensor, pixels: Tensor, usable: Tensor, padding: Literal["border", "zeros"]
) -> tuple[Tensor, Tensor]:
    """Samples, 0 where not `usable` [B, h, w]; valid [B, 1, h, w]: those between the outermost centres."""
    x, y = pixels.detach().unbind(-1)
    height, width = image.shape[-2:]
    inside = (x >= -BORDER_SLACK_PX) & (x <= width - 1 + BORDER_SLACK_PX)
    inside &= (y >= -BORDER_SLACK_PX) & (y <= height - 1 + BORDER_SLACK_PX)
    sampled = sample_pixels(image, pixels, padding)
    return torch.where(usable[:, None], sampled, 0.0), (usable & inside)[:, None]


def _covered_pixels(
    centre: Tensor, side: Tensor, drawn: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """First (column, row) and number of (columns, rows), both [B, h, w, 2], of the clipped squares."""
    limit = centre.new_tensor([width, height])
    centre = torch.clamp(centre, -2 - side, limit + 2 + side)  # stays outside, as a small integer
    first = (centre + 0.5 - side / 2).floor().long()  # pixel i covers [i - 0.5, i + 0.5)
    end = torch.maximum((centre + 0.5 + side / 2).ceil().long(), first + 1)  # at least one pixel
    first, end = first.clamp(min=0), torch.minimum(end, limit.long())
    return first, (end - first).clamp(min=0) * drawn[..., None]


def _z_buffer(centre: Tensor, depth: Tensor, first: Tensor, count: Tensor, height: int, width: int) -> Tensor:
    """Index of the source pixel that wins each target pixel [B, H * W], -1 where there is none.

    One integer minimum decides: 28 bits of depth (a positive float32 sorts as its bits; the last 3 are
    rounding noise and dropped), 11 bits of distance to the centre in 1/256 px, 24 bits of source index.
    """
    batch, n_source = depth.shape[0], depth[0].numel()
    if n_source > 1 << 24:
        raise ValueError(f"forward_warp takes at most 2**24 source pixels per image, got {n_source}")
    count_x, count_y = count.reshape(-1, 2).unbind(-1)
    total = count_x * count_y
    source = torch.repeat_interleave(total)  # one entry for each drawn pixel, [M]
    step = torch.arange(len(source), device=source.device) - (total.cumsum(0) - total)[source]
    columns = count_x[source]
    row, column = step // columns, step % columns
    first = first.reshape(-1, 2)[source]
    x, y = first[:, 0] + column, first[:, 1] + row

    centre = centre.reshape(-1, 2)[source]
    distance = torch.hypot(x - centre[:, 0], y - centre[:, 1])
    key = depth.float().reshape(-1).view(torch.int32).long()[source] >> 3 << 35
    key |= (distance * 256).round().long().clamp(max=2047) << 24
    key |= source % n_source
    target = (source // n_source) * (height * width) + y * width + x
    nobody = torch.iinfo(torch.int64).max
    best = torch.full((batch * height * width,), nobody, dtype=torch.int64, device=depth.device)
    best.scatter_reduce_(0, target, key, "amin")
    return torch.where(best == nobody, -1, best & ((1 << 24) - 1)).reshape(batch, height * width)
