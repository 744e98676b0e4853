"""From a configuration to a scene with points: what training, evaluation and prediction begin with."""

from dataclasses import replace

import torch

from diffdiffdepth.config import DataConfig, PointsConfig
from diffdiffdepth.datasets import (
    ColmapScenes,
    data_kind,
    load_light_field,
    make_embedded_light_field,
    make_embedded_multi_view,
)
from diffdiffdepth.points import epi_points
from diffdiffdepth.points.store import load_points, perturb_points
from diffdiffdepth.scene import LightField, MultiViewScene, SparsePoints
from shared.errors import DataError

__all__ = ["load_scene"]


def load_scene(data: DataConfig, seed: int = 0) -> LightField | MultiViewScene:
    """Read or make the scene, find its points and add the noise asked for; `seed` is the noise's.

    Raises DataError for anything missing or unusable.
    """
    if data.embedded is not None:
        size = (data.embedded.height, data.embedded.width)
        if data.embedded.kind == "light_field":
            make_embedded_light_field(data.root, size, seed=data.embedded.seed)
        else:
            make_embedded_multi_view(data.root, size, points=data.embedded.points, seed=data.embedded.seed)
    is_colmap = data_kind(data.root) == "colmap"
    _refuse_choices_of_the_other_kind(data, is_colmap)
    if is_colmap:
        scenes = ColmapScenes(data.root, neighbours=data.neighbours, max_side=data.max_side)
        scene: LightField | MultiViewScene = scenes[data.image or 0]
    else:
        scene = load_light_field(data.root, data.views)
    return replace(scene, points=_points(scene, data, seed))


def _refuse_choices_of_the_other_kind(data: DataConfig, is_colmap: bool) -> None:
    meaningless = (
        {"views": data.views != "all"} if is_colmap else {"image": data.image, "max_side": data.max_side}
    )
    for key in (key for key, is_set in meaningless.items() if is_set):
        here, there = ("a COLMAP scene", "light fields") if is_colmap else ("a light field", "COLMAP scenes")
        reason = f"is {here}, for which data.{key} means nothing"
        raise DataError(data.root, reason, f"Leave data.{key} out: it is for {there}")


def _points(scene: LightField | MultiViewScene, data: DataConfig, seed: int) -> SparsePoints:
    options: PointsConfig = data.points
    size = tuple(scene.centre.shape[-2:])
    is_light_field = isinstance(scene, LightField)
    source = options.source
    if source == "auto":
        source = "epi" if is_light_field else "model"
    if source == "file":
        points = load_points(options.file, size)
        if points.kind != ("disparity" if is_light_field else "depth"):
            remedy = "A light field needs disparities, a COLMAP scene depths"
            raise DataError(options.file, f"holds labels of kind {points.kind!r}", remedy)
    elif source == "epi":
        if not is_light_field:
            raise DataError(data.root, "is no light field, so it has no EPIs", "Use points.source=model")
        points = epi_points(scene)
    else:
        if scene.points is None:
            raise DataError(data.root, "comes without points", "Use points.source=epi or file")
        points = scene.points
    if options.label_noise or options.position_noise_px or options.outlier_share:
        points = perturb_points(
            points,
            torch.Generator().manual_seed(seed),
            label_noise=options.label_noise,
            position_noise_px=options.position_noise_px,
            outlier_share=options.outlier_share,
        )
        if not points.inside(size).any():
            reason = f"position noise of {options.position_noise_px} px moved all points out of the image"
            raise DataError(data.root, reason, "Lower data.points.position_noise_px")
    return points
