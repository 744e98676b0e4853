"""Disks that are full or may not be written, and folders that processes died in or are still filling.

Proven: on a real full disk (a file system of 4 MB, where the system lets us mount one) a run ends with exit
code 2 and its old checkpoints; no writer leaves half a file when a file cannot grow; 50 SIGKILLs while a
folder of data is made leave nothing that the next attempt does not remove; what a living process is making
is left alone.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import shared
from shared.errors import DataError
from shared.files.disk import new_folder, write_bytes, write_json
from shared.files.images import write_image, write_npy, write_pfm
from shared.runs.checkpoint import load_checkpoint
from shared.runs.log import read_metrics
from shared.tests.hostile import as_plain_user, file_size_limit

FULL_DISK = """
import argparse, contextlib, dataclasses, sys
from pathlib import Path
import torch
from shared.runs.command import command_line
from shared.runs.run import open_run

@dataclasses.dataclass
class Config:
    seed: int = 1
    steps: int = 9

def main():
    out = Path(sys.argv[1])
    args = argparse.Namespace(config=Path("c.yaml"), out=out, resume=False, device="cpu", set=[])
    with open_run(Config(), args, "toy") as run:
        state = {"model": torch.nn.Linear(400, 400)}  # 640 kB
        run.restore(state)
        for step in run.steps(0, 9):
            run.log(step, loss=1.0)
            run.save(step, state, score=1.0 if step == 2 else 0.0)
            if step == 3:
                with contextlib.suppress(OSError):
                    (out / "ballast").write_bytes(bytes(2**23))

command_line(main)
"""


@pytest.mark.slow
def test_a_real_full_disk(tmp_path: Path) -> None:
    disk, script = tmp_path / "disk", tmp_path / "run.py"
    disk.mkdir()
    script.write_text(FULL_DISK)
    steps = [
        f"mount -t tmpfs -o size=4m none {disk} || exit 77",
        f"{sys.executable} {script} {disk}/run",
        f"code=$?; rm -f {disk}/run/ballast; cp -r {disk}/run {tmp_path}; exit $code",
    ]
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", "\n".join(steps)]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to mount a small file system with")
    root = str(Path(shared.__file__).parent.parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()[-100:]}")
    assert done.returncode == 2, done.stderr
    error = done.stderr.strip().splitlines()[-1]
    assert "cannot be written (No space left on device)" in error, error
    assert "free" in error, error
    names = ("best", "last")
    steps = [load_checkpoint(tmp_path / "run" / "checkpoints" / f"{name}.pt").step for name in names]
    assert steps == [2, 3]
    assert not list((tmp_path / "run").rglob("*.tmp"))


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


def test_a_log_with_bytes_of_another_file_is_read(tmp_path: Path) -> None:
    """After a power cut, a file system may hand out blocks of zeros or of something else."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        json.dumps({"step": 1, "loss": 2.0}).encode() + b"\n\0\0\0\n\xff\xfe{\n" + b'{"step": 2}'
    )
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
