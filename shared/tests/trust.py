"""Attacks that a training run of every paper has to stand: stops, kills, NaN, full disks, locked folders.

`Method` wraps a paper's `train.main` with a small configuration; evaluation is left out, since what is proven
is about training. `AttacksOnRuns` holds the tests that are the same for all papers; a paper's test file
inherits them, gives the fixture `method`, and says what each attack proves.
"""

import contextlib
import json
import math
import os
import random
import re
import signal
import tempfile
import time
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
from shared.tests.hostile import Hostile, as_plain_user, file_size_limit

__all__ = ["NOT_FINITE", "Attack", "AttacksOnRuns", "Method", "assert_same", "spoil", "spoil_gradient"]

State = dict[str, Any]
Attack = Callable[[pytest.MonkeyPatch, State], Any]  # what it patches is undone after the attack
NOT_FINITE = [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)]


class Method:
    """One paper's training, started as a user would start it, in this process."""

    def __init__(self, train: ModuleType, config: Path, monkeypatch: pytest.MonkeyPatch):
        self.train, self.config, self.monkeypatch = train, config, monkeypatch
        monkeypatch.setattr(train, "evaluate", lambda *args, **options: {})
        if hasattr(train, "summary"):
            monkeypatch.setattr(train, "summary", lambda results: "")

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
        assert_same(one.metrics, other.metrics, "metrics")
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

    def assert_survives_kills(self, out: Path, kills: int = 50) -> int:
        """SIGKILL at random moments while the run saves its own state; returns how many left half a file.

        At the first step the process is forked: the child saves without pause until it is killed. After each
        kill the newest complete checkpoint loads, never older than one that was complete before.
        """
        rng = random.Random(0)
        folder = out / "checkpoints"
        strays = 0

        def attack(run: Run) -> None:
            nonlocal strays
            started = time.perf_counter()
            save_once(run, 1)
            duration = time.perf_counter() - started
            newest = 1
            for _ in range(kills):
                begun, begin = os.pipe()
                child = os.fork()
                if child == 0:
                    os.write(begin, b"1")
                    save_for_ever(run, newest)
                os.read(begun, 1)
                time.sleep(duration * rng.uniform(0, 4))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                os.close(begin)
                os.close(begun)
                strays += any(folder.glob(".*.tmp"))
                last, best = (load_checkpoint(folder / f"{name}.pt", run.paper) for name in ("last", "best"))
                assert last.step >= newest
                assert best.step >= newest
                newest = last.step
            assert newest > 1
            (out / "previews").mkdir(exist_ok=True)
            (out / "previews" / ".half_0000001.png.0a1b2c3d.tmp").write_bytes(b"half")
            (out / ".orbit.0a1b2c3d.tmp.mp4").write_bytes(b"half")
            interrupt(run)

        with self.at_step(1, attack), pytest.raises(KeyboardInterrupt):
            self.run(out, "checkpoint_every=1")
        newest = last_checkpoint(out).step
        with self.at_step(newest + 1, interrupt):
            assert self.exit_code(out, resume=True) in (0, 130)  # there may be no step left to make
        assert last_checkpoint(out).step == newest
        assert not [path for path in out.rglob("*") if ".tmp" in path.name]
        return strays

    def assert_full_disk_is_harmless(self, out: Path, step: int, capsys: Any) -> None:
        """From `step` on no checkpoint fits on the disk: one line, exit code 2, the old one intact."""
        self.stopped_run(out, step - 1)
        before = checkpoint_bytes(out)
        largest = max(map(len, before.values()))
        original = Run.save

        def save(run: Run, *args: Any, **options: Any) -> None:
            with file_size_limit(largest // 2):
                original(run, *args, **options)

        capsys.readouterr()
        with self.monkeypatch.context() as patch:
            patch.setattr(Run, "save", save)
            assert self.exit_code(out, "checkpoint_every=1", resume=True) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "last.pt: cannot be written" in error, error
        assert "Check the free space" in error, error
        assert checkpoint_bytes(out) == before
        self.run(out, "checkpoint_every=1", resume=True)  # with room again it goes on
        assert last_checkpoint(out).step > step

    def assert_foreign_checkpoints_are_refused(self, out: Path, capsys: Any) -> None:
        """Pickled code, or the checkpoint of another paper or network: exit code 2, nothing is changed."""
        self.stopped_run(out, 1)
        path, good = out / "checkpoints" / "last.pt", last_checkpoint(out)
        payload = torch.load(path, weights_only=True)
        name = next(iter(good.state))
        first = next(key for key, value in good.state[name].items() if isinstance(value, torch.Tensor))
        others = {
            "could run foreign code": payload | {"progress": Hostile(out / "pwned")},
            "was trained for the paper": payload | {"paper": "another"},
            "not a checkpoint of this project": payload["state"],
            "header|architecture|does not fit|no state named": payload
            | {"state": good.state | {name: {key: v for key, v in good.state[name].items() if key != first}}},
            "NaN": payload
            | {"state": good.state | {name: good.state[name] | {first: good.state[name][first] * math.nan}}},
        }
        for reason, content in others.items():
            torch.save(content, path)
            before = folder_bytes(out)
            capsys.readouterr()
            assert self.exit_code(out, resume=True) == 2, reason
            error = capsys.readouterr().err.strip().splitlines()[-1]
            assert re.search(reason, error), error
            assert "last.pt" in error
            assert folder_bytes(out) == before, reason
        assert not (out / "pwned").exists()

    def assert_same_seed_same_losses(self, tmp_path: Path, *settings: str) -> None:
        """Two runs of 50 steps log the same numbers to the bit; another seed logs others."""
        logs = []
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            torch.rand(5)
            self.run(tmp_path / name, *settings, f"seed={seed}")
            logs.append(logged(tmp_path / name))
        assert len(logs[0]) == 50
        assert_same(logs[0], logs[1], "metrics.jsonl")
        assert logs[0] != logs[2]

    def assert_locked_folders_are_refused(self, tmp_path: Path, capsys: Any) -> None:
        """A folder that may not be written, and one in which a run is going on: one line, exit code 2."""
        capsys.readouterr()
        with tempfile.TemporaryDirectory(dir="/tmp") as locked:  # not below pytest's own private folder
            os.chmod(locked, 0o555)
            assert as_plain_user(lambda: self.exit_code(Path(locked) / "run")) == 2
            assert not list(Path(locked).iterdir())
        codes = []
        with self.at_step(2, lambda run: codes.append(self.exit_code(tmp_path / "r", resume=True))):
            self.run(tmp_path / "r")
        assert codes == [2]
        assert "is writing here; wait for it or choose --out" in capsys.readouterr().err


class AttacksOnRuns:
    """The tests that every paper's run has to pass, through the paper's fixture `method`."""

    settings_of_50_steps: tuple[str, ...] = ("steps=50",)

    @pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
    def test_kills_while_saving(self, method: Method, tmp_path: Path, kills: int) -> None:
        assert method.assert_survives_kills(tmp_path / "run", kills) >= kills // 5

    def test_full_disk(self, method: Method, tmp_path: Path, capsys: Any) -> None:
        method.assert_full_disk_is_harmless(tmp_path / "run", 3, capsys)

    def test_locked_folders(self, method: Method, tmp_path: Path, capsys: Any) -> None:
        method.assert_locked_folders_are_refused(tmp_path, capsys)

    def test_foreign_checkpoints(self, method: Method, tmp_path: Path, capsys: Any) -> None:
        method.assert_foreign_checkpoints_are_refused(tmp_path / "run", capsys)

    @pytest.mark.slow
    def test_one_seed_gives_one_run(self, method: Method, tmp_path: Path) -> None:
        method.assert_same_seed_same_losses(tmp_path, *self.settings_of_50_steps)


def interrupt(run: Run) -> None:
    raise KeyboardInterrupt


def save_once(run: Run, step: int) -> None:
    run.save(step, run._state, score=float(step))


def save_for_ever(run: Run, newest: int) -> None:
    """The life of a child that is going to be killed."""
    try:
        for step in range(newest + 1, 10**9):
            save_once(run, step)
    finally:
        os._exit(1)


def folder_bytes(out: Path) -> dict[Path, bytes]:
    """All files of a run but the lock."""
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


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
