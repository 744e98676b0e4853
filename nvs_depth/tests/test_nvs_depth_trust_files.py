"""EXR and LiDAR files under 500 truncations, bit flips and extreme bytes each (60 in `make test`).

Proven: nothing but `DataError`, within two seconds and 256 MB, for stored and deflated scanlines; a
header that claims more than the file can hold is refused, and so is a map of which rows are missing.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from nvs_depth.datasets.exr import read_exr, write_exr
from nvs_depth.datasets.kitti_convert import read_velodyne
from shared.errors import DataError
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused, in_small_memory


def smooth(height: int, width: int) -> torch.Tensor:
    return torch.linspace(1, 2, height)[:, None] * torch.linspace(1, 3, width)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("size", [(37, 23), (3, 5)], ids=["deflated", "stored"])
def test_exr(tmp_path: Path, size: tuple[int, int], examples: int) -> None:
    write_exr(tmp_path / "depth.exr", smooth(*size))
    data = (tmp_path / "depth.exr").read_bytes()
    assert_damage_is_refused(tmp_path / "depth.exr", read_exr, examples, where=(0, min(len(data), 420)))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_velodyne(tmp_path: Path, examples: int) -> None:
    points = np.random.default_rng(0).uniform(-20, 20, (9, 4)).astype("<f4")
    (tmp_path / "0.bin").write_bytes(points.tobytes())
    assert_damage_is_refused(tmp_path / "0.bin", read_velodyne, examples)


def exr(values: torch.Tensor, path: Path) -> tuple[bytearray, int]:
    """A good file and the place of its table of offsets, whose first entry points just behind it."""
    write_exr(path, values)
    data, blocks = bytearray(path.read_bytes()), -(-len(values) // 16)
    places = (p for p in range(len(data) - 8) if struct.unpack_from("<Q", data, p)[0] == p + 8 * blocks)
    return data, next(places)


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    data, _ = exr(smooth(40, 20), tmp_path / "a.exr")
    window = data.index(b"dataWindow\0box2i\0") + len(b"dataWindow\0box2i\0") + 4
    data[window : window + 16] = struct.pack("<4i", 0, 0, 16383, 16383)
    (tmp_path / "a.exr").write_bytes(data)

    def read() -> None:
        with pytest.raises(DataError, match="claims 16384 x 16384 pixels in a file of"):
            read_exr(tmp_path / "a.exr")

    in_small_memory(read)


def test_a_map_whose_rows_come_twice(tmp_path: Path) -> None:
    """The second block named twice, the first never: its rows would be whatever the memory held before."""
    data, table = exr(smooth(32, 20), tmp_path / "a.exr")
    data[table : table + 8] = data[table + 8 : table + 16]
    (tmp_path / "a.exr").write_bytes(data)
    with pytest.raises(DataError, match="damaged EXR file .a block of .* bytes for row 16"):
        read_exr(tmp_path / "a.exr")


def test_a_block_that_is_a_bomb(tmp_path: Path) -> None:
    """A block may not inflate beyond the pixels of its rows."""
    data, table = exr(smooth(16, 20), tmp_path / "a.exr")
    bomb = zlib.compress(bytes(2**28), 9)[:1000]
    (tmp_path / "a.exr").write_bytes(data[: table + 8] + struct.pack("<ii", 0, len(bomb)) + bomb)

    def read() -> None:
        assert read_exr(tmp_path / "a.exr").shape == (16, 20)

    in_small_memory(read, room=64 * 2**20)
