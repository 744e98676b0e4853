"""Broken focal stacks, one row each: every one ends in a `DataError` with file, reason and remedy within 2 s.

Loaders: your own folder, a folder of splits, Mobile Depth, NYUv2 stacks and its two files, DefocusNet.
"""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import yaml

from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.defocusnet import defocusnet_splits, load_defocusnet_stack
from dfd_selfsup.datasets.folder import folder_splits, load_stack
from dfd_selfsup.datasets.mobile_depth import load_mobile_depth
from dfd_selfsup.datasets.nyuv2 import (
    RgbdFrame,
    load_nyuv2_stack,
    nyuv2_splits,
    read_labeled_frames,
    write_nyuv2_frame,
)
from dfd_selfsup.datasets.stack import collate
from shared.errors import DataError
from shared.files.images import write_image
from shared.files.maps import write_npy, write_pfm
from shared.tests.broken import Case, assert_refused, cut, picture, remove, write
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused

STACK = {"focus_m": [1, 2, 4], "focal_length_mm": 50, "f_number": 8, "pixel_pitch_um": 12}


def stack(folder: Path, height: int = 20) -> Path:
    for index in range(3):
        picture(f"photo_{index}.png", height, 28)(folder)
    picture("aif.png", height, 28)(folder)
    write_pfm(folder / "depth.pfm", torch.ones(height, 28))
    (folder / "stack.yaml").write_text(yaml.safe_dump(STACK))
    return folder


def info(**changes: object) -> Case:
    return write("stack.yaml", yaml.safe_dump(STACK | changes))


def depth(*shape: int):
    return lambda folder: write_pfm(folder / "depth.pfm", torch.ones(*shape))


FOLDER = {
    "no slice": Case(lambda folder: [path.unlink() for path in folder.glob("photo*")], r"holds 0 photo"),
    "a slice missing": Case(remove("photo_1.png"), "3 focus distances for 2", "stack.yaml"),
    "slice cut short": Case(cut("photo_2.png"), "damaged|decoded", "photo_2.png"),
    "sizes differ": Case(picture("photo_1.png", 21, 28), "28 x 21 pixels", "photo_1.png"),
    "thin photos": Case(
        lambda folder: [picture(f"photo_{i}.png", 10, 28)(folder) for i in range(3)], "28 x 10", "photo_0.png"
    ),
    "too few distances": Case(info(focus_m=[1, 2]), "2 focus distances for 3", "stack.yaml"),
    "distance zero": Case(info(focus_m=[0, 1, 2]), "focus_m", "stack.yaml"),
    "distance not a number": Case(info(focus_m=[1, float("nan"), 2]), "focus_m", "stack.yaml"),
    "equal distances": Case(info(focus_m=[1, 1, 2]), "equal", "stack.yaml"),
    "distance below the focal length": Case(info(focus_m=[0.03, 1, 2]), "focal length", "stack.yaml"),
    "negative f-number": Case(info(f_number=-1), "f_number", "stack.yaml"),
    "blur without size": Case(
        write("stack.yaml", "focus_disparity_px: [1, 2, 3]\nblur_px_per_disparity: 0"),
        "blur_px",
        "stack.yaml",
    ),
    "unknown order": Case(info(order="random"), "order", "stack.yaml"),
    "breathing a number": Case(info(breathing_corrected=1), "breathing", "stack.yaml"),
    "YAML: unknown key": Case(info(focus_mm=[1]), "focus_mm", "stack.yaml"),
    "YAML: a date that is none": Case(write("stack.yaml", "f_number: 2020-13-45"), "YAML", "stack.yaml"),
    "YAML: nested without end": Case(write("stack.yaml", "focus_m: " + "[" * 1100), "YAML", "stack.yaml"),
    "YAML: a program": Case(
        write("stack.yaml", "a: !!python/object/apply:os.getcwd []"), "YAML", "stack.yaml"
    ),
    "YAML: not text": Case(write("stack.yaml", b"\xff\xfe\x00"), "UTF-8", "stack.yaml"),
    "truth of another size": Case(depth(10, 14), "truth .depth. is", ""),
    "truth cut short": Case(cut("depth.pfm"), "bytes", "depth.pfm"),
    "truth without a valid pixel": Case(
        lambda folder: write_pfm(folder / "depth.pfm", torch.full((20, 28), torch.nan)),
        "no valid",
        "depth.pfm",
    ),
}


@pytest.mark.parametrize("case", FOLDER)
def test_folder(tmp_path: Path, case: str) -> None:
    load_stack(stack(tmp_path / "s"))
    assert_refused(FOLDER[case], tmp_path / "s", lambda: load_stack(tmp_path / "s"))


SPLITS = {
    "no test stacks": Case(lambda root: (root / "test").rename(root / "toast"), "holds no folder", "test"),
    "stacks of different sizes": Case(lambda root: stack(root / "train" / "b", 24), "b: 3 slices of 28 x 24"),
    "stacks of different lengths": Case(
        lambda root: [
            remove("photo_2.png")(stack(root / "train" / "b")),
            info(focus_m=[1, 2])(root / "train" / "b"),
        ],
        "2 slices",
    ),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits(tmp_path: Path, case: str) -> None:
    for split in ("train", "test"):
        stack(tmp_path / split / "a")
    names = "test" if case == "no test stacks" else "b"
    broken = SPLITS[case]._replace(names=names)
    assert_refused(broken, tmp_path, lambda: collate([load() for load in folder_splits(tmp_path)["train"]]))


def mobile(folder: Path) -> Path:
    for index in range(3):
        picture(f"a{index}.jpg", 20, 28)(folder)
    (folder / "calibrated.txt").write_text("1.0 2\n2.0 2\n3.0 2\n50\n")
    return folder


MOBILE = {
    "one frame": Case(lambda folder: [remove(f"a{i}.jpg")(folder) for i in (1, 2)], "holds 1 photo"),
    "words in the calibration": Case(
        write("calibrated.txt", "near\nfar\n"), "else than numbers", "calibrated"
    ),
    "NaN in the calibration": Case(write("calibrated.txt", "1\nnan\n3\n50\n"), "finite", "calibrated.txt"),
    "a row missing": Case(write("calibrated.txt", "1\n2\n50\n"), "2 focal depths for 3 frames"),
}


@pytest.mark.parametrize("case", MOBILE)
def test_mobile_depth(tmp_path: Path, case: str) -> None:
    load_mobile_depth(mobile(tmp_path / "scene"))
    assert_refused(MOBILE[case], tmp_path / "scene", lambda: load_mobile_depth(tmp_path / "scene"))


NYU = {
    "no frames": Case(lambda root: [path.unlink() for path in (root / "train_rgb").iterdir()], "train_rgb"),
    "a slice missing": Case(remove("train_fs5/0001_0003.png"), "holds 4 slices", "train_fs5"),
    "no depth": Case(remove("train_depth/0001.pfm"), "does not exist", "0001.png"),
    "depth in colours": Case(
        lambda root: write_pfm(root / "train_depth/0001.pfm", torch.ones(3, 480, 640)),
        r"\[3, 480, 640\]",
        "0001.pfm",
    ),
    "no colours": Case(remove("train_rgb/0001.png"), "train_rgb"),
}


@pytest.mark.parametrize("case", NYU)
def test_nyuv2(tmp_path: Path, case: str) -> None:
    frame = RgbdFrame(torch.rand(3, 480, 640), torch.rand(480, 640) + 1, "train", "0001")
    write_nyuv2_frame(tmp_path, frame)
    picture("test_rgb/0002.png", 48, 64)(tmp_path)

    def load() -> None:
        nyuv2_splits(tmp_path, DataConfig())
        load_nyuv2_stack(tmp_path, "train", "0001")

    load()
    assert_refused(NYU[case], tmp_path, load)


DEFOCUSNET = {
    "two scenes": Case(lambda root: [path.unlink() for path in root.glob("000002*")], "holds 2 scenes"),
    "a slice missing": Case(remove("000000_03All.png"), "4 slices instead of 5"),
    "no depth": Case(remove("000000Dpt.npy"), "no depth map"),
    "depth cut short": Case(cut("000000Dpt.npy"), "NumPy", "000000Dpt.npy"),
    "depth of another size": Case(
        lambda root: write_npy(root / "000000Dpt.npy", np.ones((4, 6, 1), np.float16)),
        "is 6 x 4 pixels",
        "Dpt.npy",
    ),
    "depth in colours": Case(
        lambda root: write_npy(root / "000000Dpt.npy", np.ones((12, 16, 3), np.float16)),
        "not floats",
        "Dpt.npy",
    ),
}


@pytest.mark.parametrize("case", DEFOCUSNET)
def test_defocusnet(tmp_path: Path, case: str) -> None:
    for scene in range(3):
        for index in range(5):
            write_image(tmp_path / f"{scene:06d}_{index:02d}All.png", torch.rand(3, 12, 16))
        write_npy(tmp_path / f"{scene:06d}Dpt.npy", np.ones((12, 16, 1), np.float16))

    def load() -> None:
        defocusnet_splits(tmp_path)
        load_defocusnet_stack(tmp_path, "000000")

    load()
    assert_refused(DEFOCUSNET[case], tmp_path, load)


# ---- the two files of NYUv2 -------------------------------------------------------------------------------


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


DO_NOT_FIT = {
    "no list": ({"trainNdxs": "none"}, {}, "holds no trainNdxs"),
    "an index beyond the frames": ({"testNdxs": np.array([[9]])}, {}, "testNdxs names frame 9 of 3"),
    "an index below one": ({"testNdxs": np.array([[0]])}, {}, "testNdxs names frame 0 of 3"),
    "other sizes": ({}, {"depths": np.ones((3, 12, 16), np.float32)}, "images and depths are"),
    "fewer depth maps": ({}, {"depths": np.ones((2, 16, 12), np.float32)}, "images and depths are"),
    "no images": ({}, {"images": np.ones((3,))}, "images and depths are"),
}


@pytest.mark.parametrize("case", DO_NOT_FIT)
def test_files_that_do_not_fit_each_other(tmp_path: Path, case: str) -> None:
    splits, labeled, reason = DO_NOT_FIT[case]
    paths = (
        write_labeled(tmp_path / "labeled.mat", **labeled),
        write_splits(tmp_path / "splits.mat", **splits),
    )
    with pytest.raises(DataError, match=reason):
        list(read_labeled_frames(*paths))
