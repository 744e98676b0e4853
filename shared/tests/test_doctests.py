"""The examples in docstrings say what the code does."""

import doctest
import importlib

import pytest
import torch

MODULES = ["errors", "geometry.camera", "geometry.warp", "geometry.trajectories", "quality.ssim",
           "quality.metrics", "quality.losses", "results"]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"shared.{name}")
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, tried = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=options)
    assert tried > 0
    assert failed == 0
