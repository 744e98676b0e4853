"""The (New) Stanford Light Field Archive: 17 x 17 rectified views from a gantry, with measured positions.

    out_RR_CC_Y_X.png   row, column, and the measured camera position in the order y, x; some scenes have one
                        more underscore before .png

Positions are irregular by a few per cent, known up to scale, and run in different directions from scene to
scene: their signs are found once from the pictures (`signs.py`) and kept in `offset_signs.json`.
"""

import contextlib
import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffdiffdepth.datasets.hci import ViewChoice, stack_views
from diffdiffdepth.datasets.signs import find_offset_signs
from diffdiffdepth.scene import LightField
from shared.errors import DataError
from shared.files.disk import write_bytes
from shared.files.images import read_image

__all__ = ["SIGNS_FILE", "is_stanford_folder", "load_stanford"]

log = logging.getLogger(__name__)

VIEW_NAME = re.compile(r"^out_(\d+)_(\d+)_(-?\d+(?:\.\d+)?)_(-?\d+(?:\.\d+)?)_?\.(?:png|jpe?g)$", re.I)
SIGNS_FILE = "offset_signs.json"


def is_stanford_folder(folder: str | os.PathLike) -> bool:
    """Tell whether the folder holds views named as in the archive."""
    return any(VIEW_NAME.match(path.name) for path in Path(folder).glob("out_*"))


def load_stanford(
    folder: str | os.PathLike,
    views: ViewChoice = "cross",
    downsample: int = 2,
) -> LightField:
    """Load a scene of the archive; `downsample` averages n x n pixels (the paper: 2).

    `views`: the row and the column of the centre view, or all (289 views: 3.1 MB each at 512 x 512). Offsets
    are measured positions in units of the mean spacing. Raises DataError for missing views and mixed sizes.
    """
    folder = Path(folder)
    cells = _views(folder)
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
    offsets = _offsets(cells, centre)
    if not all(bool(offset.isfinite().all()) for offset in offsets.values()):
        raise DataError(folder, "the names give all views one position", "Unpack the whole archive")
    signs = _signs(folder, cells, offsets, centre)
    kept = [cell for cell in cells if views == "all" or cell[0] == centre[0] or cell[1] == centre[1]]
    light_field = _load(cells, offsets, centre, kept, downsample)
    return replace(light_field, offsets=light_field.offsets * torch.tensor(signs), name=folder.name)


def _views(folder: Path) -> dict[tuple[int, int], tuple[Path, float, float]]:
    """File and measured position (x, y) of each (row, column)."""
    cells = {}
    for path in sorted(folder.iterdir()):
        match = VIEW_NAME.match(path.name)
        if match:
            row, column, y, x = match.groups()
            cell = int(row), int(column)
            if cell in cells:
                reason = f"{cells[cell][0].name} and {path.name} are both row {cell[0]}, column {cell[1]}"
                raise DataError(folder, reason, "Keep one light field in a folder")
            cells[cell] = (path, float(x), float(y))
    if not cells:
        reason = "holds no views named like out_08_08_-381.909271_1103.376221.png"
        raise DataError(folder, reason, "Unpack the rectified images of a scene of the archive here")
    return cells


def _offsets(cells: dict, centre: tuple[int, int]) -> dict[tuple[int, int], Tensor]:
    """Measured offset (centre minus view) of each view in units of the mean spacing, signs as in the file."""
    positions = {cell: torch.tensor(entry[1:], dtype=torch.float64) for cell, entry in cells.items()}
    spacing = [_mean_step(positions, *direction) for direction in ((0, 1), (1, 0))]
    return {cell: ((positions[centre] - p) / (sum(spacing) / 2)).float() for cell, p in positions.items()}


def _mean_step(positions: dict[tuple[int, int], Tensor], down: int, right: int) -> Tensor:
    """Mean distance of neighbouring views along the rows or the columns, in the unit of the file names."""
    steps = [
        positions[r + down, c + right] - position
        for (r, c), position in positions.items()
        if (r + down, c + right) in positions
    ]
    return torch.stack(steps).mean(0).abs().max()


def _load(cells: dict, offsets: dict, centre: tuple[int, int], kept: list, downsample: int) -> LightField:
    """Read and reduce the views one by one: the full-size stack of a scene would take gigabytes."""
    others = [cell for cell in kept if cell != centre]
    images = stack_views([cells[cell][0] for cell in (centre, *others)], downsample)
    return LightField(images[0], images[1:], torch.stack([offsets[cell] for cell in others]))


def _signs(folder: Path, cells: dict, offsets: dict, centre: tuple[int, int]) -> tuple[int, int]:
    """Stored signs, or those of a search on the corners of the central 9 x 9 views, which are then stored."""
    path = folder / SIGNS_FILE
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            signs = (int(stored["x"]), int(stored["y"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            signs = (0, 0)
        if not {*signs} <= {-1, 1}:
            raise DataError(path, 'does not hold {"x": 1 or -1, "y": 1 or -1}', "Correct or delete the file")
        return signs
    reach = min(4, centre[0], centre[1])
    corners = [(centre[0] + a, centre[1] + b) for a in (-reach, reach) for b in (-reach, reach)]
    size = max(read_image(cells[centre][0]).shape[-2:])
    small = _load(cells, offsets, centre, [centre, *corners], downsample=max(1, size // 256))
    signs = find_offset_signs(small)
    log.info("%s: signs of the measured positions: x %+d, y %+d", folder, *signs)
    with contextlib.suppress(DataError):  # a read-only folder: found again the next time
        write_bytes(path, (json.dumps({"x": signs[0], "y": signs[1]}) + "\n").encode())
    return signs
