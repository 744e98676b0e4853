"""`ViewSynthesizer`: the same results as the scripts, from any folder, without the data; clear refusals."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nvs_depth import ViewSynthesizer, predict, train
from nvs_depth.datasets.pairs import load_pairs
from nvs_depth.eval import load_test_pairs
from nvs_depth.models.synthesis import SynthesisNetwork
from nvs_depth.paths import relative_path
from shared.errors import CheckpointError, RunError
from shared.files.images import read_image, read_pfm, write_image
from shared.runs.checkpoint import save_checkpoint
from shared.runs.config import config_to_dict

CONFIG = """
data:
  layout: shapenet_flat
  root: ROOT
  embedded: {kind: chairs, train_groups: 1, test_groups: 1, image_side: 24, antialias: 1}
model: {image_side: 64, width: 0.125, encoder_init: default, depth_range: object_narrow}
weights: {perceptual: 0}
steps: 2
batch_size: 2
evaluate_pairs: 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its data."""
    root = tmp_path_factory.mktemp("nvs_api")
    (root / "tiny.yaml").write_text(CONFIG.replace("ROOT", str(root / "data")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nvs_depth.report.VIDEO_FRAMES", 3)
        train.main(["--config", str(root / "tiny.yaml"), "--out", str(root / "run"), "--device", "cpu"])
    return root


def test_a_moved_run_without_its_data_is_used_in_three_lines(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "run", tmp_path / "moved")
    picture = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "thing.png", picture)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nvs_depth.datasets.select.load_split", lambda *_: pytest.fail("the data were read"))
    arguments = ["--run", "moved", "thing.png", "--device", "cpu", "--focal-px", "80", "--frames", "10"]
    predict.main([*arguments, "--out", "out"])

    poses = relative_path("swing", 10, 30.0)
    synthesizer = ViewSynthesizer.load("moved", device="cpu")
    K = np.array([[80, 0, 34.5], [0, 80, 24.5], [0, 0, 1]])
    views = synthesizer.views("thing.png", K, poses)
    for index in (0, 9):
        assert torch.equal(views.depth.values[index], read_pfm(f"out/depth_{index:04d}.pfm"))
        written = read_image(f"out/view_{index:04d}.png")
        torch.testing.assert_close(views.images[index], written, rtol=0, atol=0.6 / 255)
    depth = synthesizer.depth("thing.png", K)
    assert torch.equal(depth.values, read_pfm("out/source_depth.pfm"))
    record = json.loads(Path("out/depth.json").read_text())
    assert record["kind"] == "z_depth"
    assert "units of the training poses" in record["unit"]
    assert record["K"] == views.depth.K.tolist() == depth.K.tolist()
    # the same picture as a tensor and as an array
    pixels = read_image("thing.png")
    assert torch.equal(synthesizer.depth(pixels, K).values, depth.values)
    assert torch.equal(synthesizer.depth(pixels.permute(1, 2, 0).numpy(), K).values, depth.values)


def test_views_are_those_of_the_evaluation(folder: Path) -> None:
    synthesizer = ViewSynthesizer.load(folder / "run" / "checkpoints" / "last.pt", "cpu")
    split = load_test_pairs(synthesizer.config)
    batch = load_pairs(split.test.views, split.test_pairs)
    evaluated = synthesizer.predict_pairs(batch)
    views = synthesizer.views(batch.image_source[1], batch.K_source[1], batch.target_from_source[1:2])
    torch.testing.assert_close(views.images[0], evaluated.image[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(views.depth.values[0], evaluated.depth_new[1, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(synthesizer.K, batch.K_source[0])


def test_wrong_arguments_are_named(folder: Path, tmp_path: Path) -> None:
    synthesizer = ViewSynthesizer.load(folder / "run", "cpu")
    image, poses = torch.rand(3, 64, 64), relative_path("swing", 2, 10.0)
    for wrong in (torch.rand(1, 64, 64), torch.rand(3, 64, 64) * 255, None):
        with pytest.raises(ValueError, match="image must"):
            synthesizer.depth(wrong)
    for wrong in (torch.eye(4), torch.zeros(3, 3), torch.full((3, 3), torch.nan)):
        with pytest.raises(ValueError, match="K must"):
            synthesizer.views(image, wrong, poses)
    for wrong in (torch.eye(4), poses[:, :3], 2 * poses, poses[:0]):
        with pytest.raises(ValueError, match="target_from_source"):
            synthesizer.views(image, None, wrong)
    with pytest.raises(RunError, match="nothing_here"):
        ViewSynthesizer.load("nothing_here")
    old = tmp_path / "old.pt"
    network = SynthesisNetwork(synthesizer.config.model)
    config = config_to_dict(synthesizer.config)
    save_checkpoint(old, {"model": network}, paper="nvs_depth", step=1, config=config)
    with pytest.raises(CheckpointError, match="old.pt.*--resume"):
        ViewSynthesizer.load(old)


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, nvs_depth; assert 'torch' not in sys.modules; assert nvs_depth.ViewSynthesizer"
    subprocess.run([sys.executable, "-c", code], check=True)
