"""What the viewer shows of a run: its map as points, the labels it grew from, the truth, the cameras."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.scene import LightField, MultiViewScene, Scene, SparsePoints
from shared.geometry.camera import invert_pose, unproject
from shared.show.pictures import depth_range
from shared.show.viewer_scene import Part, PointCloud, ViewerCamera, ViewerScene, cloud_from_depth, relief

__all__ = ["scene_of"]


def scene_of(run: Path, checkpoint: Literal["best", "last"], device: torch.device) -> ViewerScene:
    """The finished map of a run folder; what an unfinished run lacks ends in RunError or DataError."""
    fitted = DiffusedDepth.load(run)
    scene, depth = fitted.scene, fitted.z_depth
    title = f"Differentiable diffusion: {scene.name}"
    if depth is None:
        note = "The camera is not known: the points are a relief of the map, not a measured shape."
        part = _relief_part(scene, fitted.depth.values)
        meaning = fitted.depth.unit, fitted.depth.scale
        return ViewerScene(title, *meaning, (part,), (note,), near_is_large=True)
    points, truth = scene.points, scene.truth
    if isinstance(scene, LightField):
        to_depth = scene.camera.depth_from_disparity
        points = SparsePoints(points.positions_px, to_depth(points.labels), "depth")
        truth = None if truth is None else to_depth(truth)
    clouds = [cloud_from_depth("optimised map", scene.centre, depth.values, depth.K)]
    clouds.append(_label_cloud(points, scene.centre, depth.K))
    if truth is not None:
        clouds.append(cloud_from_depth("true depth", scene.centre, truth, depth.K, valid=scene.valid))
    part = Part.of_clouds(scene.name, _cameras(scene, depth.K), clouds)
    return ViewerScene(title, depth.unit, f"z-depth, {depth.scale}", (part,))


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


def _cameras(scene: Scene, K: Tensor) -> list[ViewerCamera]:
    """The centre camera and the others, in its coordinates.

    Those of a grid all look the same way, a baseline (in metres) apart. What is before the plane of focus
    is d du to the right in the view with offset du (see `LightField`), so that view's camera is du baselines
    to the left.
    """
    if isinstance(scene, MultiViewScene):
        poses, Ks, images = invert_pose(scene.view_from_centre), scene.view_K, scene.views
    else:
        count = len(scene.offsets)
        poses, Ks, images = torch.eye(4).repeat(count, 1, 1), K.expand(count, 3, 3), [None] * count
        poses[:, :2, 3] = -scene.camera.baseline_mm / 1000 * scene.offsets
    size = tuple(scene.centre.shape[-2:])
    cameras = [ViewerCamera("centre", torch.eye(4), K, size, scene.centre)]
    for number, (pose, view_K, image) in enumerate(zip(poses, Ks, images, strict=True), start=1):
        cameras.append(ViewerCamera(f"view {number}", pose, view_K, size, image))
    return cameras
