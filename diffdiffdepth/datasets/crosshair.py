"""Light fields as a folder of single views, `NAME_RR_CC.png`: cross-hair captures and full Lytro grids.

RR is the row (downwards) and CC the column (to the right), counted from 0 or 1; the position of a view
matters only relative to the centre. As in the benchmark, near things move left in views further right.
"""

import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from diffdiffdepth.datasets.grid import Cell, ViewChoice, named_views, read_grid
from diffdiffdepth.scene import LightField
from shared.errors import DataError

__all__ = ["is_crosshair_folder", "load_crosshair"]

VIEW_NAME = re.compile(r"^.*?_?(?P<row>\d{1,3})_(?P<column>\d{1,3})\.(png|jpe?g|tiff?|bmp|webp)$", re.I)
FEWEST = 5  # views


def is_crosshair_folder(folder: str | os.PathLike) -> bool:
    """Tell whether the folder holds at least five views named by row and column, not all in one line."""
    cells = named_views(Path(folder), VIEW_NAME)
    return len(cells) >= FEWEST and min(len({*line}) for line in zip(*cells, strict=True)) > 1


def load_crosshair(folder: str | os.PathLike, views: ViewChoice = "all") -> LightField:
    """Load the views of a folder; the centre is where the middle row and the middle column meet.

    Of a cross, the middle row is the one with several columns. Raises DataError if the centre view or a view
    between others is missing, if two names mean one view, or if sizes differ.
    """
    folder = Path(folder)
    paths = {cell: folder / match.string for cell, match in named_views(folder, VIEW_NAME).items()}
    if len(paths) < FEWEST:
        reason = f"holds {len(paths)} views named like NAME_05_05.png, fewer than a cross needs"
        remedy = "Name the views by row and column: scene_05_01.png, scene_05_02.png, ..."
        raise DataError(folder, reason, remedy)
    return read_grid(folder, paths, _centre(folder, paths), views)


def _centre(folder: Path, cells: Collection[Cell]) -> Cell:
    """Row and column of the centre view, after a check that the two lines through it have no gaps."""
    centre = []
    for count in (Counter(r for r, _ in cells), Counter(c for _, c in cells)):
        fullest = sorted(line for line, views in count.items() if views == max(count.values()))
        centre.append(fullest[len(fullest) // 2])
    row, column = centre
    if (row, column) not in cells:
        reason = f"the centre view, row {row} and column {column}, is missing"
        raise DataError(folder, reason, "A cross needs the view where its row and its column meet")
    in_row, in_column = [c for r, c in cells if r == row], [r for r, c in cells if c == column]
    for kind, line, middle, present in (("row", row, column, in_row), ("column", column, row, in_column)):
        first, last = min(present), max(present)
        gaps = sorted(set(range(first, last + 1)) - set(present))
        if gaps:
            reason = f"{kind} {line} has no view {gaps[0]} between {first} and {last}"
            raise DataError(folder, reason, "Copy the missing view")
        if not first < middle < last:
            reason = f"the centre, row {row} and column {column}, is at the end of its {kind}"
            raise DataError(folder, reason, "A cross needs views on both sides of its centre")
    return row, column
