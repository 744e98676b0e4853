"""What every `predict.py` writes: views, depth, cameras, points, mesh and video, for other programs.

    view_0000.png               the view
    depth_0000.pfm              its depth, at the size of the view: an enlarged map follows the view's edges
    depth_0000.png              the same in 16 bits: value = png_offset + number * png_step, 0 where invalid
    depth_0000_colour.png       the same to look at, with its legend: red is near
    native/depth_0000.pfm       the map as the method gives it, where it is smaller
    depth.json                  what the numbers mean: kind, unit, scale, the two png_... values
    cameras.json                cameras in the format of nerfstudio (transforms.json), with the depth files
    colmap/                     the same cameras and the points as a text model of COLMAP
    points.ply, mesh.ply        points of all views with colours and normals; triangles of the first view
    moving_camera.mp4           the views with their depth; of a single one, what a swaying camera would see

Where no camera is known there are no cameras, and points and mesh are a relief, which claims no scale.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError
from shared.files.cameras import read_nerf_transforms, write_nerf_transforms
from shared.files.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints, write_colmap_model
from shared.files.disk import write_bytes, write_json
from shared.files.images import encode_png, read_image, write_image
from shared.files.listing import list_images
from shared.files.maps import write_depth_png, write_pfm, write_ply
from shared.geometry.camera import resize_intrinsics
from shared.geometry.warp import forward_warp
from shared.results import LARGEST_PNG_CODE, DepthMap, Views
from shared.show.pictures import contact_sheet, depth_picture, depth_range, evenly
from shared.show.video import write_video

__all__ = ["export_views", "load_export", "relief_of", "view_frames"]

CLOUD_VIEWS, CLOUD_POINTS = 12, 1_000_000  # at most, in points.ply
COLMAP_POINTS = 20_000
SWAY_FRAMES, SWAY = 36, 0.04  # of the median depth, to each side
RELIEF = 0.5  # depth of a relief, as a share of the picture's width


def export_views(
    folder: str | Path,
    views: Views,
    world_from_cam: Tensor | None = None,
    K: Tensor | None = None,
    fps: float = 24,
) -> None:
    """Write all that the module's description lists into `folder`.

    world_from_cam [N, 4, 4], OpenCV axes: by default every camera is at the origin. K: intrinsics at the size
    of the views, by default from those of the depth. Raises DataError when a file cannot be written.
    """
    folder, count = Path(folder), len(views)
    poses = torch.eye(4).expand(count, 4, 4) if world_from_cam is None else world_from_cam.cpu().float()
    depths = []
    for depth, image in zip(views.depth or (), views.images, strict=False):
        full = depth.to("cpu").upsampled(image.cpu())
        depths.append(replace(full, valid=full.valid & full.values.isfinite()))
    if K is None and depths and depths[0].K is not None:
        K = torch.stack([depth.K for depth in depths])
    K = None if K is None else K.cpu().float().expand(count, 3, 3)
    for index, image in enumerate(views.images):
        write_image(folder / f"view_{index:04d}.png", image)
    common = _write_depths(folder, views, depths) if depths else {}
    if K is not None:
        has_z = bool(depths) and depths[0].kind == "z_depth"
        entries = [
            {"file_path": f"view_{i:04d}.png", **({"depth_file_path": f"depth_{i:04d}.png"} if has_z else {})}
            for i in range(count)
        ]
        common = {"depth_unit_scale_factor": common["png_step"], "unit": depths[0].unit} if has_z else {}
        write_nerf_transforms(folder / "cameras.json", views.images.shape[-2:], K, poses, entries, **common)
    points = _write_points(folder, views, depths, poses) if depths else None
    if K is not None:
        _write_colmap(folder / "colmap", views, K, poses, points)
    write_video(folder / "moving_camera.mp4", view_frames(views.images, depths), fps)


def _write_depths(folder: Path, views: Views, depths: list[DepthMap]) -> dict[str, float]:
    """The depth files; all PNGs have the same step and offset, which are returned and in depth.json."""
    held = torch.cat([depth.values[depth.valid] for depth in depths])
    low, high = (f(held).item() if len(held) else 1.0 for f in (torch.min, torch.max))
    step = max(high - min(low, 0.0), 1e-9) / (LARGEST_PNG_CODE - 1)
    if low >= 0:
        step = 10.0 ** np.ceil(np.log10(step))  # a round number, which other programs are told by hand
    numbers = {"png_step": step, "png_offset": low - step if low < 0 else 0.0}
    limits = _common_range(depths)
    for index, depth in enumerate(depths):
        stem = folder / f"depth_{index:04d}"
        write_pfm(stem.with_suffix(".pfm"), depth.values.float())
        write_depth_png(
            stem.with_suffix(".png"), depth.values - numbers["png_offset"], depth.valid, unit_m=step
        )
        colours = depth_picture(depth, vmin=limits[0], vmax=limits[1], grey=depth.invalid)
        write_bytes(folder / f"{stem.name}_colour.png", encode_png(colours))
        native = views.depth[index]
        if native.values.shape != depth.values.shape:
            write_pfm(folder / "native" / f"{stem.name}.pfm", native.values.float())
    meaning = replace(depths[0], values=torch.stack([d.values for d in depths]),
                      valid=torch.stack([d.valid for d in depths])).meaning  # fmt: skip
    write_json(folder / "depth.json", meaning | numbers)
    return numbers


def load_export(folder: str | Path) -> tuple[Views, Tensor | None]:
    """What `export_views` wrote: views with depth, and world_from_cam [N, 4, 4] where cameras are known."""
    paths = [path for path in list_images(folder)[0] if path.name.startswith("view_")]
    maps = [path.with_name(path.name.replace("view_", "depth_")).with_suffix(".pfm") for path in paths]
    if not paths or not maps[0].exists():
        raise DataError(folder, "holds no views with depth", "Name a folder that a predict.py wrote")
    held = [DepthMap.load(path) for path in maps]
    valid = torch.stack([DepthMap.load(path.with_suffix(".png")).valid for path in maps])
    depth = replace(held[0], values=torch.stack([one.values for one in held]), valid=valid)
    views = Views(torch.stack([read_image(path) for path in paths]), depth)
    if not (Path(folder) / "cameras.json").exists():
        return views, None
    frames = read_nerf_transforms(Path(folder) / "cameras.json").frames
    depth = replace(depth, K=torch.stack([frame.K for frame in frames]).float())
    return replace(views, depth=depth), torch.stack([frame.world_from_cam for frame in frames]).float()


def _common_range(depths: list[DepthMap]) -> tuple[float, float]:
    ranges = [depth_range(depth) for depth in depths]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def relief_of(depth: DepthMap) -> DepthMap:
    """A map without a known camera as a surface to look at: in pixels, seen by a camera that is made up."""
    height, width = depth.values.shape
    low, high = depth_range(depth)
    share = ((depth.values - low) / max(high - low, 1e-12)).clamp(-0.5, 1.5)
    share = 1 - share if depth.near_is_large else share
    K = torch.tensor([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
    values = width * (1 + RELIEF * share)
    return DepthMap(values, "z_depth", "px", "a relief: no scale", depth.valid, depth.invalid, K)


def _solid(depth: DepthMap) -> DepthMap:
    """The map as z-depth with a camera, whatever it was; not finite or behind the camera is invalid."""
    known = depth.K is not None and depth.kind in ("z_depth", "ray_distance", "inv_depth")
    solid = replace(depth, values=depth.z_depth(), kind="z_depth") if known else relief_of(depth)
    valid = solid.valid & solid.values.isfinite() & (solid.values > 0)
    return replace(solid, valid=valid, values=torch.where(valid, solid.values, 1.0))


def _write_points(
    folder: Path, views: Views, depths: list[DepthMap], poses: Tensor
) -> tuple[Tensor, Tensor] | None:
    """points.ply of views spread over all, and mesh.ply of the first; returns points and colours [n, 3]."""
    parts = []
    for index in evenly(len(depths), CLOUD_VIEWS):
        solid = _solid(depths[index])
        points, normals, faces = solid.surface(poses[index])
        colours = views.images[index].cpu().permute(1, 2, 0)[solid.valid]
        if index == 0 and len(faces):
            write_ply(folder / "mesh.ply", points, colours, normals, faces)
        parts.append((points, colours, normals))
    points, colours, normals = (torch.cat(part) for part in zip(*parts, strict=True))
    if len(points) == 0:
        return None
    chosen = _some(len(points), CLOUD_POINTS)
    write_ply(folder / "points.ply", points[chosen], colours[chosen], normals[chosen])
    chosen = _some(len(points), COLMAP_POINTS)
    return points[chosen], colours[chosen]


def _some(count: int, at_most: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:at_most].sort().values


def _write_colmap(
    folder: Path, views: Views, K: Tensor, poses: Tensor, points: tuple[Tensor, Tensor] | None
) -> None:
    """A model without tracks: cameras, poses, and points that no keypoint observes."""
    height, width = views.images.shape[-2:]
    cameras, images = {}, {}
    for index, (k, pose) in enumerate(zip(K.double().tolist(), poses.double(), strict=True)):
        numbers = (k[0][0], k[1][1], k[0][2] + 0.5, k[1][2] + 0.5)
        cameras[index + 1] = ColmapCamera("PINHOLE", width, height, numbers)
        nothing = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
        images[index + 1] = ColmapImage(f"view_{index:04d}.png", index + 1, pose, *nothing)
    xyz, colours = points if points is not None else (torch.zeros(0, 3), torch.zeros(0, 3))
    count = len(xyz)
    model = ColmapPoints(
        torch.arange(1, count + 1),
        xyz.double(),
        colours.mul(255).round().byte(),
        torch.full((count,), -1.0, dtype=torch.float64),
        torch.zeros(count + 1, dtype=torch.int64),
        torch.zeros(0, 2, dtype=torch.int64),
    )
    write_colmap_model(folder, ColmapModel(cameras, images, model))


def view_frames(images: Tensor, depths: list[DepthMap]) -> Iterator[np.ndarray | Tensor]:
    """Frames of a video: each view next to its depth; for a single one a camera that sways in front of it."""
    if not depths:
        yield from images
    elif len(images) == 1:
        yield from _sway(images[0].cpu(), _solid(depths[0]))
    else:
        low, high = _common_range(depths)
        side = max(images.shape[-1], 256)
        for image, depth in zip(images, depths, strict=True):
            picture = depth_picture(depth, vmin=low, vmax=high, min_width=side)
            yield contact_sheet([[image, picture]], ("view", "depth"), cell_width=side)


def _sway(image: Tensor, depth: DepthMap) -> Iterator[Tensor]:
    """What a camera on a small ellipse sees of one view, splatted; black where nothing is known."""
    size = image.shape[-2:]
    scale = min(1.0, 512 / max(size))
    K = depth.K
    if scale < 1:
        small = (round(scale * size[0]), round(scale * size[1]))
        K = resize_intrinsics(K, tuple(size), small)
        image = torch.nn.functional.interpolate(image[None], size=small, mode="area")[0]
        rows, columns = (torch.linspace(0, n - 1, m).round().long() for n, m in zip(size, small, strict=True))
        depth = replace(
            depth, values=depth.values[rows[:, None], columns], valid=depth.valid[rows[:, None], columns]
        )
    held = depth.values[depth.valid]
    reach = SWAY * float(held.median()) if len(held) else 0.0
    values = torch.where(depth.valid, depth.values, 1e6)  # far behind everything
    for angle in torch.linspace(0, 2 * torch.pi, SWAY_FRAMES + 1)[:-1]:
        pose = torch.eye(4)
        pose[0, 3], pose[1, 3] = reach * torch.sin(angle), 0.5 * reach * (torch.cos(angle) - 1)
        yield forward_warp(image[None], values[None, None].float(), K.float(), K.float(), pose)[0][0]
