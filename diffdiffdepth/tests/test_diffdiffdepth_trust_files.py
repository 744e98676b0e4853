"""Point files under 500 truncations, bit flips and extreme bytes (60 in `make test`).

Proven for the archive and for the arrays inside it (with checksums repaired): nothing but `DataError`, within
two seconds and 256 MB; arrays of Python objects and archives that claim too much are refused unread.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdiffdepth.points.store import load_points, save_points
from diffdiffdepth.scene import SparsePoints
from shared.errors import DataError
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused, in_small_memory, repaired_zip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    positions, labels = torch.rand(6, 2, generator=generator) * 9, torch.rand(6, generator=generator) + 1
    save_points(tmp_path / "points.npz", SparsePoints(positions, labels, "depth", torch.ones(6)))
    return tmp_path / "points.npz"


def read(path: Path) -> SparsePoints:
    return load_points(path, (12, 12))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_archive(path: Path, examples: int) -> None:
    assert_damage_is_refused(path, read, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", ["x", "kind"])
def test_array_inside_the_archive(path: Path, name: str, examples: int) -> None:
    repair = repaired_zip(path.read_bytes(), f"{name}.npy")
    with zipfile.ZipFile(path) as archive:
        path.with_name("inner.npy").write_bytes(archive.read(f"{name}.npy"))

    def read_rebuilt(inner: Path) -> SparsePoints:
        path.write_bytes(repair(inner.read_bytes()))
        return read(path)

    assert_damage_is_refused(path.with_name("inner.npy"), read_rebuilt, examples)


def test_objects_are_refused(path: Path) -> None:
    np.savez(path, x=np.array([{}]), y=np.zeros(1), label=np.ones(1), kind=np.array("depth"))
    with pytest.raises(DataError, match="Python objects"):
        load_points(path)


def test_an_archive_that_is_a_bomb(path: Path) -> None:
    """Its directory claims no more than deflate can hold, but there is no array behind it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(2**28))
    assert path.stat().st_size < 2**20

    def attack() -> None:
        with pytest.raises(DataError, match="not an NPZ file"):
            load_points(path)

    in_small_memory(attack, room=2**26)
