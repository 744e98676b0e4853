"""A run among others: the processes that torchrun started together, and signals that ask a run to stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["StopRequest", "process_group"]


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started; does nothing in a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # one that leaves early would cut the others' last exchange short
    finally:
        dist.destroy_process_group()


class StopRequest:
    """Whether Ctrl-C or SIGTERM has come: noted once, while `listening`; the second one acts at once."""

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0: none

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        def note(number: int, frame: Any) -> None:
            self.number = number
            signal.signal(number, previous[number])

        # None stands for a handler that was not set from Python and cannot be put back.
        previous = {n: signal.getsignal(n) or signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM)}
        if threading.current_thread() is not threading.main_thread():
            previous = {}  # only the main thread may catch signals
        try:
            for number in previous:
                signal.signal(number, note)
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def seen_by_any(self, device: torch.device) -> bool:
        """True if any process of the group was asked; all of them get the same answer after the same step."""
        if dist.is_initialized() and dist.get_world_size() > 1:  # or the others would wait for ever
            asked = torch.tensor(self.number, device=device)
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            self.number = int(asked)
        return self.number != 0
