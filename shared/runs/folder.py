"""The run folder: where its files are, who may write to it, and what its results say of their origin."""

import argparse
import contextlib
import fcntl
import json
import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shared.errors import RunError
from shared.files.disk import write_json

__all__ = [
    "find_checkpoint",
    "lock_folder",
    "machine_kind",
    "made_by",
    "make_folder",
    "named_overrides",
    "read_metrics",
    "refuse_existing_run",
    "run_facts",
    "write_results",
]


def made_by(paper: str, args: argparse.Namespace) -> dict[str, Any]:
    """Config and overrides of a run; `args` are those of its train.py. Where data lies is left out."""
    return {"config": f"{paper}/configs/{args.config.name}", "set": named_overrides(args.set)}


def run_facts(device: torch.device, seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """Time and machine of a run that has just finished.

    `seconds` is wall time from the start, data and evaluation included; `cpu_seconds` that of all threads
    of this process, which lacks worker processes. Both include what an interrupted run did before, up to
    the checkpoint it went on from.
    """
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": machine_kind(device),
        "torch": torch.__version__,
    }


def named_overrides(overrides: Sequence[str]) -> list[str]:
    """The `key=value` overrides without those that only say where data lies (`...root=`)."""
    return [entry for entry in overrides if not entry.partition("=")[0].endswith("root")]


def machine_kind(device: torch.device | None = None) -> str:
    """The kind of machine in a few words: the GPU if one is used, else number and kind of CPU cores."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


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




def write_results(folder: Path, results: Mapping[str, Any], origin: Mapping[str, Any] | None = None) -> None:
    """Write a run's figures to eval.json, with `origin`, how the run was made, under the key `run`.

    An evaluation made later has no origin to tell; that of the file it replaces is kept.
    """
    path = folder / "eval.json"
    if origin is None and path.exists():
        with contextlib.suppress(ValueError, AttributeError):  # a broken file has none and is replaced
            origin = json.loads(path.read_text()).get("run")
    write_json(path, results if origin is None else {**results, "run": origin})




def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl; a last line that a crash cut short is left out."""
    rows = []
    for line in Path(path).read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows
