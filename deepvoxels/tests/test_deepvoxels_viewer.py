"""What the viewer gets of a DeepVoxels run, and the run in a browser: moving the camera renders it again."""

import time
from pathlib import Path

import pytest
import torch

from deepvoxels import train
from deepvoxels.api import TrainedScene
from deepvoxels.viewer import scene_of
from shared.errors import RunError
from shared.show.viewer import ViewerPage, open_scene
from shared.tests.browser import chromium_page, screenshot

CPU = torch.device("cpu")


@pytest.mark.parametrize("method", ["deepvoxels", "pix2pix"])
def test_the_live_view_is_the_object_s_own_rendering(
    tiny_config_file: Path, tmp_path: Path, method: str
) -> None:
    run = tmp_path / "run"
    few = [f"method={method}", "steps=1", "preview_every=0"]
    train.main(["--config", str(tiny_config_file), "--out", str(run), "--device", "cpu", "--set", *few])
    viewer = open_scene(run, "best", CPU)
    (part,) = viewer.parts
    scene = TrainedScene.load(run, CPU)
    assert viewer.title.endswith(": cube")
    assert viewer.unit == "scene units"
    assert len(part.cameras) == 12
    assert part.target.tolist() == list(scene.grid_origin)
    assert torch.equal(part.cameras[3].world_from_cam, scene.world_from_cam[3])
    assert part.cameras[3].image.shape == (3, 32, 32)
    picture = part.live.render(scene.world_from_cam[3])
    expected = scene.render(scene.world_from_cam[3])
    assert torch.equal(picture.image, expected.images[0])
    if method == "deepvoxels":
        assert picture.depth.shape == (32, 32)
        low, high = expected.depth.values.min(), expected.depth.values.max()
        seen = picture.depth[picture.depth.isfinite()]
        assert seen.numel() == 4 * expected.depth.valid.sum()
        assert all(low <= value <= high for value in seen)
    else:
        assert picture.depth is None


def test_a_folder_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint yet"):
        scene_of(tmp_path, "best", CPU)


@pytest.mark.slow
def test_moving_the_camera_in_a_browser_renders_the_run_again(tiny_config_file: Path, tmp_path: Path) -> None:
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
