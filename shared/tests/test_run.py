"""Runs: exact resume, crash-safe checkpoints, safe loading, refusals, clean stops, two processes."""

import argparse
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from shared import run as run_module
from shared.checkpoint import CheckpointError, fingerprint, load_checkpoint, plain, save_checkpoint
from shared.config import load_config
from shared.files import DataError
from shared.run import (
    NonFiniteError,
    RunError,
    RunStopped,
    command_line,
    find_checkpoint,
    open_run,
    parse_eval_args,
    parse_train_args,
    select_device,
    weights_and_gradients,
    write_json,
)
from shared.run_folder import read_metrics
from shared.seeds import rng_state, seed_everything, set_rng_state, step_generator
from shared.tests.hostile import Hostile, file_size_limit
from shared.tests.trust import assert_same


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    seed: int = 3
    steps: int = 20
    learning_rate: float = 0.02
    save_every: int = 5


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch):
    """Leave TensorBoard's slow import to the one test that is about it."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def arguments(out: Path, resume: bool = False) -> argparse.Namespace:
    return argparse.Namespace(config=Path("toy.yaml"), out=out, resume=resume, device="cpu", set=[])


def toy_state(width: int = 8) -> dict:
    model = nn.Sequential(
        nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.3), nn.Flatten(), nn.LazyLinear(1)
    )
    model(torch.zeros(2, 2, 5, 7))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, betas=(0.5, 0.9))
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[4, 13], gamma=0.5)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def train(out: Path, until: int, resume: bool = False, save_every: int = 5) -> dict:
    """Train the toy model to step `until`, drawing from every kind of generator; return the final state."""
    with open_run(ToyConfig(steps=until, save_every=save_every), arguments(out, resume), "toy") as run:
        state = toy_state()
        model, optimizer, scheduler = state.values()
        start = run.restore(state)
        for step in run.steps(start, until):
            batch = torch.randn(4, 2, 5, 7, generator=step_generator(3, step, "batch"))  # [B, C, H, W]
            target = random.random() + float(np.random.rand()) + torch.rand(4, 1)  # noqa: NPY002
            loss = (model(batch) - target).square().mean()
            run.check_finite(step, loss=loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            run.log(step, loss=loss)
            if run.every(step, save_every):
                run.save(step, state, {"loss": loss}, score=-loss.item())
        final = {"state": {name: item.state_dict() for name, item in state.items()}, "rng": rng_state()}
        return plain(final, "final")


def logged(out: Path) -> list:
    return [{key: row[key] for key in ("step", "loss")} for row in read_metrics(out / "metrics.jsonl")]


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


def test_generator_states_survive_a_round_trip():
    seed_everything(5)
    np.random.standard_normal(3)  # noqa: NPY002 - leaves a cached Gaussian behind
    state = plain(rng_state(), "rng")

    def draw():
        numpy_draws = np.random.standard_normal(3).tolist()  # noqa: NPY002
        return torch.rand(3).tolist(), numpy_draws, random.gauss(0, 1), random.gauss(0, 1)

    first = draw()
    assert draw() != first
    set_rng_state(state)
    assert draw() == first


GOLDEN_DRAW = [0.7078030705, 0.2741421461, 0.7123427987, 0.3413453698]


def test_step_generator_depends_on_its_arguments_alone():
    def draw(*key):
        return torch.rand(4, generator=step_generator(*key)).tolist()

    torch.manual_seed(1)
    reference = draw(7, 100, "views")
    torch.manual_seed(2)
    assert draw(7, 100, "views") == reference
    others = [(7, 101, "views"), (8, 100, "views"), (7, 100), (7, 100, "depth"), (7, 100, 1)]
    assert len({tuple(draw(*key)) for key in [(7, 100, "views"), *others]}) == 6
    assert reference == pytest.approx(GOLDEN_DRAW)  # the same in every process and on every machine


def test_seed_everything_is_repeatable_and_tells_ranks_apart():
    def draw(*stream):
        seed_everything(11, *stream)
        return torch.rand(2).tolist(), np.random.rand(), random.random()  # noqa: NPY002

    assert draw() == draw()
    assert draw() != draw(1) != draw(2)


# ---- run folder --------------------------------------------------------------------------------------------


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


def test_every_includes_the_last_step_and_zero_means_never(tmp_path):
    with open_run(ToyConfig(steps=7), arguments(tmp_path / "r"), "toy") as run:
        assert [step for step in run.steps(0, 7) if run.every(step, 3)] == [3, 6, 7]
        assert not any(run.every(step, 0) for step in range(1, 8))


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


# ---- crash-safe saving -------------------------------------------------------------------------------------


def test_full_disk_leaves_the_old_checkpoint(tmp_path):
    """The process's limit on file sizes stands for the full disk: writing fails within the file."""
    path = tmp_path / "last.pt"
    state = {"model": nn.Linear(400, 400)}
    save_checkpoint(path, state, paper="toy", step=1, config={}, also=tmp_path / "best.pt")
    message = r"last\.pt: cannot be written .*; the older file is intact\. Check the free space"
    with file_size_limit(200_000), pytest.raises(CheckpointError, match=message):
        save_checkpoint(path, state, paper="toy", step=2, config={}, also=tmp_path / "best.pt")
    assert load_checkpoint(path).step == load_checkpoint(tmp_path / "best.pt").step == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_killed_while_saving_the_newest_complete_checkpoint_loads(tmp_path):
    code = """if True:
        import torch
        from shared.checkpoint import save_checkpoint
        model = torch.nn.Linear(300, 300)
        for step in range(1, 10**6):
            save_checkpoint(
                "last.pt", {"m": model}, paper="toy", step=step, config={}, also="best.pt"
            )
            print(step, flush=True)
    """
    rng = random.Random(0)
    seen_stray = 0
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        for _ in range(50):  # what lies on the disk at a random moment is what a SIGKILL then would leave
            process.send_signal(signal.SIGCONT)
            time.sleep(rng.uniform(0.001, 0.02))
            process.send_signal(signal.SIGSTOP)
            seen_stray += any(path.suffix == ".tmp" for path in tmp_path.iterdir())
            assert load_checkpoint(tmp_path / "last.pt").step >= 1
            assert load_checkpoint(tmp_path / "best.pt").step >= 1
        process.kill()
    assert seen_stray > 5


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


# ---- safe loading ------------------------------------------------------------------------------------------


def saved(path: Path, **changes) -> Path:
    """Write a small valid checkpoint, then change entries of its payload."""
    save_checkpoint(path, {"model": nn.Linear(3, 2)}, paper="toy", step=4, config={"a": 1})
    if changes:
        torch.save(torch.load(path, weights_only=True) | changes, path)
    return path


def damaged(path: Path) -> Path:
    """Flip one bit of the weights inside the archive."""
    saved(path)
    with zipfile.ZipFile(path) as archive:
        info = max((i for i in archive.infolist() if "/data/" in i.filename), key=lambda i: i.file_size)
    data = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["state"]["model"]["weight"].numpy().tobytes()
    data[data.index(weights) + 5] ^= 1
    assert info.file_size == len(weights)
    path.write_bytes(data)
    return path


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


BAD_CHECKPOINTS = {
    "missing": (lambda p: p, "there is no such file"),
    "folder": (lambda p: p.mkdir(), "there is no such file"),
    "empty": (lambda p: p.write_bytes(b""), "truncated, or no checkpoint"),
    "text": (lambda p: p.write_text("hello"), "truncated, or no checkpoint"),
    "truncated": (lambda p: p.write_bytes(saved(p).read_bytes()[:-200]), "truncated"),
    "beginning lost": (lambda p: p.write_bytes(saved(p).read_bytes()[300:]), "truncated|cannot be read"),
    "bit flipped": (damaged, "damaged|checksum"),
    "pickled code": (lambda p: torch.save({"x": Hostile(p.parent / "pwned")}, p), "could run foreign code"),
    "pickled code of the right format": (
        lambda p: saved(p, rng=[Hostile(p.parent / "pwned")]),
        "could run foreign code",
    ),
    "whole module": (lambda p: torch.save(nn.Linear(2, 2), p), "could run foreign code"),
    "old pickle": (
        lambda p: torch.save({"x": 1}, p, _use_new_zipfile_serialization=False),
        "no checkpoint at all",
    ),
    "empty zip": (lambda p: zipfile.ZipFile(p, "w").close(), "zip archive, but no checkpoint"),
    "zip without a pickle": (other_zip, "zip archive, but no checkpoint"),
    "torchscript": (lambda p: torch.jit.script(nn.Linear(2, 2)).save(p), "zip archive, but no checkpoint"),
    "plain state dict": (lambda p: torch.save(nn.Linear(2, 2).state_dict(), p), "not a checkpoint of this"),
    "tensor": (lambda p: torch.save(torch.ones(2), p), "not a checkpoint of this project"),
    "other format": (lambda p: saved(p, format="theirs"), "not a checkpoint of this project"),
    "newer version": (lambda p: saved(p, version=2), "format version 2, this program reads version 1"),
    "other paper": (lambda p: saved(p, paper="dfd"), "trained for the paper 'dfd', not for 'toy'"),
    "header incomplete": (
        lambda p: torch.save({"format": "depth-and-views checkpoint", "version": 1, "paper": "toy"}, p),
        "its header lacks step, config",
    ),
    "state not of its header": (lambda p: saved(p, state={"model": {}}), "not the one its header describes"),
    "NaN weights": (
        lambda p: saved(p, state={"model": {"weight": torch.zeros(2, 3), "bias": torch.ones(2) / 0 * 0}}),
        "model.bias holds NaN",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoint_is_refused_by_file_reason_and_remedy(tmp_path, case):
    path = tmp_path / "last.pt"
    make, reason = BAD_CHECKPOINTS[case]
    make(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(path, "toy")
    assert caught.value.path == str(path)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_the_malicious_file_would_run_code_if_it_were_unpickled(tmp_path):
    torch.save({"x": Hostile(tmp_path / "pwned")}, tmp_path / "last.pt")
    torch.load(tmp_path / "last.pt", weights_only=False)["x"].close()
    assert (tmp_path / "pwned").exists()


def test_every_truncation_is_refused(tmp_path):
    data = saved(tmp_path / "whole.pt").read_bytes()
    for length in range(0, len(data), 97):
        (tmp_path / "cut.pt").write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "cut.pt")


def test_missing_state_and_unfitting_optimizer_change_nothing(tmp_path):
    checkpoint = load_checkpoint(saved(tmp_path / "last.pt"))
    with pytest.raises(CheckpointError, match="holds no state named 'ema', only model"):
        checkpoint.load_into({"model": nn.Linear(3, 2), "ema": nn.Linear(3, 2)})
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    two_groups = torch.optim.SGD([{"params": [source.weight]}, {"params": [source.bias]}], lr=1.0)
    save_checkpoint(
        tmp_path / "b.pt", {"model": source, "optimizer": two_groups}, paper="toy", step=1, config={}
    )
    before = target.weight.clone()
    with pytest.raises(CheckpointError, match="the state of 'optimizer' does not fit"):
        load_checkpoint(tmp_path / "b.pt").load_into(
            {"model": target, "optimizer": torch.optim.SGD(target.parameters(), lr=1.0)}
        )
    assert torch.equal(before, target.weight)


def test_only_plain_values_are_saved(tmp_path):
    assert plain({"a": (np.float32(0.5), [np.int64(3)], None, "x")}, "s") == {"a": (0.5, [3], None, "x")}
    for value in (np.zeros(2), {1, 2}, object(), torch.float32):
        with pytest.raises(TypeError, match=r"s\.a\.0: a checkpoint cannot hold"):
            plain({"a": [value]}, "s")
    big = torch.zeros(1000)
    assert plain(big[:3], "s").untyped_storage().nbytes() == 12


def test_fingerprint_sees_names_and_shapes_but_not_order_or_values():
    a, b = nn.Linear(3, 2).state_dict(), nn.Linear(3, 2).state_dict()
    assert fingerprint(a) == fingerprint(dict(reversed(list(b.items()))))
    assert fingerprint(a) != fingerprint(nn.Linear(2, 3).state_dict())
    assert fingerprint(a) != fingerprint({"w": a["weight"], "bias": a["bias"]})


def test_find_checkpoint(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(RunError, match="train first"):
            find_checkpoint(folder)
    saved(tmp_path / "checkpoints" / "last.pt")
    assert find_checkpoint(tmp_path).name == "last.pt"
    saved(tmp_path / "checkpoints" / "best.pt")
    assert find_checkpoint(tmp_path).name == "best.pt"
    assert find_checkpoint(tmp_path, "last").name == "last.pt"


# ---- guards and stops --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_guard_names_the_term_and_keeps_the_checkpoint(tmp_path, value):
    train(tmp_path / "r", 5)
    good = (tmp_path / "r" / "checkpoints" / "last.pt").read_bytes()
    with open_run(ToyConfig(), arguments(tmp_path / "r", resume=True), "toy") as run:
        state = toy_state()
        start = run.restore(state)
        run.check_finite(6, l1=torch.tensor(0.1), gan=2.0)
        message = f"step 6: gan is {value} \\(l1 0.5\\); the checkpoint of step {start} is intact"
        with pytest.raises(NonFiniteError, match=message):
            run.check_finite(6, samples=["0007.png"], l1=0.5, gan=torch.tensor([1.0, value]))
        with torch.no_grad():
            state["model"][0].weight[0, 0, 0, 0] = value
        with pytest.raises(NonFiniteError, match="0.weight of model is not finite"):
            run.save(6, state, score=1e9)
        with torch.no_grad():
            state["model"][0].weight[0, 0, 0, 0] = 0
            state["model"][1].running_var[2] = torch.nan
        with pytest.raises(NonFiniteError, match=r"1\.running_var of model is not finite"):
            run.save(6, state, score=1e9)
        run.check_finite(6)
        run.check_finite(6, large=1e300)
    dump = json.loads((tmp_path / "r" / "nonfinite.json").read_text())
    assert dump == {"step": 6, "terms": {"l1": "0.5", "gan": str(value)}, "samples": ["0007.png"]}
    assert (tmp_path / "r" / "checkpoints" / "last.pt").read_bytes() == good


def test_nan_guard_names_the_weight_or_gradient_before_the_step(tmp_path):
    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run:
        state = toy_state()
        run.restore(state)
        layer = state["model"][0]
        layer.weight.grad = torch.full_like(layer.weight, 1e30)  # its norm would overflow, it is finite
        run.check_tensors(1, weights_and_gradients(model=state["model"]))
        layer.weight.grad[0, 0, 0, 0] = torch.nan
        with pytest.raises(NonFiniteError, match=r"step 1: the gradient of 0\.weight of model is not finite"):
            run.check_tensors(1, weights_and_gradients(model=state["model"]), samples=[4])
        with torch.no_grad():
            layer.bias[1] = -torch.inf
        with pytest.raises(NonFiniteError, match=r"step 2: 0\.bias of model is not finite"):
            run.check_tensors(2, weights_and_gradients(model=state["model"]))
        with pytest.raises(NonFiniteError, match=r"l1 is nan, as 0\.bias of model is not finite"):
            run.check_finite(3, l1=float("nan"))
        run.check_tensors(4, {"an integer": torch.tensor([1]), "nothing": torch.zeros(0)})


def test_nan_in_any_state_is_not_saved(tmp_path):
    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run:
        state = toy_state()
        state["model"](torch.zeros(2, 2, 5, 7)).sum().backward()
        state["optimizer"].step()
        next(iter(state["optimizer"].state.values()))["exp_avg"][0] = torch.nan
        with pytest.raises(NonFiniteError, match=r"state\.0\.exp_avg of optimizer is not finite"):
            run.save(1, state)
    assert not list((tmp_path / "r" / "checkpoints").iterdir())


def interrupted(run, number: int, at_step: int, times: int = 1) -> None:
    """Run a loop that is sent a signal in the middle of a step."""
    for step in run.steps(run.restore(toy_state()), 20):
        if step == at_step:
            for _ in range(times):
                os.kill(os.getpid(), number)
                time.sleep(0.05)  # another thread may get it: the handler runs a little later
        run.log(step, loss=0.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_and_stops(tmp_path, number):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped = pytest.raises(RunStopped, match="stopped after step 3; go on with --resume")
    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run, stopped as caught:
        interrupted(run, number, at_step=3)
    assert caught.value.signal_number == number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert load_checkpoint(find_checkpoint(tmp_path / "r")).step == 3
    assert [row["step"] for row in read_metrics(tmp_path / "r" / "metrics.jsonl")] == [1, 2, 3]


def test_a_second_interrupt_acts_at_once(tmp_path):
    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run, pytest.raises(KeyboardInterrupt):
        interrupted(run, signal.SIGINT, at_step=1, times=2)
    assert not list((tmp_path / "r" / "checkpoints").iterdir())


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


# ---- command line ------------------------------------------------------------------------------------------


def test_train_arguments(tmp_path, capsys):
    args = parse_train_args("doc", ["--config", "a.yaml", "--set", "a=1", "b=2", "--set", "c.d=3"])
    assert (args.config, args.out, args.resume) == (Path("a.yaml"), None, False)
    assert args.set == ["a=1", "b=2", "c.d=3"]
    assert parse_train_args("doc", ["--resume", "--out", "r"]).config == Path("r/config.yaml")
    assert parse_train_args("doc", ["--config", "a.yaml"]).set == []  # no leftovers from the call before
    with pytest.raises(SystemExit):
        parse_train_args("doc", [])
    assert "--config FILE is needed" in capsys.readouterr().err
    args = parse_train_args("doc", ["--config", "x", "--n", "3"], lambda p: p.add_argument("--n", type=int))
    assert args.n == 3


def test_eval_arguments():
    args = parse_eval_args("doc", ["--run", "runs/a"])
    assert (args.run, args.checkpoint, args.device) == (Path("runs/a"), "best", "auto")


def test_default_folder_is_named_after_paper_and_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_run(ToyConfig(), arguments(None), "toy") as run:
        assert run.folder == Path("runs/toy-toy")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("a.png", "is\nbroken", "Fix it"), 2, "error: a.png: is broken. Fix it\n"),
        (RunError("out: no"), 2, "error: out: no\n"),
        (NonFiniteError("step 3"), 2, "error: step 3\n"),
        (CheckpointError("a.pt", "is old", "Train"), 2, "error: a.pt: is old. Train\n"),
        (RunStopped("stopped after step 3", signal.SIGTERM), 143, "stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (None, 0, ""),
    ],
)
def test_known_errors_become_one_line_and_an_exit_code(capsys, error, code, text):
    def main():
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as caught:
        command_line(main)
    assert caught.value.code == code
    assert capsys.readouterr().err == text


def test_unknown_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        command_line(lambda: 1 / 0)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == select_device("cpu") == torch.device("cpu")
    with pytest.raises(RunError, match="no CUDA device"):
        select_device("cuda")
    with pytest.raises(RunError, match="unknown device"):
        select_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("auto", 1) == torch.device("cuda:1")
    assert select_device("cpu") == torch.device("cpu")
    with pytest.raises(RunError, match="process 2 has no CUDA device of its own"):
        select_device("cuda", 2)


def test_write_json_makes_parents_and_valid_json(tmp_path):
    data = {"x": torch.tensor([1.5, float("nan")], requires_grad=True), "p": Path("q"), 3: None, "b": True}
    write_json(tmp_path / "a" / "b.json", data)
    read = json.loads((tmp_path / "a" / "b.json").read_text())
    assert read == {"x": [1.5, None], "p": "q", "3": None, "b": True}


# ---- several processes -------------------------------------------------------------------------------------

TWO_PROCESSES = """
import argparse, dataclasses, os, sys
from pathlib import Path
import torch
from shared.run import open_run

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
