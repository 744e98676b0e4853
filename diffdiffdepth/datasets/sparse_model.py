"""A sparse COLMAP model of rendered views, as structure from motion leaves it: few, noisy, partly wrong."""

import numpy as np
import torch
from torch import Tensor

from shared.files.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints
from shared.geometry.camera import invert_pose, project, rotate_vectors, transform_points, unproject

__all__ = ["sparse_model"]

NOISE_PX = 0.5  # of each observation
MISMATCH_SHARE = 0.04  # of the points: one of their observations is several pixels off
MIN_TRACK = 3
SAME_DEPTH = 0.01  # relative


def sparse_model(
    names: list[str],
    K: Tensor,
    world_from_cam: Tensor,
    images: Tensor,
    depth: Tensor,
    count: int,
    generator: torch.Generator,
) -> ColmapModel:
    """Triangulate up to `count` corners of the images from noisy observations in at least three views.

    K float64 [3, 3]; world_from_cam float64 [V, 4, 4]; images [V, 3, H, W]; depth [V, H, W], inf for nothing.
    """
    truth = _corners(K, world_from_cam, images, depth, 3 * count)
    pixels, z = _projected(truth, K, world_from_cam)
    seen = torch.stack([_is_surface(*view) for view in zip(pixels.unbind(1), z.T, depth, strict=True)], 1)
    good = (seen.sum(1) >= min(MIN_TRACK, len(names))).nonzero().flatten()
    good = good[torch.randperm(len(good), generator=generator)[:count]].sort().values
    truth, seen, pixels = truth[good], seen[good], pixels[good]
    pixels = pixels + NOISE_PX * torch.randn(pixels.shape, generator=generator, dtype=pixels.dtype)
    wrong = (torch.rand(len(truth), generator=generator) < MISMATCH_SHARE).nonzero().flatten()
    first = seen[wrong].int().argmax(1)
    pixels[wrong, first] += 6 * torch.randn(len(wrong), 2, generator=generator, dtype=pixels.dtype)
    xyz = _triangulate(pixels, seen, K, world_from_cam)
    return _as_model(names, K, world_from_cam, images, xyz, pixels, seen)


def _corners(K: Tensor, poses: Tensor, images: Tensor, depth: Tensor, count: int) -> Tensor:
    """World positions [n, 3] of the strongest corners of each image."""
    import cv2

    found = []
    for pose, image, z in zip(poses, images, depth, strict=True):
        grey = (255 * image.mean(0)).byte().numpy()
        corners = cv2.goodFeaturesToTrack(grey, count // len(images), 0.005, 3)
        pixels = torch.from_numpy(corners[:, 0]).round().long()
        at = z[pixels[:, 1], pixels[:, 0]].double()
        points = transform_points(pose, unproject(pixels.double(), at, K))
        found.append(points[at.isfinite()])
    return torch.cat(found)


def _projected(points: Tensor, K: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [n, V, 2] and z-depth [n, V] of points [n, 3] in every view."""
    views = [project(transform_points(invert_pose(pose), points), K) for pose in poses]
    return torch.stack([pixels for pixels, _ in views], 1), torch.stack([z for _, z in views], 1)


def _is_surface(pixels: Tensor, z: Tensor, depth: Tensor) -> Tensor:
    """Whether points [n] at these pixels and depths are what a view of this depth [H, W] shows there."""
    height, width = depth.shape
    x, y = pixels.round().long().unbind(1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z > 0)
    surface = depth[y.clamp(0, height - 1), x.clamp(0, width - 1)].double()
    return inside & ((surface - z).abs() < SAME_DEPTH * z)


def _triangulate(pixels: Tensor, seen: Tensor, K: Tensor, poses: Tensor) -> Tensor:
    """Points [n, 3] nearest to the rays of their observations [n, V, 2]."""
    rays = unproject(pixels, torch.ones_like(pixels[..., 0]), K)  # [n, V, 3], camera axes
    rays = torch.stack([rotate_vectors(pose, rays[:, i]) for i, pose in enumerate(poses)], 1)
    rays = rays / rays.norm(dim=2, keepdim=True)
    across = torch.eye(3, dtype=rays.dtype) - rays[..., :, None] * rays[..., None, :]  # [n, V, 3, 3]
    across = across * seen[..., None, None]
    return torch.linalg.solve(across.sum(1), (across @ poses[:, :3, 3, None]).sum(1))[..., 0]


def _as_model(
    names: list[str], K: Tensor, poses: Tensor, images: Tensor, xyz: Tensor, pixels: Tensor, seen: Tensor
) -> ColmapModel:
    height, width = images.shape[-2:]
    params = (K[0, 0].item(), K[0, 2].item() + 0.5, K[1, 2].item() + 0.5)  # COLMAP counts from the corner
    projected, _ = _projected(xyz, K, poses)
    error = (projected - pixels).norm(dim=2)
    records, keypoint = {}, torch.full(seen.shape, -1)
    for index, (name, pose) in enumerate(zip(names, poses, strict=True)):
        rows = seen[:, index].nonzero().flatten()
        keypoint[rows, index] = torch.arange(len(rows))
        records[index + 1] = ColmapImage(name, 1, pose, pixels[rows, index], rows + 1)
    point, view = seen.nonzero(as_tuple=True)
    first = projected[:, 0].round().long()
    colour = images[0][:, first[:, 1].clamp(0, height - 1), first[:, 0].clamp(0, width - 1)].T
    points = ColmapPoints(
        ids=torch.arange(1, len(xyz) + 1),
        xyz=xyz,
        rgb=(255 * colour).round().to(torch.uint8),
        error_px=(error * seen).sum(1) / seen.sum(1),
        track_starts=torch.from_numpy(np.concatenate([[0], np.cumsum(seen.sum(1).numpy())])),
        tracks=torch.stack([view + 1, keypoint[point, view]], 1),
    )
    camera = ColmapCamera("SIMPLE_PINHOLE", width, height, params)
    return ColmapModel({1: camera}, records, points)
