"""Depth of one scene as an object: optimised from a light field or posed photos, or loaded from a run."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffdiffdepth.config import TrainConfig
from diffdiffdepth.inputs import find_points, load_scene
from diffdiffdepth.routine import Optimisation
from diffdiffdepth.scene import (
    LightField,
    MultiViewScene,
    Scene,
    SparsePoints,
    depth_map,
    scene_from_facts,
)
from shared.errors import RunError
from shared.results import DepthMap
from shared.runs.checkpoint import load_trained
from shared.runs.command import progress_bar, select_device
from shared.runs.config import config_from_dict, load_config

__all__ = ["DiffusedDepth"]

CONFIGS = Path(__file__).parent / "configs"


class DiffusedDepth:
    """Dense depth from sparse points whose diffusion explains the other views.

        from diffdiffdepth import DiffusedDepth, LightField
        light_field = LightField.from_grid(views)               # views [9, 9, 3, H, W]
        depth = DiffusedDepth("hci").fit(light_field)           # DepthMap, disparity in px
        DiffusedDepth.load("runs/dino").z_depth.points()        # [n, 3] in metres

    `config` is a name in configs/ (hci, lytro, stanford, mvs, quick, ...), a YAML file or a TrainConfig;
    `overrides` replace parts of it: `DiffusedDepth("hci", views_per_step=8, schedule={"passes": 2})`. Raises
    ConfigError for unknown keys and values out of range. `device`: auto, cpu or cuda.

    Once fitted or loaded, `depth` is the map, `z_depth` the same along the optical axis where a camera is
    known, `points` the optimised points, and `scene` the centre view, its cameras, the initial points and,
    where known, the truth.
    """

    def __init__(self, config: str | Path | TrainConfig = "hci", device: str = "auto", **overrides: Any):
        if not isinstance(config, TrainConfig):
            path = Path(config)
            named = CONFIGS / f"{config}.yaml"
            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in overrides.items()}
            settings = [f"{key}={text}" for key, text in texts.items()]
            config = load_config(TrainConfig, path if path.suffix else named, settings)
        elif overrides:
            raise TypeError("overrides go with the name of a config or a file")
        self.config: TrainConfig = config
        self.device = select_device(device)
        self._scene: Scene | None = None
        self._depth: DepthMap | None = None
        self._diffused: Tensor | None = None
        self._confidence: Tensor | None = None
        self._points: SparsePoints | None = None

    def fit(
        self, data: Scene | str | Path | Tensor | np.ndarray, image: str = "", progress: bool = True
    ) -> DepthMap:
        """Optimise the depth of a scene; returns its map [H, W] on the CPU.

        `data`: the folder of a light field or of a COLMAP scene (there `image` names the centre view), a
        LightField, a MultiViewScene, or all views of a grid (see `LightField.from_grid`). Points are found
        where the scene has none. Raises DataError for unusable data, ValueError for wrong shapes and ranges.
        """
        if isinstance(data, str | Path):
            options = replace(self.config.data, root=str(data), embedded=None, image=image)
            scene = load_scene(options, self.config.seed)
        else:
            scene = data if isinstance(data, LightField | MultiViewScene) else LightField.from_grid(data)
            if not len(scene.views):
                raise ValueError("views are missing: a light field from a run has none; load its folder")
            for name, images in (("views", scene.views), ("centre", scene.centre)):
                if not bool(((images >= 0) & (images <= 1)).all()):  # NaN fails as well
                    raise ValueError(f"{name} must be in [0, 1]")
            scene = replace(scene, points=find_points(scene, self.config.data.points, self.config.seed))
        work = Optimisation(self.config, scene.to(self.device))
        with progress_bar(0, self.config.steps, visible=progress) as bar:
            for step in range(1, self.config.steps + 1):
                work.begin(step)
                terms = work.loss(work.model.dense(), work.draw_views(step))
                work.adam.zero_grad()
                terms["total"].backward()
                work.adam.step()
                work.end(step)
                bar.update()
        result = work.result()
        if not result["map"].isfinite().all():
            raise RunError(f"{scene.name}: the map is no longer finite; lower the rates of the schedule")
        self._take(scene, result)
        return self.depth

    @classmethod
    def load(cls, source: str | Path, checkpoint: str = "last") -> "DiffusedDepth":
        """The result of a finished run: `source` is its folder or a checkpoint file. Needs no data set.

        Raises RunError or CheckpointError, in one line, for anything else.
        """
        held = load_trained(source, "diffdiffdepth", checkpoint)
        if "result" not in held.facts:
            remedy = f"go on with train.py --resume --out {source}"
            raise RunError(f"{source}: the run has not finished; {remedy}")
        config = config_from_dict(TrainConfig, held.config, str(held.path))
        with held.using("facts"):
            return cls.of(config, scene_from_facts(held.facts["scene"]), held.facts["result"])

    @classmethod
    def of(cls, config: TrainConfig, scene: Scene, result: Mapping[str, Any]) -> "DiffusedDepth":
        """The object of a scene and the `result` of its optimisation."""
        fitted = cls(config, device="cpu")
        fitted._take(scene, result)
        return fitted

    @property
    def scene(self) -> Scene:
        """The scene; of a light field from a run without its views."""
        return self._fitted(self._scene)

    @property
    def depth(self) -> DepthMap:
        """The map [H, W]: disparity in px of a light field, z-depth in scene units of photos.

        Valid are the pixels that at least one other view sees.
        """
        return self._fitted(self._depth)

    @property
    def diffused(self) -> Tensor:
        """The map [H, W] as the diffusion leaves it, before the median at depth edges."""
        return self._fitted(self._diffused)

    @property
    def confidence(self) -> Tensor:
        """How far each pixel can be trusted, [H, W] in [0, 1]; see `losses.confidence`."""
        return self._fitted(self._confidence)

    @property
    def z_depth(self) -> DepthMap | None:
        """Depth along the optical axis with its K; None for a light field whose camera is not known."""
        camera = getattr(self.scene, "camera", None)
        if self.depth.kind == "z_depth" or camera is None:
            return self.depth if self.depth.kind == "z_depth" else None
        values = camera.depth_from_disparity(self.depth.values)
        valid = self.depth.valid & values.isfinite()
        return DepthMap(values, "z_depth", "m", "metric", valid, self.depth.invalid, camera.K)

    @property
    def points(self) -> SparsePoints:
        """The optimised points."""
        return self._fitted(self._points)

    def _take(self, scene: Scene, result: Mapping[str, Any]) -> None:
        self._scene = scene.to("cpu")
        # results of older runs have one map, and say only which pixels another view sees
        self._confidence = result.get("confidence", result.get("seen")).cpu().float()
        self._depth = depth_map(self._scene, result["map"].cpu(), self._confidence > 0)
        self._diffused = result.get("diffused", result["map"]).cpu()
        self._points = SparsePoints(**result["points"]).to("cpu")

    def _fitted(self, value: Any) -> Any:
        if value is None:
            raise RunError("there is no result yet: call fit, or load a run")
        return value
