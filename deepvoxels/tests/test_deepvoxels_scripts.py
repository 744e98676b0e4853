"""Every script as a user runs it, from the paper's folder; the configurations it comes with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deepvoxels
from deepvoxels import eval as evaluation
from deepvoxels import predict, table
from deepvoxels.config import TrainConfig
from deepvoxels.methods import render_views
from deepvoxels.models.generator import Generator
from deepvoxels.models.options import preset
from shared.errors import RunError
from shared.files.images import read_pfm
from shared.runs.config import load_config

PAPER = Path(deepvoxels.__file__).parent


def call(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a Python script the way a terminal does."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, timeout=200
    )


@pytest.fixture(scope="module")
def trained(tiny_config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder made by `python train.py` inside the paper's folder."""
    out = tmp_path_factory.mktemp("scripts") / "run"
    result = call("train.py", "--config", str(tiny_config_file), "--out", str(out), cwd=PAPER)
    assert result.returncode == 0, result.stderr
    assert "against the nearest training view" in result.stderr
    return out


def test_eval_reproduces_what_training_wrote(trained: Path, capsys: pytest.CaptureFixture) -> None:
    written = json.loads((trained / "eval.json").read_text())
    evaluation.main(["--run", str(trained), "--device", "cpu"])
    again = json.loads((trained / "eval.json").read_text())
    del written["seconds_per_view"], again["seconds_per_view"]
    assert again == written
    printed = capsys.readouterr().out
    assert "28.42" in printed  # the paper's figure for the cube
    assert f"{again['mean']['psnr']:.2f}" in printed
    assert "paper's renderings" in printed
    assert "cube, embedded scene" in printed


def test_predict_writes_views_depth_with_its_unit_and_a_video(trained: Path, tmp_path: Path) -> None:
    command = ["--run", str(trained), "--path", "spiral", "--frames", "3", "--device", "cpu"]
    predict.main([*command, "--out", str(tmp_path / "views")])
    names = {path.name for path in (tmp_path / "views").iterdir()}
    frames = {f"{kind}_{i:04d}.{end}" for i in range(3) for kind, end in (("view", "png"), ("depth", "pfm"))}
    assert names - {"moving_camera.mp4", "moving_camera.gif"} == {*frames, "depth.json"}
    assert len(names) == 8
    depth = read_pfm(tmp_path / "views" / "depth_0000.pfm")
    assert 0.5 < depth.min() <= depth.max() < 3.0  # the camera is 1.7 from the unit cube's middle
    assert "scene units" in (tmp_path / "views" / "depth.json").read_text()


def test_predict_follows_given_poses(trained: Path, tiny_config) -> None:
    poses = Path(tiny_config.data.root) / "test" / "cube" / "pose"
    predict.main(["--run", str(trained), "--poses", str(poses)])
    assert (trained / "views_pose" / "view_0003.png").stat().st_size > 0


def test_inpainting_once_changes_no_view(trained: Path) -> None:
    _, method, views, _ = evaluation.load_run(trained, "best", torch.device("cpu"))
    fixed = method.inpainted()
    cameras = views.world_from_cam[:3], views.K[:3]
    for whole, once in zip(render_views(method, *cameras), render_views(fixed, *cameras), strict=True):
        assert torch.equal(whole, once)
    method.network.remember(torch.zeros_like(method.network.state))
    assert not torch.equal(render_views(method, *cameras).images, render_views(fixed, *cameras).images)


def test_table_trains_missing_rows_once_and_prints_all(
    tiny_config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["--config", str(tiny_config_file), "--out", str(tmp_path), "--set", "steps=1"]
    table.main([*command, "--rows", "nearest_neighbour", "worrall"])
    first = (tmp_path / "worrall" / "eval.json").stat().st_mtime_ns
    table.main(command)
    assert (tmp_path / "worrall" / "eval.json").stat().st_mtime_ns == first
    results = {row: json.loads((tmp_path / row / "eval.json").read_text()) for row in table.ROWS}
    printed = capsys.readouterr().out
    for result in results.values():
        assert f"{result['mean']['psnr']:.2f}" in printed
    assert (tmp_path / "table.md").read_text().count("\n") > 8
    with pytest.raises(RunError, match="this row was made with .* steps=1"):
        table.main([*command, "steps=2"])
    results["worrall"]["data"] = "another"
    with pytest.raises(RunError, match="different data"):
        table.tables(results)


def test_known_errors_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("modle:\n  grid_side: 8\n")
    result = call(
        "train.py", "--config", str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "run"), cwd=PAPER
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "did you mean model?" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", sorted((PAPER / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_loads_and_builds_its_network(file: Path) -> None:
    with torch.device("meta"):
        Generator(load_config(TrainConfig, file).model)


def test_the_large_configs_are_the_documented_variants() -> None:
    for name, variant in (("official", "head"), ("paper", "paper")):
        assert load_config(TrainConfig, PAPER / "configs" / f"{name}.yaml").model == preset(variant)
    config = load_config(TrainConfig, PAPER / "configs" / "capture.yaml")
    assert config.model == preset("head", grid_side=64, grid_features=8)


@pytest.mark.parametrize("wrong", [("--frames", "0"), ("--fps", "0"), ("--fps", "nan")])
def test_predict_refuses_a_video_of_nothing(trained: Path, wrong: tuple[str, str]) -> None:
    with pytest.raises(RunError, match="at least one frame"):
        predict.main(["--run", str(trained), *wrong])
