"""Checkpoints: saved whole or not at all, loaded without running foreign code, refused by file and reason."""

import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from shared.errors import CheckpointError, RunError
from shared.runs.checkpoint import (
    first_nan,
    first_nonfinite,
    load_checkpoint,
    load_trained,
    plain,
    save_checkpoint,
)
from shared.runs.folder import find_checkpoint
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused, in_small_memory, repaired_zip
from shared.tests.hostile import Hostile, file_size_limit


def saved(path: Path, **changes) -> Path:
    """Write a small valid checkpoint, then change entries of its payload."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save_checkpoint(path, {"model": model}, paper="toy", step=4, config={"a": 1}, facts={"near": 0.5})
    if changes:
        payload = torch.load(path, weights_only=True) | changes
        torch.save({key: value for key, value in payload.items() if value is not None}, path)
    return path


# ---- saving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_links", [True, False])
def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, has_links):
    """A limit on file sizes acts as a full disk: writing fails within the file."""

    def refuse(*args):
        raise OSError(1, "Operation not permitted")

    if not has_links:  # exFAT, say
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "last.pt"
    state = {"model": nn.Linear(400, 400)}
    save_checkpoint(path, state, paper="toy", step=1, config={}, also=tmp_path / "best.pt")
    with file_size_limit(200_000), pytest.raises(CheckpointError, match=r"last\.pt: cannot be written"):
        save_checkpoint(path, state, paper="toy", step=2, config={}, also=tmp_path / "best.pt")
    assert load_checkpoint(path).step == load_checkpoint(tmp_path / "best.pt").step == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_only_plain_values_are_saved():
    assert plain({"a": (np.float32(0.5), [np.int64(3)], None, "x")}, "s") == {"a": (0.5, [3], None, "x")}
    for value in (np.zeros(2), {1, 2}, object(), torch.float32):
        with pytest.raises(TypeError, match=r"s\.a\.0"):
            plain({"a": [value]}, "s")
    big = torch.zeros(1000)
    assert plain(big[:3], "s").untyped_storage().nbytes() == 12


# ---- loading -----------------------------------------------------------------------------------------------


def with_a_flipped_bit(path: Path) -> None:
    data = bytearray(saved(path).read_bytes())
    weights = torch.load(path, weights_only=True)["state"]["model"]["0.weight"].numpy().tobytes()
    data[data.index(weights) + 5] ^= 1
    path.write_bytes(data)


def with_a_bomb(path: Path) -> None:
    """A zip file that unpacks to a thousand times its size."""
    with zipfile.ZipFile(saved(path), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/bomb", bytes(10**8))


def nested_without_end(path: Path) -> None:
    count = 20_000
    pickled = b"\x80\x02" + b"]" * count + b"a" * (count - 1) + b"."  # empty lists, each put into another
    path.write_bytes(repaired_zip(saved(path).read_bytes(), "data.pkl")(pickled))


BAD_CHECKPOINTS = {
    "missing": (lambda p: p, "cannot be read"),
    "empty": (lambda p: p.write_bytes(b""), "truncated"),
    "a bomb": (with_a_bomb, "unpacks to more than its size"),
    "nested": (nested_without_end, "nested without end"),
    "a pipe": (os.mkfifo, "a pipe or a device"),
    "bit flipped": (with_a_flipped_bit, "damaged"),
    "pickled code": (lambda p: torch.save({"x": Hostile(p.parent / "pwned")}, p), "could run foreign code"),
    "pickled code inside": (lambda p: saved(p, rng=[Hostile(p.parent / "pwned")]), "could run foreign code"),
    "whole module": (lambda p: torch.save(nn.Linear(2, 2), p), "could run foreign code"),
    "old pickle": (lambda p: torch.save({}, p, _use_new_zipfile_serialization=False), "no checkpoint"),
    "torchscript": (lambda p: torch.jit.script(nn.Linear(2, 2)).save(p), "no checkpoint"),
    "plain state dict": (lambda p: torch.save(nn.Linear(2, 2).state_dict(), p), "of this project"),
    "other format": (lambda p: saved(p, format="theirs"), "of this project"),
    "older version": (lambda p: saved(p, version=1), "version 1.*Train again"),
    "other paper": (lambda p: saved(p, paper="dfd"), "trained for the paper 'dfd', not for 'toy'"),
    "no step": (lambda p: saved(p, step=None), "no valid step"),
    "no facts": (lambda p: saved(p, facts=None), "no valid facts"),
    "NaN weights": (lambda p: saved(p, state={"m": {"b": torch.ones(2) * math.nan}}), "m.b holds NaN"),
}


def nested(depth: int) -> list:
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


def doubled(times: int) -> list:
    """Few bytes in a pickle, where a list is written once and named again; 2 ** times values when read."""
    inner: list = [0.0]
    for _ in range(times):
        inner = [inner, inner]
    return inner


CRAFTED = {
    "expanded": {"state": {"m": {"w": torch.zeros(1).expand(160_000, 160_000)}}},  # 100 GB
    "without memory": {"state": {"m": {"w": torch.empty(160_000, 160_000, device="meta")}}},
    "sparse": {"state": {"m": {"w": torch.eye(3).to_sparse()}}},
    "nested state": {"state": {"m": {"w": nested(50)}}},
    "doubled": {"progress": {"a": doubled(40)}},
    "other values": {"facts": {"near": {1, 2}}},
    "complex": {"facts": {"near": 1j}},
    "negative step": {"step": -5},
    "text as step": {"step": "7"},
    "true as step": {"step": True},
    "step without end": {"step": 10**400},
    "list as config": {"config": [1]},
    "list as state": {"state": [torch.zeros(3)]},
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_values_are_refused_before_they_cost_anything(tmp_path, case):
    path = saved(tmp_path / "last.pt", **CRAFTED[case])

    def read() -> None:
        with pytest.raises(CheckpointError, match=r"last\.pt: it") as caught:
            load_checkpoint(path, "toy").load_into({"m": nn.Linear(3, 2)})
        assert "\n" not in str(caught.value)

    in_small_memory(read)


def test_states_of_the_wrong_kinds_and_sizes_change_nothing(tmp_path):
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    optimizer.step()
    for damage in (
        lambda state: state["param_groups"][0].update(lr="1"),
        lambda state: state["param_groups"][0].update(betas=[0.5]),
        lambda state: state["param_groups"][0].pop("eps"),
        lambda state: state["state"][0].update(exp_avg=torch.zeros(1, 3)),
        lambda state: state["state"].update({7: {"exp_avg": torch.zeros(2, 3)}}),
        lambda state: state.update(state=[1]),
    ):
        path = tmp_path / "last.pt"
        save_checkpoint(path, {"optimizer": optimizer}, paper="toy", step=1, config={})
        payload = torch.load(path, weights_only=True)
        damage(payload["state"]["optimizer"])
        torch.save(payload, path)
        with pytest.raises(CheckpointError, match="state of 'optimizer' does not fit"):
            load_checkpoint(path).load_into({"optimizer": optimizer})
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()


def test_a_network_is_compared_before_it_takes_memory(tmp_path):
    checkpoint = load_checkpoint(saved(tmp_path / "last.pt"))
    drawn = torch.get_rng_state()
    good = checkpoint.network(lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    assert torch.equal(good[0].weight, checkpoint.state["model"]["0.weight"])
    assert torch.equal(torch.get_rng_state(), drawn)
    for build in (lambda: nn.Linear(10**6, 10**6), lambda: nn.Linear(-1, 2), lambda: nn.Linear("3", 2)):
        with pytest.raises(CheckpointError, match="architecture|does not fit"):
            checkpoint.network(build)


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


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("directory", [False, True])
def test_damaged_archive(tmp_path, examples, directory):
    """Anywhere, and at the end of the zip file, where names, offsets and sizes are."""
    size = saved(tmp_path / "last.pt").stat().st_size
    where = (size - 1500 if directory else 0, size)
    assert_damage_is_refused(tmp_path / "last.pt", load_checkpoint, examples, where=where)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_damaged_pickle_with_right_checksums(tmp_path, examples):
    """The damage reaches the unpickler, which knows tensors and plain values only."""
    path = saved(tmp_path / "last.pt")
    repair = repaired_zip(path.read_bytes(), "data.pkl")
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        (tmp_path / "data.pkl").write_bytes(archive.read(name))

    def read(inner: Path) -> None:
        path.write_bytes(repair(inner.read_bytes()))
        loaded = load_checkpoint(path, "toy")
        loaded.load_into({"model": nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))})

    assert_damage_is_refused(tmp_path / "data.pkl", read, examples)


def test_unfitting_states_change_nothing(tmp_path):
    checkpoint = load_checkpoint(saved(tmp_path / "last.pt"))
    with pytest.raises(CheckpointError, match="holds no state named 'ema'"):
        checkpoint.load_into({"ema": nn.Linear(3, 2)})
    with pytest.raises(CheckpointError, match=r"0\.weight is \(2, 3\) in the file and \(4, 3\) here"):
        checkpoint.load_into({"model": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(2))})
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    two_groups = torch.optim.SGD([{"params": [source.weight]}, {"params": [source.bias]}], lr=1.0)
    path, before = tmp_path / "b.pt", target.weight.clone()
    save_checkpoint(path, {"model": source, "optimizer": two_groups}, paper="toy", step=1, config={})
    with pytest.raises(CheckpointError, match="its state of 'optimizer' does not fit"):
        load_checkpoint(path).load_into(
            {"model": target, "optimizer": torch.optim.SGD(target.parameters(), lr=1.0)}
        )
    assert torch.equal(before, target.weight)


# ---- finding -----------------------------------------------------------------------------------------------


def test_find_checkpoint(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(RunError, match="train first"):
            find_checkpoint(folder)
    saved(tmp_path / "checkpoints" / "last.pt")
    assert find_checkpoint(tmp_path).name == "last.pt"
    saved(tmp_path / "checkpoints" / "best.pt")
    assert find_checkpoint(tmp_path).name == "best.pt"
    assert find_checkpoint(tmp_path, "last").name == "last.pt"


def test_trained_weights_by_folder_file_or_name(tmp_path, monkeypatch):
    (tmp_path / "toy_paper").mkdir()
    (tmp_path / "toy_paper" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    shipped, run = tmp_path / "toy_paper" / "weights" / "cube.pt", tmp_path / "run"
    for path in (shipped, run / "checkpoints" / "last.pt"):
        saved(path, paper="toy_paper")
    monkeypatch.chdir(tmp_path / "toy_paper")
    for source in ("cube", "../run", run, str(shipped)):
        assert load_trained(source, "toy_paper").facts == {"near": 0.5}
    with pytest.raises(RunError, match=r"ball: .*cube"):
        load_trained("ball", "toy_paper")
    with pytest.raises(CheckpointError, match=r"gone\.pt"):
        load_trained("gone.pt", "toy_paper")


def test_first_nonfinite_and_first_nan():
    good, bad = torch.ones(3), torch.tensor([1.0, math.inf])
    assert first_nonfinite({}) is None
    assert first_nonfinite({"a": good * 3e38, "n": torch.tensor(3), "none": torch.zeros(0, 2)}) is None
    assert first_nonfinite({"a": good, "b": bad, "c": good / 0}) == "b"
    assert first_nonfinite({"a": good, "b": bad.double(), "c": good.bfloat16()}) == "b"
    assert first_nan({"a": [good, {"b": bad}], "n": torch.tensor([True]), "t": "text"}) is None
    assert first_nan({"a": [good, {3: bad * 0}], "c": bad * 0}) == "a.1.3"
