"""Resumed runs go on as if they had never stopped, bit for bit; what does not fit is refused by name."""

import os
import random
import socket
import subprocess
import sys

import pytest
import torch

from shared.errors import CheckpointError, RunError
from shared.runs import run as run_module
from shared.runs.checkpoint import load_checkpoint
from shared.runs.folder import find_checkpoint
from shared.runs.log import read_metrics
from shared.runs.run import open_run
from shared.tests.toy_run import ToyConfig, arguments, logged, toy_state, train
from shared.tests.trust import assert_same

pytestmark = pytest.mark.usefixtures("without_tensorboard")


# ---- exact resume ------------------------------------------------------------------------------------------


def test_stop_and_restart_equals_straight_through_bit_for_bit(tmp_path):
    straight = train(tmp_path / "straight", 20)
    train(tmp_path / "parts", 10)
    torch.rand(17)  # the second process would start from another state
    random.random()
    parts = train(tmp_path / "parts", 20, resume=True)
    assert_same(straight, parts)
    assert logged(tmp_path / "straight") == logged(tmp_path / "parts")
    assert [row["step"] for row in logged(tmp_path / "parts")] == list(range(1, 21))
    a, b = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("straight", "parts"))
    assert_same((a.state, a.rng, a.step, a.metrics), (b.state, b.rng, b.step, b.metrics))
    best_a, best_b = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("straight", "parts"))
    assert_same((best_a.state, best_a.step), (best_b.state, best_b.step))
    times = [row["time_s"] for row in read_metrics(tmp_path / "parts" / "metrics.jsonl")]
    assert times == sorted(times)


def test_restart_would_differ_without_the_restored_state(tmp_path, monkeypatch):
    straight = train(tmp_path / "straight", 8, save_every=4)
    train(tmp_path / "parts", 4, save_every=4)
    monkeypatch.setattr(run_module, "set_rng_state", lambda state: None)
    parts = train(tmp_path / "parts", 8, resume=True, save_every=4)
    with pytest.raises(AssertionError):
        assert_same(straight, parts)


def test_rows_after_the_checkpoint_and_a_broken_last_row_are_dropped(tmp_path):
    train(tmp_path / "a", 7, save_every=7)
    with open(tmp_path / "a" / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    train(tmp_path / "a", 10, resume=True)
    assert [row["step"] for row in logged(tmp_path / "a")] == list(range(1, 11))


def test_best_is_kept_across_a_restart(tmp_path):
    out = tmp_path / "r"
    state = toy_state()
    for resume, scores in ((False, [1.0, 3.0, 2.0]), (True, [2.5, 2.9])):
        with open_run(ToyConfig(), arguments(out, resume), "toy") as run:
            start = run.restore(state)
            for step, score in enumerate(scores, start=start + 1):
                run.save(step, state, score=score)
    assert load_checkpoint(find_checkpoint(out, "best")).step == 2
    assert load_checkpoint(find_checkpoint(out, "last")).step == 5


# ---- what may be resumed -----------------------------------------------------------------------------------


def test_resume_without_a_checkpoint_starts_at_zero_and_says_so(tmp_path, capsys):
    with open_run(ToyConfig(), arguments(tmp_path / "r", resume=True), "toy") as run:
        assert run.restore(toy_state()) == 0
    assert "starting at step 0" in capsys.readouterr().err


def test_resume_with_another_config_is_refused_by_key(tmp_path):
    train(tmp_path / "r", 5)
    config = ToyConfig(seed=4, learning_rate=0.5, steps=9, save_every=1)
    with (
        pytest.raises(RunError, match=r"seed was 3 and is now 4, learning_rate was 0\.02 and is now 0\.5"),
        open_run(config, arguments(tmp_path / "r", resume=True), "toy"),
    ):
        pass
    with open_run(ToyConfig(steps=9, save_every=1), arguments(tmp_path / "r", resume=True), "toy") as run:
        assert run.restore(toy_state()) == 5
    again = arguments(tmp_path / "r", resume=True)
    with open_run(ToyConfig(learning_rate=0.5), again, "toy", may_change=["learning_rate"]) as run:
        assert run.restore(toy_state()) == 5


def test_resume_of_another_paper_or_network_is_refused_and_changes_nothing(tmp_path):
    train(tmp_path / "r", 5)
    with (
        pytest.raises(CheckpointError, match="trained for the paper 'toy', not for 'other'"),
        open_run(ToyConfig(), arguments(tmp_path / "r", resume=True), "other"),
    ):
        pass
    wide = toy_state(width=9)
    before = {key: value.clone() for key, value in wide["model"].state_dict().items()}
    with open_run(ToyConfig(), arguments(tmp_path / "r", resume=True), "toy") as run:
        message = r"another architecture: 0.weight is \(8, 2, 3, 3\) in the file and \(9, 2, 3, 3\) here"
        with pytest.raises(CheckpointError, match=message):
            run.restore(wide)
    assert_same(before, dict(wide["model"].state_dict()))
    assert not wide["optimizer"].state_dict()["state"]


# ---- several processes -------------------------------------------------------------------------------------


TWO_PROCESSES = """
import argparse, dataclasses, os, sys
from pathlib import Path
import torch
from shared.runs.run import open_run

@dataclasses.dataclass
class Config:
    seed: int = 1
    steps: int = 4

def train(out, until, resume=False):
    args = argparse.Namespace(config=Path("c.yaml"), out=Path(out), resume=resume, device="cpu", set=[])
    with open_run(Config(steps=until), args, "toy") as run:
        model = run.wrap_ddp(torch.nn.Linear(3, 1))  # starts from rank 0's weights
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        state = {"model": model, "optimizer": optimizer}
        for step in run.steps(run.restore(state), until):
            loss = model(torch.randn(4, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(step, loss=loss)
        run.save(until, state, score=1.0)
        torch.save(model.module.state_dict(), f"{out}/rank{run.rank}.pt")

folder, ports = sys.argv[1], sys.argv[2:]
for port, arguments in zip(ports, [("/whole", 4), ("/parts", 2), ("/parts", 4, True)]):
    os.environ["MASTER_PORT"] = port
    train(folder + arguments[0], *arguments[1:])
"""


def test_two_processes_share_one_run(tmp_path):
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
    whole, parts = (load_checkpoint(find_checkpoint(tmp_path / name, "last")) for name in ("whole", "parts"))
    assert whole.step == parts.step == 4
    assert list(whole.state["model"]) == ["weight", "bias"]  # names without DistributedDataParallel's prefix
    assert_same((whole.state, whole.rng), (parts.state, parts.rng))
    assert len(whole.rng) == 2
    assert not torch.equal(whole.rng[0]["torch"], whole.rng[1]["torch"])
    ranks = [torch.load(tmp_path / "whole" / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert_same(dict(ranks[0]), dict(ranks[1]))
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")
