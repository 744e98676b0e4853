"""The DefocusNet data set (Maximov et al. 2020), rendered by Blender; the paper re-rendered it.

    <root>/<6-digit scene>_<k>All.tif (or .png), k = 00 ... 04      the slices, 8-bit RGB
    <root>/<6-digit scene>...Dpt.exr (or .npy, float16 [H, W, 1])   z-depth in metres
    <root>/<6-digit scene>...Aif.tif (or .png)                      all in focus; only in the re-rendering

The paper's re-rendering was never released. `prepare.py defocusnet` turns .exr into .npy once.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.stack import FocalStack, Loader, read_slices
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.errors import DataError
from shared.files.images import read_image
from shared.files.maps import read_exr, read_npy, write_npy

__all__ = ["convert_depth", "defocusnet_splits", "load_defocusnet_stack"]

DEFOCUSNET_LENS = Lens(focal_length_mm=7.2, f_number=1.2, pixel_pitch_um=5.6)  # of 256 x 256 pictures
DEFOCUSNET_FOCUS_M = (0.3, 0.45, 0.75, 1.2, 1.8)
NEAR_M, FAR_M = 0.1, 3.0
TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.05  # 400 of 500 scenes train, as the data set's authors split it
ID_LENGTH = 6


def defocusnet_splits(root: Path, config: DataConfig | None = None) -> dict[str, list[Loader]]:
    """Loaders per split, by scene number; the released code used all scenes for everything."""
    scenes = sorted({path.name[:ID_LENGTH] for path in root.glob("*All.*")}) if root.is_dir() else []
    if len(scenes) < 3:
        reason = f"holds {len(scenes)} scenes of the form 000000_00All.tif"
        raise DataError(root, reason, "Unpack the DefocusNet data set there (see the README)")
    first = min(max(1, round(TRAIN_SHARE * len(scenes))), len(scenes) - 2)
    second = min(max(round((TRAIN_SHARE + VALIDATION_SHARE) * len(scenes)), first + 1), len(scenes) - 1)
    parts = {"train": scenes[:first], "validation": scenes[first:second], "test": scenes[second:]}
    return {
        split: [partial(load_defocusnet_stack, root, scene) for scene in part]
        for split, part in parts.items()
    }


def load_defocusnet_stack(root: Path, scene: str) -> FocalStack:
    """One scene; depth beyond [0.1, 3] m is clipped, as the paper evaluates it."""
    paths = _files(root, scene, "All")
    if len(paths) != len(DEFOCUSNET_FOCUS_M):
        reason = f"scene {scene} has {len(paths)} slices instead of {len(DEFOCUSNET_FOCUS_M)}"
        raise DataError(root, reason, "Unpack the data set again")
    depth_paths, aif_paths = _files(root, scene, "Dpt"), _files(root, scene, "Aif")
    if not depth_paths:
        raise DataError(root, f"scene {scene} has no depth map", "Unpack the data set again")
    slices, depth = read_slices(paths), _read_depth(depth_paths[0])
    if depth.shape != slices.shape[-2:]:
        found, wanted = (f"{shape[-1]} x {shape[-2]} pixels" for shape in (depth.shape, slices.shape))
        raise DataError(depth_paths[0], f"is {found}, the slices {wanted}", "Unpack the data set again")
    valid = depth.isfinite() & (depth > 0)
    return FocalStack(
        scene,
        slices,
        Defocus.thin_lens(DEFOCUSNET_LENS, DEFOCUSNET_FOCUS_M),
        DEFOCUSNET_LENS,
        aif=read_image(aif_paths[0]) if aif_paths else None,
        depth=torch.where(valid, depth, NEAR_M).clamp(NEAR_M, FAR_M),
        valid=valid,
    )


def convert_depth(root: Path) -> int:
    """Write a .npy (float16 [H, W, 1]) next to every .exr that has none; returns how many were written."""
    written = 0
    for path in sorted(root.glob("*Dpt.exr")):
        target = path.with_suffix(".npy")
        if not target.exists():
            write_npy(target, read_exr(path).numpy().astype(np.float16)[..., None])
            written += 1
    return written


def _read_depth(path: Path) -> Tensor:
    if path.suffix == ".exr":
        return read_exr(path)
    depth = read_npy(path)
    if depth.ndim not in (2, 3) or depth[0, 0].size != 1 or depth.dtype.kind != "f":
        reason = f"holds {depth.dtype} {depth.shape}, not floats [H, W] or [H, W, 1]"
        raise DataError(path, reason, "Make it again with prepare.py defocusnet")
    return torch.from_numpy(depth.astype(np.float32).reshape(depth.shape[:2]))


def _files(root: Path, scene: str, kind: str) -> list[Path]:
    """Files of a scene by kind; where a .tif was converted, its .png or .npy goes first and counts once."""
    by_stem: dict[str, Path] = {}
    for path in sorted(root.glob(f"{scene}*{kind}.*")):
        if path.stem not in by_stem or path.suffix in (".png", ".npy"):
            by_stem[path.stem] = path
    return [by_stem[stem] for stem in sorted(by_stem)]
