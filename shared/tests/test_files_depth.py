"""PFM, OpenEXR, depth PNG, PLY and NumPy files: exact, and read by others as they were meant."""

import struct
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
import torch

from shared.errors import DataError
from shared.files.images import write_image
from shared.files.maps import (
    read_depth_png,
    read_exr,
    read_npy,
    read_npz,
    read_pfm,
    write_depth_png,
    write_exr,
    write_npy,
    write_npz,
    write_pfm,
    write_ply,
)
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (1, 1)])
def test_pfm_round_trip_is_exact(tmp_path, shape):
    values = torch.randn(shape)
    values[..., 0, 0] = float("inf")
    write_pfm(tmp_path / "a.pfm", values)
    assert torch.equal(read_pfm(tmp_path / "a.pfm"), values)
    header, size, _, floats = (tmp_path / "a.pfm").read_bytes().split(b"\n", 3)
    swapped = np.frombuffer(floats, "<f4").astype(">f4").tobytes()
    (tmp_path / "a.pfm").write_bytes(b"\n".join([header, size, b"1.0", swapped]))
    assert torch.equal(read_pfm(tmp_path / "a.pfm"), values)


@pytest.mark.parametrize("channels", [1, 3])
def test_pfm_agrees_with_opencv_both_ways(tmp_path, channels):
    values = torch.randn(3, 5, 7) if channels == 3 else torch.randn(5, 7)
    write_pfm(tmp_path / "a.pfm", values)
    theirs = cv2.imread(str(tmp_path / "a.pfm"), cv2.IMREAD_UNCHANGED)
    theirs = theirs[..., ::-1].transpose(2, 0, 1) if channels == 3 else theirs
    assert np.array_equal(theirs, values.numpy())
    ours = values.numpy()[::-1].transpose(1, 2, 0) if channels == 3 else values.numpy()
    cv2.imwrite(str(tmp_path / "b.pfm"), np.ascontiguousarray(ours))
    assert torch.equal(read_pfm(tmp_path / "b.pfm"), values)


def test_exr_round_trip_and_choice_of_the_channel(tmp_path):
    values = torch.randn(37, 23, generator=torch.Generator().manual_seed(0))
    values[3, 4], values[5, 6] = torch.inf, 1e10
    write_exr(tmp_path / "new" / "d.exr", values)
    assert torch.equal(read_exr(tmp_path / "new" / "d.exr"), values)
    halves = {"R": np.ones((4, 5), np.float16), "Z": np.full((4, 5), 2, np.float16)}
    OpenEXR.File({"compression": OpenEXR.PIZ_COMPRESSION}, halves).write(str(tmp_path / "b.exr"))
    assert read_exr(tmp_path / "b.exr").unique().tolist() == [2]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_damaged_exr(tmp_path, examples):
    path = tmp_path / "depth.exr"
    write_exr(path, torch.linspace(1, 2, 600).reshape(20, 30))
    assert_damage_is_refused(path, read_exr, examples, where=(0, 420))


def test_depth_png_round_trip_mask_and_unit(tmp_path):
    depth = torch.rand(6, 5) * 4 + 0.01
    valid = torch.rand(6, 5) > 0.3
    depth[~valid] = float("nan")
    write_depth_png(tmp_path / "a.png", depth, valid, unit_m=1e-3)
    read, mask = read_depth_png(tmp_path / "a.png", unit_m=1e-3)
    assert torch.equal(mask, valid)
    assert (read - depth)[valid].abs().max() <= 0.5001e-3
    assert torch.equal(read[~valid], torch.zeros(int((~valid).sum())))
    codes = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert codes.dtype == np.uint16
    assert np.array_equal(codes[valid.numpy()], np.rint(depth[valid].double().numpy() / 1e-3))


def test_depth_at_the_invalid_code_stays_valid_one_code_off(tmp_path):
    depth = torch.tensor([[1.0, 1.2, 0.0]])
    valid = torch.tensor([[True, True, False]])
    write_depth_png(tmp_path / "a.png", depth, valid, unit_m=1e-4, invalid=10000)
    read, mask = read_depth_png(tmp_path / "a.png", unit_m=1e-4, invalid=(10000,))
    assert torch.equal(mask, valid)
    assert torch.allclose(read, torch.tensor([[1.0001, 1.2, 0.0]]))


def test_depth_png_refuses_pictures_and_what_does_not_fit(tmp_path):
    write_image(tmp_path / "a.png", torch.rand(3, 4, 4))
    with pytest.raises(DataError, match="3 channel.*8 bits"):
        read_depth_png(tmp_path / "a.png", unit_m=1e-3)
    for depth in (-1.0, 70.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="valid depth"):
            write_depth_png(tmp_path / "b.png", torch.tensor([[depth]]), torch.tensor([[True]]), unit_m=1e-3)
    with pytest.raises(ValueError, match="unit_m"):
        read_depth_png(tmp_path / "a.png", unit_m=0)


@pytest.mark.parametrize("kind", [None, "uint8", "float"])
def test_ply_parses_back(tmp_path, kind):
    points = torch.randn(11, 3, dtype=torch.float64)
    levels = torch.randint(0, 256, (11, 3), dtype=torch.uint8)
    colors = {None: None, "uint8": levels, "float": levels.float() / 255}[kind]
    write_ply(tmp_path / "a.ply", points, colors)
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 11\n")
    layout = "<3f" if kind is None else "<3f3B"
    records = list(struct.iter_unpack(layout, body))
    assert len(records) == 11
    assert np.allclose([r[:3] for r in records], points.numpy(), atol=1e-6)
    if kind is not None:
        assert header.count(b"property uchar") == 3
        assert np.array_equal([r[3:] for r in records], levels.numpy())
    with pytest.raises(ValueError):
        write_ply(tmp_path / "b.ply", torch.zeros(3, 2))


# ---- NumPy's files -----------------------------------------------------------------------------------------


ARRAYS = {
    "floats": np.arange(12, dtype=np.float32).reshape(3, 4),
    "by_column": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big_endian": np.arange(5, dtype=">i4"),
    "halves": np.ones((2, 3, 1), np.float16),
    "scalar": np.array(2.5),
    "text": np.array("disparity"),
    "empty": np.zeros((0, 3)),
    "flags": np.array([True, False]),
}


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    for name, array in ARRAYS.items():
        np.save(tmp_path / "a.npy", array)
        read = read_npy(tmp_path / "a.npy")
        assert read.dtype == array.dtype, name
        np.testing.assert_array_equal(read, array)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **ARRAYS)
        read = read_npz(tmp_path / "a.npz")
        assert set(read) == set(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(read[name], array)


def test_what_is_written_numpy_reads(tmp_path: Path) -> None:
    write_npz(tmp_path / "new" / "a.npz", **ARRAYS)
    with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as theirs:
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(theirs[name], array)
    write_npy(tmp_path / "a.npy", ARRAYS["by_column"])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), ARRAYS["by_column"])


@pytest.mark.parametrize("damage", ["objects", "short", "text", "another format"])
def test_other_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}]) if damage == "objects" else np.arange(9))
    data = path.read_bytes()
    made = {"short": data[:-1], "text": b"1 2 3", "another format": b"PK" + data}
    path.write_bytes(made.get(damage, data))
    with pytest.raises(DataError, match="is no array in NumPy's format"):
        read_npy(path)
    with pytest.raises(DataError, match="is not an NPZ file"):
        read_npz(path)
