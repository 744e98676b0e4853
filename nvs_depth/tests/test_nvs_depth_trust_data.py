"""Broken views, one row each: every one ends in a `DataError` with file, reason and remedy within 2 s.

Loaders: both ShapeNet layouts, prepared KITTI drives, odometry sequences, the flat odometry, posed images,
lists of frames, and raw KITTI drives on their way to prepared ones.
"""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nvs_depth.datasets.kitti_convert import convert_drive
from nvs_depth.datasets.options import DataConfig, PairOptions
from nvs_depth.datasets.select import load_split
from nvs_depth.datasets.shapenet import grid_pose, view_number
from shared.files.images import write_exr
from shared.geometry.camera import invert_pose
from shared.tests.broken import Case, assert_refused, change, claim_size, cut, picture, remove, write

AZIMUTHS = (0, 20, 40, 60)
TURNED = "1 0 0 {x} 0 1 0 0 0 0 1 {z}"


def load(folder: Path, layout: str, **options: object) -> None:
    """The split, and every view of it."""
    pairs = PairOptions(max_gap=2, nearest=2)
    config = DataConfig(layout=layout, root=str(folder), pairs=pairs, holdout="coordinates", **options)
    split = load_split(config, 16)
    for views in (split.train.views, split.test.views):
        for index in range(len(views)):
            views.load(index)


def rows(matrix: torch.Tensor) -> str:
    return "\n".join(" ".join(map(str, row)) for row in matrix.tolist())


def shapenet(root: Path) -> Path:
    folder = root / "chairs"
    write("camera_settings/cam_K/cam_K.txt", "30 0 12\n0 30 12\n0 0 1")(root)
    for azimuth in AZIMUTHS:
        number = view_number(azimuth, 0)
        matrix = rows(invert_pose(grid_pose(azimuth, 0))[:3])
        write(f"camera_settings/cam_RT/cam_RT_{number:03d}.txt", matrix)(root)
        picture(f"chairs/a/color_{number:03d}.png", 24, 24)(root)
        write_exr(folder / "a" / f"depth_{number:03d}.exr", torch.full((24, 24), 2.0))
    return folder


K, RT = "camera_settings/cam_K/cam_K.txt", "camera_settings/cam_RT/cam_RT_005.txt"
SHAPENET = {
    "no K": Case(remove(K), "does not exist", "cam_K.txt"),
    "words in K": Case(change(K, "30", "far"), "far", "cam_K.txt"),
    "NaN in K": Case(change(K, "30", "nan"), "nan", "cam_K.txt"),
    "focal length 0": Case(change(K, "30 0 12", "0 0 12"), "focal length", ""),
    "K with a number too few": Case(change(K, "0 0 1", "0 0"), "8 numbers", "cam_K.txt"),
    "no poses": Case(
        lambda f: [p.unlink() for p in (f / "camera_settings/cam_RT").iterdir()], "cam_RT_001.txt"
    ),
    "a pose file of another name": Case(
        write("camera_settings/cam_RT/cam_RT_x.txt", "1"), "cam_RT_x", "cam_RT_x"
    ),
    "a mirrored pose": Case(change(RT, "0.93", "-0.93"), "the rotation is not", "cam_RT_005"),
    "a view missing": Case(remove("chairs/a/color_005.png"), "the view is missing", "color_005.png"),
    "no models": Case(lambda f: (f / "chairs" / "a").rename(f / "a"), "no folders of models"),
    "a view of another size": Case(picture("chairs/a/color_005.png", 24, 26), "26 x 24 pixels", "color_005"),
    "a view cut short": Case(cut("chairs/a/color_005.png"), "cannot be decoded", "color_005"),
    "depth cut short": Case(cut("chairs/a/depth_005.exr"), "OpenEXR", "depth_005"),
    "depth that is a picture": Case(
        lambda f: (f / "chairs/a/depth_005.exr").write_bytes((f / "chairs/a/color_005.png").read_bytes()),
        "OpenEXR",
        "depth_005",
    ),
    "depth of another size": Case(
        lambda f: write_exr(f / "chairs/a/depth_005.exr", torch.ones(12, 12)), "its image", "depth_005"
    ),
}


@pytest.mark.parametrize("case", SHAPENET)
def test_shapenet(tmp_path: Path, case: str) -> None:
    folder = shapenet(tmp_path)
    load(folder, "shapenet")
    assert_refused(SHAPENET[case], tmp_path, lambda: load(folder, "shapenet"))


def flat(root: Path) -> Path:
    for azimuth in AZIMUTHS:
        picture(f"images/a_{azimuth}_0.png", 24, 24)(root)
    return root


FLAT = {
    "no folder": Case(lambda f: f.rename(f.with_name("gone")), "does not exist"),
    "no view": Case(lambda f: [p.unlink() for p in (f / "images").iterdir()], "holds no views named"),
    "a view of absurd size": Case(claim_size("images/a_20_0.png"), "claims 8000", "a_20_0"),
    "a view of another size": Case(picture("images/a_20_0.png", 26, 24), "24 x 26 pixels", "a_20_0"),
    "nothing to hold out": Case(
        lambda f: [p.unlink() for p in (f / "images").glob("a_[246]*")], "only one of"
    ),
    "no pairs": Case(
        lambda f: [
            p.rename(p.with_name(f"a_{i * 7}_0.png")) for i, p in enumerate(sorted((f / "images").iterdir()))
        ],
        "no two views form a pair",
    ),
}


@pytest.mark.parametrize("case", FLAT)
def test_shapenet_flat(tmp_path: Path, case: str) -> None:
    load(flat(tmp_path / "cars"), "shapenet_flat")
    assert_refused(FLAT[case], tmp_path / "cars", lambda: load(tmp_path / "cars", "shapenet_flat"))


def drive(root: Path) -> Path:
    folder = root / "drive_02"
    write("cam.txt", "20 0 20\n0 20 10\n0 0 1")(folder)
    poses = [f"{i} 1 0 0 {i * 0.5} 0 1 0 0 0 0 1 0 0 0 0 1" for i in range(8)]
    write("poses.txt", "\n".join(poses))(folder)
    for index in range(8):
        picture(f"{index:010d}.png", 20, 40)(folder)
        picture(f"{index:010d}_depth.png", 20, 40, 1, 16)(folder)
    return root


DRIVE = {
    "no drive": Case(remove("drive_02/cam.txt"), "no drive with a cam.txt"),
    "focal length below 0": Case(change("drive_02/cam.txt", "20 0 20", "-20 0 20"), "focal length"),
    "singular K": Case(write("drive_02/cam.txt", "0 0 0 0 0 0 0 0 0"), "focal length"),
    "no frames": Case(lambda f: [p.unlink() for p in f.rglob("*.png")], "holds no frames"),
    "a frame without pose": Case(
        change("drive_02/poses.txt", "\n3 ", "\n13 "), "lacks the frame", "poses.txt"
    ),
    "a frame twice": Case(change("drive_02/poses.txt", "\n3 ", "\n2 "), "frame 2 comes twice", "poses.txt"),
    "15 numbers": Case(change("drive_02/poses.txt", "0 0 0 1\n", "0 0 1\n"), "15 numbers", "poses.txt"),
    "words": Case(change("drive_02/poses.txt", "\n3 ", "\nthree "), "three", "poses.txt"),
    "NaN in a pose": Case(change("drive_02/poses.txt", "0.5", "nan"), "NaN"),
    "scale 0": Case(change("drive_02/poses.txt", "\n3 1 0 0", "\n3 0 0 0"), "line 4", "poses.txt"),
    "8-bit depth": Case(picture("drive_02/0000000003_depth.png", 20, 40, 1), "8 bits", "0000000003_depth"),
    "depth of another size": Case(
        picture("drive_02/0000000003_depth.png", 10, 20, 1, 16), "its image", "_depth"
    ),
    "depth cut short": Case(cut("drive_02/0000000003_depth.png"), "cannot be decoded", "0000000003_depth"),
}


@pytest.mark.parametrize("case", DRIVE)
def test_kitti_raw(tmp_path: Path, case: str) -> None:
    load(drive(tmp_path), "kitti_raw")
    assert_refused(DRIVE[case], tmp_path, lambda: load(tmp_path, "kitti_raw"))


def odometry(folder: Path) -> Path:
    write("calib.txt", "P0: 20 0 20 0 0 20 10 0 0 0 1 0\nP2: 20 0 20 9 0 20 10 0 0 0 1 0\n")(folder)
    write("poses.txt", "\n".join(TURNED.format(x=0, z=i) for i in range(8)))(folder)
    for index in range(8):
        picture(f"image_2/{index:06d}.png", 20, 40)(folder)
    return folder


ODOMETRY = {
    "no calibration": Case(remove("calib.txt"), "no sequence with calib.txt"),
    "no line for the camera": Case(change("calib.txt", "P2:", "P7:"), "no line `P2:`", "calib.txt"),
    "words in the calibration": Case(change("calib.txt", "P2: 20", "P2: far"), "far", "calib.txt"),
    "NaN in the calibration": Case(change("calib.txt", "P2: 20", "P2: nan"), "nan", "calib.txt"),
    "singular calibration": Case(change("calib.txt", "P2: 20", "P2: 0"), "focal length", "calib.txt"),
    "no images": Case(
        lambda f: [p.unlink() for p in (f / "image_2").iterdir()], "holds no images", "image_2"
    ),
    "no image folder": Case(lambda f: (f / "image_2").rename(f / "left"), "no folder image_2 or image_0"),
    "a pose too few": Case(change("poses.txt", TURNED.format(x=0, z=3) + "\n", ""), "7 poses for 8 images"),
    "11 numbers": Case(change("poses.txt", "1 0 0 0 0", "1 0 0 0"), "line 1: 11 numbers", "poses.txt"),
    "infinite position": Case(
        change("poses.txt", " 0 0 1 3", " 0 0 1 inf"), "line 4", "poses.txt"
    ),
    "a name without a number": Case(
        lambda f: (f / "image_2/000002.png").rename(f / "image_2/last.png"), "no line among", "last.png"
    ),
    "an image too many": Case(picture("image_2/000008.png", 20, 40), "8 poses for 9 images", "poses.txt"),
    "a name with a raised two": Case(
        lambda f: (f / "image_2/000002.png").rename(f / "image_2/²²².png"), "no line among", "²²²"
    ),
}


@pytest.mark.parametrize("case", ODOMETRY)
def test_kitti_odometry(tmp_path: Path, case: str) -> None:
    load(odometry(tmp_path / "00"), "kitti_odometry")
    assert_refused(ODOMETRY[case], tmp_path / "00", lambda: load(tmp_path / "00", "kitti_odometry"))


def flat_odometry(folder: Path) -> Path:
    write("poses.txt", "\n".join(f"00_{i:06d} 0 0.01 0 0 0 {i}" for i in range(8)))(folder)
    for index in range(8):
        picture(f"images/00_{index:06d}.png", 24, 24)(folder)
    return folder


FLAT_ODOMETRY = {
    "no poses": Case(remove("poses.txt"), "does not exist", "poses.txt"),
    "empty poses": Case(write("poses.txt", "\n\n"), "holds no poses", "poses.txt"),
    "five numbers": Case(change("poses.txt", "0.01 0 0 0 3", "0.01 0 0 3"), "line 4 is not", "poses.txt"),
    "no sequence": Case(change("poses.txt", "00_000003", "000003"), "line 4 is not", "poses.txt"),
    "NaN": Case(change("poses.txt", "0.01", "nan"), "view 00_000000: NaN or infinite"),
    "an image missing": Case(remove("images/00_000003.png"), "is missing", "00_000003.png"),
}


@pytest.mark.parametrize("case", FLAT_ODOMETRY)
def test_kitti_odometry_flat(tmp_path: Path, case: str) -> None:
    load(flat_odometry(tmp_path / "f"), "kitti_odometry_flat")
    assert_refused(FLAT_ODOMETRY[case], tmp_path / "f", lambda: load(tmp_path / "f", "kitti_odometry_flat"))


def posed(folder: Path) -> Path:
    frames = []
    for index in range(6):
        picture(f"images/{index}.png", 24, 32)(folder)
        matrix = torch.eye(4)
        matrix[0, 3] = 0.1 * index
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": matrix.tolist()})
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 30.0, "w": 32, "h": 24, "frames": frames}))
    return folder


def two_sizes(folder: Path) -> None:
    held = json.loads((folder / "transforms.json").read_text())
    held["frames"][2] |= {"w": 34, "h": 24}
    (folder / "transforms.json").write_text(json.dumps(held))
    picture("images/2.png", 24, 34)(folder)


POSED = {
    "no transforms.json": Case(remove("transforms.json"), "does not exist", "transforms.json"),
    "two sizes": Case(two_sizes, "2 sizes", "transforms.json"),
    "an image cut short": Case(cut("images/2.png"), "cannot be decoded", "2.png"),
    "an image of another size": Case(picture("images/2.png", 48, 64), "the image is 64 x 48"),
}


@pytest.mark.parametrize("case", POSED)
def test_posed(tmp_path: Path, case: str) -> None:
    load(posed(tmp_path / "p"), "posed")
    assert_refused(POSED[case], tmp_path / "p", lambda: load(tmp_path / "p", "posed"))


LISTS = {
    "list missing": Case(remove("train.txt"), "does not exist", "train.txt"),
    "list empty": Case(write("train.txt", "\r\n\r\n"), "or there are none", "train.txt"),
    "list of something else": Case(write("train.txt", "x/1\nx/2\n"), "holds nothing of the list"),
    "pairs of unlike lines": Case(
        write("pairs.txt", "a_0_0 a_20_0\na_0_0\n"), "differ in their number", "pairs.txt"
    ),
    "pairs of three": Case(write("pairs.txt", "a_0_0 a_20_0 a_40_0\n"), "not `source target`", "pairs.txt"),
    "a pair that is not there": Case(write("pairs.txt", "a_0_0 a_99_0\n"), "no view named 'a_99_0'"),
    "everything held out": Case(
        write("pairs.txt", "a_0_0 a_20_0\na_40_0 a_60_0\n"), "no two views form a pair"
    ),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists(tmp_path: Path, case: str) -> None:
    flat(tmp_path / "cars")
    for azimuth in (80, 100):
        picture(f"images/a_{azimuth}_0.png", 24, 24)(tmp_path / "cars")
    write("train.txt", "a_0_0\r\na_20_0\r\na_40_0\r\na_60_0\r\n")(tmp_path / "cars")
    write("pairs.txt", "a_80_0 a_100_0\r\n")(tmp_path / "cars")
    options = {"train_list": "train.txt", "test_pairs": "pairs.txt"}
    load(tmp_path / "cars", "shapenet_flat", **options)
    assert_refused(
        LISTS[case], tmp_path / "cars", lambda: load(tmp_path / "cars", "shapenet_flat", **options)
    )


def raw(root: Path) -> Path:
    date = root / "2011_09_26"
    name = "2011_09_26_drive_0001_sync"
    write("calib_cam_to_cam.txt", "R_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 70 0 60 4 0 70 17 0 0 0 1 0\n")(
        date
    )
    write("calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 -0.25\n")(date)
    write("calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n")(date)
    picture(f"{name}/image_02/data/0000000000.png", 37, 124)(date)
    write(f"{name}/oxts/data/0000000000.txt", "49.0 8.0 110 0 0 0")(date)
    write(f"{name}/velodyne_points/data/0000000000.bin", struct.pack("<4f", 10.0, 1.0, 0.1, 0.5))(date)
    return date


DRIVE_NAME = "2011_09_26_drive_0001_sync"
OXTS, BEAMS = f"{DRIVE_NAME}/oxts/data/0000000000.txt", f"{DRIVE_NAME}/velodyne_points/data/0000000000.bin"
RAW = {
    "no calibration": Case(remove("calib_cam_to_cam.txt"), "does not exist", "calib_cam_to_cam"),
    "no projection": Case(change("calib_cam_to_cam.txt", "P_rect_02", "P_rect_09"), "lacks P_rect_02"),
    "a number too few": Case(
        change("calib_cam_to_cam.txt", " 0 1 0\n", " 0 1\n"), "11 numbers", "calib_cam_to"
    ),
    "a rotation of eight": Case(
        change("calib_cam_to_cam.txt", "0 0 0 1\nP", "0 0 1\nP"), "9 numbers", "calib_cam"
    ),
    "singular projection": Case(
        change("calib_cam_to_cam.txt", "70 0 60", "0 0 0"), "focal length", "calib_cam"
    ),
    "no rotation": Case(change("calib_velo_to_cam.txt", "R:", "Q:"), "has no lines `R:`", "calib_velo"),
    "NaN in the calibration": Case(change("calib_imu_to_velo.txt", "-0.8", "nan"), "finite", "calib_imu"),
    "no images": Case(remove(f"{DRIVE_NAME}/image_02/data/0000000000.png"), "holds no images", "image_02"),
    "no packets": Case(remove(OXTS), "no GPS/IMU packets", "oxts"),
    "a short packet": Case(write(OXTS, "49 8 110"), "no GPS/IMU packet", "0000000000.txt"),
    "NaN in a packet": Case(write(OXTS, "49 8 nan 0 0 0"), "finite", "0000000000.txt"),
    "at the pole": Case(write(OXTS, "-90 8 110 0 0 0"), "latitude", "0000000000.txt"),
    "another frame's packet": Case(
        lambda f: (f / OXTS).rename((f / OXTS).with_name("7.txt")), "lacks the packet"
    ),
    "beams cut short": Case(cut(BEAMS, 0.7), "no whole number of points", "0000000000.bin"),
    "NaN in beams": Case(
        write(BEAMS, struct.pack("<4f", math.nan, 1, 1, 1)), "NaN or infinite", "0000000000.bin"
    ),
}


@pytest.mark.parametrize("case", RAW)
def test_raw_kitti(tmp_path: Path, case: str) -> None:
    date = raw(tmp_path)
    convert: Callable[[], int] = lambda: convert_drive(date, DRIVE_NAME, "02", tmp_path / "out")  # noqa: E731
    assert_refused(RAW[case], date, convert)
    assert not list((tmp_path / "out").glob("*"))
