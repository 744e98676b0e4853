"""The run folder: its files, its lock, its results and how they came about."""

import argparse
import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from shared.errors import RunError
from shared.files.disk import write_json

__all__ = ["RunFolder", "find_checkpoint", "made_by", "named_overrides", "write_results"]


class RunFolder:
    """The paths of a run's files, and the lock of the one process that writes them."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.log = path / "metrics.jsonl"
        self.previews = path / "previews"
        self.checkpoints = path / "checkpoints"
        self.last, self.best = self.checkpoints / "last.pt", self.checkpoints / "best.pt"

    @contextlib.contextmanager
    def opened(self, resume: bool) -> Iterator[None]:
        """Make and lock the folder, and clear it of what a killed process left half written.

        The lock dies with its process. Raises RunError if the folder cannot be written, if another process
        writes to it, or if it holds a run that is not to be resumed.
        """
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, "Permission denied")
            lock.acquire()
        except filelock.Timeout:
            reason = "another process is writing here; wait for it or choose --out"
            raise RunError(f"{self.path}: {reason}") from None
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); choose another --out"
            raise RunError(f"{self.path}: {reason}") from None
        try:
            has_rows = self.log.exists() and self.log.stat().st_size > 0
            if not resume and (has_rows or any(self.checkpoints.glob("*.pt"))):
                reason = "it already holds a run; go on with --resume, or choose another --out"
                raise RunError(f"{self.path}: {reason}")
            for folder in (self.path, self.checkpoints, self.previews):
                for stray in filter(Path.is_file, folder.glob(".*.tmp*")):
                    stray.unlink()
            yield
        finally:
            lock.release()


def find_checkpoint(run_folder: str | Path, which: str = "best") -> Path:
    """The path of a run's `best` or `last` checkpoint; `best` falls back to `last`. Raises RunError."""
    folder = RunFolder(Path(run_folder))
    for path in (folder.best, folder.last) if which == "best" else (folder.last,):
        if path.exists():
            return path
    reason = "it holds no checkpoint yet" if folder.path.is_dir() else "there is no such run folder"
    raise RunError(f"{folder.path}: {reason}; train first with train.py --out {folder.path}")


def write_results(folder: Path, results: Mapping[str, Any], origin: Mapping[str, Any] | None = None) -> None:
    """Write a run's figures to eval.json, and under the key `run` its `origin`: how the run was made.

    Without `origin`, as in a later evaluation, that of the file to be replaced is kept.
    """
    path = folder / "eval.json"
    if origin is None and path.exists():
        with contextlib.suppress(ValueError, AttributeError):  # a broken file has none and is replaced
            origin = json.loads(path.read_text()).get("run")
    write_json(path, results if origin is None else {**results, "run": origin})


# ---- the origin of results ---------------------------------------------------------------------------------


def made_by(paper: str, args: argparse.Namespace) -> dict[str, Any]:
    """Config and overrides of a run, from the arguments of its train.py, without the place of its data."""
    return {"config": f"{paper}/configs/{args.config.name}", "set": named_overrides(args.set)}


def named_overrides(overrides: Sequence[str]) -> list[str]:
    """The `key=value` overrides without those that only tell where data is (`...root=`)."""
    return [entry for entry in overrides if not entry.partition("=")[0].endswith("root")]
