"""Text, errors and folders: UTF-8, errors that cross processes, folders that appear only when complete."""

import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import pytest

from shared.errors import DataError
from shared.files.disk import made_once, new_folder, read_text, write_bytes


def test_text_is_utf8_with_windows_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_text(tmp_path / "a.txt") == "one\ntwo\n"
    (tmp_path / "b.txt").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match="byte 2"):
        read_text(tmp_path / "b.txt")


def test_data_error_survives_pickling():
    error = pickle.loads(pickle.dumps(DataError(Path("a/b.png"), "is odd", "Fix it")))
    assert (error.path, error.reason, error.remedy) == ("a/b.png", "is odd", "Fix it")
    assert str(error) == "a/b.png: is odd. Fix it"


def test_writing_makes_parents_but_not_through_a_file(tmp_path):
    write_bytes(tmp_path / "x" / "y" / "a.bin", b"1")
    with pytest.raises(DataError, match="cannot be written"):
        write_bytes(tmp_path / "x" / "y" / "a.bin" / "b.bin", b"1")


def test_a_new_folder_appears_only_when_complete(tmp_path):
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "x.txt").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "x.txt").read_text() == "1"

    def fail_halfway():
        with new_folder(tmp_path / "a" / "c") as folder:
            (folder / "x.txt").write_text("1")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert os.listdir(tmp_path / "a") == ["b"]
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "y.txt").write_text("1")
    assert os.listdir(tmp_path / "empty") == ["y.txt"]
    for used in (tmp_path / "empty", tmp_path / "empty" / "y.txt"):
        with pytest.raises(DataError, match="not an empty folder"), new_folder(used):
            pass
    with pytest.raises(DataError, match="cannot be written"), new_folder(tmp_path / "empty" / "y.txt" / "z"):
        pass


# ---- data sets that are made on first use ------------------------------------------------------------------


def slowly(folder: Path) -> None:
    (folder / "a.txt").write_text(str(os.getpid()))
    time.sleep(0.2)
    (folder / "b.txt").write_text(str(os.getpid()))


def make(folder: Path) -> Path:
    return made_once(folder, {"size": 3}, slowly)


def test_a_data_set_is_made_once_for_each_set_of_options(tmp_path):
    said = []
    first = made_once(tmp_path / "x" / "cube", {"size": 3, "pair": (1, 2)}, slowly, said.append)
    again = made_once(tmp_path / "x" / "cube", {"pair": [1, 2], "size": 3}, slowly, said.append)
    other = made_once(tmp_path / "x" / "cube", {"size": 4}, slowly, said.append)
    assert first == again != other
    assert len(said) == 2
    assert sorted(os.listdir(tmp_path / "x")) == sorted([first.name, other.name])
    assert sorted(os.listdir(first)) == ["a.txt", "b.txt", "made.json"]


def test_processes_that_make_the_same_data_set_at_once_wait_for_the_first(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        made = pool.map(make, [tmp_path / "cube"] * 3)
    assert len(set(made)) == 1
    assert (made[0] / "a.txt").read_text() == (made[0] / "b.txt").read_text()
    assert os.listdir(tmp_path) == [made[0].name]


def test_what_a_killed_maker_left_is_removed(tmp_path):
    child = os.fork()
    if child == 0:
        make(tmp_path / "cube")
        os._exit(1)
    while not list(tmp_path.glob(".*.tmp/a.txt")):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(tmp_path.glob(".*.tmp"))
    made = make(tmp_path / "cube")
    assert os.listdir(tmp_path) == [made.name]


def test_a_maker_that_fails_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        slowly(folder)
        raise KeyError

    with pytest.raises(KeyError):
        made_once(tmp_path / "cube", {}, fail)
    assert os.listdir(tmp_path) == []
