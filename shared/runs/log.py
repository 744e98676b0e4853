"""The log of a run: metrics.jsonl and, where it is installed, TensorBoard."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared.errors import RunError
from shared.files.disk import jsonable, write_bytes
from shared.runs.folder import RunFolder

__all__ = ["Log", "read_metrics"]


class Log:
    """Rows of numbers, one or more per step; opened for the rows after `step`, later ones are dropped."""

    def __init__(self, folder: RunFolder, step: int):
        self.path = folder.log
        if self.path.exists():
            kept = [json.dumps(row) + "\n" for row in read_metrics(self.path) if row["step"] <= step]
            write_bytes(self.path, "".join(kept).encode())
        with self._clear_errors():
            self._file = open(self.path, "a", buffering=1)  # noqa: SIM115 - closed by `close`
        self._board = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            board = str(folder.path / "tensorboard")
            self._board = SummaryWriter(board, purge_step=step + 1 if step else None)

    def add(self, step: int, time_s: float, numbers: Mapping[str, float]) -> None:
        """Write a row; NaN and infinity become null."""
        with self._clear_errors():
            row = {"step": step, "time_s": round(time_s, 3), **jsonable(numbers)}
            self._file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, number in numbers.items():
                self._board.add_scalar(name, number, step)

    def add_image(self, step: int, name: str, pixels: Any) -> None:
        """Show an image, uint8 [H, W, 3], in TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, pixels, step, dataformats="HWC")

    def sync(self) -> None:
        """Force the rows to the disk."""
        with self._clear_errors():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported when the row was written
            self._file.close()
        if self._board is not None:
            self._board.close()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); free some space and go on with --resume"
            raise RunError(f"{self.path}: {reason}") from None


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl; a last line that a crash cut short is left out."""
    rows = []
    for line in Path(path).read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows
