"""The process of a run: memory, signals, distributed group."""

import contextlib
import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["keep_large_buffers", "largest_of_group", "noted_signals", "process_group"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h
LARGEST = 2**31 - 1


def keep_large_buffers() -> bool:
    """Tell glibc to reuse freed memory of any size; returns whether that was possible (Linux with glibc).

    By default every tensor above 32 MB is mapped again, and the system clears its pages at first touch: at
    512 x 512 pixels and 64 channels this takes longer than the element-wise operation itself. The price is a
    process that does not shrink again before its end.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun started, if any; gives this one's rank and their number."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
        dist.barrier()  # one that leaves early would cut the others' last exchange short
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Note a Ctrl-C or SIGTERM in the list that is yielded; the second one acts as it does without this."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        signal.signal(number, previous[number])

    # None means a handler that was not set from Python and cannot be put back.
    previous = {n: signal.getsignal(n) or signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM)}
    if threading.current_thread() is not threading.main_thread():
        previous = {}  # only the main thread may catch signals
    try:
        for number in previous:
            signal.signal(number, note)
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def largest_of_group(number: int, device: torch.device) -> int:
    """The largest `number` of all processes of the group, the same in each of them."""
    if not dist.is_initialized():
        return number
    numbers = torch.tensor(number, device=device)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)
