"""Surroundings a test file asks for by name: seeded generators, runs without TensorBoard's slow import."""

import signal
import sys

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("no database", database=None)  # the project's folder may be read-only
hypothesis.settings.load_profile("no database")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background; tests send it, children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def seeded() -> None:
    """Every test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave TensorBoard's slow import to the one test that is about it."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, torch.Tensor, dict]]:
    """What training hands to `Run.update` from now on, in order: learning rate, loss, terms."""
    from shared.runs.run import Run

    calls, update = [], Run.update

    def recorded(run, step, optimizer, loss, terms=None, samples=None):
        calls.append((optimizer.param_groups[0]["lr"], loss.detach(), dict(terms or {})))
        update(run, step, optimizer, loss, terms, samples)

    monkeypatch.setattr(Run, "update", recorded)
    return calls
