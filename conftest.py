"""Surroundings a test file asks for by name: seeded generators, runs without TensorBoard's slow import."""

import sys

import pytest
import torch


@pytest.fixture
def seeded() -> None:
    """Every test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave TensorBoard's slow import to the one test that is about it."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
