"""From a folder or a configuration to a scene with points: what every script begins with."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from diffdiffdepth.config import DataConfig, PointsConfig
from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.datasets.crosshair import is_crosshair_folder, load_crosshair
from diffdiffdepth.datasets.embedded import make_embedded_light_field, make_embedded_multi_view
from diffdiffdepth.datasets.grid import ViewChoice
from diffdiffdepth.datasets.hci import is_hci_folder, load_hci
from diffdiffdepth.datasets.signs import view_faults
from diffdiffdepth.datasets.stanford import is_stanford_folder, load_stanford
from diffdiffdepth.points.epi import epi_points
from diffdiffdepth.points.store import load_points, perturb_points
from diffdiffdepth.points.sweep import sweep_points
from diffdiffdepth.scene import LightField, Scene, SparsePoints
from shared.errors import DataError
from shared.files.colmap import find_colmap_model

__all__ = ["data_kind", "find_points", "load_light_field", "load_scene"]


def data_kind(folder: str | os.PathLike) -> str:
    """What a folder holds, told by its file names: "hci", "stanford", "crosshair" or "colmap"."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(folder, "is not a folder", "Name the folder of a light field or of a COLMAP scene")
    kinds = {"hci": is_hci_folder, "stanford": is_stanford_folder, "colmap": find_colmap_model}
    for kind, holds in (kinds | {"crosshair": is_crosshair_folder}).items():
        if holds(folder):
            return kind
    raise DataError(
        folder,
        "holds no light field (input_Cam000.png, out_00_00_Y_X.png, NAME_RR_CC.png) and no COLMAP model",
        "For plain photos: python -m diffdiffdepth.prepare colmap PHOTOS --out DIR",
    )


def load_light_field(folder: str | os.PathLike, views: ViewChoice = "all") -> LightField:
    """Load a light field in any of the three layouts; its `notes` say which views do not fit."""
    kind = data_kind(folder)
    if kind == "colmap":
        raise DataError(folder, "holds a COLMAP scene, not a light field", "Load it with ColmapScenes")
    loaders = {"hci": load_hci, "stanford": load_stanford, "crosshair": load_crosshair}
    light_field = loaders[kind](folder, views)
    return replace(light_field, notes=light_field.notes + view_faults(light_field))


def load_scene(
    data: DataConfig,
    seed: int = 0,
    points: SparsePoints | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Scene:
    """Read or make the scene, find its points and add the noise asked for; `seed` is the noise's.

    `points` are taken as they are where they are given; `say` is told before a scene is rendered. Raises
    DataError for anything missing or unusable.
    """
    root = _root(data, say)
    is_colmap = data_kind(root) == "colmap"
    _refuse_choices_of_the_other_kind(data, is_colmap)
    if is_colmap:
        scene: Scene = ColmapScenes(root, neighbours=data.neighbours, max_side=data.max_side)[data.image or 0]
    else:
        scene = load_light_field(root, data.views)
    for note in scene.notes:
        say(f"NOTE: {note}")
    if data.embedded is not None:
        scene = replace(scene, name=f"embedded {'multi-view' if is_colmap else 'light field'} scene")
    return replace(scene, points=points or find_points(scene, data.points, seed))


def _root(data: DataConfig, say: Callable[[str], None]) -> str | Path:
    """The folder of the scene; the embedded one is rendered first if it is not there."""
    if data.embedded is None:
        return data.root
    size, seed = (data.embedded.height, data.embedded.width), data.embedded.seed
    if data.embedded.kind == "light_field":
        return make_embedded_light_field(data.root, size, seed=seed, say=say, scene=data.embedded.scene)
    return make_embedded_multi_view(data.root, size, points=data.embedded.points, seed=seed, say=say)


def _refuse_choices_of_the_other_kind(data: DataConfig, is_colmap: bool) -> None:
    here, chosen = "a light field", {"image": data.image, "max_side": data.max_side}
    if is_colmap:
        here, chosen = "a COLMAP scene", {"views": data.views != "all"}
    for key in (key for key, is_set in chosen.items() if is_set):
        raise DataError(data.root, f"is {here}, for which data.{key} means nothing", f"Leave data.{key} out")


def find_points(scene: Scene, options: PointsConfig, seed: int = 0) -> SparsePoints:
    """The points of a scene as the options say, with the noise asked for; DataError where there are none."""
    size = tuple(scene.centre.shape[-2:])
    is_light_field = isinstance(scene, LightField)
    source = options.source
    if source == "auto":
        source = "model" if scene.points is not None or not is_light_field else "epi"
    if source == "file":
        points = load_points(options.file, size)
        if points.kind != ("disparity" if is_light_field else "depth"):
            remedy = "A light field needs disparities, a COLMAP scene depths"
            raise DataError(options.file, f"holds labels of kind {points.kind!r}", remedy)
    elif source == "epi":
        if not is_light_field:
            raise DataError(scene.name, "is no light field, so it has no EPIs", "Use points.source=model")
        points = epi_points(scene)
    else:
        if scene.points is None:
            raise DataError(scene.name, "comes without points", "Use points.source=epi or file")
        if source == "sweep" and is_light_field:
            raise DataError(scene.name, "is a light field, not photos", "Use points.source=epi")
        points = sweep_points(scene) if source == "sweep" else scene.points.checked()
    if options.label_noise or options.outlier_share:
        generator = torch.Generator().manual_seed(seed)
        points = perturb_points(points, generator, options.label_noise, options.outlier_share)
    return points
