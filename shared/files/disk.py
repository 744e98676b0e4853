"""Reading and writing whole files and folders: a crash or a full disk never leaves half of one.

Writers fill a temporary neighbour and rename it when it is complete.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from shared.errors import DataError

__all__ = [
    "made_once",
    "temporary_file",
    "jsonable",
    "new_folder",
    "read_bytes",
    "read_text",
    "temporary_neighbour",
    "write_bytes",
    "write_json",
]


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


def write_json(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write results as JSON in one step; tensors become numbers and lists, NaN and infinity become null."""
    write_bytes(path, (json.dumps(jsonable(data), indent=2, ensure_ascii=False) + "\n").encode())


def jsonable(value: Any) -> Any:
    """Reduce nested values to what JSON knows; anything unknown becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, Tensor):
        value = value.detach()
    if hasattr(value, "tolist"):  # tensors, NumPy arrays and scalars
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def read_bytes(path: str | os.PathLike) -> bytes:
    """Read a whole file that must exist and hold at least one byte."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(path, "the file does not exist", "Check the path and the name") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(path, f"cannot be read ({reason})", "Check that it is a readable file") from None
    if not data:
        raise DataError(path, "the file is empty (0 bytes)", "Copy or download it again")
    return data


def read_text(path: str | os.PathLike) -> str:
    """Read a UTF-8 text file (a byte order mark and Windows line ends are accepted)."""
    try:
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(path, f"is not UTF-8 text (byte {error.start})", "Save it as UTF-8 text") from None


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file in one step; parent folders are made. Raises DataError when it cannot be written."""
    with temporary_file(path) as temporary, open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def temporary_file(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden neighbour for the block to write, which then becomes `path`; removed if the block fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        remedy = "Check the free space and the write permission of the folder"
        raise DataError(path, f"cannot be written ({error.strerror or error})", remedy) from None
    finally:
        with contextlib.suppress(OSError):  # it is gone after the renaming
            temporary.unlink()


def made_once(
    folder: str | os.PathLike,
    record: Mapping[str, Any],
    write: Callable[[Path], None],
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """The folder of a data set that is made on first use, for the options in `record`; returns its path.

    `write` fills a temporary folder, which then becomes FOLDER/NAME-HASH, with the record in made.json: other
    options, another folder, so that no run takes away what another one reads. `say` is told before `write`
    starts. Raises DataError when it cannot be written.
    """
    record = json.loads(json.dumps(record))  # as it will be read back
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    folder = Path(folder).absolute()
    made = folder.with_name(f"{folder.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")
    if (made / "made.json").is_file():
        return made
    say(f"making {made} (once)")
    with temporary_neighbour(made) as temporary:
        write(temporary)
        write_bytes(temporary / "made.json", text.encode())
        with contextlib.suppress(OSError):  # another process was faster, and wrote the same
            temporary.rename(made)
    return made
