"""The run folder: its layout, one run at a time, nothing half written, a log of every step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.errors import RunError
from shared.files.disk import write_json
from shared.runs.checkpoint import load_checkpoint
from shared.runs.config import load_config
from shared.runs.folder import find_checkpoint
from shared.runs.run import open_run
from shared.tests.toy_run import ToyConfig, arguments, toy_state, train

pytestmark = pytest.mark.usefixtures("without_tensorboard")


# ---- layout ------------------------------------------------------------------------------------------------


def test_layout_of_the_run_folder(tmp_path):
    out = tmp_path / "deep" / "run"
    with open_run(ToyConfig(steps=2), arguments(out), "toy") as run:
        state = toy_state()
        assert run.restore(state) == 0
        assert (run.rank, run.world_size, run.is_main, run.device) == (0, 1, True, torch.device("cpu"))
        for step in run.steps(0, 2):
            run.log(step, loss=torch.tensor(0.5), psnr=float("inf"))
            run.preview(step, "view", torch.rand(3, 5, 7))
        run.save(2, state, {"psnr": np.float64(20.5)}, score=20.5)
        run.finish({"psnr": torch.tensor(20.5), "bad": float("nan"), "views": [np.int64(3)]})
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert names == [
        ".lock",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "config.yaml",
        "eval.json",
        "metrics.jsonl",
        "previews/view_0000001.png",
        "previews/view_0000002.png",
    ]
    assert load_config(ToyConfig, out / "config.yaml") == ToyConfig(steps=2)
    results = json.loads((out / "eval.json").read_text())
    origin = results.pop("run")
    assert results == {"psnr": 20.5, "bad": None, "views": [3]}
    assert (origin["config"], origin["resumed"], origin["processes"]) == ("toy/configs/toy.yaml", False, 1)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"], row["psnr"]) for row in rows] == [(1, 0.5, None), (2, 0.5, None)]
    assert load_checkpoint(find_checkpoint(out), "toy").metrics == {"psnr": 20.5}


def test_default_folder_is_named_after_paper_and_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_run(ToyConfig(), arguments(None), "toy") as run:
        assert run.folder == Path("runs/toy-toy")


def test_every_includes_the_last_step_and_zero_means_never(tmp_path):
    with open_run(ToyConfig(steps=7), arguments(tmp_path / "r"), "toy") as run:
        assert [step for step in run.steps(0, 7) if run.every(step, 3)] == [3, 6, 7]
        assert not any(run.every(step, 0) for step in range(1, 8))


def test_write_json_makes_parents_and_valid_json(tmp_path):
    data = {"x": torch.tensor([1.5, float("nan")], requires_grad=True), "p": Path("q"), 3: None, "b": True}
    write_json(tmp_path / "a" / "b.json", data)
    read = json.loads((tmp_path / "a" / "b.json").read_text())
    assert read == {"x": [1.5, None], "p": "q", "3": None, "b": True}


# ---- one run at a time -------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_refused_without_resume(tmp_path):
    train(tmp_path / "r", 2, save_every=2)
    before = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    with (
        pytest.raises(RunError, match="already holds a run; go on with --resume"),
        open_run(ToyConfig(seed=9), arguments(tmp_path / "r"), "toy"),
    ):
        pass
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == before
    assert load_config(ToyConfig, tmp_path / "r" / "config.yaml").seed == 3


def test_a_start_that_failed_early_may_be_repeated(tmp_path):
    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run:
        run.restore(toy_state())  # and no step was made
    train(tmp_path / "r", 2)


def test_two_runs_in_one_folder_are_refused_while_the_first_lives(tmp_path):
    with (
        open_run(ToyConfig(), arguments(tmp_path), "toy"),
        pytest.raises(RunError, match=f"process {os.getpid()} on .* is writing here"),
        open_run(ToyConfig(), arguments(tmp_path, resume=True), "toy"),
    ):
        pass
    with open_run(ToyConfig(), arguments(tmp_path), "toy"):
        pass


def test_the_lock_dies_with_its_process(tmp_path):
    code = """if True:
        import fcntl, sys, time
        file = open(sys.argv[1], "a")
        fcntl.flock(file, fcntl.LOCK_EX)
        print(1, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"1\n"
        refused = pytest.raises(RunError, match="is writing here")
        with refused, open_run(ToyConfig(), arguments(tmp_path), "toy"):
            pass
        first.kill()
    with open_run(ToyConfig(), arguments(tmp_path), "toy"):
        pass


def test_a_folder_that_cannot_be_made_or_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(RunError, match="cannot be made .*; choose another --out"),
        open_run(ToyConfig(), arguments(tmp_path / "file" / "run"), "toy"),
    ):
        pass

    def read_only(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with (
        pytest.raises(RunError, match="Read-only file system"),
        open_run(ToyConfig(), arguments(tmp_path / "run"), "toy"),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# ---- disks that fail ---------------------------------------------------------------------------------------


def test_stray_files_are_removed_at_the_next_start(tmp_path):
    train(tmp_path / "r", 5)
    (tmp_path / "r" / "previews").mkdir()
    for name in (".config.yaml.0a.tmp", "checkpoints/.last.pt.0b.tmp", "previews/.a.png.0c.tmp"):
        (tmp_path / "r" / name).write_bytes(b"half")
    train(tmp_path / "r", 6, resume=True)
    assert not list((tmp_path / "r").rglob("*.tmp"))


def test_a_save_that_failed_does_not_count(tmp_path, monkeypatch):
    state = toy_state()
    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run:
        run.restore(state)
        run.save(1, state, score=1.0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: os.write(-1, b""))
            with pytest.raises(RunError, match="Bad file descriptor"):
                run.save(2, state, score=2.0)
        run.save(3, state, score=1.5)
    assert load_checkpoint(find_checkpoint(tmp_path / "r")).step == 3


def test_full_disk_at_the_log(tmp_path):
    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run:
        run.restore(toy_state())
        run._log_file.close()
        run._log_file = open("/dev/full", "w", buffering=1)  # noqa: SIM115
        with pytest.raises(RunError, match="No space left on device"):
            run.log(1, loss=0.5)


# ---- progress and log --------------------------------------------------------------------------------------


def test_progress_where_stderr_is_no_terminal_is_whole_lines(tmp_path, capsys):
    train(tmp_path / "r", 3)
    text = capsys.readouterr().err
    assert "\r" not in text
    assert "3/3" in text
    assert "loss" in text


def test_tensorboard_gets_what_the_log_gets(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run:
        run.restore(toy_state())
        for step in (1, 2):
            run.log(step, loss=step / 2)
        run.preview(2, "view", torch.rand(3, 4, 6))
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 1.0)]
    assert events.Tags()["images"] == ["view"]
