"""Training killed at random moments, and resumed each time, is to the bit the one that was left alone."""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.runs.checkpoint import load_checkpoint
from shared.runs.folder import RunFolder, read_metrics
from shared.tests.hostile import forked
from shared.tests.test_run_trust import assert_same, logged
from showcase.results import PAPERS, ROOT
from showcase.tests.tiny import TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("without_tensorboard")]

KILLS = int(os.environ.get("KILLS", "10"))
STEPS = 4 * KILLS
PASSES = {"schedule": {"passes": 1, "iterations": KILLS}}  # diffdiffdepth: four groups take turns


def flags(paper: str, folder: Path) -> list[str]:
    """The command line of a tiny run that saves after every step."""
    values = {"base": str(ROOT / paper / "configs" / "quick.yaml"), **TINY[paper]}
    values["data"] = values["data"] | {"root": str(folder / "data")}
    values |= PASSES if paper == "diffdiffdepth" else {"steps": STEPS}
    values |= {"log_every": 1, "checkpoint_every": 1}
    values |= {"validate_every" if paper == "dfd_selfsup" else "preview_every": 7}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return ["--config", str(folder / "tiny.yaml"), "--device", "cpu", "--resume", "--out"]


def kill_inside(out: Path, child: int, rng: random.Random) -> bool:
    """Kill a process some time after it first saved; whether it was still at work."""
    saved, deadline = saved_at(out), time.monotonic() + 300
    while saved_at(out) == saved and time.monotonic() < deadline:
        time.sleep(0.002)
    found = rows(out)
    step_s = (found[-1]["time_s"] - found[0]["time_s"]) / max(1, len(found) - 1)
    time.sleep(rng.uniform(0, 2.5 * step_s))
    is_inside = last_step(out) < STEPS
    os.kill(child, signal.SIGKILL)
    return is_inside


def saved_at(out: Path) -> int:
    last = RunFolder(out).last
    return last.stat().st_mtime_ns if last.exists() else 0


def rows(out: Path) -> list[dict[str, Any]]:
    return read_metrics(out / "metrics.jsonl") if (out / "metrics.jsonl").exists() else []


def last_step(out: Path) -> int:
    return max((row["step"] for row in rows(out)), default=0)


def assert_same_run(whole: Path, killed: Path) -> None:
    one, other = (load_checkpoint(RunFolder(out).last) for out in (whole, killed))
    assert_same((one.state, one.rng, one.step, one.facts), (other.state, other.rng, other.step, other.facts))
    assert logged(whole) == logged(killed)


@pytest.mark.parametrize("paper", PAPERS)
def test_kills_inside_training(paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is a forked child, so that its imports are free and its random state its own."""
    train = importlib.import_module(f"{paper}.train")
    monkeypatch.setattr(train, "evaluate", lambda *_: {})
    monkeypatch.setattr(train, "summary", lambda _: "not measured", raising=False)
    start, rng = flags(paper, tmp_path), random.Random(f"{paper}{KILLS}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def run(out: Path) -> Callable[[], None]:
        return lambda: train.main([*start, str(out)])

    with forked(run(whole)):
        pass
    assert last_step(whole) == STEPS
    inside = 0
    for _ in range(KILLS):
        with forked(run(killed)) as child:
            inside += kill_inside(killed, child, rng)
        if last_step(killed) == STEPS:
            break
    assert inside >= KILLS // 2
    with forked(run(killed)):
        pass
    assert_same_run(whole, killed)


UNMEASURED = """
from nvs_depth import train
train.evaluate, train.summary = (lambda *_: {}), (lambda _: "not measured")
train.main()
"""


def test_a_process_of_torchrun_is_killed(tmp_path: Path) -> None:
    """One of two is killed, torchrun ends the other, and both are started again."""
    start, rng = flags("nvs_depth", tmp_path), random.Random(0)
    (tmp_path / "script.py").write_text(UNMEASURED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def launch(out: Path) -> subprocess.Popen:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [*launcher, str(tmp_path / "script.py"), *start, str(out)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    assert launch(whole).wait(600) == 0
    for _ in range(max(1, KILLS // 4)):
        with launch(killed) as torchrun:
            children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children")
            while len(children.read_text().split()) < 2:
                time.sleep(0.01)
            child = int(rng.choice(children.read_text().split()))
            assert kill_inside(killed, child, rng)
            assert torchrun.wait(120) != 0
    assert launch(killed).wait(600) == 0
    assert_same_run(whole, killed)
