"""Scenes that the tests of several loaders and scripts read, and a finished run."""

from pathlib import Path

import pytest

from diffdiffdepth import train
from diffdiffdepth.datasets.embedded import make_embedded_light_field, make_embedded_multi_view


@pytest.fixture(scope="session")
def small_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A light field in still_life/ and four posed views in views/; tests copy what they change."""
    folder = tmp_path_factory.mktemp("scenes")
    field = make_embedded_light_field(folder / "still_life", size=(56, 72), side=5, antialias=1)
    views = make_embedded_multi_view(folder / "views", size=(60, 80), views=4, points=150, antialias=1)
    field.rename(folder / "still_life")
    views.rename(folder / "views")
    return folder


FEW_STEPS = """
schedule: {iterations: 1, passes: 1}
depth: {supersampling: 1}
views_per_step: 2
"""


@pytest.fixture(scope="session")
def few_steps(small_scenes: Path) -> Path:
    """A config of four steps on the light field."""
    path = small_scenes / "few.yaml"
    path.write_text(f"data: {{root: {small_scenes / 'still_life'}}}{FEW_STEPS}")
    return path


@pytest.fixture(scope="session")
def small_run(small_scenes: Path, few_steps: Path) -> Path:
    """A finished run of that config."""
    folder = small_scenes / "run"
    train.main(["--config", str(few_steps), "--out", str(folder), "--device", "cpu"])
    return folder
