"""Disks that are full or may not be written, and folders that processes died in or are still filling.

Proven: no writer leaves half a file when a file cannot grow; 50 SIGKILLs while a folder of data is made leave
nothing that the next attempt does not remove; what a living process is making is left alone.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.errors import DataError
from shared.files.disk import new_folder, write_bytes, write_json
from shared.files.images import write_image, write_npy, write_pfm
from shared.tests.hostile import as_plain_user, file_size_limit

WRITERS = {
    "bytes": lambda path: write_bytes(path, bytes(90_000)),
    "image": lambda path: write_image(path, torch.rand(3, 200, 200)),
    "pfm": lambda path: write_pfm(path, torch.rand(200, 200)),
    "npy": lambda path: write_npy(path, np.random.default_rng(0).random((99, 99))),
    "json": lambda path: write_json(path, {"values": list(range(30_000))}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_writer_leaves_half_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / ("a.png" if name == "image" else "a.bin")
    path.write_bytes(b"old")
    with file_size_limit(20_000), pytest.raises(DataError, match="cannot be written .*Check the free space"):
        WRITERS[name](path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """As a user without special rights, also where the tests run as the superuser."""

    def attack() -> int:
        refused = 0
        for act in (
            lambda: write_bytes("/a-file-of-the-tests", b"1"),
            lambda: write_image("/a-file-of-the-tests.png", torch.zeros(3, 2, 2)),
            lambda: write_json("/a-file-of-the-tests.json", {}),
            lambda: new_folder("/a-folder-of-the-tests").__enter__(),
        ):
            try:
                act()
            except DataError as error:
                refused += "ermission" in str(error)
        return refused

    assert as_plain_user(attack) == 4


def slowly(folder: Path) -> None:
    """Make a folder of data file by file."""
    with new_folder(folder) as temporary:
        for index in range(100):
            write_bytes(temporary / f"{index}.txt", b"content")


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_while_a_folder_is_made(tmp_path: Path, kills: int) -> None:
    rng = random.Random(0)
    folder, seen = tmp_path / "data" / "made", 0
    for _ in range(kills):
        begun, begin = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(begin, b"1")
                slowly(folder)
            finally:
                os._exit(1)
        os.read(begun, 1)
        time.sleep(rng.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(begun)
        os.close(begin)
        seen += any(folder.parent.glob(".*.tmp")) if folder.parent.exists() else False
        if folder.exists():
            assert len(list(folder.iterdir())) == 100
            shutil.rmtree(folder)
    assert seen >= kills // 5
    slowly(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


def make_while_another_does(folder: Path) -> None:
    with new_folder(folder) as first:
        (first / "a.txt").write_text("1")
        with pytest.raises(DataError, match="another process"), new_folder(folder):
            pass


def test_a_folder_being_made_by_another_is_left_alone(tmp_path: Path) -> None:
    make_while_another_does(tmp_path / "made")
    assert (tmp_path / "made" / "a.txt").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
