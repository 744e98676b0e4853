"""Shipped weights: small, found by name, the same pictures as the run's own."""

import json
from pathlib import Path

import pytest
import torch

import nvs_depth
from nvs_depth.config import TrainConfig
from nvs_depth.models.options import ModelOptions
from nvs_depth.models.synthesis import SynthesisNetwork
from shared.errors import DataError, RunError
from shared.runs.checkpoint import load_checkpoint, save_checkpoint
from shared.runs.config import config_to_dict
from showcase.ship import ship, without_places


def finished_run(folder: Path) -> Path:
    """A run of an untrained network, with the results that its card quotes."""
    torch.manual_seed(0)
    options = ModelOptions(image_side=64, width=0.125, encoder_init="default", depth_range="object_narrow")
    network = SynthesisNetwork(options)
    with torch.no_grad():
        network.encoder.trunk.bn1.running_var.fill_(1e5)  # more than half precision can hold
    config = config_to_dict(TrainConfig(model=options)) | {"seed": 7}
    config["data"]["root"] = "/somewhere/data/chairs"
    optimizer = torch.optim.Adam(network.parameters())
    facts = {"K": torch.eye(3).tolist(), "unit_m": None}
    state = {"model": network, "optimizer": optimizer}
    path = folder / "checkpoints" / "last.pt"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, state, paper="nvs_depth", step=12, config=config, facts=facts)
    images = {name: {"l1": 0.1, "psnr": 20.0} for name in ("method", "identity")}
    run = {"config": "/x/evening.yaml", "set": ["steps=12", "data.root=/x"], "machine": "2 CPU cores"}
    results = {"method": "Full", "data": "embedded chairs", "images": images, "depth": {}, "run": run}
    (folder / "eval.json").write_text(json.dumps(results))
    return path


def test_weights_are_found_by_name_and_make_the_runs_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = finished_run(tmp_path / "run")
    (tmp_path / "nvs_depth").mkdir()
    weights, card = ship(tmp_path / "run", "chairs", "embedded chairs", tmp_path)
    monkeypatch.setattr(nvs_depth, "__file__", str(tmp_path / "nvs_depth" / "__init__.py"))
    shipped, own = nvs_depth.ViewSynthesizer.load("chairs"), nvs_depth.ViewSynthesizer.load(last)
    picture, turn = torch.rand(3, 64, 64), torch.eye(4)
    found, expected = (each.views(picture, None, turn) for each in (shipped, own))
    torch.testing.assert_close(found.images, expected.images, rtol=0, atol=0.01)
    torch.testing.assert_close(found.depth.values, expected.depth.values, rtol=0.01, atol=0)
    assert any("embedded chairs" in note for note in shipped.encode(picture).notes)
    assert not any("knows" in note for note in own.encode(picture).notes)
    assert "L1 0.1000" in card.read_text()
    assert "`evening.yaml` with `--set steps=12`" in card.read_text()
    with pytest.raises(RunError, match="there are: chairs"):
        nvs_depth.ViewSynthesizer.load("tables")


def test_only_the_network_is_kept_and_no_place_of_the_machine(tmp_path: Path) -> None:
    last = finished_run(tmp_path / "run")
    (tmp_path / "nvs_depth").mkdir()
    weights, _ = ship(tmp_path / "run", "chairs", "embedded chairs", tmp_path)
    assert weights.stat().st_size < 0.6 * last.stat().st_size
    assert "optimizer" in load_checkpoint(last).state
    saved = load_checkpoint(weights, "nvs_depth")
    assert list(saved.state) == ["model"]
    assert saved.step == 12
    assert saved.config["data"]["root"] == "data/chairs"
    assert saved.state["model"]["encoder.trunk.bn1.running_var"].max() == 1e5
    assert without_places({"a": ["/x"], "b": "/x/weights.pt", "c": 1}) == {
        "a": ["/x"],
        "b": "weights.pt",
        "c": 1,
    }


def test_an_unfinished_run_is_not_shipped(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    (tmp_path / "run" / "eval.json").unlink()
    with pytest.raises(DataError, match="has no eval.json"):
        ship(tmp_path / "run", "chairs", "embedded chairs", tmp_path)
