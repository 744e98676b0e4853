"""What the three layouts of light fields have in common: views in the cells of a grid, one file each."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdiffdepth.scene import LightField
from shared.errors import DataError
from shared.files.disk import visible
from shared.files.images import read_image, survey_photos

__all__ = ["Cell", "ViewChoice", "named_views", "read_grid"]

Cell = tuple[int, int]  # row (downwards), column (to the right)
ViewChoice = Literal["all", "cross"]


def named_views(folder: Path, pattern: re.Pattern) -> dict[Cell, re.Match]:
    """Matching file names, in order, by the pattern's row and column; DataError if two are one view."""
    found: dict[Cell, re.Match] = {}
    for match in filter(None, (pattern.match(path.name) for path in visible(folder))):
        cell = (int(match["row"]), int(match["column"]))
        if cell in found:
            names = f"{found[cell].string} and {match.string}"
            reason = f"{names} are both the view in row {cell[0]}, column {cell[1]}"
            raise DataError(folder, reason, "Keep one light field in a folder")
        found[cell] = match
    return found


def read_grid(
    folder: Path,
    paths: Mapping[Cell, Path],
    centre: Cell,
    views: ViewChoice = "all",
    offsets: Mapping[Cell, Tensor] | None = None,
    downsample: int = 1,
) -> LightField:
    """The light field of some views, or of the centre's row and column alone ("cross").

    Offsets are those given [2], else counted from the centre; images are averaged over n x n pixels by
    `downsample`, what is transparent becomes white. Raises DataError for the first view that cannot be
    read or differs in size.
    """
    others = sorted(cell for cell in paths if cell != centre)
    if views == "cross":
        others = [cell for cell in others if cell[0] == centre[0] or cell[1] == centre[1]]
    counted = [[centre[1] - column, centre[0] - row] for row, column in others]
    if offsets is not None:
        counted = [offsets[cell].tolist() for cell in others]
    images, cells = None, (centre, *others)
    survey = survey_photos([paths[cell] for cell in cells], one_grid=True, background="white")
    for index, (cell, turn) in enumerate(zip(cells, survey.orientations, strict=True)):
        image = read_image(paths[cell], background=(1, 1, 1), orientation=turn)
        image = F.avg_pool2d(image[None], downsample)[0] if downsample > 1 else image
        if images is None:
            images = image.new_empty(len(cells), *image.shape)  # a stack at full size would take gigabytes
        if image.shape != images.shape[1:]:
            expected = f"{images.shape[3]} x {images.shape[2]} like {paths[centre].name}"
            reason = f"has {image.shape[2]} x {image.shape[1]} pixels, not {expected}"
            raise DataError(paths[cell], reason, "All views of a light field must have one size")
        images[index] = image
    placed = torch.tensor(counted, dtype=torch.float32)
    return LightField(images[0], images[1:], placed, folder.name, notes=survey.notes)
