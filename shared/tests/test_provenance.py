import argparse
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from shared.runs.folder import machine_kind, made_by, run_facts, write_results
from shared.runs.run import open_run


def test_an_origin_names_config_overrides_time_and_machine_but_no_place() -> None:
    args = argparse.Namespace(
        config=Path("/somewhere/configs/quick.yaml"), set=["steps=5", "data.root=/home/me/data"], resume=False
    )
    origin = made_by("deepvoxels", args) | run_facts(torch.device("cpu"), 12.34, 5.67)
    assert origin["config"] == "deepvoxels/configs/quick.yaml"
    assert origin["set"] == ["steps=5"]
    assert origin["seconds"] == 12.3
    assert origin["cpu_seconds"] == 5.7
    assert origin["threads"] == torch.get_num_threads()
    assert "home" not in json.dumps(origin)


def test_a_machine_is_named_by_its_cores() -> None:
    assert "CPU cores" in machine_kind(torch.device("cpu"))


def test_a_later_evaluation_keeps_how_the_run_was_made(tmp_path: Path) -> None:
    write_results(tmp_path, {"psnr": 1.0}, {"config": "toy/configs/quick.yaml"})
    write_results(tmp_path, {"psnr": 2.0})
    assert json.loads((tmp_path / "eval.json").read_text()) == {
        "psnr": 2.0,
        "run": {"config": "toy/configs/quick.yaml"},
    }


@pytest.mark.parametrize("broken", ["", "{", "[1]"])
def test_a_broken_file_is_replaced(tmp_path: Path, broken: str) -> None:
    (tmp_path / "eval.json").write_text(broken)
    write_results(tmp_path, {"psnr": 2.0})
    assert json.loads((tmp_path / "eval.json").read_text()) == {"psnr": 2.0}


@dataclasses.dataclass(frozen=True)
class Toy:
    seed: int = 0
    steps: int = 2


def test_a_run_resumed_from_its_own_config_still_says_what_it_was_made_with(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = {"config": Path("c/quick.yaml"), "out": out, "resume": False, "device": "cpu", "set": ["width=3"]}
    args = argparse.Namespace(**first)
    with open_run(Toy(), args, "toy") as run:
        run.restore({})
        run.save(1, {})
    again = {**first, "config": out / "config.yaml", "resume": True, "set": ["steps=4"]}
    with open_run(Toy(steps=4), argparse.Namespace(**again), "toy") as run:
        assert run.restore({}) == 1
        run.finish({})
    origin = json.loads((out / "eval.json").read_text())["run"]
    assert origin["config"] == "toy/configs/quick.yaml"
    assert origin["set"] == ["width=3", "steps=4"]
    assert origin["resumed"]
