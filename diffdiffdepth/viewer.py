"""What the viewer shows of a run: its map as points, the labels it grew from, the truth, the cameras."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.scene import LightField, MultiViewScene, Scene, SparsePoints
from shared.geometry.camera import invert_pose, unproject
from shared.show.pictures import depth_range
from shared.show.viewer import Part, PointCloud, ViewerCamera, ViewerScene, cloud_from_depth, relief

__all__ = ["scene_of"]


def scene_of(run: Path, checkpoint: Literal["best", "last"], device: torch.device) -> ViewerScene:
    """The finished map of a run folder; what an unfinished run lacks ends in RunError or DataError."""
    fitted = DiffusedDepth.load(run)
    scene, depth = fitted.scene, fitted.z_depth
    title = f"Differentiable diffusion: {scene.name}"
    if depth is None:
        note = "The camera is not known: the points are a relief of the map, not a measured shape."
        part = _relief_part(scene, fitted.depth.values)
        return ViewerScene(title, fitted.depth.unit, fitted.depth.scale, (part,), (note,))
    points, truth = scene.points, scene.truth
    if isinstance(scene, MultiViewScene):
        cameras = _posed_cameras(scene)
    else:
        cameras, to_depth = _grid_cameras(scene), scene.camera.depth_from_disparity
        points = SparsePoints(points.positions_px, to_depth(points.labels), "depth")
        truth = None if truth is None else to_depth(truth)
    part = _depth_part(scene, depth.values, truth, points, depth.K, cameras)
    return ViewerScene(title, depth.unit, f"z-depth, {depth.scale}", (part,))


def _depth_part(
    scene: Scene,
    depth: Tensor,
    truth: Tensor | None,
    labels: SparsePoints,
    K: Tensor,
    others: tuple[ViewerCamera, ...],
) -> Part:
    """Map, truth and initial points in the coordinates of the centre camera."""
    clouds = [cloud_from_depth("optimised map", scene.centre, depth, K)]
    clouds.append(_label_cloud(labels, scene.centre, K))
    if truth is not None:
        clouds.append(cloud_from_depth("true depth", scene.centre, truth, K, valid=scene.valid))
    centre = ViewerCamera("centre", torch.eye(4), K, tuple(scene.centre.shape[-2:]), scene.centre)
    return Part.of_clouds(scene.name, (centre, *others), clouds)


def _label_cloud(labels: SparsePoints, image: Tensor, K: Tensor) -> PointCloud | None:
    """The labelled points in the colour of the pixel they are in."""
    keep = labels.labels.isfinite() & (labels.labels > 0)
    if not keep.any():
        return None
    depth, positions = labels.labels[keep], labels.positions_px[keep]
    height, width = image.shape[-2:]
    x, y = positions.round().long().unbind(1)
    colours = image[:, y.clamp(0, height - 1), x.clamp(0, width - 1)].T
    return PointCloud("initial points", unproject(positions, depth, K.to(depth)), colours, depth)


def _relief_part(scene: LightField, disparity: Tensor) -> Part:
    limits = depth_range(disparity)
    cloud, camera = relief("optimised map", scene.centre, disparity, limits)
    clouds = [cloud]
    if scene.truth is not None:
        clouds.append(relief("true disparity", scene.centre, scene.truth, limits)[0])
    return Part.of_clouds(scene.name, (camera,), clouds)


def _posed_cameras(scene: MultiViewScene) -> tuple[ViewerCamera, ...]:
    poses = invert_pose(scene.view_from_centre)
    size = tuple(scene.centre.shape[-2:])
    return tuple(
        ViewerCamera(f"view {i + 1}", poses[i], scene.view_K[i], size, scene.views[i])
        for i in range(len(poses))
    )


def _grid_cameras(scene: LightField) -> tuple[ViewerCamera, ...]:
    """The other views of the grid: all look the same way, a baseline (in metres) apart.

    A point in front of the plane of focus is d du to the right in the view with offset du (see
    `LightField`), so that view's camera is du baselines to the left.
    """
    size, camera = tuple(scene.centre.shape[-2:]), scene.camera
    cameras = []
    for i, offset in enumerate(scene.offsets.tolist()):
        pose = torch.eye(4)
        pose[:2, 3] = -camera.baseline_mm / 1000 * torch.tensor(offset)
        cameras.append(ViewerCamera(f"view {i + 1}", pose, camera.K, size))
    return tuple(cameras)
