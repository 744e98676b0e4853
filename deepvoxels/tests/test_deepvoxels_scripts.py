"""Every script as a user runs it, from the paper's folder; the configurations it comes with."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import deepvoxels
from deepvoxels import DeepVoxels, predict, table, train
from deepvoxels import eval as evaluation
from deepvoxels.api import Baseline, TrainedScene
from deepvoxels.config import GeneratorOptions, TrainConfig
from deepvoxels.datasets.embedded import EmbeddedScene
from deepvoxels.datasets.scene import load_views
from deepvoxels.models.generator import Generator
from deepvoxels.models.released import export_released
from shared.errors import CheckpointError, RunError
from shared.files.images import read_image
from shared.files.maps import read_pfm
from shared.results import Views
from shared.runs.checkpoint import load_checkpoint, save_checkpoint
from shared.runs.config import config_to_dict, load_config

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
    assert names > {*frames, "depth.json", "cameras.json", "colmap", "native"}
    depth = read_pfm(tmp_path / "views" / "native" / "depth_0000.pfm")
    assert 0.5 < depth.min() <= depth.max() < 3.0  # the camera is 1.7 from the unit cube's middle
    assert "scene units" in (tmp_path / "views" / "depth.json").read_text()


def test_predict_follows_given_poses(trained: Path, tiny_scene) -> None:
    poses = tiny_scene.test / "pose"
    predict.main(["--run", str(trained), "--poses", str(poses)])
    assert (trained / "views_pose" / "view_0003.png").stat().st_size > 0


def test_eval_finds_data_that_moved(trained: Path, tiny_config: TrainConfig, tmp_path: Path) -> None:
    before = json.loads((trained / "eval.json").read_text())
    shutil.copytree(tiny_config.data.root, tmp_path / "moved")
    evaluation.main(["--run", str(trained), "--data", str(tmp_path / "moved")])
    assert json.loads((trained / "eval.json").read_text())["mean"] == before["mean"]


# ---- the object ----


@pytest.fixture
def hidden_data(tiny_config: TrainConfig, tiny_scene: EmbeddedScene) -> Iterator[Path]:
    """Where the data set is while it is not in its place; nothing makes it again."""
    root = Path(tiny_config.data.root)
    hidden = root.rename(root.with_name("hidden"))
    yield hidden
    assert not root.exists()
    hidden.rename(root)


def test_three_lines_in_another_folder_without_the_data(
    trained: Path, hidden_data: Path, tiny_config: TrainConfig, tmp_path: Path, monkeypatch
) -> None:
    """A run that was copied away renders what eval.py and predict.py render."""
    data = replace(tiny_config.data, root=str(hidden_data))
    _, test = load_views(replace(tiny_config, data=data))
    shutil.copytree(trained, tmp_path / "elsewhere" / "run")
    monkeypatch.chdir(tmp_path)

    scene = DeepVoxels.load("elsewhere/run")
    views = scene.render(test.world_from_cam, test.K)

    assert isinstance(views, Views)
    assert views.images.shape == (4, 3, 32, 32)
    assert (views.depth.kind, views.depth.unit) == ("z_depth", "scene units")
    psnr = [row["psnr"] for row in evaluation.measure(views.images, test, tiny_config.border_px)]
    written = json.loads((trained / "eval.json").read_text())["per_view"]
    assert psnr == pytest.approx([row["psnr"] for row in written])
    (poses,) = hidden_data.glob("*/test/cube/pose")
    predict.main(["--run", "elsewhere/run", "--poses", str(poses), "--out", "views"])
    default_K = scene.render(test.world_from_cam.numpy())
    torch.testing.assert_close(read_pfm("views/native/depth_0002.pfm"), default_K.depth.values[2])
    assert (read_image("views/view_0002.png") - default_K.images[2]).abs().max() <= 0.5001 / 255
    from_file = DeepVoxels.load("elsewhere/run/checkpoints/last.pt", "cpu").render(test.world_from_cam)
    assert torch.equal(from_file.images, default_K.images)


def test_the_object_knows_its_cameras(trained: Path, tiny_config: TrainConfig) -> None:
    scene, (views, _) = DeepVoxels.load(trained), load_views(tiny_config)
    assert (scene.image_side, scene.near, scene.far) == (32, views.near, views.far)
    assert scene.grid_origin == views.grid_origin
    assert torch.equal(scene.K, views.K[0])
    assert torch.equal(scene.world_from_cam, views.world_from_cam)
    assert scene.config == tiny_config
    one = scene.render(views.world_from_cam[0].tolist())
    assert len(one) == 1
    points = one.depth[0].points(views.world_from_cam[0])
    valid = one.depth.values[one.depth.valid]
    assert points.shape == (len(valid), 3)
    assert ((points - views.world_from_cam[0, :3, 3]).norm(dim=1) >= valid - 1e-4).all()


def test_depth_is_valid_where_a_ray_sees_one_place_in_the_grid(trained: Path, tmp_path: Path) -> None:
    scene = DeepVoxels.load(trained)
    poses, occlude = scene.world_from_cam[:2], scene.network.occlude

    def seen(weights: list[float]) -> Views:
        """With this visibility of the eight planes on every ray."""
        visibility = torch.tensor(weights).view(1, 1, 8, 1, 1).expand(2, 1, 8, 16, 16)
        fraction = (visibility * (torch.arange(8).view(1, 1, 8, 1, 1) - 4) / 8).sum(2)
        scene.network.occlude = lambda *where: (occlude(*where)[0], fraction, visibility)
        return scene.render(poses)

    sharp = seen([0, 0, 0, 0.1, 0.8, 0.1, 0, 0]).depth
    for depth, pose in zip(sharp, poses, strict=True):
        points = replace(depth, valid=None).points(pose) - torch.tensor(scene.grid_origin)
        assert torch.equal(depth.valid, points.abs().amax(1).view(16, 16) < scene.grid_side_length / 2)
        assert 30 < depth.valid.sum() < 16 * 16
    assert sharp.facts["planes_per_ray"] == pytest.approx(1.8946, abs=1e-3)  # exp(entropy)
    flat = seen([0, 0.2, 0.2, 0.2, 0.2, 0.2, 0, 0])
    assert not flat.depth.valid.any()
    flat.save(tmp_path)
    assert not read_image(tmp_path / "depth_0001_valid.png").any()
    assert json.loads((tmp_path / "depth.json").read_text())["valid_share"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((np.zeros((4, 3)),), "world_from_cam"),
        ((np.zeros((0, 4, 4)),), "world_from_cam"),
        ((2 * np.eye(4),), "world_from_cam"),
        (("a path",), "world_from_cam"),
        ((np.eye(4), np.eye(4)), "K must be"),
        ((np.eye(4), -np.eye(3)), "K must be"),
    ],
)
def test_what_is_no_camera_is_refused(trained: Path, arguments: tuple, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DeepVoxels.load(trained).render(*arguments)


def test_the_grid_is_inpainted_once_and_again_while_the_network_learns(trained: Path) -> None:
    scene = DeepVoxels.load(trained)
    pose, K = scene.world_from_cam[0], scene.K
    before = scene.render(pose, K)
    scene.network.remember(torch.zeros_like(scene.network.state))
    assert torch.equal(scene.render(pose, K).images, before.images)
    scene.network.train()
    learning = scene.render(pose, K)
    assert not torch.equal(learning.images, before.images)
    assert scene.network.training
    scene.network.eval()
    scene.network.remember(torch.ones_like(scene.network.state))
    assert not torch.equal(scene.render(pose, K).images, learning.images)


def test_a_baseline_is_opened_by_its_own_name(tiny_config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["method=worrall", "steps=1", "preview_every=0"]
    train.main(["--config", str(tiny_config_file), "--out", str(run), "--set", *settings])
    with pytest.raises(RunError, match="a run of worrall"):
        DeepVoxels.load(run)
    scene = TrainedScene.load(run)
    assert isinstance(scene, Baseline)
    views = scene.render(scene.world_from_cam[:2])
    assert views.depth is None
    assert views.images.shape == (2, 3, 32, 32)
    predict.main(["--run", str(run), "--frames", "2"])
    assert (run / "views_auto" / "view_0001.png").exists()


def test_a_checkpoint_without_cameras_says_what_to_do(tiny_config: TrainConfig, tmp_path: Path) -> None:
    network, path = Generator(tiny_config.model), tmp_path / "old.pt"
    save_checkpoint(path, {"model": network}, paper="deepvoxels", step=4, config=config_to_dict(tiny_config))
    with pytest.raises(CheckpointError, match="no cameras. Train again"):
        DeepVoxels.load(path)


def test_a_released_checkpoint_is_measured_and_rendered(tiny_config_file: Path, tmp_path: Path) -> None:
    config = load_config(TrainConfig, tiny_config_file, ["model.lattice=released"])
    torch.manual_seed(7)
    released = Generator(config.model)
    released.state.normal_()
    torch.save({"model": export_released(released)}, tmp_path / "model.pth")
    settings = ["model.lattice=released", f"released_checkpoint={tmp_path / 'model.pth'}", "steps=0"]
    train.main(["--config", str(tiny_config_file), "--out", str(tmp_path / "run"), "--set", *settings])
    assert (tmp_path / "run" / "eval.json").exists()
    loaded = DeepVoxels.load(tmp_path / "run").network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in released.state_dict().items())
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt").step == 0


# ---- tables and errors ----


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


def test_known_errors_are_short_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("modle:\n  grid_side: 8\n")
    result = call(
        "train.py", "--config", str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "run"), cwd=PAPER
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[1].startswith("error: ")  # the first line says that it starts
    assert "did you mean model?" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", sorted((PAPER / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_loads_and_builds_its_network(file: Path) -> None:
    with torch.device("meta"):
        Generator(load_config(TrainConfig, file).model)


def test_the_large_configs_are_the_documented_variants() -> None:
    assert load_config(TrainConfig, PAPER / "configs" / "official.yaml").model == GeneratorOptions()
    config = load_config(TrainConfig, PAPER / "configs" / "capture.yaml")
    assert config.model == GeneratorOptions(grid_side=64, grid_features=8)


@pytest.mark.parametrize("wrong", [("--frames", "0"), ("--fps", "0"), ("--fps", "nan")])
def test_predict_refuses_a_video_of_nothing(trained: Path, wrong: tuple[str, str]) -> None:
    with pytest.raises(RunError, match="at least one frame"):
        predict.main(["--run", str(trained), *wrong])
