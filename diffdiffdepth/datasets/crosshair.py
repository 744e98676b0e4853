"""Light fields as a folder of single views, `NAME_RR_CC.png`: cross-hair captures and full Lytro grids.

RR is the row (downwards) and CC the column (to the right), counted from 0 or 1; the position of a view
matters only relative to the centre. As in the benchmark, near things move left in views further right.
"""

import os
import re
from collections import Counter
from pathlib import Path

import torch

from diffdiffdepth.datasets.hci import ViewChoice, stack_views
from diffdiffdepth.scene import LightField
from shared.errors import DataError

__all__ = ["is_crosshair_folder", "load_crosshair"]

VIEW_NAME = re.compile(
    r"^(?P<stem>.*?)_?(?P<row>\d{1,2})_(?P<column>\d{1,2})\.(png|jpe?g|tiff?|bmp|webp)$", re.I
)


def is_crosshair_folder(folder: str | os.PathLike) -> bool:
    """Tell whether the folder holds at least five views named by row and column."""
    return len(_views(Path(folder))) >= 5


def load_crosshair(folder: str | os.PathLike, views: ViewChoice = "all") -> LightField:
    """Load the views of a folder; the centre is where the middle row and the middle column meet.

    Of a cross, the middle row is the one with several columns. Raises DataError if the centre view or a view
    between others is missing, if two names mean one view, or if sizes differ.
    """
    folder = Path(folder)
    cells = _views(folder)
    if len(cells) < 5:
        reason = f"holds {len(cells)} views named like NAME_05_05.png, fewer than a cross needs"
        raise DataError(
            folder, reason, "Name the views by row and column: scene_05_01.png, scene_05_02.png, ..."
        )
    row, column = _centre(folder, cells)
    names = sorted(cells)
    if views == "cross":
        names = [cell for cell in names if cell[0] == row or cell[1] == column]
    images = stack_views([cells[cell] for cell in names])
    centre = names.index((row, column))
    others = [index for index in range(len(names)) if index != centre]
    offsets = torch.tensor([[column - c, row - r] for r, c in names], dtype=torch.float32)
    return LightField(images[centre], images[others], offsets[others], name=folder.name)


def _views(folder: Path) -> dict[tuple[int, int], Path]:
    """File of each (row, column)."""
    cells: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.iterdir()):
        match = VIEW_NAME.match(path.name)
        if match is None:
            continue
        cell = (int(match["row"]), int(match["column"]))
        if cell in cells:
            reason = (
                f"{cells[cell].name} and {path.name} are both the view in row {cell[0]}, column {cell[1]}"
            )
            raise DataError(folder, reason, "Keep one light field in a folder")
        cells[cell] = path
    return cells


def _centre(folder: Path, cells: dict[tuple[int, int], Path]) -> tuple[int, int]:
    """Row and column of the centre view, after a check that the two lines through it have no gaps."""
    by_row, by_column = Counter(r for r, _ in cells), Counter(c for _, c in cells)
    rows = sorted(r for r, count in by_row.items() if count == max(by_row.values()))
    columns = sorted(c for c, count in by_column.items() if count == max(by_column.values()))
    row, column = rows[len(rows) // 2], columns[len(columns) // 2]
    if (row, column) not in cells:
        reason = f"the centre view, row {row} and column {column}, is missing"
        raise DataError(folder, reason, "A cross needs the view where its row and its column meet")
    for kind, present in (
        ("row", [c for r, c in cells if r == row]),
        ("column", [r for r, c in cells if c == column]),
    ):
        centre = column if kind == "row" else row
        gaps = sorted(set(range(min(present), max(present) + 1)) - set(present))
        if gaps:
            line = row if kind == "row" else column
            reason = f"{kind} {line} has no view {gaps[0]} between {min(present)} and {max(present)}"
            raise DataError(folder, reason, "Copy the missing view")
        if not min(present) < centre < max(present):
            reason = f"the centre, row {row} and column {column}, is at the end of its {kind}"
            raise DataError(folder, reason, "A cross needs views on both sides of its centre")
    return row, column
