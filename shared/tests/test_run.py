"""The run: its folder, log, checkpoints and signals, and how its results came about."""

import json
import os
import random
import re
import resource
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic.dataclasses import dataclass

from shared.errors import CheckpointError, DataError, NonFiniteError, RunError, RunStopped
from shared.runs.checkpoint import load_checkpoint, plain, save_checkpoint
from shared.runs.config import STRICT, LocalPath, load_config
from shared.runs.folder import find_checkpoint, read_metrics, write_results
from shared.runs.run import open_run
from shared.runs.seeds import rng_state, seed_everything, set_rng_state, step_generator
from shared.tests.toy_run import ToyConfig, arguments, main, toy_state

pytestmark = pytest.mark.usefixtures("without_tensorboard", "seeded")


# ---- folder and log ----------------------------------------------------------------------------------------


def test_layout_of_the_run_folder(tmp_path):
    out = tmp_path / "deep" / "run"
    with open_run(ToyConfig(steps=2), arguments(out), "toy") as run:
        state = toy_state()
        assert run.restore(state, {"near": 0.5}) == 0
        assert (run.rank, run.world_size, run.is_main, run.device) == (0, 1, True, torch.device("cpu"))
        for step in run.steps(0, 2):
            run.log(step, loss=torch.tensor(0.5), psnr=float("inf"))
            run.preview(step, "view", torch.rand(3, 5, 7))
        run.save(2, state, {"psnr": np.float64(20.5)}, score=20.5)
        run.finish({"psnr": torch.tensor(20.5), "bad": float("nan"), "views": [np.int64(3)]})
    files = ["config.yaml", "eval.json", "metrics.jsonl", "checkpoints/best.pt", "checkpoints/last.pt"]
    assert all((out / name).is_file() for name in [*files, "previews/view_0000002.png"])
    assert load_config(ToyConfig, out / "config.yaml") == ToyConfig(steps=2)
    results = json.loads((out / "eval.json").read_text())
    origin = results.pop("run")
    assert results == {"psnr": 20.5, "bad": None, "views": [3]}
    assert (origin["config"], origin["resumed"], origin["processes"]) == ("toy/configs/toy.yaml", False, 1)
    rows = read_metrics(out / "metrics.jsonl")
    assert [(row["step"], row["loss"], row["psnr"]) for row in rows] == [(1, 0.5, None), (2, 0.5, None)]
    assert load_checkpoint(find_checkpoint(out), "toy").facts == {"near": 0.5, "psnr": 20.5}


def test_default_folder_is_named_after_paper_and_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_run(ToyConfig(), arguments(None), "toy") as run:
        assert run.folder == Path("runs/toy-toy")


def test_every_includes_the_last_step_and_zero_means_never(tmp_path):
    with open_run(ToyConfig(steps=7), arguments(tmp_path / "r"), "toy") as run:
        assert [step for step in run.steps(0, 7) if run.every(step, 3)] == [3, 6, 7]
        assert not any(run.every(step, 0) for step in range(1, 8))


def test_what_is_ahead_is_said_after_the_first_steps(tmp_path, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with open_run(ToyConfig(steps=14), arguments(tmp_path / "r"), "toy") as run:
        state = toy_state() | {"big": torch.nn.Linear(500, 1000)}
        run.restore(state)
        for step in run.steps(0, 14):
            clock[0] += 100 if step == 1 else 30  # the first step is slower, and no measure of the others
        run.save(14, state)
    lines = [line for line in capsys.readouterr().err.splitlines() if "a checkpoint takes" in line]
    (told,) = [[float(number) for number in re.findall(r"[\d.]+\d", line)] for line in lines]
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-9
    size_mb = (tmp_path / "r/checkpoints/last.pt").stat().st_size / 1e6
    assert told == [10, 5.0, pytest.approx(peak_gb, abs=0.1), pytest.approx(size_mb, rel=0.1)]


def test_a_folder_that_holds_a_run_is_refused_without_resume(tmp_path):
    out = tmp_path / "r"
    with open_run(ToyConfig(), arguments(out), "toy") as run:
        run.restore(toy_state())  # a start that made no step may be repeated
    with open_run(ToyConfig(), arguments(out), "toy") as run:
        run.restore(toy_state())
        run.log(1, loss=0.0)
    with pytest.raises(RunError, match="--resume"), open_run(ToyConfig(seed=9), arguments(out), "toy"):
        pass
    assert len(read_metrics(out / "metrics.jsonl")) == 1
    assert load_config(ToyConfig, out / "config.yaml").seed == 3


def test_a_damaged_log_is_read_and_goes_on_after_the_checkpoint(tmp_path):
    """A crash cuts the last row short; after a power cut there may be zeros or bytes of something else."""
    state, path = toy_state(), tmp_path / "metrics.jsonl"
    with open_run(ToyConfig(), arguments(tmp_path), "toy") as run:
        run.restore(state)
        run.log(1, loss=2.0)
        run.save(1, state)
    path.write_bytes(path.read_bytes() + b'\n\0\0\n\xff\xfe{\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    with open_run(ToyConfig(), arguments(tmp_path, resume=True), "toy") as run:
        assert run.restore(state) == 1
    assert [row["loss"] for row in read_metrics(path)] == [2.0]


def test_full_disk_at_the_log(tmp_path):
    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run:
        run.restore(toy_state())
        run._log._file.close()
        run._log._file = open("/dev/full", "w", buffering=1)  # noqa: SIM115
        with pytest.raises(RunError, match="No space left on device"):
            run.log(1, loss=0.5)


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


def test_weights_and_biases_gets_it_too_where_it_is_asked_for(tmp_path, monkeypatch):
    said = []

    class StubRun:
        def log(self, values, step):
            said.append((step, values))

        def finish(self):
            said.append("finished")

    def init(**options):
        said.append(options)
        return StubRun()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda pixels: pixels.shape))

    def train(out):
        with open_run(ToyConfig(), arguments(out), "toy") as run:
            run.restore(toy_state())
            run.log(1, loss=0.5)
            run.preview(1, "view", torch.rand(3, 4, 6))

    train(tmp_path / "unasked")
    assert said == []
    monkeypatch.setenv("WANDB_PROJECT", "depth")
    train(tmp_path / "r")
    begun, *rest = said
    assert (begun["name"], begun["dir"], begun["config"]["steps"]) == (
        "r",
        str(tmp_path / "r"),
        ToyConfig().steps,
    )
    assert rest == [(1, {"loss": 0.5}), (1, {"view": (4, 6, 3)}), "finished"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match="wandb is not installed; pip install wandb, or unset it"):
        train(tmp_path / "missing")


# ---- checkpoints -------------------------------------------------------------------------------------------


def test_best_is_kept_across_a_restart(tmp_path):
    out, state = tmp_path / "r", toy_state()
    for resume, scores in ((False, [1.0, 3.0, 3.0, 2.0]), (True, [3.0, 2.9])):
        with open_run(ToyConfig(), arguments(out, resume), "toy") as run:
            start = run.restore(state)
            for step, score in enumerate(scores, start=start + 1):
                run.save(step, state, score=score)
    assert load_checkpoint(find_checkpoint(out, "best")).step == 2
    assert load_checkpoint(find_checkpoint(out, "last")).step == 6


def test_resume_with_another_config_is_refused_by_key(tmp_path):
    out, state = tmp_path / "r", toy_state()
    with open_run(ToyConfig(), arguments(out, resume=True), "toy") as run:
        assert run.restore(state) == 0
        run.save(5, state)
    again = arguments(out, resume=True)
    changed = ToyConfig(seed=4, learning_rate=0.5, steps=9, checkpoint_every=1)
    refused = pytest.raises(
        RunError, match=r"seed was 3 and is now 4, learning_rate was 0\.02 and is now 0\.5"
    )
    with refused, open_run(changed, again, "toy"):
        pass
    with open_run(ToyConfig(steps=9, checkpoint_every=1), again, "toy") as run:
        assert run.restore(state) == 5
    with open_run(ToyConfig(learning_rate=0.5), again, "toy", may_change=["learning_rate"]) as run:
        assert run.restore(state) == 5


def test_a_key_that_is_newer_than_the_checkpoint_counts_with_its_default(tmp_path):
    @dataclass(config=STRICT)
    class Newer(ToyConfig):
        weight: float = 1.0

    out, state = tmp_path / "r", toy_state()
    with open_run(ToyConfig(), arguments(out), "toy") as run:
        run.restore(state)
        run.save(5, state)
    again = arguments(out, resume=True)
    with open_run(Newer(), again, "toy") as run:
        assert run.restore(state) == 5
    refused = pytest.raises(RunError, match=r"weight was 1\.0 and is now 2\.0")
    with refused, open_run(Newer(weight=2.0), again, "toy"):
        pass


def test_a_run_begins_with_the_weights_of_another_and_nothing_else(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--config", str(tmp_path / "toy.yaml"), "--device", "cpu"]
    (tmp_path / "toy.yaml").write_text("steps: 7\n")
    main([*flags, "--out", str(first)])
    main([*flags, "--out", str(second), "--set", f"init_from={first}", "steps=0"])
    fresh, taken = toy_state(), toy_state()
    with open_run(ToyConfig(init_from=str(first)), arguments(tmp_path / "third"), "toy") as run:
        assert run.restore(taken) == 0
        run.save(0, taken)
    trained = load_checkpoint(find_checkpoint(first)).state
    assert all(
        torch.equal(taken["model"].state_dict()[key], weight) for key, weight in trained["model"].items()
    )
    assert plain(taken["optimizer"].state_dict(), "") == plain(fresh["optimizer"].state_dict(), "")
    assert "best.pt (step" in capsys.readouterr().err

    # An interrupted run goes on from its own weights, whatever became of the others.
    (find_checkpoint(first)).unlink()
    find_checkpoint(first).unlink()
    with open_run(ToyConfig(init_from=str(first)), arguments(tmp_path / "third", resume=True), "toy") as run:
        assert run.restore(toy_state()) == 0


def test_weights_to_begin_with_must_be_there_and_fit(tmp_path):
    out = tmp_path / "r"
    with open_run(ToyConfig(), arguments(out), "toy") as run:
        narrow = toy_state(width=4)
        run.restore(narrow)
        run.save(3, narrow)
    cases = {
        str(out): (
            CheckpointError,
            r"'model' has another architecture: 0\.weight is \(4, 2, 3, 3\) in the file",
        ),
        str(tmp_path / "gone.pt"): (CheckpointError, r"gone\.pt: cannot be read"),
    }
    for source, (kind, reason) in cases.items():
        config, args = ToyConfig(init_from=source), arguments(tmp_path / "new")
        with pytest.raises(kind, match=reason), open_run(config, args, "toy") as run:
            run.restore(toy_state())


def test_a_part_that_the_weights_do_not_hold_is_new(tmp_path, capsys):
    """Shipped weights are without the critic of a GAN."""
    critic = torch.nn.Linear(2, 1)
    before = critic.weight.detach().clone()
    save_checkpoint(tmp_path / "w.pt", {"model": toy_state()["model"]}, paper="toy", step=9, config={})
    with open_run(ToyConfig(init_from=str(tmp_path / "w.pt")), arguments(tmp_path / "r"), "toy") as run:
        run.restore({"model": toy_state()["model"], "critic": critic})
    assert torch.equal(critic.weight, before)
    assert "w.pt (step 9); new: critic" in capsys.readouterr().err


def test_a_resume_that_does_not_find_its_data_names_the_option_and_leaves_the_config(tmp_path):
    @dataclass(config=STRICT)
    class Data:
        root: LocalPath

    @dataclass(config=STRICT)
    class Placed:
        data: Data
        seed: int = 0
        steps: int = 10

    (tmp_path / "here").mkdir()
    here, gone = (Placed(Data(root=str(tmp_path / name))) for name in ("here", "gone"))
    with open_run(here, arguments(tmp_path / "r"), "toy") as run:
        run.restore({})
        run.save(5, {})
    again = arguments(tmp_path / "r", resume=True)
    for config, says in ((gone, "by --set data.root=DIR"), (here, "as it was")):
        with pytest.raises(DataError, match=says), open_run(config, again, "toy"):
            raise DataError(config.data.root, "cannot be read", "as it was")
    assert load_config(Placed, tmp_path / "r" / "config.yaml") == here
    with open_run(gone, again, "toy") as run:
        run.restore({})
    assert load_config(Placed, tmp_path / "r" / "config.yaml") == gone


def test_places_may_change_at_resume_and_so_may_steps_unless_the_rate_jumps(tmp_path, capsys):
    @dataclass(config=STRICT)
    class Placed:
        data: str
        root: LocalPath = "here"
        seed: int = 0
        steps: int = 10

    def rate(step, config):
        return 1.0 - max(0, step - config.steps + 4) / 4  # falls over the last four steps

    out, again = tmp_path / "r", arguments(tmp_path / "r", resume=True)
    with open_run(Placed("a"), arguments(out), "toy", rate=rate) as run:
        run.restore({})
        run.save(5, {})
    with open_run(Placed("a", "there", steps=20), again, "toy", rate=rate) as run:
        assert run.restore({}) == 5
        run.save(18, {})
    said = capsys.readouterr().err
    assert f"root was {Path('here').absolute()} and is now {Path('there').absolute()}" in said
    assert "steps was 10 and is now 20" in said
    jumps = pytest.raises(RunError, match=r"rate after step 18 would jump from 0\.5 to 1")
    with jumps, open_run(Placed("a", steps=40), again, "toy", rate=rate):
        pass


def test_another_number_of_processes_is_said_at_resume_or_refused(tmp_path, capsys, monkeypatch):
    state, again = toy_state(), arguments(tmp_path, resume=True)
    with open_run(ToyConfig(), arguments(tmp_path), "toy") as run:
        run.restore(state)
        run.save(1, state)
    payload = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    torch.save(payload | {"rng": payload["rng"] * 2}, tmp_path / "checkpoints" / "last.pt")
    with open_run(ToyConfig(), again, "toy") as run:
        run.restore(state)
    assert "trained by 2 processes so far, from here on by 1" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="without torchrun"), open_run(ToyConfig(), again, "toy"):
        pass


# ---- values that are not finite ----------------------------------------------------------------------------


def test_a_term_that_is_not_finite_is_named(tmp_path):
    value = float("nan")
    with open_run(ToyConfig(), arguments(tmp_path), "toy") as run:
        state = toy_state()
        run.restore(state)
        loss, terms = torch.tensor(0.5), {"gan": torch.tensor([1.0, value])}
        with pytest.raises(NonFiniteError, match=f"step 6: gan is {value} \\(loss 0.5\\)"):
            run.update(6, state["optimizer"], loss, terms, samples=["0007.png"])
    dump = json.loads((tmp_path / "nonfinite.json").read_text())
    assert dump == {"step": 6, "terms": {"loss": "0.5", "gan": str(value)}, "samples": ["0007.png"]}


def test_gradients_whose_norm_overflows_are_not_refused(tmp_path):
    with open_run(ToyConfig(), arguments(tmp_path / "r"), "toy") as run:
        state = toy_state()
        run.restore(state)
        run.update(1, state["optimizer"], state["model"](torch.rand(4, 2, 5, 7)).mean() * 1e25)


# ---- signals -----------------------------------------------------------------------------------------------


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


# ---- the origin of results ---------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["{", "[1]"])
def test_a_later_evaluation_keeps_how_the_run_was_made(tmp_path, broken):
    (tmp_path / "eval.json").write_text(broken)
    write_results(tmp_path, {"psnr": 1.0}, {"config": "toy/configs/quick.yaml"})
    write_results(tmp_path, {"psnr": 2.0})
    after = {"psnr": 2.0, "run": {"config": "toy/configs/quick.yaml"}}
    assert json.loads((tmp_path / "eval.json").read_text()) == after


def test_a_run_resumed_from_its_own_config_still_says_what_it_was_made_with(tmp_path):
    first, again = arguments(tmp_path), arguments(tmp_path, resume=True)
    first.set = ["width=3", "data.root=/home/me", "weights=/home/me/a.pth"]  # places are nobody's business
    with open_run(ToyConfig(), first, "toy") as run:
        run.restore({})
        run.save(1, {})
    again.config, again.set = tmp_path / "config.yaml", ["steps=4"]
    with open_run(ToyConfig(steps=4), again, "toy") as run:
        assert run.restore({}) == 1
        run.finish({})
    origin = json.loads((tmp_path / "eval.json").read_text())["run"]
    assert (origin["config"], origin["resumed"]) == ("toy/configs/toy.yaml", True)
    assert origin["set"] == ["width=3", "weights=a.pth", "steps=4"]


# ---- random numbers ----------------------------------------------------------------------------------------


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
