"""What all papers use: warps, SSIM, COLMAP models, rendering of scenes."""

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.fresh import ROOT
from benchmarks.harness import Case, Trial
from scenes import make_object, render
from shared.files.colmap import (
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    ColmapPoints,
    read_colmap_model,
    write_colmap_model,
)
from shared.geometry.camera import (
    intrinsics_matrix,
    look_at,
    pixel_grid,
    project,
    transform_points,
    unproject,
)
from shared.geometry.trajectories import orbit_trajectory
from shared.geometry.warp import backward_warp, forward_warp
from shared.quality.ssim import SSIM_VARIANTS, ssim

__all__ = ["CASES", "from_tests"]

TWIN = "plain loop of the tests"


def from_tests(path: str) -> ModuleType:
    """A module of the tests, for the plain twin in it. The path is from the repository's root."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def largest_difference(other: tuple[Tensor, ...], ours: tuple[Tensor, ...]) -> float:
    """Largest absolute difference of any pair of tensors."""
    return max((a.float() - b.float()).abs().max().item() for a, b in zip(other, ours, strict=True))


def pixels_that_differ(other: tuple[Tensor, ...], ours: tuple[Tensor, ...]) -> float:
    """Share of pixels in which images [1, C, H, W] differ by more than 1e-3."""
    return ((other[0] - ours[0]).abs().amax(1) > 1e-3).float().mean().item()


# ---------------------------------------------------------------------------------------------- warps


def scene_to_warp(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colours [1, 3, H, W], a wavy depth map [1, 1, H, W] with a step, K, and a relative pose."""
    x, y = pixel_grid(height, width).unbind(-1)
    image = (torch.stack([(x / 7).sin(), (y / 5).cos(), ((x + y) / 9).sin()]) / 2 + 0.5)[None]
    depth = 2 + 0.3 * (6 * x / width).sin() + 0.2 * (5 * y / height).cos()
    depth = torch.where((x - width / 2).square() + (y - height / 2).square() < (width / 5) ** 2, 1.3, depth)
    K = intrinsics_matrix(0.9 * width, 0.9 * width, 0.49 * width, 0.5 * height)
    pose = torch.linalg.inv(look_at((0.25, -0.1, 0.08), (0.1, 0.0, 2.0), (0.0, -1.0, 0.0)))
    return image, depth[None, None], K.float(), pose.float()


def prepare_backward_warp_loop() -> Trial:
    image, depth, K, pose = scene_to_warp(16, 24)
    twin = from_tests("shared/tests/warp_twins.py").twin_backward
    candidates = {
        "ours": lambda: backward_warp(image, depth, K, K, pose)[:1],
        TWIN: lambda: (twin(image[0], depth[0], K, K, pose, "border")[0][None],),
    }
    return Trial(candidates, largest_difference, 1e-4)


def prepare_backward_warp() -> Trial:
    image, depth, K, pose = (x.clone() for x in scene_to_warp(256, 256))
    depth.requires_grad_()
    size = torch.tensor([256.0, 256.0])

    def through_points() -> Tensor:
        points = transform_points(pose, unproject(pixel_grid(256, 256), depth[:, 0], K))
        pixels, _ = project(points, K)
        return F.grid_sample(image, 2 * pixels / (size - 1) - 1, "bilinear", "border", align_corners=True)

    def with_gradient(warped: Tensor) -> tuple[Tensor, Tensor]:
        return warped.detach(), torch.autograd.grad(warped.mean() * 1e4, depth)[0]

    candidates = {
        "ours": lambda: with_gradient(backward_warp(image, depth, K, K, pose)[0]),
        "points and grid_sample": lambda: with_gradient(through_points()),
    }
    return Trial(candidates, largest_difference, 5e-3)  # gradients are of the order of 0.1


def prepare_forward_warp_loop() -> Trial:
    image, depth, K, pose = scene_to_warp(8, 11)
    twin = from_tests("shared/tests/warp_twins.py").twin_forward
    candidates = {
        "ours": lambda: forward_warp(image, depth, K, K, pose)[:1],
        TWIN: lambda: (twin(image[0], depth[0], K, K, pose, "square", (8, 11))[0][None],),
    }
    return Trial(candidates, pixels_that_differ, 0.0)


def scatter_warp(image: Tensor, depth: Tensor, K: Tensor, target_from_source: Tensor) -> Tensor:
    """Z-buffer by scattering, offset by offset under the largest square: least depth first, then colours."""
    height, width = image.shape[-2:]
    points = transform_points(target_from_source, unproject(pixel_grid(height, width), depth[0, 0], K))
    pixels, z = (part.flatten(0, 1) for part in project(points, K))
    side = (depth.flatten() / z).clamp(max=6.0)[:, None]
    first = (pixels + 0.5 - side / 2).floor().long()
    end = torch.maximum((pixels + 0.5 + side / 2).ceil().long(), first + 1)
    reach = int((end - first).max())
    buffer = torch.full((height * width,), torch.inf, dtype=z.dtype)
    hits = []
    for dy in range(reach):
        for dx in range(reach):
            x, y = (first + torch.tensor([dx, dy])).unbind(1)
            drawn = (x >= 0) & (y >= 0) & (x < width) & (y < height) & (x < end[:, 0]) & (y < end[:, 1])
            target = (y * width + x)[drawn]
            buffer.scatter_reduce_(0, target, z[drawn], "amin")
            hits.append((drawn, target))
    colours = image[0].flatten(1)
    warped = torch.zeros_like(colours)
    for drawn, target in hits:
        nearest = z[drawn] == buffer[target]
        warped[:, target[nearest]] = colours[:, drawn.nonzero()[:, 0][nearest]]
    return warped.view_as(image)


def prepare_forward_warp() -> Trial:
    image, depth, K, pose = scene_to_warp(256, 256)
    candidates = {
        "ours": lambda: forward_warp(image, depth, K, K, pose)[:1],
        "scatter per offset": lambda: (scatter_warp(image, depth, K, pose),),
    }
    return Trial(candidates, pixels_that_differ, 0.02)


# ----------------------------------------------------------------------------------------------- ssim


def noisy_pair(side: int = 512) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = scene_to_warp(side, side)[0].contiguous()
    return image, (image + 0.1 * torch.randn(image.shape, generator=generator)).clamp(0, 1)


def ssim_by_conv(a: Tensor, b: Tensor) -> Tensor:
    """The usual way: five grouped convolutions with a two-dimensional window."""
    taps = torch.tensor(SSIM_VARIANTS["gaussian11"].taps)
    window = torch.outer(taps, taps).expand(3, 1, 11, 11)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=3)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return (
        (2 * mean_a * mean_b + c1)
        * (2 * covariance + c2)
        / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    ).mean()


def prepare_ssim() -> Trial:
    image, noisy = noisy_pair()
    candidates = {
        "ours": lambda: ssim(noisy, image).item(),
        "conv2d": lambda: ssim_by_conv(noisy, image).item(),
    }
    skipped = {}
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        skipped["scikit-image"] = "not installed"
    else:
        arrays = [x[0].movedim(0, -1).numpy() for x in (noisy, image)]
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        settings |= {"data_range": 1.0, "channel_axis": -1}
        candidates["scikit-image"] = lambda: structural_similarity(*arrays, **settings)
    return Trial(candidates, lambda a, b: abs(a - b), 1e-4, skipped=skipped)


def prepare_ssim_loss() -> Trial:
    image, noisy = noisy_pair()
    noisy.requires_grad_()

    def gradient(value: Tensor) -> tuple[Tensor]:
        return (torch.autograd.grad((1 - value) * 1e5, noisy)[0],)

    candidates = {
        "ours": lambda: gradient(ssim(noisy, image)),
        "conv2d": lambda: gradient(ssim_by_conv(noisy, image)),
    }
    return Trial(candidates, lambda a, b: largest_difference(a, b) / b[0].abs().max().item(), 1e-2)


# ------------------------------------------------------------------------------------- files, scenes


def colmap_model(views: int = 60, keypoints: int = 2000, seen_by: int = 6) -> ColmapModel:
    """Random cameras and points; point i is observed by `seen_by` consecutive views."""
    rng = np.random.default_rng(0)
    count = views * keypoints // (2 * seen_by)  # half of the keypoints observe a point
    observers = (rng.integers(views, size=count)[:, None] + np.arange(seen_by)) % views  # [M, seen_by]
    ids = np.full((views, keypoints), -1)
    filled = np.zeros(views, int)
    tracks = np.empty((count, seen_by, 2), np.int64)
    for point in range(count):
        for k, view in enumerate(observers[point]):
            ids[view, filled[view]] = point + 1
            tracks[point, k] = view + 1, filled[view]
            filled[view] += 1
    images = {}
    for view, pose in enumerate(orbit_trajectory(views, 3.0, dtype=torch.float64)):
        xy = torch.tensor(rng.random((keypoints, 2)) * [640, 480])
        images[view + 1] = ColmapImage(f"{view:04d}.jpg", 1, pose, xy, torch.tensor(ids[view]))
    points = ColmapPoints(
        ids=torch.arange(count) + 1,
        xyz=torch.tensor(rng.normal(size=(count, 3))),
        rgb=torch.tensor(rng.integers(0, 256, (count, 3)), dtype=torch.uint8),
        error_px=torch.tensor(rng.random(count)),
        track_starts=torch.arange(count + 1) * seen_by,
        tracks=torch.tensor(tracks.reshape(-1, 2)),
    )
    camera = ColmapCamera("OPENCV", 640, 480, (500.0, 501.0, 320.0, 240.0, -0.1, 0.02, 1e-3, -2e-3))
    return ColmapModel({1: camera}, images, points)


def prepare_colmap() -> Trial:
    folder = tempfile.TemporaryDirectory(prefix="bench-colmap-")
    write_colmap_model(folder.name, colmap_model())

    def ours(keep: tempfile.TemporaryDirectory = folder) -> np.ndarray:
        return read_colmap_model(keep.name).points.xyz.numpy()

    candidates, skipped = {"ours": ours}, {}
    try:
        import pycolmap
    except ImportError:
        skipped["pycolmap"] = "not installed"
    else:
        pycolmap.Reconstruction(folder.name).write(folder.name)  # binary

        def theirs() -> np.ndarray:
            points = pycolmap.Reconstruction(folder.name).points3D
            return np.stack([points[index].xyz for index in sorted(points)])

        candidates["pycolmap"] = theirs
    return Trial(candidates, lambda a, b: np.abs(a - b).max(), 1e-12, skipped=skipped)


def prepare_render() -> Trial:
    scene = make_object("cube")
    K = intrinsics_matrix(140.0, 140.0, 63.5, 63.5).float()
    poses = orbit_trajectory(8, 1.7)
    return Trial({"ours": lambda: [render(scene, K, pose, 128, 128).image for pose in poses]})


CASES = [
    Case("shared/backward_warp-loop", "backward warp, 16x24", prepare_backward_warp_loop, seconds=3),
    Case("shared/backward_warp", "backward warp, 256x256, with the gradient by depth", prepare_backward_warp),
    Case("shared/forward_warp-loop", "z-buffered forward warp, 8x11", prepare_forward_warp_loop, seconds=3),
    Case("shared/forward_warp", "z-buffered forward warp, 256x256", prepare_forward_warp),
    Case("shared/ssim", "SSIM of two 512x512 RGB images, Gaussian window", prepare_ssim),
    Case("shared/ssim-loss", "gradient of the SSIM of two 512x512 RGB images", prepare_ssim_loss),
    Case("shared/colmap", "read a binary COLMAP model, 60 views, 120,000 keypoints", prepare_colmap),
    Case(
        "shared/scenes",
        "render the letter cube, 128x128, 9 rays per pixel",
        prepare_render,
        unit="view",
        units=8,
    ),
]
