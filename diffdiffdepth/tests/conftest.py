"""Scenes that the tests of several loaders read."""

from pathlib import Path

import pytest

from diffdiffdepth.datasets import make_embedded_light_field, make_embedded_multi_view


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small embedded scenes, rendered once; tests copy what they change."""
    folder = tmp_path_factory.mktemp("embedded")
    make_embedded_light_field(folder / "field", size=(56, 72), side=5, antialias=1)
    make_embedded_multi_view(folder / "views", size=(60, 80), views=4, points=150, antialias=1)
    return folder
