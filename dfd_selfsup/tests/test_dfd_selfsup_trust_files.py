"""MATLAB, HDF5 and NumPy files under 500 truncations, bit flips, extreme bytes (60 in `make test`).

Proven: nothing but `DataError`, within two seconds and 256 MB; NYUv2's two files are refused by name when
their contents do not belong together.
"""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from dfd_selfsup.datasets.defocusnet import load_defocusnet_stack
from dfd_selfsup.datasets.nyuv2 import read_labeled_frames
from shared.errors import DataError
from shared.files.images import write_image, write_npy
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused


def write_splits(path: Path, compressed: bool = True, **changes: np.ndarray) -> Path:
    splits = {"trainNdxs": np.array([[3], [1]], np.uint16), "testNdxs": np.array([[2]], np.uint16)}
    scipy.io.savemat(path, splits | changes, do_compression=compressed)
    return path


def write_labeled(path: Path, **changes: np.ndarray) -> Path:
    h5py = pytest.importorskip("h5py", reason="the extra `nyu` is not installed")
    generator = np.random.default_rng(0)
    arrays = {
        "images": generator.integers(0, 255, (3, 3, 16, 12), dtype=np.uint8),
        "depths": generator.random((3, 16, 12), dtype=np.float32) + 1,
    }
    with h5py.File(path, "w") as file:
        for name, values in (arrays | changes).items():
            file[name] = values
    return path


@pytest.mark.parametrize("examples", EXAMPLES)
def test_matlab_splits(tmp_path: Path, examples: int) -> None:
    labeled, splits = write_labeled(tmp_path / "labeled.mat"), write_splits(tmp_path / "splits.mat")
    assert_damage_is_refused(
        splits,
        lambda path: list(read_labeled_frames(labeled, path)),
        examples,
        where=(124, splits.stat().st_size),
    )


@pytest.mark.parametrize("examples", EXAMPLES)
def test_hdf5(tmp_path: Path, examples: int) -> None:
    labeled, splits = write_labeled(tmp_path / "labeled.mat"), write_splits(tmp_path / "splits.mat")
    size = labeled.stat().st_size
    assert_damage_is_refused(
        labeled, lambda path: list(read_labeled_frames(path, splits)), examples, where=(0, min(size, 2048))
    )


@pytest.mark.parametrize("examples", EXAMPLES)
def test_npy_depth(tmp_path: Path, examples: int) -> None:
    for index in range(5):
        write_image(tmp_path / f"000001_{index:02d}All.png", torch.rand(3, 4, 6))
    write_npy(tmp_path / "000001Dpt.npy", np.ones((4, 6, 1), np.float16))
    assert_damage_is_refused(
        tmp_path / "000001Dpt.npy", lambda path: load_defocusnet_stack(tmp_path, "000001"), examples
    )


SPLITS_THAT_DO_NOT_FIT = {
    "no list": ({"trainNdxs": "none"}, "holds no trainNdxs"),
    "an index beyond the frames": ({"testNdxs": np.array([[9]])}, "testNdxs names frame 9 of 3"),
    "an index below one": ({"testNdxs": np.array([[0]])}, "testNdxs names frame 0 of 3"),
}


@pytest.mark.parametrize("case", SPLITS_THAT_DO_NOT_FIT)
def test_splits_that_do_not_fit(tmp_path: Path, case: str) -> None:
    changes, reason = SPLITS_THAT_DO_NOT_FIT[case]
    labeled = write_labeled(tmp_path / "labeled.mat")
    with pytest.raises(DataError, match=reason):
        list(read_labeled_frames(labeled, write_splits(tmp_path / "splits.mat", **changes)))


LABELED_THAT_DOES_NOT_FIT = {
    "other sizes": ({"depths": np.ones((3, 12, 16), np.float32)}, "images and depths are"),
    "fewer depth maps": ({"depths": np.ones((2, 16, 12), np.float32)}, "images and depths are"),
    "no images": ({"images": np.ones((3,))}, "images and depths are"),
}


@pytest.mark.parametrize("case", LABELED_THAT_DOES_NOT_FIT)
def test_labeled_frames_that_do_not_fit(tmp_path: Path, case: str) -> None:
    changes, reason = LABELED_THAT_DOES_NOT_FIT[case]
    labeled = write_labeled(tmp_path / "labeled.mat", **changes)
    with pytest.raises(DataError, match=reason):
        list(read_labeled_frames(labeled, write_splits(tmp_path / "splits.mat")))
