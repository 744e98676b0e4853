"""NYUv2 with synthetic defocus: the paper's main data set, made from the labelled RGB-D frames.

    root/train_rgb/0001.png    root/train_depth/0001.png     root/train_fs5/0001_0000.png ... 0001_0004.png
    root/test_rgb/...          16-bit, 0.1 mm; or .pfm in m  the five slices, 320 x 240

`prepare.py nyuv2` writes this from nyu_depth_v2_labeled.mat and splits.mat. The released code stores depth
as 16-bit multiples of 0.1 mm, which overflow at 6.5536 m: a wall at 7 m becomes 0.446 m, in the truth and
in the stacks made from it. Depth is kept as float here (`clean`); `wrap16` repeats the overflow, to compare
with the published figures.
"""

import io
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.stack import FocalStack, Loader, read_slices
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.errors import DataError
from shared.files.disk import read_bytes, reading
from shared.files.images import read_image, write_image
from shared.files.maps import read_depth_png, read_pfm, write_pfm

__all__ = ["NYU_FOCUS_M", "nyuv2_splits", "read_labeled_frames", "rgbd_stack", "write_nyuv2_frame"]

NYU_LENS = Lens(focal_length_mm=50, f_number=8, pixel_pitch_um=12)  # for slices of 320 x 240
NYU_FOCUS_M = (1.0, 1.5, 2.5, 4.0, 6.0)
NEAR_M, FAR_M = 0.1, 10.0
SLICE_SIZE = (240, 320)
DEPTH_UNIT_M = 1e-4
HELD_OUT_SHARE = 0.1  # of the training frames, for validation, unless the released split is asked for
DepthEncoding = Literal["clean", "wrap16"]


class RgbdFrame(NamedTuple):
    """A labelled frame: image [3, 480, 640] in [0, 1], depth [480, 640] in metres, split and name."""

    image: Tensor
    depth_m: Tensor
    split: Literal["train", "test"]
    name: str


def wrap16(depth_m: Tensor) -> Tensor:
    """What depth becomes when 0.1 mm units overflow 16 bits."""
    return torch.round(depth_m.double() / DEPTH_UNIT_M).remainder(65536).mul(DEPTH_UNIT_M).to(depth_m)


def labeled_frames(labeled: Mapping[str, Any], splits: Mapping[str, Any]) -> Iterator[RgbdFrame]:
    """The frames of nyu_depth_v2_labeled.mat and splits.mat, opened as mappings of arrays (h5py, scipy.io).

    MATLAB's arrays come transposed: images [N, 3, 640, 480], depths [N, 640, 480]. The indices count from 1.
    """
    images, depths = labeled["images"], labeled["depths"]
    if images.ndim != 4 or images.shape[1] != 3 or depths.shape != (len(images), *images.shape[2:]):
        wanted = "[N, 3, W, H] and [N, W, H]"
        raise ValueError(f"images and depths are {images.shape} and {depths.shape}, not {wanted}")
    for split in ("train", "test"):
        for number in sorted(int(n) for n in splits[f"{split}Ndxs"].reshape(-1)):
            if not 1 <= number <= len(images):
                raise ValueError(f"{split}Ndxs names frame {number} of {len(images)}")
            image = torch.from_numpy(images[number - 1]).permute(0, 2, 1).float() / 255
            depth = torch.from_numpy(depths[number - 1]).T.float()
            yield RgbdFrame(image, depth, split, f"{number:04d}")


def read_labeled_frames(labeled: str | os.PathLike, splits: str | os.PathLike) -> Iterator[RgbdFrame]:
    """The frames of the two files; DataError names the one that is missing, damaged or of other content.

    Needs the package h5py (ImportError without it).
    """
    import h5py
    import scipy.io

    with reading(splits, "is not a readable MATLAB 5 file"):
        indices = scipy.io.loadmat(io.BytesIO(read_bytes(splits)))
    numbers = {name for name, values in indices.items() if np.asarray(values).dtype.kind in "uif"}
    lacking = {"trainNdxs", "testNdxs"} - numbers
    if lacking:
        raise DataError(splits, f"holds no {min(lacking)}", "Give splits.mat of NYUv2")
    remedy = "Give nyu_depth_v2_labeled.mat, complete (2.8 GB)"
    with reading(labeled, "cannot be read", remedy), h5py.File(labeled, "r") as file:
        yield from labeled_frames(file, indices)


def generate_slices(image: Tensor, depth_m: Tensor) -> Tensor:
    """The released generation of a stack: uint8 [S, 3, 240, 320] from image [3, H, W] and depth [H, W].

    The image is halved and rounded to 8 bits, depth is clipped to [0.1, 10] m and then halved; the blurred
    slices are truncated, not rounded, to 8 bits.
    """
    # Halves round up, as in OpenCV; float noise must not decide them.
    small = (_resized(image[None] * 255)[0] + 0.501).floor().div(255)
    depth = _resized(depth_m.clamp(NEAR_M, FAR_M)[None, None])
    sigma = Defocus.thin_lens(NYU_LENS, NYU_FOCUS_M, depth).sigma_at_depth_px(depth)
    blurred = render_stack(small[None], sigma)[0]
    # 1e-4: what is copied stays what it was.
    return (blurred * 255 + 1e-4).floor().clamp(0, 255).to(torch.uint8)


def rgbd_stack(image: Tensor, depth_m: Tensor, valid: Tensor, name: str) -> FocalStack:
    """A five-slice stack from any RGB-D frame [3, H, W], [H, W]; holes take the nearest depth."""
    depth_m = _filled(depth_m, valid)
    return _stack(name, generate_slices(image, depth_m).float() / 255, image, depth_m, valid)


def _stack(name: str, slices: Tensor, image: Tensor, depth_m: Tensor, valid: Tensor) -> FocalStack:
    """Slices with their truth, which is given at the frame's size, at theirs."""

    def small(maps: Tensor) -> Tensor:
        return _resized(maps[None], slices.shape[-2:])[0]

    depth, inside = small(depth_m.clamp(NEAR_M, FAR_M)[None])[0], small(valid[None].float())[0] > 0.99
    defocus = Defocus.thin_lens(NYU_LENS, NYU_FOCUS_M)
    return FocalStack(name, slices, defocus, NYU_LENS, small(image), depth, inside)


def write_nyuv2_frame(root: Path, frame: RgbdFrame, encoding: DepthEncoding = "clean") -> None:
    """Write one frame with its stack in the layout above; the stack is made from the depth as encoded."""
    depth = frame.depth_m if encoding == "clean" else wrap16(frame.depth_m)
    write_image(root / f"{frame.split}_rgb" / f"{frame.name}.png", frame.image)
    write_pfm(root / f"{frame.split}_depth" / f"{frame.name}.pfm", depth)
    for index, picture in enumerate(generate_slices(frame.image, depth)):
        write_image(root / f"{frame.split}_fs5" / f"{frame.name}_{index:04d}.png", picture)


def nyuv2_splits(root: Path, config: DataConfig) -> dict[str, list[Loader]]:
    """Loaders per split; `config.validation: released` validates on the last fifth of the test frames."""
    train, test = (
        [partial(load_nyuv2_stack, root, split, name, config.depth_encoding) for name in _names(root, split)]
        for split in ("train", "test")
    )
    if config.validation == "released":
        held_out = test[len(test) - len(test) // 5 :]
    else:
        count = max(1, round(HELD_OUT_SHARE * len(train))) if len(train) > 1 else 0
        train, held_out = train[: len(train) - count], train[len(train) - count :]
    return {"train": train, "validation": held_out or test, "test": test}


def load_nyuv2_stack(root: Path, split: str, name: str, encoding: DepthEncoding = "clean") -> FocalStack:
    """One frame's stack with its truth at the slices' size; RGB order (the released code reads BGR)."""
    paths = sorted((root / f"{split}_fs5").glob(f"{name}_*.png"))
    if len(paths) != len(NYU_FOCUS_M):
        reason = f"holds {len(paths)} slices of frame {name} instead of {len(NYU_FOCUS_M)}"
        raise DataError(root / f"{split}_fs5", reason, "Make the stacks with prepare.py nyuv2")
    slices, image = read_slices(paths), read_image(root / f"{split}_rgb" / f"{name}.png")
    depth, valid = _read_depth(root / f"{split}_depth", name)
    depth = wrap16(depth) if encoding == "wrap16" else depth
    return _stack(f"{split}/{name}", slices, image, depth, valid)


def _names(root: Path, split: str) -> list[str]:
    names = sorted(path.stem for path in (root / f"{split}_rgb").glob("*.png"))
    if not names:
        reason = f"holds no {split}_rgb/*.png"
        raise DataError(root, reason, "Make the data set with prepare.py nyuv2 (see the README)")
    return names


def _read_depth(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    if (folder / f"{name}.pfm").exists():
        depth = read_pfm(folder / f"{name}.pfm")
        if depth.ndim != 2:
            reason = f"holds {list(depth.shape)} values, not one depth per pixel"
            raise DataError(folder / f"{name}.pfm", reason, "Make the data set again with prepare.py nyuv2")
        valid = depth.isfinite() & (depth > 0)
        return torch.where(valid, depth, NEAR_M), valid
    return read_depth_png(folder / f"{name}.png", unit_m=DEPTH_UNIT_M)


def _resized(maps: Tensor, size: tuple[int, int] = SLICE_SIZE) -> Tensor:
    """[B, C, H, W] bilinearly without antialiasing; by exactly one half that is the mean of 2 x 2 pixels."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _filled(depth_m: Tensor, valid: Tensor) -> Tensor:
    """Depth with holes filled by the nearest valid pixel."""
    if bool(valid.all()):
        return depth_m
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~valid.numpy(), return_distances=False, return_indices=True)
    return depth_m[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]
