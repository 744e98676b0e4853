"""Text, errors and folders: UTF-8, errors that cross processes, folders that appear only when complete."""

import os
import pickle
from pathlib import Path

import pytest

from shared.errors import DataError
from shared.files.disk import new_folder, read_text, write_bytes


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
