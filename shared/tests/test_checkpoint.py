"""Checkpoints: saved whole or not at all, loaded without running foreign code, refused by file and reason."""

import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from shared.errors import CheckpointError, RunError
from shared.runs.checkpoint import fingerprint, load_checkpoint, plain, save_checkpoint
from shared.runs.folder import find_checkpoint
from shared.tests.hostile import Hostile, file_size_limit

# ---- crash-safe saving -------------------------------------------------------------------------------------


def test_full_disk_leaves_the_old_checkpoint(tmp_path):
    """The process's limit on file sizes stands for the full disk: writing fails within the file."""
    path = tmp_path / "last.pt"
    state = {"model": nn.Linear(400, 400)}
    save_checkpoint(path, state, paper="toy", step=1, config={}, also=tmp_path / "best.pt")
    message = r"last\.pt: cannot be written .*; the older file is intact\. Check the free space"
    with file_size_limit(200_000), pytest.raises(CheckpointError, match=message):
        save_checkpoint(path, state, paper="toy", step=2, config={}, also=tmp_path / "best.pt")
    assert load_checkpoint(path).step == load_checkpoint(tmp_path / "best.pt").step == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_killed_while_saving_the_newest_complete_checkpoint_loads(tmp_path):
    code = """if True:
        import torch
        from shared.checkpoint import save_checkpoint
        model = torch.nn.Linear(300, 300)
        for step in range(1, 10**6):
            save_checkpoint(
                "last.pt", {"m": model}, paper="toy", step=step, config={}, also="best.pt"
            )
            print(step, flush=True)
    """
    rng = random.Random(0)
    seen_stray = 0
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        for _ in range(50):  # what lies on the disk at a random moment is what a SIGKILL then would leave
            process.send_signal(signal.SIGCONT)
            time.sleep(rng.uniform(0.001, 0.02))
            process.send_signal(signal.SIGSTOP)
            seen_stray += any(path.suffix == ".tmp" for path in tmp_path.iterdir())
            assert load_checkpoint(tmp_path / "last.pt").step >= 1
            assert load_checkpoint(tmp_path / "best.pt").step >= 1
        process.kill()
    assert seen_stray > 5


def test_only_plain_values_are_saved(tmp_path):
    assert plain({"a": (np.float32(0.5), [np.int64(3)], None, "x")}, "s") == {"a": (0.5, [3], None, "x")}
    for value in (np.zeros(2), {1, 2}, object(), torch.float32):
        with pytest.raises(TypeError, match=r"s\.a\.0: a checkpoint cannot hold"):
            plain({"a": [value]}, "s")
    big = torch.zeros(1000)
    assert plain(big[:3], "s").untyped_storage().nbytes() == 12


# ---- safe loading ------------------------------------------------------------------------------------------


def saved(path: Path, **changes) -> Path:
    """Write a small valid checkpoint, then change entries of its payload."""
    save_checkpoint(path, {"model": nn.Linear(3, 2)}, paper="toy", step=4, config={"a": 1})
    if changes:
        torch.save(torch.load(path, weights_only=True) | changes, path)
    return path


def damaged(path: Path) -> Path:
    """Flip one bit of the weights inside the archive."""
    saved(path)
    with zipfile.ZipFile(path) as archive:
        info = max((i for i in archive.infolist() if "/data/" in i.filename), key=lambda i: i.file_size)
    data = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["state"]["model"]["weight"].numpy().tobytes()
    data[data.index(weights) + 5] ^= 1
    assert info.file_size == len(weights)
    path.write_bytes(data)
    return path


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


BAD_CHECKPOINTS = {
    "missing": (lambda p: p, "there is no such file"),
    "folder": (lambda p: p.mkdir(), "there is no such file"),
    "empty": (lambda p: p.write_bytes(b""), "truncated, or no checkpoint"),
    "text": (lambda p: p.write_text("hello"), "truncated, or no checkpoint"),
    "truncated": (lambda p: p.write_bytes(saved(p).read_bytes()[:-200]), "truncated"),
    "beginning lost": (lambda p: p.write_bytes(saved(p).read_bytes()[300:]), "truncated|cannot be read"),
    "bit flipped": (damaged, "damaged|checksum"),
    "pickled code": (lambda p: torch.save({"x": Hostile(p.parent / "pwned")}, p), "could run foreign code"),
    "pickled code of the right format": (
        lambda p: saved(p, rng=[Hostile(p.parent / "pwned")]),
        "could run foreign code",
    ),
    "whole module": (lambda p: torch.save(nn.Linear(2, 2), p), "could run foreign code"),
    "old pickle": (
        lambda p: torch.save({"x": 1}, p, _use_new_zipfile_serialization=False),
        "no checkpoint at all",
    ),
    "empty zip": (lambda p: zipfile.ZipFile(p, "w").close(), "zip archive, but no checkpoint"),
    "zip without a pickle": (other_zip, "zip archive, but no checkpoint"),
    "torchscript": (lambda p: torch.jit.script(nn.Linear(2, 2)).save(p), "zip archive, but no checkpoint"),
    "plain state dict": (lambda p: torch.save(nn.Linear(2, 2).state_dict(), p), "not a checkpoint of this"),
    "tensor": (lambda p: torch.save(torch.ones(2), p), "not a checkpoint of this project"),
    "other format": (lambda p: saved(p, format="theirs"), "not a checkpoint of this project"),
    "newer version": (lambda p: saved(p, version=2), "format version 2, this program reads version 1"),
    "other paper": (lambda p: saved(p, paper="dfd"), "trained for the paper 'dfd', not for 'toy'"),
    "header incomplete": (
        lambda p: torch.save({"format": "depth-and-views checkpoint", "version": 1, "paper": "toy"}, p),
        "its header lacks step, config",
    ),
    "state not of its header": (lambda p: saved(p, state={"model": {}}), "not the one its header describes"),
    "NaN weights": (
        lambda p: saved(p, state={"model": {"weight": torch.zeros(2, 3), "bias": torch.ones(2) / 0 * 0}}),
        "model.bias holds NaN",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoint_is_refused_by_file_reason_and_remedy(tmp_path, case):
    path = tmp_path / "last.pt"
    make, reason = BAD_CHECKPOINTS[case]
    make(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(path, "toy")
    assert caught.value.path == str(path)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_the_malicious_file_would_run_code_if_it_were_unpickled(tmp_path):
    torch.save({"x": Hostile(tmp_path / "pwned")}, tmp_path / "last.pt")
    torch.load(tmp_path / "last.pt", weights_only=False)["x"].close()
    assert (tmp_path / "pwned").exists()


def test_every_truncation_is_refused(tmp_path):
    data = saved(tmp_path / "whole.pt").read_bytes()
    for length in range(0, len(data), 97):
        (tmp_path / "cut.pt").write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "cut.pt")


def test_missing_state_and_unfitting_optimizer_change_nothing(tmp_path):
    checkpoint = load_checkpoint(saved(tmp_path / "last.pt"))
    with pytest.raises(CheckpointError, match="holds no state named 'ema', only model"):
        checkpoint.load_into({"model": nn.Linear(3, 2), "ema": nn.Linear(3, 2)})
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    two_groups = torch.optim.SGD([{"params": [source.weight]}, {"params": [source.bias]}], lr=1.0)
    save_checkpoint(
        tmp_path / "b.pt", {"model": source, "optimizer": two_groups}, paper="toy", step=1, config={}
    )
    before = target.weight.clone()
    with pytest.raises(CheckpointError, match="the state of 'optimizer' does not fit"):
        load_checkpoint(tmp_path / "b.pt").load_into(
            {"model": target, "optimizer": torch.optim.SGD(target.parameters(), lr=1.0)}
        )
    assert torch.equal(before, target.weight)


def test_fingerprint_sees_names_and_shapes_but_not_order_or_values():
    a, b = nn.Linear(3, 2).state_dict(), nn.Linear(3, 2).state_dict()
    assert fingerprint(a) == fingerprint(dict(reversed(list(b.items()))))
    assert fingerprint(a) != fingerprint(nn.Linear(2, 3).state_dict())
    assert fingerprint(a) != fingerprint({"w": a["weight"], "bias": a["bias"]})


def test_find_checkpoint(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(RunError, match="train first"):
            find_checkpoint(folder)
    saved(tmp_path / "checkpoints" / "last.pt")
    assert find_checkpoint(tmp_path).name == "last.pt"
    saved(tmp_path / "checkpoints" / "best.pt")
    assert find_checkpoint(tmp_path).name == "best.pt"
    assert find_checkpoint(tmp_path, "last").name == "last.pt"
