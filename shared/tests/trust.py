"""Attacks on a training run: stopped and resumed, NaN in its weights and gradients.

`Method` wraps the `train.main` of a paper with a small config; evaluation is left out, as what is proven is
about training. Kills, full disks and foreign files are the same for all papers: see test_run_trust.py.
"""

import contextlib
import json
import math
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from shared.errors import RunStopped
from shared.runs.checkpoint import Checkpoint, load_checkpoint
from shared.runs.command import command_line
from shared.runs.run import Run

__all__ = ["NOT_FINITE", "Attack", "AttacksOnRuns", "Method", "assert_same", "spoil", "spoil_gradient"]

State = dict[str, Any]
Attack = Callable[[pytest.MonkeyPatch, State], Any]  # what it patches is undone after the attack
NOT_FINITE = [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)]


class Method:
    """One paper's training, started as a user would start it, in this process."""

    def __init__(self, train: ModuleType, config: Path, monkeypatch: pytest.MonkeyPatch):
        self.train, self.config, self.monkeypatch = train, config, monkeypatch
        for name, result in (("evaluate", {}), ("summary", "")):
            if hasattr(train, name):
                monkeypatch.setattr(train, name, lambda *args, result=result, **options: result)

    def run(self, out: Path, *settings: str, resume: bool = False) -> None:
        """train.py --config ... --out ... [--resume] [--set ...]; errors come out as exceptions."""
        flags = ["--config", str(self.config), "--out", str(out), "--device", "cpu"]
        flags += ["--resume"] * resume
        self.train.main([*flags, "--set", *settings] if settings else flags)

    def exit_code(self, out: Path, *settings: str, resume: bool = False) -> int:
        """The exit code of the same; errors go to stderr as a user sees them."""
        with pytest.raises(SystemExit) as caught:
            command_line(lambda: self.run(out, *settings, resume=resume))
        return caught.value.code

    @contextlib.contextmanager
    def at_step(self, step: int, act: Callable[[Run], Any]) -> Iterator[None]:
        """Call `act(run)` when this step begins."""
        original = Run.steps

        def steps(run: Run, start: int, stop: int) -> Iterator[int]:
            for number in original(run, start, stop):
                if number == step:
                    act(run)
                yield number

        with self.monkeypatch.context() as patch:
            patch.setattr(Run, "steps", steps)
            yield

    def stopped_run(self, out: Path, step: int, *settings: str) -> None:
        """A run that is sent SIGTERM during a step, and ends after it."""
        stopped = pytest.raises(RunStopped, match=f"stopped after step {step};")
        with self.at_step(step, lambda run: os.kill(os.getpid(), signal.SIGTERM)), stopped:
            self.run(out, *settings)

    def assert_exact_resume(self, tmp_path: Path, stop: int, last: int, *settings: str) -> Checkpoint:
        """One run of `last` steps against one stopped after `stop` and resumed; returns the final checkpoint.

        Equal to the bit: every state (parameters, buffers, moments), every random generator, every logged
        number but the time.
        """
        straight, parts = tmp_path / "straight", tmp_path / "parts"
        self.run(straight, *settings)
        self.stopped_run(parts, stop, *settings)
        assert last_checkpoint(parts).step == stop
        torch.rand(17)  # a new process starts from another state
        random.random()
        self.run(parts, *settings, resume=True)
        one, other = last_checkpoint(straight), last_checkpoint(parts)
        assert one.step == other.step == last
        assert_same(one.state, other.state, "state")
        assert_same(one.rng, other.rng, "rng")
        assert_same(one.facts, other.facts, "facts")
        rows = logged(straight)
        assert_same(rows, logged(parts), "metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(1, last + 1))
        assert len(json.dumps(rows)) > 40 * last  # something was measured at every step
        return other

    def assert_stops_on_nonfinite(
        self, out: Path, attacks: Sequence[tuple[str, Attack]], capsys: Any
    ) -> None:
        """Each attack at the beginning of step 3 ends the run at that step; its text is in the message.

        Exit code 2, one line on stderr, nonfinite.json written, both checkpoints as they were.
        """
        self.stopped_run(out, 2)
        before = checkpoint_bytes(out)
        for named, attack in attacks:
            (out / "nonfinite.json").unlink(missing_ok=True)
            capsys.readouterr()
            with (
                self.monkeypatch.context() as patch,
                self.at_step(3, lambda run, attack=attack, patch=patch: attack(patch, run._state)),
            ):
                code = self.exit_code(out, resume=True)
            error = capsys.readouterr().err.strip().splitlines()[-1]
            assert code == 2, named
            assert error.startswith("error: step 3: "), error
            assert named in error, error
            assert "the checkpoint of step 2 is intact" in error, error
            assert checkpoint_bytes(out) == before, named
            assert json.loads((out / "nonfinite.json").read_text())["step"] == 3
        self.run(out, resume=True)  # without an attack it goes on


class AttacksOnRuns:
    pass


def checkpoint_bytes(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}


def last_checkpoint(out: Path) -> Checkpoint:
    return load_checkpoint(out / "checkpoints" / "last.pt")


def logged(out: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without the time, rows of one step together."""
    rows: dict[int, dict[str, Any]] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        del row["time_s"]
        rows.setdefault(row["step"], {}).update(row)
    return list(rows.values())


def assert_same(a: Any, b: Any, name: str = "") -> None:
    """Nested states, equal to the bit and in type."""
    assert type(a) is type(b), name
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name
    elif isinstance(a, dict):
        assert list(a) == list(b), name
        for key in a:
            assert_same(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), name
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{name}.{index}")
    else:
        assert a == b, name


def spoil(tensor: torch.Tensor, value: float) -> None:
    """Put a value into one entry."""
    with torch.no_grad():
        tensor[(0,) * tensor.ndim] = value


def spoil_gradient(tensor: torch.Tensor, value: float) -> None:
    """Let the gradient of a tensor have this value in every entry."""
    tensor.register_hook(lambda gradient: torch.full_like(gradient, value))
