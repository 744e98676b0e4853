"""Light fields and multi-view scenes from disk."""

import os
from pathlib import Path

from diffdiffdepth.datasets.colmap_scene import ColmapScenes, is_colmap_folder
from diffdiffdepth.datasets.crosshair import is_crosshair_folder, load_crosshair
from diffdiffdepth.datasets.hci import ViewChoice, is_hci_folder, load_hci
from diffdiffdepth.datasets.stanford import is_stanford_folder, load_stanford
from diffdiffdepth.scene import LightField
from shared.errors import DataError

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
    if is_hci_folder(folder):
        return "hci"
    if is_stanford_folder(folder):
        return "stanford"
    if is_colmap_folder(folder):
        return "colmap"
    if is_crosshair_folder(folder):
        return "crosshair"
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
