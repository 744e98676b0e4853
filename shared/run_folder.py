"""The folder of a run and what lies in it.

    config.yaml  metrics.jsonl  checkpoints/{last,best}.pt  previews/  eval.json  report.html
"""

import contextlib
import fcntl
import json
import math
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from shared.command import RunError
from shared.files import write_bytes

__all__ = [
    "find_checkpoint",
    "jsonable",
    "lock_folder",
    "make_folder",
    "read_metrics",
    "refuse_existing_run",
    "write_json",
    "write_results",
]


def make_folder(folder: Path) -> None:
    """Make the run folder with its parents; raises RunError if that is not possible."""
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from None


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system gives it back when the process ends, however it ends."""
    try:
        file = open(folder / ".lock", "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RunError(f"{folder}: {holder} is writing here; wait for it or choose --out") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def refuse_existing_run(folder: Path) -> None:
    """Raise RunError if the folder holds results; what a failed start left behind does not count."""
    log = folder / "metrics.jsonl"
    if any((folder / "checkpoints").glob("*.pt")) or (log.exists() and log.stat().st_size > 0):
        raise RunError(f"{folder}: it already holds a run; go on with --resume, or choose another --out")


def find_checkpoint(run_folder: str | Path, which: str = "best") -> Path:
    """Return the path of a run's `best` or `last` checkpoint; `best` falls back to `last`."""
    folder = Path(run_folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such run folder; train first with train.py --out {folder}")
    for name in ("best.pt", "last.pt") if which == "best" else ("last.pt",):
        path = folder / "checkpoints" / name
        if path.exists():
            return path
    raise RunError(f"{folder}: it holds no checkpoint yet; train first with train.py --out {folder}")


def write_json(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write results as JSON in one step; tensors become numbers and lists, NaN and infinity become null."""
    write_bytes(path, (json.dumps(jsonable(data), indent=2, ensure_ascii=False) + "\n").encode())


def write_results(folder: Path, results: Mapping[str, Any], origin: Mapping[str, Any] | None = None) -> None:
    """Write a run's figures to eval.json, with `origin`, how the run was made, under the key `run`.

    An evaluation made later has no origin to tell; that of the file it replaces is kept.
    """
    path = folder / "eval.json"
    if origin is None and path.exists():
        with contextlib.suppress(ValueError, AttributeError):  # a broken file has none and is replaced
            origin = json.loads(path.read_text()).get("run")
    write_json(path, results if origin is None else {**results, "run": origin})


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


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl; a last line that a crash cut short is left out."""
    rows = []
    for line in Path(path).read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows
