"""A scene and a configuration small enough to train within a second."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import deepvoxels
from deepvoxels.config import GeneratorOptions, TrainConfig
from deepvoxels.datasets.embedded import EmbeddedScene, make_embedded_scene
from shared.runs.config import load_config

TINY = {
    "data": {"scene": "cube", "embedded": {"image_side": 32, "train_views": 12, "test_views": 4}},
    "volume": {"fit_planes": True},
    "model": {
        "image_side": 32,
        "feature_side": 16,
        "grid_side": 8,
        "grid_features": 4,
        "depth_planes": 8,
        "nf0": 4,
        "extractor_levels": 2,
        "extractor_max": 8,
        "renderer_levels": 2,
        "renderer_max": 8,
        "renderer_base": 8,
        "inpainting_widths": [1, 2],
        "collapse": "sum",
    },
    "baseline": {"image_side": 32, "widths": [8, 8, 8]},
    "border_px": 2,
    "steps": 4,
    "log_every": 1,
    "preview_every": 2,
    "checkpoint_every": 2,
}


CONFIGS = Path(deepvoxels.__file__).parent / "configs"
SMALL = {  # fields of GeneratorOptions, saved and loaded within milliseconds
    "image_side": 32,
    "feature_side": 8,
    "grid_side": 8,
    "grid_features": 4,
    "depth_planes": 12,
    "nf0": 4,
    "extractor_max": 8,
    "renderer_max": 8,
    "renderer_base": 8,
}


def variant(name: str, **changes: object) -> GeneratorOptions:
    """The generator of a shipped configuration: official, legacy or paper."""
    return replace(load_config(TrainConfig, CONFIGS / f"{name}.yaml").model, **changes)


@pytest.fixture(scope="session")
def tiny_config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file of the tiny configuration; its scene is rendered once for the whole session."""
    folder = tmp_path_factory.mktemp("tiny")
    config = {**TINY, "data": {**TINY["data"], "root": str(folder / "data")}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def tiny_config(tiny_config_file: Path) -> TrainConfig:
    return load_config(TrainConfig, tiny_config_file)


@pytest.fixture(scope="session")
def tiny_scene(tiny_config: TrainConfig) -> EmbeddedScene:
    """The folders of the tiny scene's views."""
    return make_embedded_scene(Path(tiny_config.data.root), "cube", tiny_config.data.embedded)
