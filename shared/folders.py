"""Folders that appear whole or not at all, whoever is killed or runs at the same time."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from shared.files import DataError

__all__ = ["new_folder", "temporary_neighbour"]


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Fill a folder in one step: yields a temporary neighbour that becomes `path` when the block succeeds.

    When it fails, nothing is left. Raises DataError if `path` exists and is not an empty folder, or cannot be
    made.
    """
    path = Path(path).absolute()
    _refuse_content(path)
    with temporary_neighbour(path) as temporary:
        yield temporary
        _refuse_content(path)  # another process may have made it meanwhile
        if path.exists():
            path.rmdir()
        temporary.rename(path)


@contextlib.contextmanager
def temporary_neighbour(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to be renamed to it; removed in the end if it is still there.

    Neighbours that killed processes left are removed, those of living ones are known by their lock. A full
    disk or a missing permission in the block ends in DataError.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path.parent):
                for stray in path.parent.glob(f".{path.name}.*.tmp"):
                    _remove_if_abandoned(stray)
                temporary.mkdir()
                held.enter_context(_lock(temporary))
            yield temporary
        except OSError as error:
            remedy = "Check the free space and the write permission of the folder above it"
            raise DataError(path, f"cannot be written ({error.strerror or error})", remedy) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _refuse_content(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(path, "exists and is not an empty folder", "Name a new folder or empty this one")


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Wait for the folder's lock and hold it, where the file system knows locks; it dies with its process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is locked, or locks are not known here
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(descriptor)
