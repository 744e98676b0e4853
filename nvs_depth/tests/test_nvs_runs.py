"""Training stopped and resumed, with and without worker processes, on broken data, in two processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nvs_depth import train
from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import PairOrder, pair_batches
from nvs_depth.datasets.select import load_split
from shared.runs.checkpoint import load_checkpoint
from shared.runs.config import load_config

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}

CONFIG = """
data:
  layout: shapenet_flat
  root: {root}
  embedded: {{kind: chairs, train_groups: 1, test_groups: 1, image_side: 16, antialias: 1}}
  pairs: {{redraw: true, symmetric: true}}
model: {{image_side: 64, width: 0.0625, encoder_init: default, depth_range: object_narrow}}
weights: {{perceptual: 0}}
losses: {{photometric_mask: all}}
batch_size: 8
learning_rate: 1.0e-3
constant_epochs: 0
decay_epochs: 4
checkpoint_every: 1
preview_every: 1000
log_every: 1
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """54 training sources: an epoch is 6 batches of 8 and 6 pairs."""
    folder = tmp_path_factory.mktemp("nvs_runs")
    (folder / "tiny.yaml").write_text(CONFIG.format(root=folder / "data"))
    return folder / "tiny.yaml"


@pytest.fixture
def unmeasured(monkeypatch):
    """Runs end without evaluation and report."""
    monkeypatch.setattr("nvs_depth.train.evaluate", lambda *_: {})
    monkeypatch.setattr("nvs_depth.train.summary", lambda _: "not measured")


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["state"]


def flat(state, prefix="") -> dict:
    """Every tensor and number of nested containers by its path."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, value in items for k, v in flat(value, f"{prefix}/{name}").items()}
    return {prefix: state}


def losses(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time_s"} for row in rows]


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(config, tmp_path, unmeasured, updates):
    """Stopped in the middle of the second epoch; with worker processes before, none after."""
    start = ["--config", str(config), "--device", "cpu", "--set"]
    train.main([*start, "steps=10", "--out", str(tmp_path / "whole")])
    assert [rate for rate, *_ in updates] == pytest.approx([7.5e-4] * 6 + [5e-4] * 4)  # by epochs
    for _, loss, terms in updates:
        r, p, c, s = (terms[name] for name in ("reconstruction", "photometric", "consistency", "smoothness"))
        torch.testing.assert_close(loss, 100 * r + 100 * p + 25 * c + 25 * s)
    train.main([*start, "steps=8", "workers=2", "--out", str(tmp_path / "parts")])
    resume = ["--resume", "--out", str(tmp_path / "parts"), "--device", "cpu", "--set", "steps=10"]
    train.main([*resume, "workers=0"])
    whole, parts = (flat(checkpoint(tmp_path / name)) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    kinds = ("/model/", "running_mean", "/optimizer/", "exp_avg_sq")
    assert all(any(kind in name for name in whole) for kind in kinds)
    for name, value in whole.items():
        same = torch.equal(value, parts[name]) if isinstance(value, torch.Tensor) else value == parts[name]
        assert same, name
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert len(losses(tmp_path / "whole")) == 10


def test_any_number_of_workers_gives_the_same_samples(config):
    pairs = load_split(load_config(TrainConfig, config).data, 64).train
    order = PairOrder(pairs, 2, 0, redraw=True)
    straight, one, two, resumed = (
        list(pair_batches(order, start, 8, workers)) for start, workers in ((0, 0), (0, 1), (0, 2), (5, 2))
    )
    assert len(straight) == 8
    for found, expected in ((one, straight), (two, straight), (resumed, straight[5:])):
        for batch, same in zip(found, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_view_ends_the_run_in_one_line_with_and_without_workers(config, tmp_path, workers):
    data = load_split(load_config(TrainConfig, config).data, 64).train.views.path
    shutil.copytree(data, tmp_path / data.name)
    for path in (tmp_path / data.name / "images").glob("chair_000_*.png"):
        path.write_bytes(path.read_bytes()[:60])
    settings = ["steps=3", f"workers={workers}", f"data.root={tmp_path / 'data'}"]
    command = ["-m", "nvs_depth.train", "--config", str(config), "--out", str(tmp_path / "run"), "--set"]
    done = subprocess.run(
        [sys.executable, *command, *settings], capture_output=True, text=True, timeout=120, env=ONE_THREAD
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert f"error: {tmp_path / data.name / 'images' / 'chair_000_'}" in done.stderr


SLOW_WORKERS = """
import os, sys, time
from torch.utils.data import get_worker_info
from nvs_depth import train
from nvs_depth.datasets import pairs
from shared.runs.command import command_line
read, count = pairs.load_pairs, [0]

def slowly(*arguments):
    count[0] += 1
    time.sleep(0.4)  # so that the run waits for its workers when the signal comes
    if count[0] == 3 and get_worker_info().id == 0:
        os.killpg(0, {number})
        time.sleep(0.2)
    return read(*arguments)

pairs.load_pairs = slowly
command_line(lambda: train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_stops_a_run_with_workers(config, tmp_path, number):
    """A terminal sends Ctrl-C to the workers as well; the run still ends after its step and is saved."""
    flags = ["--config", str(config), "--out", str(tmp_path / "run"), "--device", "cpu", "--set"]
    done = subprocess.run(
        [sys.executable, "-c", SLOW_WORKERS.format(number=int(number)), *flags, "workers=2", "steps=40"],
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
        env=ONE_THREAD,
    )
    assert done.returncode == 128 + number, done.stderr[-2000:]
    step = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt", "nvs_depth").step
    assert 1 <= step < 20


# Batch statistics are every process's own; without them two processes are one with the double batch.
WITHOUT_BATCH_STATISTICS = """
import torch
torch.nn.BatchNorm2d.train = lambda self, mode=True: torch.nn.Module.train(self, False)
from nvs_depth import train
train.evaluate, train.summary = (lambda *_: {}), (lambda _: "not measured")
train.main()
"""


def launch(config, out, processes, *settings):
    """The optimiser's state for each parameter after a run, as torchrun starts it."""
    script = out.parent / "script.py"
    script.write_text(WITHOUT_BATCH_STATISTICS)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    flags = ["--config", str(config), "--device", "cpu", "--out", str(out), "--set", *settings]
    done = subprocess.run([*launcher, str(script), *flags], env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return checkpoint(out)["optimizer"]["state"]


def gradients(config, folder, processes, batch_size):
    """Adam's first moments after one step are half the gradients, however many processes there are."""
    out = folder / f"{processes}x{batch_size}"
    state = launch(config, out, processes, "steps=1", f"batch_size={batch_size}")
    return torch.cat([moment["exp_avg"].flatten() for moment in state.values()])


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(config, tmp_path):
    load_split(load_config(TrainConfig, config).data, 64)  # rendered once, here
    whole = gradients(config, tmp_path, 1, 8)
    halves = gradients(config, tmp_path, 2, 4)
    half = gradients(config, tmp_path, 1, 4)
    assert whole.norm() > 0
    assert (halves - whole).norm() < 1e-4 * whole.norm()
    assert (half - whole).norm() > 0.1 * whole.norm()  # the second process's share counts


@pytest.mark.slow
def test_two_processes_learn_depth_alone(config, tmp_path):
    """Nothing reaches the view decoder then, and no process waits for its gradients."""
    load_split(load_config(TrainConfig, config).data, 64)
    state = launch(config, tmp_path / "run", 2, "steps=2", "weights.reconstruction=0", "batch_size=2")
    assert {moment["step"].item() for moment in state.values()} == {2}
