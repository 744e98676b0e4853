"""A run under attack: stops, kills, NaN, full disks, foreign files; and two processes that share one run."""

import contextlib
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import RunStopped
from shared.runs.checkpoint import Checkpoint, load_checkpoint
from shared.runs.command import command_line
from shared.runs.folder import read_metrics
from shared.runs.run import Run, open_run
from shared.tests import toy_run
from shared.tests.hostile import as_plain_user, forked

pytestmark = pytest.mark.usefixtures("without_tensorboard", "seeded")


class Toy:
    """The toy's train.py as a user starts it, in this process."""

    def __init__(self, config: Path, monkeypatch: pytest.MonkeyPatch):
        self.config, self.monkeypatch = config, monkeypatch

    def run(self, out: Path, *settings: str, resume: bool = False) -> None:
        """train.py --config ... --out ... [--resume] [--set ...]; errors come out as exceptions."""
        flags = ["--config", str(self.config), "--out", str(out), "--device", "cpu"]
        toy_run.main([*flags, *["--resume"] * resume, *(["--set", *settings] if settings else [])])

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

    def stopped_run(self, out: Path, step: int) -> None:
        """A run that is sent SIGTERM during a step, and ends after it."""
        stopped = pytest.raises(RunStopped, match=f"stopped after step {step};")
        with self.at_step(step, lambda run: os.kill(os.getpid(), signal.SIGTERM)), stopped:
            self.run(out)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    (tmp_path / "toy.yaml").write_text("steps: 20\n")
    return Toy(tmp_path / "toy.yaml", monkeypatch)


def last_checkpoint(out: Path) -> Checkpoint:
    return load_checkpoint(out / "checkpoints" / "last.pt")


def folder_bytes(out: Path) -> dict[str, bytes]:
    """All files of a folder but the lock and the log."""
    files = [
        path for path in out.rglob("*") if path.is_file() and path.name not in (".lock", "metrics.jsonl")
    ]
    return {path.name: path.read_bytes() for path in files}


def logged(out: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without the time."""
    return [{key: row[key] for key in row if key != "time_s"} for row in read_metrics(out / "metrics.jsonl")]


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


# ---- stops, kills and NaN ----------------------------------------------------------------------------------


def test_a_resumed_run_equals_one_that_never_stopped(toy: Toy, tmp_path: Path) -> None:
    """To the bit: every state (parameters, buffers, moments), every random generator, every logged number."""
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    toy.run(straight)
    toy.stopped_run(parts, 10)
    torch.rand(17)  # a new process starts from another state
    random.random()
    toy.run(parts, resume=True)
    for name in ("last", "best"):
        one, other = (load_checkpoint(out / "checkpoints" / f"{name}.pt") for out in (straight, parts))
        parts_of = [(c.state, c.rng, c.step, c.facts) for c in (one, other)]
        assert_same(*parts_of)
    assert last_checkpoint(parts).step == 20
    assert logged(straight) == logged(parts)
    assert [row["step"] for row in logged(parts)] == list(range(1, 21))
    toy.run(tmp_path / "other", "seed=4")
    assert logged(tmp_path / "other") != logged(straight)


def spoil(tensor: torch.Tensor, value: float) -> None:
    tensor.data[(0,) * tensor.ndim] = value


def spoil_gradient(tensor: torch.Tensor, value: float) -> None:
    tensor.register_hook(lambda gradient: torch.full_like(gradient, value))


NONFINITE = {
    "as 0.weight of model": lambda state: spoil(state["model"][0].weight, math.nan),
    "model.1.running_var": lambda state: spoil(state["model"][1].running_var, math.nan),
    "the gradient of 1.bias of model": lambda state: spoil_gradient(state["model"][1].bias, math.inf),
}


@pytest.mark.parametrize("named", NONFINITE)
def test_nan_ends_the_run_at_its_step(toy: Toy, tmp_path: Path, capsys: Any, named: str) -> None:
    out = tmp_path / "run"
    toy.stopped_run(out, 2)
    before = folder_bytes(out / "checkpoints")
    with toy.at_step(3, lambda run: NONFINITE[named](run._state)):
        assert toy.exit_code(out, resume=True) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{named} is not finite; the checkpoint of step 2 is intact" in error
    assert folder_bytes(out / "checkpoints") == before
    assert json.loads((out / "nonfinite.json").read_text())["step"] in (3, 5)
    toy.run(out, resume=True)  # without an attack it goes on


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_while_saving(toy: Toy, tmp_path: Path, kills: int) -> None:
    """At the first step the process is forked: the child saves without pause until it is killed. After each
    kill the newest complete checkpoint loads, never an older one than before."""
    out, strays = tmp_path / "run", 0
    rng = random.Random(0)

    def attack(run: Run) -> None:
        nonlocal strays
        started = time.perf_counter()
        run.save(1, run._state, score=1.0)
        duration = time.perf_counter() - started
        newest = 1
        for _ in range(kills):
            with forked(lambda newest=newest: save_for_ever(run, newest)) as child:
                time.sleep(duration * rng.uniform(0, 4))
                os.kill(child, signal.SIGKILL)
            strays += any((out / "checkpoints").glob(".*.tmp"))
            last, best = (load_checkpoint(out / "checkpoints" / f"{name}.pt") for name in ("last", "best"))
            assert min(last.step, best.step) >= newest
            newest = last.step
        assert newest > 1
        raise KeyboardInterrupt

    with toy.at_step(1, attack), pytest.raises(KeyboardInterrupt):
        toy.run(out, "checkpoint_every=1")
    newest = last_checkpoint(out).step
    assert toy.exit_code(out, f"steps={newest}", resume=True) == 0
    assert last_checkpoint(out).step == newest
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]
    assert strays >= kills // 5


def save_for_ever(run: Run, newest: int) -> None:
    for step in range(newest + 1, 10**9):
        run.save(step, run._state, score=float(step))


# ---- disks and folders -------------------------------------------------------------------------------------


def test_a_folder_that_may_not_be_written_is_refused(toy: Toy) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as locked:  # not below pytest's own private folder
        os.chmod(locked, 0o555)
        assert as_plain_user(lambda: toy.exit_code(Path(locked) / "run")) == 2
        assert not list(Path(locked).iterdir())


def test_a_folder_in_use_is_refused_and_its_lock_dies_with_the_process(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def hold() -> None:
        with open_run(toy_run.ToyConfig(), toy_run.arguments(out), "toy"):
            os.write(ready, b"1")
            time.sleep(60)

    held, ready = os.pipe()
    with forked(hold) as child:
        os.read(held, 1)
        assert toy.exit_code(out) == 2
        os.kill(child, signal.SIGKILL)
    toy.run(out, "steps=1")


def test_a_folder_removed_while_training_ends_the_run_in_one_line(toy: Toy, tmp_path: Path, capsys: Any):
    out = tmp_path / "run"
    with toy.at_step(3, lambda run: shutil.rmtree(out)):
        assert toy.exit_code(out) == 2
    assert capsys.readouterr().err.endswith("the run folder was removed while the run was writing to it\n")
    assert not out.exists()


# ---- two processes -----------------------------------------------------------------------------------------


TWO_PROCESSES = """
import os, signal, sys
from pathlib import Path
import torch
import shared.runs.run
from shared.errors import RunStopped
from shared.runs.run import open_run
from shared.tests.toy_run import ToyConfig, arguments

def train(out, until, resume=False, stop_at=None):
    with open_run(ToyConfig(steps=until), arguments(Path(out), resume), "toy", distributed=True) as run:
        model = run.wrap_ddp(torch.nn.Linear(3, 1))  # starts from rank 0's weights
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        state = {"model": model, "optimizer": optimizer}
        for step in run.steps(run.restore(state), until):
            if step == stop_at and run.rank == 1:
                signal.raise_signal(signal.SIGTERM)  # one process is told to stop
            loss = model(torch.randn(4, 3)).square().mean()
            run.update(step, optimizer, loss)
            run.log(step, loss=loss)
        run.save(until, state, score=1.0)
        torch.save(model.module.state_dict(), f"{out}/rank{run.rank}.pt")

folder, ports = sys.argv[1], sys.argv[2:]
if os.environ["RANK"] == "1":
    shared.runs.run.save_checkpoint = None  # only rank 0 writes
for port, arguments_ in zip(ports, [("/whole", 4), ("/parts", 4, False, 2), ("/parts", 4, True)]):
    os.environ["MASTER_PORT"] = port
    try:
        train(folder + arguments_[0], *arguments_[1:])
    except RunStopped as stopped:
        assert str(stopped).startswith("stopped after step 2"), stopped
"""


def test_two_processes_share_one_run(tmp_path: Path) -> None:
    """Rank 0 writes, gradients are averaged, the random state of each is kept and resumed."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    common = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(tmp_path), *ports],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    whole, parts = (last_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert whole.step == parts.step == 4
    assert list(whole.state["model"]) == ["weight", "bias"]  # names without DistributedDataParallel's prefix
    assert_same((whole.state, whole.rng), (parts.state, parts.rng))
    assert len(whole.rng) == 2
    assert not torch.equal(whole.rng[0]["torch"], whole.rng[1]["torch"])
    ranks = [torch.load(tmp_path / "whole" / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert_same(dict(ranks[0]), dict(ranks[1]))
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")
