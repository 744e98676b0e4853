"""Worker processes: never too many, errors as without them, nothing left, forked or not."""

import multiprocessing
import os
import signal
import time
from functools import partial

import pytest
import torch

from shared.errors import ConfigError, DataError, RunError
from shared.runs.workers import processors, read_ahead

ERRORS = {
    "data": DataError("a.png", "is broken", "Copy it again"),
    "config": ConfigError("a.yaml, line 3", "rate must be positive"),
    "run": RunError("no"),
}


def read(number: int, bad: int = -1, error: str = "data") -> torch.Tensor:
    if number == bad:
        raise ERRORS[error]
    return torch.full((2,), number)


def end_itself(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nap(number: int) -> int:
    os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler does to every process of a job
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    return number


def nothing_left() -> bool:
    return not multiprocessing.active_children()


@pytest.fixture
def two_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize("workers", [0, 1, 2, None])
def test_order_and_draws_do_not_depend_on_workers(workers):
    torch.manual_seed(5)
    found = [int(value[0]) for value in read_ahead(read, range(7), workers)]
    assert found == list(range(7))
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert nothing_left()


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_arrives_as_it_was_raised(kind, workers):
    with pytest.raises(type(ERRORS[kind])) as caught:
        list(read_ahead(partial(read, bad=3, error=kind), range(5), workers))
    assert str(caught.value) == str(ERRORS[kind])
    del caught
    assert nothing_left()


def test_a_loop_that_ends_early_leaves_no_process():
    batches = read_ahead(read, iter(range(10**6)), 1)
    next(batches)
    batches.close()
    assert nothing_left()


def test_workers_outlive_the_signals_of_their_group_and_a_killed_one_is_named():
    assert list(read_ahead(nap, range(3), 1)) == [0, 1, 2]
    with pytest.raises(RunError, match="was killed.*workers=0"):
        list(read_ahead(end_itself, range(3), 1))
    assert nothing_left()


def test_no_more_workers_than_processors(monkeypatch):
    """PyTorch warns of more, and warnings are errors here."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert processors() == 1
    batches = read_ahead(read, iter(range(9)), 8)
    next(batches)
    assert len(multiprocessing.active_children()) == 1
    assert len(list(batches)) == 8
    assert [int(value[0]) for value in read_ahead(read, range(3))] == [0, 1, 2]


def test_processes_that_are_not_forked(monkeypatch):
    """As on Windows and macOS: what is sent to a worker is pickled."""
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(torch.multiprocessing, "Process", spawn.Process)
    monkeypatch.setattr(torch.multiprocessing, "Queue", spawn.Queue)
    monkeypatch.setattr(torch.multiprocessing, "Event", spawn.Event)
    with pytest.raises(DataError, match=r"a\.png: is broken"):
        list(read_ahead(partial(read, bad=1), range(3), 1))
