"""NumPy files: what NumPy writes is read, what is written NumPy reads, and nothing else gets through."""

from pathlib import Path

import numpy as np
import pytest

from shared.errors import DataError
from shared.files.images import read_npy, read_npz, write_npy, write_npz

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
