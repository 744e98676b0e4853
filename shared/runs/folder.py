"""The run folder: its files, its lock, its log, its results and how they came about."""

import argparse
import contextlib
import errno
import importlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import DataError, RunError
from shared.files.disk import jsonable, read_yaml, write_bytes, write_json

__all__ = [
    "Log",
    "RunFolder",
    "data_in_place",
    "find_checkpoint",
    "made_by",
    "named_overrides",
    "read_metrics",
    "write_results",
]


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
        import filelock

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


class Log:
    """Rows of numbers, one or more per step; opened for the rows after `step`, later ones are dropped."""

    def __init__(self, folder: RunFolder, step: int):
        self.path = folder.log
        self._boards: list[Any] = []
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            board = str(folder.path / "tensorboard")
            self._boards.append(SummaryWriter(board, purge_step=step + 1 if step else None))
        if os.environ.get("WANDB_PROJECT"):
            self._boards.append(WandbBoard(folder))
        if self.path.exists():
            kept = [json.dumps(row) + "\n" for row in read_metrics(self.path) if row["step"] <= step]
            write_bytes(self.path, "".join(kept).encode())
        with self._clear_errors():
            self._file = open(self.path, "a", buffering=1)  # noqa: SIM115 - closed by `close`

    @property
    def is_removed(self) -> bool:
        """Whether the file was deleted, or another one made in its place, since it was opened."""
        return not self.path.exists() or not os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))

    def add(self, step: int, time_s: float, numbers: Mapping[str, float]) -> None:
        """Write a row; NaN and infinity become null."""
        with self._clear_errors():
            row = {"step": step, "time_s": round(time_s, 3), **jsonable(numbers)}
            self._file.write(json.dumps(row) + "\n")
            for board, (name, number) in itertools.product(self._boards, numbers.items()):
                board.add_scalar(name, number, step)

    def add_image(self, step: int, name: str, pixels: Any) -> None:
        """Show an image, uint8 [H, W, 3], in TensorBoard and Weights & Biases."""
        for board in self._boards:
            board.add_image(name, pixels, step, dataformats="HWC")

    def sync(self) -> None:
        """Force the rows to the disk."""
        with self._clear_errors():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        for file in (self._file, *self._boards):
            with contextlib.suppress(OSError):  # a full disk was reported when the row was written
                file.close()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); free some space and go on with --resume"
            raise RunError(f"{self.path}: {reason}") from None


class WandbBoard:
    """Weights & Biases with the interface of TensorBoard's writer; asked for by its variable WANDB_PROJECT.

    Its other variables count as well: with WANDB_MODE=offline nothing leaves this machine. A resumed run is a
    new one there, in the same group. Raises RunError without the package.
    """

    def __init__(self, folder: RunFolder):
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError:
            reason = "WANDB_PROJECT is set, but the package wandb is not installed"
            raise RunError(f"{folder.path}: {reason}; pip install wandb, or unset it") from None
        name, config = folder.path.name, read_yaml(folder.config)
        self._run = self._wandb.init(name=name, group=name, dir=str(folder.path), config=config)

    def add_scalar(self, name: str, number: float, step: int) -> None:
        self._run.log({name: number}, step=step)

    def add_image(self, name: str, pixels: Any, step: int, dataformats: str = "HWC") -> None:
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        self._run.finish()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl; a last line that a crash cut short is left out."""
    rows = []
    for line in Path(path).read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def find_checkpoint(run_folder: str | Path, which: str = "best") -> Path:
    """The path of a run's `best` or `last` checkpoint; `best` falls back to `last`. Raises RunError."""
    folder = RunFolder(Path(run_folder))
    for path in (folder.best, folder.last) if which == "best" else (folder.last,):
        if path.exists():
            return path
    reason = "it holds no checkpoint yet" if folder.path.is_dir() else "there is no such run folder"
    raise RunError(f"{folder.path}: {reason}; train first with train.py --out {folder.path}")


@contextlib.contextmanager
def data_in_place(config: Any, option: str) -> Iterator[None]:
    """Where the folder `config.data.root` of a run's data is gone, the DataError names the option for it."""
    try:
        yield
    except DataError as error:
        data = getattr(config, "data", None)
        if data is None or Path(data.root).exists():
            raise
        remedy = f"If the data moved, name their folder by {option}DIR"
        raise DataError(error.path, error.reason, remedy) from None


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
    """The `key=value` overrides, data folders (`...root=`) left out and other paths cut to their name."""
    pairs = (entry.split("=", 1) for entry in overrides)
    named = ((key, os.path.basename(value) if value[:1] in ("/", "~") else value) for key, value in pairs)
    return [f"{key}={value}" for key, value in named if not key.endswith("root")]
