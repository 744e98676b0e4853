"""What the viewer gets of a run on pairs: points in the source's frame, and live views of one picture."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nvs_depth.api import ViewSynthesizer
from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import load_pairs
from nvs_depth.eval import load_test_pairs
from nvs_depth.models.synthesis import SynthesisNetwork
from nvs_depth.viewer import scene_of
from shared.geometry.camera import project
from shared.runs.checkpoint import save_checkpoint
from shared.runs.config import config_from_dict, config_to_dict
from shared.runs.seeds import seed_everything
from shared.show.pictures import evenly

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on one chair whose network has learned nothing yet."""
    root = tmp_path_factory.mktemp("nvs_viewer")
    embedded = {"kind": "chairs", "train_groups": 1, "test_groups": 1, "image_side": 64, "antialias": 1}
    data = {"layout": "shapenet_flat", "root": str(root / "data"), "embedded": embedded}
    model = {"image_side": 64, "width": 0.125, "encoder_init": "default", "depth_range": "object_narrow"}
    values = {"data": data, "model": model, "steps": 1, "evaluate_pairs": 9}
    config = config_from_dict(TrainConfig, values, "test")
    seed_everything(0)
    save_checkpoint(
        root / "run/checkpoints/last.pt",
        {"model": SynthesisNetwork(config.model)},
        paper="nvs_depth",
        step=1,
        config=config_to_dict(config),
        facts={"K": [[120.0, 0, 31.5], [0, 120, 31.5], [0, 0, 1]], "unit_m": None},
    )
    return root / "run"


def test_the_true_depth_of_the_new_view_is_on_that_of_the_given_one(run: Path) -> None:
    """Seen from the given camera, a point of the new view is on its surface or behind it."""
    scene = scene_of(run, "best", CPU)
    assert scene.unit == "scene units"
    assert len(scene.parts) == 6
    split = load_test_pairs(ViewSynthesizer.load(run, CPU).config)
    batch = load_pairs(split.test.views, split.test_pairs[evenly(len(split.test_pairs), 6)])
    on_surface = []
    for i, part in enumerate(scene.parts):
        true = part.clouds[-1]
        assert true.name == "true depth of the new view"
        pixels, depth = project(true.points, part.cameras[0].K)
        surface = F.grid_sample(
            batch.depth_source[i : i + 1],
            ((pixels + 0.5) / 32 - 1)[None, None],
            mode="nearest",
            align_corners=False,
        )[0, 0, 0]
        known = surface > 0
        assert (depth[known] > surface[known] - 0.15).float().mean() > 0.95
        on_surface.append(((depth - surface).abs() < 0.05)[known].float().mean())
    assert torch.stack(on_surface).mean() > 0.4  # the rest is hidden from the given camera


def test_the_live_view_at_the_new_camera_is_the_prediction(run: Path) -> None:
    part = scene_of(run, "best", CPU).parts[2]
    synthesizer = ViewSynthesizer.load(run, CPU)
    split = load_test_pairs(synthesizer.config)
    batch = load_pairs(split.test.views, split.test_pairs[evenly(len(split.test_pairs), 6)[2]][None])
    found = synthesizer.predict_pairs(batch)
    picture = part.live.render(part.cameras[1].world_from_cam)
    torch.testing.assert_close(picture.image, found.image[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(picture.depth, found.depth_new[0, 0], atol=2e-3, rtol=1e-3)
    assert torch.equal(part.cameras[0].image, batch.image_source[0])
    given, new = part.clouds[:2]
    background = batch.image_source[0].amax(0) <= 0.02
    assert len(given.points) == (~background).sum()  # the black background is left out
    assert new.values.min() >= 1
    assert new.values.max() <= 3
