"""Attacks on a program: files that run code, a full disk, a user without rights."""

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["Hostile", "as_plain_user", "file_size_limit", "forked"]


class Hostile:
    """Unpickling it would make a file: the proof that code was run."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: writing fails half-way, as on a full disk."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def as_plain_user(act: Callable[[], int]) -> int:
    """The result (0 to 99) of `act` in a forked child that has no rights of the superuser."""
    child = os.fork()
    if child == 0:
        code = 100
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            code = act()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@contextlib.contextmanager
def forked(act: Callable[[], Any]) -> Iterator[int]:
    """The id of a child that has begun to `act`; waits for its end."""
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(begin, b"1")
            act()
        finally:
            os._exit(1)
    os.read(begun, 1)
    yield child
    os.waitpid(child, 0)
    os.close(begin)
    os.close(begun)
