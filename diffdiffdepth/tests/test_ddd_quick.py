"""The quick run as a user starts it: every error at least halved, by every group of numbers."""

import json
from pathlib import Path

import pytest
import torch

from diffdiffdepth import train
from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.inputs import load_scene
from diffdiffdepth.losses import ReprojectionLoss
from diffdiffdepth.models.point_depth import GROUPS
from diffdiffdepth.routine import GroupAdam, build_model

CONFIG = Path(train.__file__).parent / "configs" / "quick.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The finished run: rendering of 81 views and 312 steps, about two minutes of one core."""
    folder = tmp_path_factory.mktemp("quick")
    data = f"data.root={folder / 'data'}"
    train.main(["--config", str(CONFIG), "--out", str(folder / "run"), "--device", "cpu", "--set", data])
    return folder / "run"


@pytest.mark.slow
def test_every_error_is_halved(run):
    rows = json.loads((run / "eval.json").read_text())["rows"]
    for measure in ("mse_x100", "bp_0.01", "bp_0.03", "bp_0.07"):
        assert rows["ours"][measure] < 0.5 * rows["diffusion"][measure], measure
    assert rows["ours"]["lab"] < 0.5 * rows["diffusion"]["lab"]


@pytest.mark.slow
def test_each_group_alone_lowers_loss_and_error(run):
    fitted = DiffusedDepth.load(run)
    config = fitted.config
    scene = load_scene(config.data, points=fitted.scene.points)
    loss = ReprojectionLoss(scene, config.loss, unit=build_model(config, scene).scale.unit)
    views = torch.arange(0, len(scene.views), 5)
    for group in GROUPS:
        model = build_model(config, scene)
        adam = GroupAdam(model)
        adam.start(group, getattr(config.schedule, group).rate, config.schedule.damping)
        before = model.dense().detach()
        for _ in range(config.schedule.iterations):
            adam.zero_grad()
            loss(model.dense(), views)["total"].backward()
            adam.step()
        model.choose(None)
        after = model.dense()
        assert loss(after, views)["total"] < 0.97 * loss(before, views)["total"], group
        wrong = [(dense - scene.truth)[scene.valid].square().mean() for dense in (before, after)]
        assert wrong[1] < wrong[0], group
