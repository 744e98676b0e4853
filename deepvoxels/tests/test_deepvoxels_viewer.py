"""What the viewer gets of a DeepVoxels run, and the run in a browser: moving the camera renders it anew."""

import time
from pathlib import Path

import pytest
import torch

from deepvoxels import train
from deepvoxels.config import TrainConfig
from deepvoxels.datasets.views import load_views
from deepvoxels.methods import build_method, render_views
from deepvoxels.viewer import scene_of
from shared.errors import RunError
from shared.runs.checkpoint import save_checkpoint
from shared.runs.config import config_to_dict
from shared.runs.seeds import seed_everything
from shared.show.viewer import ViewerPage, open_scene
from shared.tests.browser import chromium_page, screenshot

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tiny_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has not made a step yet."""
    seed_everything(0)
    folder = tmp_path_factory.mktemp("viewer") / "run"
    views, _ = load_views(tiny_config)
    network = build_method(tiny_config, views, CPU).network
    network.remember(torch.randn(network.state.shape))
    save_checkpoint(
        folder / "checkpoints/last.pt",
        {"model": network},
        paper="deepvoxels",
        step=0,
        config=config_to_dict(tiny_config),
    )
    return folder


def test_the_live_view_is_the_method_s_own_rendering(run: Path, tiny_config: TrainConfig) -> None:
    scene = open_scene(run, "best", CPU)
    (part,) = scene.parts
    views, _ = load_views(tiny_config)
    assert scene.title == "DeepVoxels: cube"
    assert scene.unit == "scene units"
    assert scene.notes[0] == "not trained to the end: this is step 0 of 4"
    assert len(part.cameras) == 12
    assert part.target.tolist() == list(views.grid_origin)
    assert part.up.tolist() == [0, 0, 1]
    assert part.limits == (views.near, views.far)
    assert torch.equal(part.cameras[3].image, views.image(3))
    assert torch.equal(part.cameras[3].world_from_cam, views.world_from_cam[3])
    picture = part.live.render(views.world_from_cam[3])
    network = scene_of(run, "last", CPU).parts[0].live  # a second one, loaded anew
    assert torch.equal(picture.image, network.render(views.world_from_cam[3]).image)
    assert picture.image.shape == (3, 32, 32)
    assert picture.depth.shape == (32, 32)
    assert views.near <= picture.depth.min() <= picture.depth.max() <= 1.01 * views.far
    assert not torch.equal(picture.image, part.live.render(views.world_from_cam[4]).image)


def test_a_method_without_space_has_no_depth(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_config, "method", "pix2pix")
    views, _ = load_views(tiny_config)
    method = build_method(tiny_config, views, CPU)
    save_checkpoint(
        tmp_path / "checkpoints/best.pt",
        {"model": method.network},
        paper="deepvoxels",
        step=4,
        config=config_to_dict(tiny_config),
    )
    picture = scene_of(tmp_path, "best", CPU).parts[0].live.render(views.world_from_cam[1])
    assert picture.depth is None
    method.network.eval()
    expected = render_views(method, views.world_from_cam[1:2], views.K[1:2]).images[0]
    torch.testing.assert_close(picture.image, expected)


def test_a_folder_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint yet"):
        scene_of(tmp_path, "best", CPU)


@pytest.mark.slow
def test_moving_the_camera_in_a_browser_renders_the_run_anew(tiny_config_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="the extra `viewer` is not installed")
    run = tmp_path / "run"
    few = ["steps=40", "preview_every=100", "checkpoint_every=100"]
    train.main(["--config", str(tiny_config_file), "--out", str(run), "--device", "cpu", "--set", *few])
    middle = {"x": 400, "y": 200, "width": 200, "height": 200}
    with ViewerPage(open_scene(run, "best", CPU)) as viewer, chromium_page(1000, 600) as page:

        def wait_for_picture(after: int) -> None:
            for _ in range(300):
                if viewer.pictures_sent > after:
                    return
                time.sleep(0.1)
            pytest.fail(f"{viewer.pictures_sent} pictures, no more than before")

        page.goto(viewer.url)
        wait_for_picture(after=0)
        page.get_by_text("Rendered at 32 x 32 px").wait_for()
        page.wait_for_timeout(2500)  # the page fades in
        before, sent = screenshot(page, **middle), viewer.pictures_sent
        assert before.std() > 2  # something is drawn
        page.mouse.move(300, 300)
        page.mouse.down()
        page.mouse.move(380, 330, steps=4)
        page.mouse.up()
        wait_for_picture(after=sent)
        page.wait_for_timeout(1000)
        assert abs(screenshot(page, **middle).astype(float) - before).mean() > 1
