"""Light fields and multi-view scenes from disk."""

import os
from pathlib import Path

from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.datasets.crosshair import is_crosshair_folder, load_crosshair
from diffdiffdepth.datasets.grid import ViewChoice
from diffdiffdepth.datasets.hci import is_hci_folder, load_hci
from diffdiffdepth.datasets.stanford import is_stanford_folder, load_stanford
from diffdiffdepth.scene import LightField
from shared.errors import DataError
from shared.files.colmap import find_colmap_model

__all__ = [
    "ColmapScenes",
    "data_kind",
    "load_crosshair",
    "load_hci",
    "load_light_field",
    "load_stanford",
]


def data_kind(folder: str | os.PathLike) -> str:
    """What a folder holds, told by its file names: "hci", "stanford", "crosshair" or "colmap"."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(folder, "is not a folder", "Name the folder of a light field or of a COLMAP scene")
    kinds = {"hci": is_hci_folder, "stanford": is_stanford_folder, "colmap": find_colmap_model}
    for kind, holds in (kinds | {"crosshair": is_crosshair_folder}).items():
        if holds(folder):
            return kind
    raise DataError(
        folder,
        "holds no light field (input_Cam000.png, out_00_00_Y_X.png, NAME_RR_CC.png) and no COLMAP model",
        "For plain photos: python -m diffdiffdepth.prepare colmap PHOTOS --out DIR",
    )


def load_light_field(folder: str | os.PathLike, views: ViewChoice = "all") -> LightField:
    """Load a light field in any of the three layouts."""
    kind = data_kind(folder)
    if kind == "colmap":
        raise DataError(folder, "holds a COLMAP scene, not a light field", "Load it with ColmapScenes")
    loaders = {"hci": load_hci, "stanford": load_stanford, "crosshair": load_crosshair}
    return loaders[kind](folder, views)
