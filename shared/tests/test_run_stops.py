"""Runs that stop: at values that are not finite, by name, and at signals, with a checkpoint."""

import json
import os
import signal
import time

import pytest
import torch

from shared.errors import NonFiniteError, RunStopped
from shared.runs.checkpoint import load_checkpoint, weights_and_gradients
from shared.runs.folder import find_checkpoint
from shared.runs.log import read_metrics
from shared.runs.run import open_run
from shared.tests.toy_run import ToyConfig, arguments, toy_state, train

pytestmark = pytest.mark.usefixtures("without_tensorboard")


# ---- values that are not finite ----------------------------------------------------------------------------


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
