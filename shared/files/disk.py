"""Atomic reading and writing of whole files and folders: a crash or a full disk never leaves half of one.

Writers fill a temporary file or folder next to the target and rename it when it is complete.
"""

import contextlib
import glob
import hashlib
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from torch import Tensor

from shared.errors import DataError

__all__ = [
    "PlainLoader",
    "jsonable",
    "made_once",
    "natural_order",
    "new_folder",
    "opened",
    "read_bytes",
    "read_json",
    "read_text",
    "read_yaml",
    "reading",
    "temporary_file",
    "visible",
    "write_bytes",
    "write_json",
]

LARGEST_FILE = 4 * 2**30  # bytes that are read at once
LARGEST_JSON = 256 * 2**20  # bytes; transforms.json of 100 000 frames have a fifth of it
LARGEST_YAML = 2**20  # bytes, of settings written by hand
COMPANIONS = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN")  # how names begin that systems and tools add


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Fill a folder in one step: yields a temporary folder that becomes `path` when the block succeeds.

    When it fails, nothing is left. Raises DataError if `path` exists and is not an empty folder, if another
    process is making it, or if it cannot be made.
    """
    path = Path(path).absolute()
    with _locked(path, timeout=0), _completed(path) as temporary:
        yield temporary


def made_once(
    folder: str | os.PathLike,
    record: Mapping[str, Any],
    write: Callable[[Path], None],
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """The folder of a data set that is made on first use, for the options in `record`; returns its path.

    `write` fills a temporary folder, which then becomes FOLDER-HASH, with the record in made.json: other
    options, another folder, so that no run takes away what another one reads. A second process waits for the
    first. `say` is told before `write` starts. Raises DataError when it cannot be written.
    """
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    folder = Path(folder).absolute()
    made = folder.with_name(f"{folder.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")
    if not (made / "made.json").is_file():
        with _locked(made, timeout=-1):
            if not (made / "made.json").is_file():  # another process may have made it meanwhile
                say(f"making {made} (once)")
                with _completed(made) as temporary:
                    write(temporary)
                    write_bytes(temporary / "made.json", text.encode())
    return made


@contextlib.contextmanager
def _locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock of a folder that is to be made; -1: wait for it. OSErrors become DataError."""
    import filelock

    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock, timeout=timeout):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows removes it with the lock
                    lock.unlink()
    except filelock.Timeout:
        raise DataError(path, "is being made by another process", "Wait until it is done") from None
    except OSError as error:
        remedy = "Check the free space and the write permission of the folder above it"
        raise DataError(path, f"cannot be written ({error.strerror or error})", remedy) from None


@contextlib.contextmanager
def _completed(path: Path) -> Iterator[Path]:
    """A new folder next to `path`, whose lock is held, that becomes `path` when the block succeeds."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    for stray in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a process that was killed
        shutil.rmtree(stray, ignore_errors=True)
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DataError(path, "exists and is not an empty folder", "Name a new folder or empty this one")
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def visible(folder: str | os.PathLike, *, recursive: bool = False) -> list[Path]:
    """What a folder holds, in natural order, without hidden files and those that systems and tools add.

    Left out, with all that is in them: ._NAME and .DS_Store, .ipynb_checkpoints, __MACOSX, @eaDir. recursive:
    also what its sub-folders hold. Raises DataError for a folder that is missing or cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        reason = "is a file, not a folder" if folder.exists() else "the folder does not exist"
        raise DataError(folder, reason, "Check the path and the name")
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(COMPANIONS)]
        below = [path for path in found if recursive and path.is_dir() and not path.is_symlink()]
    except OSError as error:
        raise DataError(folder, f"cannot be read ({error.strerror})", "Check its permissions") from None
    for inner in below:
        found += visible(inner, recursive=True)
    return sorted(found, key=lambda path: (natural_order(path.relative_to(folder)), str(path)))


def natural_order(path: str | os.PathLike) -> list[tuple[int, str]]:
    """A key to sort names by, with numbers in them as numbers: img2 before img10, in either case."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


@contextlib.contextmanager
def opened(path: str | os.PathLike, largest: int = LARGEST_FILE) -> Iterator[BinaryIO]:
    """A file, open for reading: one that is there, has 1 to `largest` bytes, and is no pipe and no device."""
    path = Path(path)
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            if not found.st_size:
                raise DataError(path, "the file is empty (0 bytes)", "Copy or download it again")
            if found.st_size > largest:
                reason = (
                    f"the file has {found.st_size / 2**20:.1f} MB, more than the {largest >> 20} of its kind"
                )
                raise DataError(path, reason, "Check that it is the right file, or split it")
            file = path.open("rb")
        else:
            kind = "is a folder" if stat.S_ISDIR(found.st_mode) else "is a pipe or a device"
            raise DataError(path, f"cannot be read ({kind})", "Check that it is a readable file")
    except FileNotFoundError:
        raise DataError(path, "the file does not exist", "Check the path and the name") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(path, f"cannot be read ({reason})", "Check that it is a readable file") from None
    with file:
        yield file


def read_bytes(path: str | os.PathLike, largest: int = LARGEST_FILE) -> bytes:
    """Read a whole file that must be as `opened` wants it."""
    with opened(path, largest) as file:
        try:
            return file.read()
        except OSError as error:
            remedy = "Check the disk, or copy it again"
            raise DataError(path, f"cannot be read ({error.strerror})", remedy) from None


def read_text(path: str | os.PathLike, largest: int = LARGEST_FILE) -> str:
    """Read a UTF-8 text file (a byte order mark and Windows line ends are accepted)."""
    with reading(path, "is not UTF-8 text", "Save it as UTF-8 text"):
        return read_bytes(path, largest).decode("utf-8-sig").replace("\r\n", "\n")


class PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases: few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "write the values out: no *names", event.start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: str | os.PathLike) -> Any:
    """What a YAML file holds; DataError if it is not valid, too large, nests too deeply, or has aliases."""
    text = read_text(path, LARGEST_YAML)
    try:
        return yaml.load(text, PlainLoader)  # noqa: S506 - it is safe
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = f"is not valid YAML ({getattr(error, 'problem', None) or error})"
        raise DataError(path, reason, "Correct the file") from None


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds; DataError if it is not valid, too large, or nests too deeply."""
    text = read_text(path, LARGEST_JSON)
    with reading(path, "is not valid JSON"):
        return json.loads(text)


@contextlib.contextmanager
def reading(
    path: str | os.PathLike, reason: str, remedy: str = "Copy it again, or make it again"
) -> Iterator[None]:
    """What a parser of damaged bytes raises, which may be any error, becomes a DataError with `reason`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        line = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(path, f"{reason}: {line}", remedy) from None


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file in one step; parent folders are made. Raises DataError when it cannot be written."""
    with temporary_file(path) as temporary, open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def temporary_file(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden file next to `path` for the block to write, which then becomes it; removed if it fails."""
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
