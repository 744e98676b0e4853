"""The viewer without a browser: geometry, dropped requests, which paper is asked, errors, the panel."""

import contextlib
import http.client
import math
import queue
import socket
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import nn

from shared.errors import RunError
from shared.files.cameras import read_poses
from shared.geometry.camera import intrinsics_matrix, invert_pose, look_at, project, transform_points
from shared.results import DepthMap, Views
from shared.runs.checkpoint import save_checkpoint
from shared.show import viewer
from shared.show.export import export_views
from shared.show.pictures import colorize_depth
from shared.show.viewer import ViewerPage, fit_window, look_through, open_scene
from shared.show.viewer_scene import (
    LivePicture,
    LiveView,
    Part,
    PointCloud,
    ViewerCamera,
    ViewerScene,
    cloud_from_depth,
    relief,
)

CPU = torch.device("cpu")
K = intrinsics_matrix(20.0, 20.0, 7.0, 4.0)  # of pictures 15 x 9


def camera(pose=None, image=None, name="camera"):
    return ViewerCamera(name, torch.eye(4) if pose is None else pose, K, (9, 15), image)


def live_view(value=0.5, seen=None):
    """A network that shows one grey, and depth 2."""

    def render(pose):
        if seen is not None:
            seen.append(pose)
        return LivePicture(torch.full((3, 9, 15), value), torch.full((9, 15), 2.0))

    return LiveView(K, (9, 15), render)


def cloud(name="cloud", n=6):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(n, 3, generator=generator) + torch.tensor([0.0, 0.0, 3.0])
    return PointCloud(name, points, torch.rand(n, 3, generator=generator), points[:, 2])


# ---- geometry ----------------------------------------------------------------------------------------------


def test_a_cloud_projects_back_onto_its_pixels():
    generator = torch.Generator().manual_seed(1)
    depth = 1 + torch.rand(9, 15, generator=generator)
    depth[2, 3], depth[4, 5], depth[6, 7] = math.inf, 0.0, math.nan
    valid = torch.ones(9, 15, dtype=torch.bool)
    valid[8, 14] = False
    image = torch.rand(3, 9, 15, generator=generator)
    pose = look_at(torch.tensor([1.0, 2.0, 3.0]))
    made = cloud_from_depth("map", image, depth, K, pose, valid)
    assert len(made.points) == 9 * 15 - 4
    pixels, z = project(transform_points(invert_pose(pose), made.points), K)
    column, row = pixels.round().long().unbind(1)
    assert (pixels - pixels.round()).abs().max() < 1e-4
    assert torch.equal(made.colours, image[:, row, column].T)
    torch.testing.assert_close(z, depth[row, column], rtol=1e-5, atol=1e-5)
    assert torch.equal(made.values, depth[row, column])
    assert cloud_from_depth("map", image, depth, K, valid=torch.zeros_like(valid)) is None


def test_a_relief_fills_the_picture_of_its_camera_and_nearer_stands_out():
    nearness = torch.linspace(-2, 5, 15).expand(9, 15)
    made, front = relief("map", torch.rand(3, 9, 15), nearness, (-2.0, 5.0))
    points_cam = transform_points(invert_pose(front.world_from_cam), made.points)
    z = points_cam[:, 2].reshape(9, 15)
    assert (z[:, 1:] < z[:, :-1]).all()  # larger is nearer
    assert z.min() == 15.0
    assert z.max() == pytest.approx(15 + 7.5)
    pixels, _ = project(points_cam, front.K)
    near = pixels.reshape(9, 15, 2)[:, -1]
    torch.testing.assert_close(near[:, 0], torch.full((9,), 14.0))
    torch.testing.assert_close(near[:, 1], torch.arange(9.0))
    flat, _ = relief("map", torch.rand(3, 9, 15), torch.ones(9, 15), (1.0, 1.0))
    assert flat.points[:, 2].eq(0).all()


def test_up_is_an_axis_of_the_world_and_a_camera_that_looks_down_has_its_own():
    ring = [camera(look_at((math.cos(a), math.sin(a), 0.6))) for a in (0.1, 1.5, 3.0, 4.4)]
    part = Part("ring", torch.zeros(3), (0, 1), tuple(ring))
    assert part.up.tolist() == [0, 0, 1]
    view = look_through(part, ring[0])
    torch.testing.assert_close(view.position, ring[0].world_from_cam[:3, 3])
    torch.testing.assert_close(view.target, torch.zeros(3), atol=1e-6, rtol=0)
    assert view.up.tolist() == [0, 0, 1]
    overhead = camera(look_at((0.0, 0.0, 2.0)))
    torch.testing.assert_close(look_through(part, overhead).up, -overhead.world_from_cam[:3, 1])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.2, 2.5),
    st.floats(0.3, 3.0),
    st.integers(3, 40),
    st.integers(3, 40),
    st.floats(5, 60),
    st.floats(0.3, 0.7),
)
def test_the_window_shows_each_direction_where_the_camera_has_it(fov_y, aspect, height, width, focal, share):
    """Twin: send a ray through each pixel of the window and look it up in the picture."""
    lens = intrinsics_matrix(focal, 1.1 * focal, share * width, share * height, dtype=torch.float64)
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    window = fit_window(picture, lens, fov_y, aspect)
    h, w = window.shape[:2]
    y, x = np.mgrid[:h, :w] + 0.5
    slope_y = (2 * y / h - 1) * math.tan(fov_y / 2)
    slope_x = (2 * x / w - 1) * math.tan(fov_y / 2) * aspect
    row = 1.1 * focal * slope_y + share * height
    column = focal * slope_x + share * width
    inside = (row > 1) & (row < height - 2) & (column > 1) & (column < width - 2)
    assert np.abs(window[..., 0][inside] - row[inside]).max(initial=0) <= 1.01  # whole pixels: half a pixel
    assert np.abs(window[..., 1][inside] - column[inside]).max(initial=0) <= 1.01  # at each end
    outside = (row < -1.6) | (row > height + 0.6) | (column < -1.6) | (column > width + 0.6)
    assert (window[outside] == 255).all()


# ---- which paper is asked ----------------------------------------------------------------------------------


def make_run(folder, paper="imagined", step=2, steps=5):
    network = nn.Linear(1, 1)
    config = {"steps": steps}
    save_checkpoint(folder / "checkpoints/last.pt", {"model": network}, paper=paper, step=step, config=config)
    return folder


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A house with one paper in it, whose viewer shows nothing."""
    folder = tmp_path / "house" / "imagined"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "viewer.py").write_text(
        "from shared.show.viewer_scene import ViewerScene\n"
        "def scene_of(run, checkpoint, device):\n"
        "    return ViewerScene(f'{run.name} {checkpoint} {device}', 'm', 'metric', (), ('a note',))\n"
    )
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(viewer, "PAPERS", folder.parent)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "imagined"]:
        del sys.modules[name]


def test_the_run_says_which_paper_shows_it(house, tmp_path):
    scene = open_scene(make_run(tmp_path / "run"), "best", CPU)
    assert scene.title == "run best cpu"
    assert scene.notes == ("not trained to the end: this is step 2 of 5", "a note")
    assert open_scene(make_run(tmp_path / "whole", step=5), "last", CPU).notes == ("a note",)


@pytest.mark.parametrize("paper", ["antigravity", "../imagined"])
def test_a_checkpoint_cannot_make_the_viewer_import_anything_else(house, tmp_path, paper):
    with pytest.raises(RunError, match="no viewer"):
        open_scene(make_run(tmp_path / "run", paper=paper), "best", CPU)
    assert "antigravity" not in sys.modules


def test_what_is_no_run_is_refused(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(RunError, match=str(folder)):
            viewer.main([str(folder)])


# ---- the page ----------------------------------------------------------------------------------------------


def part_of_clouds(name="clouds"):
    cameras = camera(image=torch.rand(3, 9, 15)), camera(look_at((1.0, 0, 0)))
    return Part.of_clouds(name, cameras, (cloud(),))


def a_scene(*parts, live=None):
    mixed = Part("live", torch.ones(3), (1.0, 3.0), (camera(),), (cloud(),), live or live_view())
    return ViewerScene("A <run>", "m", "metric z-depth", parts or (part_of_clouds(), mixed), ("snake_case",))


def test_a_port_or_host_that_cannot_be_had_is_refused():
    pytest.importorskip("viser", reason="the extra `viewer` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} of 127.0.0.1"):
            ViewerPage(a_scene(), port=port)


class Window:
    """What the page asks of a browser's window: where its camera is, and what is put behind everything."""

    client_id = 7

    def __init__(self):
        self.scene, self.camera, self.background = self, self, "untouched"
        self.rotation = Rotation.from_rotvec([0.4, -0.7, 1.1])
        self.wxyz, self.position = np.roll(self.rotation.as_quat(), 1), np.array([0.1, 0.2, 0.3])
        self.fov, self.aspect = 2 * math.atan(4.5 / 20), 21 / 9

    def on_update(self, callback):
        self.moved = callback

    def atomic(self):
        return contextlib.nullcontext()

    def set_background_image(self, image, **options):
        self.background = image


@pytest.fixture
def page():
    pytest.importorskip("viser", reason="the extra `viewer` is not installed")
    seen = []
    with ViewerPage(a_scene(live=live_view(0.25, seen))) as page:
        page.seen = seen
        yield page


def test_the_page_is_served_to_this_machine(page):
    assert page._server.get_host() == "127.0.0.1"
    with urllib.request.urlopen(page.url, timeout=10) as answer:
        assert b"<html" in answer.read(2000)


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        ({"Host": "127.0.0.1:9", "Origin": "http://127.0.0.1:9"}, True),  # through a tunnel from another port
        ({"Host": "evil.example:9"}, False),  # a name that was made to point here
        ({"Host": "localhost.evil.example"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://localhost:1"}, False),  # another program's page on this machine
    ],
)
@pytest.mark.parametrize("upgrade", [{}, {"Upgrade": "websocket", "Connection": "Upgrade"}])
def test_the_page_is_for_its_own_address_alone(page, headers, is_let_in, upgrade):
    key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} if upgrade else {}
    connection = http.client.HTTPConnection("127.0.0.1", page._server.get_port(), timeout=10)
    connection.request("GET", "/", headers=headers | upgrade | key)
    answer = connection.getresponse()
    connection.close()
    assert answer.status == ((101 if upgrade else 200) if is_let_in else 403)


def test_the_panel_shows_what_a_part_has(page):
    ((shown, handle, _),) = page._clouds
    assert handle.visible
    assert np.array_equal(handle.colors, (shown.colours.numpy() * 255).round().astype(np.uint8))
    page._colours.value = "depth"
    low, high = page.part.limits
    assert np.array_equal(handle.colors, colorize_depth(shown.values[None], None, low, high)[0])
    page._choice.value = "live"
    assert page.part.name == "live"
    assert page._clouds[0][1] is not handle
    page._live.value = True  # nothing may stand in the way of the live picture
    assert not page._clouds[0][1].visible
    page._live.value = False
    assert page._clouds[0][1].visible


def test_a_window_gets_the_picture_of_its_own_camera(page):
    window = Window()
    page._draw(window)
    assert window.background is None  # nothing is rendered for clouds
    page._choice.value = "live"
    page._live.value = True
    page._draw(window)
    (pose,) = page.seen
    np.testing.assert_allclose(pose[:3, :3], window.rotation.as_matrix(), atol=1e-6)
    torch.testing.assert_close(pose[:3, 3], torch.tensor([0.1, 0.2, 0.3]))
    assert window.background.shape == (9, 21, 3)
    assert (window.background[:, 3:-3] == 64).all()
    assert (window.background[:, :3] == 255).all()
    page._colours.value = "depth"
    page._draw(window)
    assert np.array_equal(window.background[4, 10], colorize_depth(np.full((1, 1), 2.0), None, 1, 3)[0, 0])
    assert page.pictures_sent == 2


def test_requests_that_were_overtaken_are_dropped(page):
    page._choice.value, page._live.value = "live", True
    window, threads = Window(), []
    with page._rendering:
        for _ in range(3):
            before = page._asked.get(Window.client_id)
            threads.append(threading.Thread(target=page._draw, args=(window,)))
            threads[-1].start()
            while page._asked.get(Window.client_id) is before:
                pass
    for thread in threads:
        thread.join(10)
    assert page.pictures_sent == 1


def test_a_newer_state_leaves_windows_and_switches_as_they_are(page):
    page._choice.value = "live"
    page._live.value = False
    page._clouds[0][2].value = False
    page._server.initial_camera.position = (9.0, 8.0, 7.0)
    newer = replace(a_scene(live=live_view(0.75)), notes=("step 4 of 5",))
    page.show(newer)
    assert page.part is newer.parts[1]
    assert (page._live.value, page._cameras.value, page._clouds[0][2].value) == (False, True, False)
    assert tuple(page._server.initial_camera.position) == (9.0, 8.0, 7.0)
    assert "step 4 of 5" in page._words.content
    page._live.value = True
    window = Window()
    page._draw(window)
    assert (window.background[:, 3:-3] == 191).all()  # by the newer network
    page.show(ViewerScene("of other parts", "m", "metric", (part_of_clouds("other"),)))
    assert page.part.name == "other"


def test_a_run_in_training_is_followed(house, tmp_path, capsys):
    run, stopped, shown = make_run(tmp_path / "run"), threading.Event(), queue.Queue()
    page, first = SimpleNamespace(show=shown.put), (run / "checkpoints/last.pt").stat().st_mtime_ns
    following = threading.Thread(target=viewer.follow, args=(page, run, CPU, first, stopped, 0.02))
    following.start()
    try:
        make_run(run, step=4)
        assert shown.get(timeout=20).notes[0] == "not trained to the end: this is step 4 of 5"
        (run / "checkpoints/last.pt").unlink()  # a moment without any is no end
        time.sleep(0.1)
        make_run(run, step=5)
        assert shown.get(timeout=20).notes == ("a note",)
    finally:
        stopped.set()
        following.join(20)
    assert shown.empty()
    assert "this is step 4 of 5\ntrained to the end" in capsys.readouterr().out


# ---- what predict.py wrote, and paths for it ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["z_depth", "disparity_px"])
def test_a_predicted_folder_and_a_single_map_are_opened(kind, tmp_path):
    values = torch.linspace(1, 3, 15).expand(2, 9, 15)
    depth = DepthMap(values, kind, "m", "metric", K=K if kind == "z_depth" else None)
    poses = look_at(torch.tensor([[0.0, -3, 1], [1.0, -3, 1]]))
    export_views(tmp_path / "out", Views(torch.rand(2, 3, 9, 15), depth), poses)
    scene = open_scene(tmp_path / "out", "best", CPU)
    part = scene.parts[0]
    assert len(part.cameras) == len(part.clouds) == 2
    assert part.clouds[1].values.max() == 3
    assert scene.near_is_large == (kind == "disparity_px")
    if kind == "z_depth":
        torch.testing.assert_close(part.clouds[1].points, depth[1].points(poses[1]), atol=1e-5, rtol=0)
    near = part.clouds[0].points[part.clouds[0].values.argmin()]
    alone = open_scene(tmp_path / "out" / "depth_0000.pfm", "best", CPU).parts[0].clouds[0]
    assert len(alone.points) == 9 * 15
    assert near.isfinite().all()


def test_a_recorded_path_is_what_predict_takes(tmp_path):
    poses = list(look_at(torch.tensor([[0.0, -3, 1], [1.0, -3, 1], [2.0, -2, 1]])))
    (tmp_path / "path.txt").write_text(viewer.path_text(poses, frames=4))
    read = read_poses(tmp_path / "path.txt")
    assert len(read) == 9
    torch.testing.assert_close(read[[0, 4, 8]].float(), torch.stack(poses), atol=1e-5, rtol=0)
