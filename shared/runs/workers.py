"""Worker processes that read or make things: never more than there are processors, errors as without them."""

import operator
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from shared.errors import ConfigError, DataError, RunError

__all__ = ["processors", "read_ahead"]

Item, Result = TypeVar("Item"), TypeVar("Result")
OURS = (DataError, ConfigError, RunError)


def processors() -> int:
    """How many processors this process may use; fewer than the machine has under `taskset` or a scheduler."""
    available = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(available(0)) if available else os.cpu_count() or 1


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """`read` of each item, in order, by up to `workers` processes that run ahead; 0: in this process.

    By default one worker per processor, and none where there is one. `read` and the items are pickled where
    processes are not forked (Windows, macOS). Results are the same with any number of workers: nothing is
    drawn from the global generators. DataError, ConfigError and RunError arrive as they were raised;
    RunError too if a worker was killed. Ctrl-C and SIGTERM reach the workers of a terminal or a scheduler as
    well: they go on, for this process to decide when to end. They end with this generator.
    """
    if workers is None:
        workers = 0 if processors() == 1 else processors()
    loader = DataLoader(
        _Reader(read),
        batch_size=None,
        sampler=items,
        num_workers=min(workers, processors(), operator.length_hint(items, workers)),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
        worker_init_fn=_ignore_signals,
    )
    results = iter(loader)
    try:
        for result in results:
            if isinstance(result, OURS):
                raise result
            yield result
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise RunError(f"a process that reads ahead was killed ({reason}); try --set workers=0") from None
    finally:
        del results  # ends the workers


class _Reader(Dataset):
    """Errors are returned: raised in a worker, they would become RuntimeErrors with a traceback inside."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.read(item)
        except OURS as error:
            return error


def _ignore_signals(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
