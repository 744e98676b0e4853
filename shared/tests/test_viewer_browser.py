"""The viewer's page in a real browser: it draws, moving the camera renders anew, nothing is fetched."""

import math
import time

import numpy as np
import pytest
import torch

from shared.geometry.camera import intrinsics_matrix, look_at
from shared.show.viewer import LivePicture, LiveView, Part, PointCloud, ViewerCamera, ViewerPage, ViewerScene
from shared.tests.browser import chromium_page, screenshot

pytestmark = pytest.mark.slow

K = intrinsics_matrix(40.0, 40.0, 15.5, 15.5)
SIZE = (32, 32)
PATIENCE_S = 30
NOTE = "room_1_a <b>*2* [x](y) # 3"


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def centre(page):
    """Mean colour of a square in the middle of the window, in [0, 1]."""
    return screenshot(page, x=480, y=280, width=40, height=40).reshape(-1, 3).mean(0) / 255


def close(colour, expected):
    return np.abs(colour - np.asarray(expected)).max() < 0.06


@pytest.fixture
def opened():
    """A page with a network that shows its viewing direction as a colour and, as another part, a red ball."""
    pytest.importorskip("viser", reason="the extra `viewer` is not installed")
    poses = []

    def render(world_from_cam):
        poses.append(world_from_cam)
        colour = 0.5 + 0.5 * world_from_cam[:3, 2]
        return LivePicture(colour[:, None, None].expand(3, *SIZE), torch.full(SIZE, 2.0))

    start = ViewerCamera("start", look_at(torch.tensor([2.0, 0.0, 0.0])), K, SIZE)
    directions = torch.nn.functional.normalize(torch.randn(5000, 3, generator=torch.manual_seed(0)), dim=1)
    red = torch.tensor([0.9, 0.1, 0.1]).expand(5000, 3)
    ball = PointCloud("ball", 0.4 * directions, red, torch.full((5000,), 2.0))
    live = Part("live", torch.zeros(3), (1.0, 3.0), (start,), (), LiveView(K, SIZE, render))
    points = Part("points", torch.zeros(3), (1.0, 3.0), (start,), (ball,))
    scene = ViewerScene("Colours", "m", "metric z-depth", (live, points), (NOTE,))
    with ViewerPage(scene) as viewer, chromium_page(1000, 600) as page:
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(viewer.url)
        yield viewer, page, poses
        assert errors == []
        own = (viewer.url, viewer.url.replace("http", "ws"), f"blob:{viewer.url}", "data:")
        assert [url for url in asked if not url.startswith(own)] == []


def test_the_live_picture_follows_the_camera(opened):
    viewer, page, poses = opened
    wait_until(lambda: viewer.pictures_sent > 0, "no picture was rendered")
    expected = [0.0, 0.5, 0.5]  # looking along -x
    wait_until(lambda: close(centre(page), expected), "the window does not show the picture")
    torch.testing.assert_close(poses[-1], look_at(torch.tensor([2.0, 0.0, 0.0])), atol=1e-4, rtol=0)
    page.mouse.move(200, 200)
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(200 + 20 * step, 200 + 4 * step)
    page.mouse.up()
    at_first = torch.tensor([-1.0, 0.0, 0.0])
    wait_until(lambda: (poses[-1][:3, 2] - at_first).norm() > 0.2, "nothing was rendered anew")
    newest = lambda: 0.5 + 0.5 * poses[-1][:3, 2].numpy()  # noqa: E731
    wait_until(lambda: close(centre(page), newest()), "the window kept its old picture")
    distance = poses[-1][:3, 3].norm().item()
    assert math.isclose(distance, 2.0, rel_tol=1e-3)  # one turns about the target
    sent = viewer.pictures_sent
    page.wait_for_timeout(1500)
    assert viewer.pictures_sent == sent  # no movement, no work
