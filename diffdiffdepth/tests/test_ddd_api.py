"""The object of a notebook: fits folders, scenes and arrays, and loads a run without its data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import diffdiffdepth
from diffdiffdepth import DiffusedDepth, LightField
from diffdiffdepth import eval as evaluation_script
from diffdiffdepth.config import TrainConfig
from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.inputs import load_light_field
from shared.errors import CheckpointError, ConfigError, DataError, RunError
from shared.files.images import read_image
from shared.runs.checkpoint import save_checkpoint
from shared.runs.config import config_to_dict

ROOT = Path(diffdiffdepth.__file__).parents[1]
FEW = {"schedule": {"iterations": 1, "passes": 1}, "depth": {"supersampling": 1}, "views_per_step": 2}


def test_three_lines_use_a_moved_run_whose_data_are_gone(small_run, small_scenes, tmp_path):
    """In a process of its own, in another folder; the same map as train's, to the bit."""
    run = Path(shutil.copytree(small_run, tmp_path / "moved"))
    data = (small_scenes / "still_life").rename(small_scenes / "gone")
    lines = f"""
import sys, diffdiffdepth
assert "torch" not in sys.modules
from diffdiffdepth import DiffusedDepth
depth = DiffusedDepth.load({str(run)!r}).depth
depth.save("map.npy")
"""
    try:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, env=environment, check=True)
        np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), np.load(small_run / "disparity.npy"))
        with pytest.raises(DataError, match="still_life.*by --data DIR"):
            evaluation_script.main(["--run", str(run), "--device", "cpu"])
        evaluation_script.main(["--run", str(run), "--device", "cpu", "--data", str(data)])
    finally:
        data.rename(small_scenes / "still_life")
    one, other = (json.loads((folder / "eval.json").read_text())["rows"] for folder in (run, small_run))
    assert one == other


def test_fit_is_the_training_run(small_run, small_scenes):
    fitted = DiffusedDepth("hci", "cpu", **FEW | {"schedule": {"passes": 0}})
    with pytest.raises(RunError, match="no result yet"):
        fitted.depth  # noqa: B018
    trained = DiffusedDepth.load(small_run)
    again = DiffusedDepth(trained.config, "cpu")
    depth = again.fit(small_scenes / "still_life", progress=False)
    assert torch.equal(depth.values, trained.depth.values)
    assert torch.equal(depth.valid, trained.depth.valid)
    assert torch.equal(again.points.labels, trained.points.labels)
    assert (depth.kind, depth.unit) == ("disparity_px", "px")
    assert (again.z_depth.kind, again.z_depth.unit) == ("z_depth", "m")
    assert len(again.z_depth.points()) == int(again.z_depth.valid.sum())


def test_arrays_tensors_and_scenes_are_the_same_light_field(small_scenes):
    folder = small_scenes / "still_life"
    grid = torch.stack([read_image(folder / f"input_Cam{i:03d}.png") for i in range(25)]).unflatten(0, (5, 5))
    scene = load_light_field(folder)
    made = LightField.from_grid(grid)
    assert torch.equal(made.offsets, scene.offsets)
    assert torch.equal(made.views, scene.views)
    pixels = (255 * grid).round().byte().permute(0, 1, 3, 4, 2).numpy()
    torch.testing.assert_close(LightField.from_grid(pixels).views, scene.views)
    maps = [DiffusedDepth("hci", "cpu", **FEW).fit(data, progress=False).values for data in (scene, grid)]
    assert torch.equal(*maps)


def test_posed_photos_become_z_depth(small_scenes):
    schedule = {"iterations": 1, "passes": 1, "preliminary": 1}
    fitted = DiffusedDepth("mvs", "cpu", **FEW | {"schedule": schedule})
    depth = fitted.fit(small_scenes / "views", image="view_02.png", progress=False)
    assert (depth.kind, depth.unit) == ("z_depth", "scene units")
    assert fitted.z_depth is depth
    truth = ColmapScenes(small_scenes / "views")["view_02.png"].truth
    assert ((depth.values / truth - 1).abs()[depth.valid]).median() < 0.15
    assert depth.points().shape == (int(depth.valid.sum()), 3)


def test_wrong_arguments_are_named(small_scenes, tmp_path):
    with pytest.raises(ValueError, match="views must be a tensor"):
        DiffusedDepth().fit(torch.rand(4, 3, 8, 8))
    with pytest.raises(ValueError, match="4 x 5: both must be odd"):
        DiffusedDepth().fit(torch.rand(4, 5, 3, 8, 8))
    with pytest.raises(ValueError, match=r"views must be in \[0, 1\]"):
        DiffusedDepth().fit(2 * torch.ones(3, 3, 3, 8, 8))
    centre, views = torch.rand(3, 8, 9), torch.rand(4, 3, 8, 9)
    with pytest.raises(ValueError, match=r"views must be \[4, 3, 8, 9\]"):
        LightField(centre, views[..., 1:], torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"truth must be \[8, 9\]"):
        LightField(centre, views, torch.zeros(4, 2), truth=torch.zeros(9, 8))
    with pytest.raises(ConfigError, match="views_per_stepp"):
        DiffusedDepth(views_per_stepp=3)
    with pytest.raises(DataError, match="is not a folder"):
        DiffusedDepth().fit(tmp_path / "nothing")


def test_unfinished_and_missing_runs_are_named(tmp_path):
    with pytest.raises(RunError, match="nothing"):
        DiffusedDepth.load(tmp_path / "nothing")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        DiffusedDepth.load(tmp_path)
    path, config = tmp_path / "checkpoints" / "last.pt", config_to_dict(TrainConfig())
    save_checkpoint(path, {}, paper="diffdiffdepth", step=1, config=config, facts={"scene": {}})
    with pytest.raises(RunError, match="has not finished; go on with .*--resume"):
        DiffusedDepth.load(tmp_path)
