"""Writing to disk: files whole or not at all, folders that appear only when complete, data sets made once."""

import multiprocessing
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
from shared.files.disk import (
    made_once,
    new_folder,
    read_json,
    read_text,
    read_yaml,
    write_bytes,
    write_json,
)
from shared.files.images import write_image
from shared.files.maps import write_npy, write_pfm
from shared.runs.checkpoint import save_checkpoint
from shared.tests.hostile import file_size_limit, forked


def test_text_is_utf8_with_windows_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_text(tmp_path / "a.txt") == "one\ntwo\n"
    (tmp_path / "b.txt").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match="b.txt"):
        read_text(tmp_path / "b.txt")


WRITERS = {
    "a.bin": lambda path: write_bytes(path, bytes(90_000)),
    "a.png": lambda path: write_image(path, torch.rand(3, 200, 200)),
    "a.pfm": lambda path: write_pfm(path, torch.rand(200, 200)),
    "a.npy": lambda path: write_npy(path, np.random.default_rng(0).random((99, 99))),
    "a.json": lambda path: write_json(path, {"values": list(range(30_000))}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_writer_leaves_half_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with file_size_limit(20_000), pytest.raises(DataError, match=name):
        WRITERS[name](path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(DataError, match=name):
        WRITERS[name](path / name)  # below a file


def test_data_are_on_the_disk_before_their_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut could leave the name alone. No test can cut the power; the order of calls is seen."""
    synced, fsync = {}, os.fsync

    def recorded(number: int) -> None:
        facts = os.fstat(number)
        synced[facts.st_ino] = facts.st_size, sorted(path.name for path in tmp_path.glob("[!.]*"))
        fsync(number)

    monkeypatch.setattr(os, "fsync", recorded)
    write_bytes(tmp_path / "a.bin", bytes(100))
    save_checkpoint(tmp_path / "b.pt", {}, paper="toy", step=1, config={})
    for name, before in (("a.bin", []), ("b.pt", ["a.bin"])):
        facts = (tmp_path / name).stat()
        assert synced[facts.st_ino] == (facts.st_size, before)


def test_a_new_folder_appears_only_when_complete(tmp_path):
    (tmp_path / "b").mkdir()  # an empty folder may be there
    with new_folder(tmp_path / "b") as folder:
        (folder / "x.txt").write_text("1")
        assert not list((tmp_path / "b").iterdir())
        with pytest.raises(DataError, match="another process"), new_folder(tmp_path / "b"):
            pass
    assert (tmp_path / "b" / "x.txt").read_text() == "1"

    def fail_halfway():
        with new_folder(tmp_path / "c") as folder:
            (folder / "x.txt").write_text("1")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert os.listdir(tmp_path) == ["b"]
    for used in (tmp_path / "b", tmp_path / "b" / "x.txt", tmp_path / "b" / "x.txt" / "z"):
        with pytest.raises(DataError, match="b"), new_folder(used):
            pass


def slowly(folder: Path) -> None:
    """Make a folder of data file by file."""
    with new_folder(folder) as temporary:
        for index in range(100):
            write_bytes(temporary / f"{index}.txt", b"content")


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_while_a_folder_is_made(tmp_path: Path, kills: int) -> None:
    rng = random.Random(0)
    folder, seen = tmp_path / "data" / "made", 0
    started = time.perf_counter()
    slowly(folder)
    duration = time.perf_counter() - started
    shutil.rmtree(folder)
    for _ in range(kills):
        with forked(lambda: slowly(folder)) as child:
            time.sleep(duration * rng.uniform(0, 1.5))
            os.kill(child, signal.SIGKILL)
        seen += any(folder.parent.glob(".*.tmp"))
        if folder.exists():
            assert len(list(folder.iterdir())) == 100
            shutil.rmtree(folder)
    assert seen >= kills // 5
    slowly(folder)
    assert os.listdir(folder.parent) == ["made"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "a: " * 3000, "a: &a [1]\nb: [*a]", "&a [*a]", "a: [1", "\t- a", "? {a: b}\n: 1"],
)
def test_yaml_that_is_damaged_deep_or_refers_to_itself_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(DataError, match="a.yaml: is not valid YAML"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("a: [1, 2.5]\nb: {c: x}")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2.5], "b": {"c": "x"}}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "9" * 5000, "{'a': 1}"])
def test_json_that_is_damaged_or_deep_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="a.json: is not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(("read", "bytes_"), [(read_yaml, 2**20), (read_json, 2**28)])
def test_files_of_settings_that_are_too_large_are_not_read(tmp_path, read, bytes_):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(bytes_ + 1)  # takes no space
    with pytest.raises(DataError, match="MB, more than"):
        read(tmp_path / "large")


# ---- data sets that are made on first use ------------------------------------------------------------------


def write_slowly(folder: Path) -> None:
    (folder / "a.txt").write_text(str(os.getpid()))
    time.sleep(0.2)
    (folder / "b.txt").write_text(str(os.getpid()))


def make(folder: Path) -> Path:
    return made_once(folder, {"size": 3}, write_slowly)


def test_a_data_set_is_made_once_for_each_set_of_options(tmp_path):
    said = []
    first = made_once(tmp_path / "x" / "cube", {"size": 3, "pair": (1, 2)}, write_slowly, said.append)
    again = made_once(tmp_path / "x" / "cube", {"pair": [1, 2], "size": 3}, write_slowly, said.append)
    other = made_once(tmp_path / "x" / "cube", {"size": 4}, write_slowly, said.append)
    assert first == again != other
    assert len(said) == 2
    assert sorted(os.listdir(tmp_path / "x")) == sorted([first.name, other.name])


def test_processes_that_make_the_same_data_set_at_once_wait_for_the_first(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        made = pool.map(make, [tmp_path / "cube"] * 3)
    assert len(set(made)) == 1
    assert (made[0] / "a.txt").read_text() == (made[0] / "b.txt").read_text()
    assert os.listdir(tmp_path) == [made[0].name]
