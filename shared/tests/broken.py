"""Broken data: a table of cases, each of which has to end in one clear `DataError`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from shared.errors import DataError

__all__ = ["Case", "assert_refused", "change", "cut", "picture", "refused", "remove", "write"]

SECONDS = 2


class Case(NamedTuple):
    """What is broken in a good folder, and what the message must say: a pattern, and which file it names."""

    damage: Callable[[Path], Any]
    says: str
    names: str = ""  # part of the path; empty: any path below the folder


def assert_refused(case: Case, folder: Path, load: Callable[[], Any]) -> None:
    """Break the folder, load it: DataError with file, reason and remedy, in one line, within two seconds."""
    case.damage(folder)
    started = time.process_time()
    with pytest.raises(DataError, match=case.says) as caught:
        load()
    assert time.process_time() - started < SECONDS
    error = caught.value
    assert str(error.path).startswith(str(folder)) or case.names, error.path
    assert case.names in str(error.path), error.path
    assert error.reason
    assert error.remedy
    assert "\n" not in str(error)


def refused(read: Callable[[Path], Any], path: Path, says: str = ".") -> DataError:
    """What reading `path` ends in: one DataError with file, reason and remedy, in one line."""
    with pytest.raises(DataError, match=says) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert caught.value.reason
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value


def write(name: str, text: str | bytes) -> Callable[[Path], Any]:
    """A file with this content."""

    def act(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return act


def change(name: str, old: str, new: str) -> Callable[[Path], Any]:
    """The same file with one text replaced, which must be there."""

    def act(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text, f"{name} does not hold {old!r}"
        (folder / name).write_text(text.replace(old, new, 1))

    return act


def cut(name: str, share: float = 0.5) -> Callable[[Path], Any]:
    """The first part of a file."""

    def act(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return act


def remove(name: str) -> Callable[[Path], Any]:
    """A file less."""
    return lambda folder: (folder / name).unlink()


def picture(name: str, height: int, width: int, channels: int = 3, bits: int = 8) -> Callable[[Path], Any]:
    """A good picture of this size."""

    def act(folder: Path) -> None:
        levels = np.random.default_rng(0).integers(1, 2**bits - 1, (height, width, channels))
        pixels = levels.astype(np.uint8 if bits == 8 else np.uint16)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), pixels)

    return act
