"""The (New) Stanford Light Field Archive: 17 x 17 rectified views from a gantry, with measured positions.

    out_RR_CC_Y_X.png   row, column, and the measured camera position in the order y, x; some scenes have one
                        more underscore before Y or before .png

Positions are irregular by a few per cent, known up to scale, and run in different directions from scene to
scene: their signs are found once from the pictures (`signs.py`) and kept in `offset_signs.json`.
"""

import contextlib
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffdiffdepth.datasets.grid import Cell, ViewChoice, named_views, read_grid
from diffdiffdepth.datasets.signs import find_offset_signs
from diffdiffdepth.scene import LightField
from shared.errors import DataError
from shared.files.disk import read_json, reading, write_json
from shared.files.images import read_image_size

__all__ = ["SIGNS_FILE", "is_stanford_folder", "load_stanford"]

log = logging.getLogger(__name__)

NUMBER = r"-?\d+(?:\.\d+)?"
VIEW_NAME = re.compile(
    rf"^out_(?P<row>\d+)_(?P<column>\d+)__?(?P<y>{NUMBER})_(?P<x>{NUMBER})_?\.(?:png|jpe?g)$", re.I
)
SIGNS_FILE = "offset_signs.json"


def is_stanford_folder(folder: str | os.PathLike) -> bool:
    """Tell whether the folder holds views named as in the archive."""
    return any(VIEW_NAME.match(path.name) for path in Path(folder).glob("out_*"))


def load_stanford(folder: str | os.PathLike, views: ViewChoice = "cross", downsample: int = 2) -> LightField:
    """Load a scene of the archive; `downsample` averages n x n pixels (the paper: 2).

    `views`: the row and the column of the centre view, or all (289 views: 3.1 MB each at 512 x 512). Offsets
    are measured positions in units of the mean spacing. Raises DataError for missing views and mixed sizes.
    """
    folder = Path(folder)
    cells = named_views(folder, VIEW_NAME)
    if not cells:
        reason = "holds no views named like out_08_08_-381.909271_1103.376221.png"
        raise DataError(folder, reason, "Unpack the rectified images of a scene of the archive here")
    rows, columns = 1 + max(r for r, _ in cells), 1 + max(c for _, c in cells)
    if rows % 2 == 0 or columns % 2 == 0:
        raise DataError(folder, f"a {rows} x {columns} grid has no centre view", "Both sides must be odd")
    if min(rows, columns) < 3:
        raise DataError(folder, f"a {rows} x {columns} grid is no plane", "Both sides must be 3 or more")
    if len(cells) < rows * columns:
        wanted = ((r, c) for r in range(rows) for c in range(columns))  # names may claim millions of rows
        row, column = next(cell for cell in wanted if cell not in cells)
        reason = f"{rows * columns - len(cells)} of {rows} x {columns} views are missing, first row {row}, "
        raise DataError(folder, f"{reason}column {column}", "Unpack the whole archive")
    centre = (rows // 2, columns // 2)
    places = {cell: torch.from_numpy(np.array([m["x"], m["y"]], dtype=float)) for cell, m in cells.items()}
    offsets = _offsets(places, centre)
    if not all(bool(offset.isfinite().all()) for offset in offsets.values()):
        raise DataError(folder, "the names give all views one position", "Unpack the whole archive")
    paths = {cell: folder / match.string for cell, match in cells.items()}
    signs = _signs(folder, paths, offsets, centre)
    light_field = read_grid(folder, paths, centre, views, offsets, downsample)
    return replace(light_field, offsets=light_field.offsets * torch.tensor(signs))


def _offsets(places: dict[Cell, Tensor], centre: Cell) -> dict[Cell, Tensor]:
    """Measured offset (centre minus view) of each view in units of the mean spacing, signs as in the file."""
    spacing = 0
    for down, right in ((0, 1), (1, 0)):
        pairs = [(places[r, c], places.get((r + down, c + right))) for r, c in places]
        spacing += torch.stack([b - a for a, b in pairs if b is not None]).mean(0).abs().max()
    return {cell: ((places[centre] - place) / (spacing / 2)).float() for cell, place in places.items()}


def _signs(
    folder: Path, paths: dict[Cell, Path], offsets: dict[Cell, Tensor], centre: Cell
) -> tuple[int, int]:
    """Stored signs, or those of a search on the corners of the central 9 x 9 views, which are then stored."""
    path = folder / SIGNS_FILE
    if path.exists():
        with reading(path, 'does not hold {"x": 1 or -1, "y": 1 or -1}', "Correct or delete the file"):
            stored = read_json(path)
            signs = (int(stored["x"]), int(stored["y"]))
            if not {*signs} <= {-1, 1}:
                raise ValueError(f"it has {signs}")
        return signs
    reach = min(4, *centre)
    corners = [(centre[0] + a, centre[1] + b) for a in (-reach, reach) for b in (-reach, reach)]
    factor = max(1, max(read_image_size(paths[centre])) // 256)
    few = {cell: paths[cell] for cell in (centre, *corners)}
    signs = find_offset_signs(read_grid(folder, few, centre, offsets=offsets, downsample=factor))
    log.info("%s: signs of the measured positions: x %+d, y %+d", folder, *signs)
    with contextlib.suppress(DataError):  # a read-only folder: found again the next time
        write_json(path, {"x": signs[0], "y": signs[1]})
    return signs
