"""Broken views, one row each: every one ends in a `DataError` with file, reason and remedy.

What is wrong inside images, matrices and EXR files is shared's to test; here it is what the layouts add.
"""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nvs_depth.datasets.kitti_convert import convert_drive, read_velodyne
from nvs_depth.datasets.options import DataConfig, PairOptions
from nvs_depth.datasets.select import load_split
from nvs_depth.datasets.shapenet import grid_pose, view_number
from shared.files.maps import write_exr
from shared.geometry.camera import invert_pose
from shared.tests.broken import Case, assert_refused, change, cut, picture, remove, write
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused

AZIMUTHS = (0, 20, 40, 60)


def load(folder: Path, layout: str, **options: object) -> None:
    """The split, and every view of it."""
    pairs = PairOptions(max_gap=2, nearest=2)
    config = DataConfig(layout=layout, root=str(folder), pairs=pairs, holdout="coordinates", **options)
    split = load_split(config, 16)
    for views in (split.train.views, split.test.views):
        for index in range(len(views)):
            views.load(index)


def empty(name: str) -> Callable[[Path], None]:
    """A folder without its files."""
    return lambda folder: [path.unlink() for path in (folder / name).iterdir()]


def rename(name: str, new: str) -> Callable[[Path], Path]:
    return lambda folder: (folder / name).rename(folder / new)


# ---- good data, one builder per layout ---------------------------------------------------------------------


def shapenet(root: Path) -> Path:
    folder = root / "chairs"
    write("camera_settings/cam_K/cam_K.txt", "30 0 12\n0 30 12\n0 0 1")(root)
    for azimuth in AZIMUTHS:
        number = view_number(azimuth, 0)
        rows = invert_pose(grid_pose(azimuth, 0))[:3].tolist()
        text = "\n".join(" ".join(map(str, row)) for row in rows)
        write(f"camera_settings/cam_RT/cam_RT_{number:03d}.txt", text)(root)
        picture(f"chairs/a/color_{number:03d}.png", 24, 24)(root)
        write_exr(folder / "a" / f"depth_{number:03d}.exr", torch.full((24, 24), 2.0))
    return folder


def flat(root: Path) -> Path:
    for azimuth in AZIMUTHS:
        picture(f"images/a_{azimuth}_0.png", 24, 24)(root)
    return root


def drive(root: Path) -> Path:
    write("drive_02/cam.txt", "20 0 20\n0 20 10\n0 0 1")(root)
    poses = [f"{i} 1 0 0 {i * 0.5} 0 1 0 0 0 0 1 0 0 0 0 1" for i in range(8)]
    write("drive_02/poses.txt", "\n".join(poses))(root)
    for index in range(8):
        picture(f"drive_02/{index:010d}.png", 20, 40)(root)
        picture(f"drive_02/{index:010d}_depth.png", 20, 40, 1, 16)(root)
    return root


def odometry(root: Path) -> Path:
    write("calib.txt", "P0: 20 0 20 0 0 20 10 0 0 0 1 0\nP2: 20 0 20 9 0 20 10 0 0 0 1 0\n")(root)
    write("poses.txt", "\n".join(f"1 0 0 0 0 1 0 0 0 0 1 {i}" for i in range(8)))(root)
    for index in range(8):
        picture(f"image_2/{index:06d}.png", 20, 40)(root)
    return root


def flat_odometry(root: Path) -> Path:
    write("poses.txt", "\n".join(f"00_{i:06d} 0 0.01 0 0 0 {i}" for i in range(8)))(root)
    for index in range(8):
        picture(f"images/00_{index:06d}.png", 24, 24)(root)
    return root


def posed(root: Path) -> Path:
    frames = []
    for index in range(6):
        picture(f"images/{index}.png", 24, 32)(root)
        matrix = torch.eye(4)
        matrix[0, 3] = 0.1 * index
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": matrix.tolist()})
    (root / "transforms.json").write_text(json.dumps({"fl_x": 30.0, "w": 32, "h": 24, "frames": frames}))
    return root


def unlike_azimuths(root: Path) -> None:
    for index, path in enumerate(sorted((root / "images").iterdir())):
        path.rename(path.with_name(f"a_{index * 7}_0.png"))


K, RT = "camera_settings/cam_K/cam_K.txt", "camera_settings/cam_RT/cam_RT_005.txt"
EXR, POSES = "chairs/a/depth_005.exr", "drive_02/poses.txt"
BROKEN = {
    ("shapenet", shapenet): {
        "no K": Case(remove(K), "does not exist", "cam_K.txt"),
        "focal length 0": Case(change(K, "30 0 12", "0 0 12"), "focal length"),
        "no poses": Case(empty("camera_settings/cam_RT"), "cam_RT_001.txt"),
        "another name": Case(write("camera_settings/cam_RT/cam_RT_x.txt", "1"), "name", "cam_RT_x"),
        "a mirrored pose": Case(change(RT, "0.93", "-0.93"), "the rotation is not", "cam_RT_005"),
        "a view missing": Case(remove("chairs/a/color_005.png"), "missing", "color_005.png"),
        "no models": Case(rename("chairs/a", "a"), "no folders of models"),
        "a view of another size": Case(picture("chairs/a/color_005.png", 24, 26), "26 x 24", "color_005"),
        "depth of another size": Case(
            lambda root: write_exr(root / EXR, torch.ones(12, 12)), "its image", "depth_005"
        ),
    },
    ("shapenet_flat", flat): {
        "no folder": Case(rename("", "../gone"), "does not exist"),
        "no view": Case(empty("images"), "holds no"),
        "a view of another size": Case(picture("images/a_20_0.png", 26, 24), "24 x 26", "a_20_0"),
        "nothing to hold out": Case(
            lambda root: [path.unlink() for path in (root / "images").glob("a_[246]*")], "only one of"
        ),
        "no pairs": Case(unlike_azimuths, "no two views form a pair"),
    },
    ("kitti_raw", drive): {
        "no drive": Case(remove("drive_02/cam.txt"), "no drive with a cam.txt"),
        "singular K": Case(write("drive_02/cam.txt", "0 0 0 0 0 0 0 0 0"), "focal length"),
        "no frames": Case(lambda root: [p.unlink() for p in root.rglob("*.png")], "holds no frames"),
        "a frame without pose": Case(change(POSES, "\n3 ", "\n13 "), "lacks the frame", "poses.txt"),
        "a frame twice": Case(change(POSES, "\n3 ", "\n2 "), "frame 2 comes twice", "poses.txt"),
        "15 numbers": Case(change(POSES, "0 0 0 1\n", "0 0 1\n"), "15 numbers", "poses.txt"),
        "scale 0": Case(change(POSES, "\n3 1 0 0", "\n3 0 0 0"), "line 4", "poses.txt"),
        "8-bit depth": Case(picture("drive_02/0000000003_depth.png", 20, 40, 1), "8 bits", "3_depth"),
        "depth cut short": Case(cut("drive_02/0000000003_depth.png"), "cannot be decoded", "3_depth"),
    },
    ("kitti_odometry", odometry): {
        "no calibration": Case(remove("calib.txt"), "no sequence with calib.txt"),
        "no line for the camera": Case(change("calib.txt", "P2:", "P7:"), "P2", "calib.txt"),
        "singular calibration": Case(change("calib.txt", "P2: 20", "P2: 0"), "focal length", "calib.txt"),
        "no images": Case(empty("image_2"), "holds no", "image_2"),
        "no image folder": Case(rename("image_2", "left"), "no folder image_2 or image_0"),
        "a pose too few": Case(change("poses.txt", "1 0 0 0 0 1 0 0 0 0 1 3\n", ""), "7 poses for 8 images"),
        "11 numbers": Case(change("poses.txt", "1 0 0 0 0", "1 0 0 0"), "11 numbers", "poses.txt"),
        "infinite position": Case(change("poses.txt", " 0 0 1 3", " 0 0 1 inf"), "line 4", "poses.txt"),
        "no number": Case(rename("image_2/000002.png", "image_2/last.png"), "no line among", "last.png"),
        "a raised two": Case(rename("image_2/000002.png", "image_2/²²².png"), "no line among", "²²²"),
    },
    ("kitti_odometry_flat", flat_odometry): {
        "empty poses": Case(write("poses.txt", "\n\n"), "holds no poses", "poses.txt"),
        "five numbers": Case(change("poses.txt", "0.01 0 0 0 3", "0.01 0 0 3"), "line 4", "poses.txt"),
        "no sequence": Case(change("poses.txt", "00_000003", "000003"), "line 4", "poses.txt"),
        "NaN": Case(change("poses.txt", "0.01", "nan"), "line 1", "poses.txt"),
        "an image missing": Case(remove("images/00_000003.png"), "is missing", "00_000003.png"),
    },
    ("posed", posed): {
        "no transforms.json": Case(remove("transforms.json"), "does not exist", "transforms.json"),
        "an image cut short": Case(cut("images/2.png"), "cannot be decoded", "2.png"),
    },
}
CASES = [
    pytest.param(layout, build, case, id=f"{layout}: {name}")
    for (layout, build), cases in BROKEN.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize(("layout", "build", "case"), CASES)
def test_broken_views(tmp_path: Path, layout: str, build: Callable[[Path], Path], case: Case) -> None:
    (tmp_path / "data").mkdir()
    folder = build(tmp_path / "data")
    assert_refused(case, tmp_path / "data", lambda: load(folder, layout))


@pytest.mark.parametrize(("layout", "build"), list(BROKEN))
def test_whole_views_are_loaded(tmp_path: Path, layout: str, build: Callable[[Path], Path]) -> None:
    load(build(tmp_path), layout)


LISTS = {
    "list missing": Case(remove("train.txt"), "does not exist", "train.txt"),
    "list empty": Case(write("train.txt", "\r\n\r\n"), "or there are none", "train.txt"),
    "list of something else": Case(write("train.txt", "x/1\nx/2\n"), "holds nothing of the list"),
    "unlike lines": Case(write("pairs.txt", "a_0_0 a_20_0\na_0_0\n"), "differ in their number", "pairs.txt"),
    "pairs of three": Case(write("pairs.txt", "a_0_0 a_20_0 a_40_0\n"), "not `source target`", "pairs.txt"),
    "a pair that is not there": Case(write("pairs.txt", "a_0_0 a_99_0\n"), "no view named 'a_99_0'"),
    "all held out": Case(write("pairs.txt", "a_0_0 a_20_0\na_40_0 a_60_0\n"), "no two views form a pair"),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists(tmp_path: Path, case: str) -> None:
    folder = flat(tmp_path / "cars")
    for azimuth in (80, 100):
        picture(f"images/a_{azimuth}_0.png", 24, 24)(folder)
    write("train.txt", "a_0_0\r\na_20_0\r\na_40_0\r\na_60_0\r\n")(folder)
    write("pairs.txt", "a_80_0 a_100_0\r\n")(folder)
    options = {"train_list": "train.txt", "test_pairs": "pairs.txt"}
    load(folder, "shapenet_flat", **options)
    assert_refused(LISTS[case], folder, lambda: load(folder, "shapenet_flat", **options))


# ---- raw KITTI drives --------------------------------------------------------------------------------------

DRIVE = "2011_09_26_drive_0001_sync"
OXTS, BEAMS = f"{DRIVE}/oxts/data/0000000000.txt", f"{DRIVE}/velodyne_points/data/0000000000.bin"
CAM = "calib_cam_to_cam.txt"
RAW = {
    "no calibration": Case(remove(CAM), "does not exist", CAM),
    "no projection": Case(change(CAM, "P_rect_02", "P_rect_09"), "lacks P_rect_02"),
    "a number too few": Case(change(CAM, " 0 1 0\n", " 0 1\n"), "11 numbers", CAM),
    "a rotation of eight": Case(change(CAM, "0 0 0 1\nP", "0 0 1\nP"), "9 numbers", CAM),
    "singular projection": Case(change(CAM, "70 0 60", "0 0 0"), "focal length", CAM),
    "no rotation": Case(change("calib_velo_to_cam.txt", "R:", "Q:"), "has no lines `R:`", "calib_velo"),
    "NaN": Case(change("calib_imu_to_velo.txt", "-0.8", "nan"), "finite", "calib_imu"),
    "no images": Case(remove(f"{DRIVE}/image_02/data/0000000000.png"), "holds no images", "image_02"),
    "no packets": Case(remove(OXTS), "no GPS/IMU packets", "oxts"),
    "a short packet": Case(write(OXTS, "49 8 110"), "no GPS/IMU packet", "0000000000.txt"),
    "at the pole": Case(write(OXTS, "-90 8 110 0 0 0"), "latitude", "0000000000.txt"),
    "another frame's packet": Case(rename(OXTS, f"{DRIVE}/oxts/data/7.txt"), "lacks the packet"),
    "beams cut short": Case(cut(BEAMS, 0.7), "no whole number of points", "0000000000.bin"),
    "NaN in beams": Case(write(BEAMS, struct.pack("<4f", math.nan, 1, 1, 1)), "NaN", "0000000000.bin"),
}


@pytest.mark.parametrize("case", RAW)
def test_raw_kitti(tmp_path: Path, case: str) -> None:
    date = tmp_path / "2011_09_26"
    write(CAM, "R_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 70 0 60 4 0 70 17 0 0 0 1 0\n")(date)
    write("calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 -0.25\n")(date)
    write("calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n")(date)
    picture(f"{DRIVE}/image_02/data/0000000000.png", 37, 124)(date)
    write(OXTS, "49.0 8.0 110 0 0 0")(date)
    write(BEAMS, struct.pack("<4f", 10.0, 1.0, 0.1, 0.5))(date)
    assert_refused(RAW[case], date, lambda: convert_drive(date, DRIVE, "02", tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_damaged_beams(tmp_path: Path, examples: int) -> None:
    points = np.random.default_rng(0).uniform(-20, 20, (9, 4)).astype("<f4")
    (tmp_path / "0.bin").write_bytes(points.tobytes())
    assert_damage_is_refused(tmp_path / "0.bin", read_velodyne, examples)
