"""The page in the browser: clouds, cameras and live pictures of a `ViewerScene`, served by viser.

Everything comes from this machine: viser ships its page, and nothing is asked of the network.
"""

import contextlib
import importlib
import io
import math
import re
import socket
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared.command import RunError
from shared.pictures import colorize_depth, depth_legend, to_uint8
from shared.viewing.live import NewestOnly, fit_window
from shared.viewing.scene import LivePicture, Part, PointCloud, ViewerCamera, ViewerScene

__all__ = ["MAX_POINTS", "ViewerPage", "camera_pose", "find_port", "look_through", "start_view"]

FIRST_PORT, PORTS_TRIED = 8080, 100
MAX_POINTS = 400_000  # of each cloud; beyond it a random share is shown
CLOUD_FOV = (math.radians(30), math.radians(60))  # vertical, of the browser's camera
FRUSTUM = 0.04  # size of a camera with a picture, of the distance to what one looks at
PICTURE, DEPTH = "picture", "depth"
HELP = "Drag to turn, right-drag to shift, scroll to come closer. A click on a camera takes you there."


@dataclass(frozen=True)
class StartView:
    """Where the browser's camera begins, and what it turns about (frames as in `Part`)."""

    position: Tensor  # [3]
    target: Tensor  # [3]
    up: Tensor  # [3]
    fov_y: float  # radians


class ShownCloud(NamedTuple):
    """A cloud on the page: as drawn (perhaps thinned out), viser's handle of it, and its switch."""

    cloud: PointCloud
    handle: Any
    switch: Any


def start_view(part: Part, live: bool) -> StartView:
    """In the first camera itself for a live view; for clouds beside it and above, so that one sees it."""
    pose = part.cameras[0].world_from_cam
    if live:
        view = look_through(part, part.cameras[0])
        is_level = abs(float(part.up.to(pose) @ pose[:3, 2])) < 0.95  # else it looks straight up or down
        return replace(view, up=part.up) if is_level else view
    position, right, forward = pose[:3, 3], pose[:3, 0], pose[:3, 2]
    distance = (part.target - position).norm()
    beside = position + distance * (0.3 * right - 0.4 * forward + 0.3 * part.up.to(position))
    fov_y = min(max(_fov_y(part.cameras[0]), CLOUD_FOV[0]), CLOUD_FOV[1])
    return StartView(beside, part.target, part.up, fov_y)


def look_through(part: Part, camera: ViewerCamera) -> StartView:
    """Exactly where a camera stood; one turns about the point as far ahead as the target is."""
    pose = camera.world_from_cam
    position, down, forward = pose[:3, 3], pose[:3, 1], pose[:3, 2]
    distance = (part.target - position).norm()
    return StartView(position, position + distance * forward, -down, _fov_y(camera))


def camera_pose(wxyz: np.ndarray, position: np.ndarray) -> Tensor:
    """`world_from_cam` [4, 4] float32 of a unit quaternion (w, x, y, z) and a position; OpenCV axes."""
    w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = position
    return torch.from_numpy(pose).float()


def find_port(host: str, port: int | None) -> int:
    """The port asked for, or the first free one from 8080 on; raises RunError if it cannot be had."""
    wanted = [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED)
    reason = ""
    for number in wanted:
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, number))
            return number
        except OSError as error:
            reason = error.strerror or str(error)
    shown = port if port is not None else f"{FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1}"
    raise RunError(f"port {shown} of {host} cannot be used ({reason}); choose another with --port or --host")


def _import_viser() -> Any:
    try:
        return importlib.import_module("viser")
    except ModuleNotFoundError:
        remedy = "install it with: pip install -e '.[viewer]'"
        raise RunError(f"the viewer needs the package viser, which is not installed; {remedy}") from None


class ViewerPage:
    """A running page; `url` is where it is. Ends with `stop`, or at the end of a with block.

    Raises RunError without viser, and where the port cannot be had.
    """

    def __init__(self, scene: ViewerScene, host: str = "127.0.0.1", port: int | None = None):
        viser = _import_viser()
        self.scene = scene
        self.part = scene.parts[0]
        self.pictures_sent = 0
        self._lock = threading.RLock()  # over what is shown
        self._rendering = threading.Lock()  # one network, however many windows
        self._nodes: list[Any] = []  # of the part that is shown
        self._clouds: list[ShownCloud] = []
        self._artists: dict[int, NewestOnly[Any]] = {}  # by client
        number = find_port(host, port)
        with contextlib.redirect_stdout(io.StringIO()):  # its banner; the caller says where the page is
            self._server = viser.ViserServer(host, number, label=scene.title, verbose=False)
        name = "localhost" if host in ("127.0.0.1", "0.0.0.0", "") else host
        self.url = f"http://{name}:{self._server.get_port()}"
        self._server.gui.configure_theme(show_logo=False, show_share_button=False)
        self._build_panel()
        self._show_part(self.part.name)
        self._server.on_client_connect(self._connect)
        self._server.on_client_disconnect(self._disconnect)

    def __enter__(self) -> "ViewerPage":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the page off the network."""
        for client in list(self._artists):
            self._artists.pop(client).stop()
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()

    # ---- the panel at the side -----------------------------------------------------------------------------

    def _build_panel(self) -> None:
        gui = self._server.gui
        names = [part.name for part in self.scene.parts]
        self._choice = gui.add_dropdown("Scene", names, initial_value=names[0], visible=len(names) > 1)
        self._choice.on_update(lambda _: self._show_part(self._choice.value))
        self._colours = gui.add_dropdown("Colours", (PICTURE, DEPTH), initial_value=PICTURE)
        self._colours.on_update(lambda _: self._recolour())
        self._legend = gui.add_image(np.full((8, 320, 3), 255, np.uint8), format="png")
        self._live = gui.add_checkbox("Rendered live", True, hint="by the network, from where you stand")
        self._live.on_update(lambda _: self._switch_live())
        self._cameras = gui.add_checkbox("Cameras", True, hint="click one to look through it")
        self._cameras.on_update(lambda _: self._show_cameras())
        self._point_size = gui.add_slider("Point size", min=0.25, max=4.0, step=0.25, initial_value=1.0)
        self._point_size.on_update(lambda _: self._resize_points())
        self._switches = gui.add_folder("Point clouds")
        self._status = gui.add_markdown("")
        lines = [self.scene.title, f"Depth: {self.scene.status}; unit: {self.scene.unit}."]
        lines += [*self.scene.notes, HELP]
        gui.add_markdown("\n\n".join(_plain_markdown(line) for line in lines))

    # ---- one part ------------------------------------------------------------------------------------------

    def _show_part(self, name: str) -> None:
        """Put another part on the page and every window's camera at its start."""
        with self._lock, self._server.atomic():
            for node in self._nodes:
                node.remove()
            self.part = next(part for part in self.scene.parts if part.name == name)
            self._nodes, self._clouds = [], []
            self._legend.image = depth_legend(320, *self.part.limits, self.scene.unit, self.scene.status)
            has_live, has_clouds = self.part.live is not None, bool(self.part.clouds)
            self._live.visible = has_live
            self._live.value = has_live and not has_clouds
            self._point_size.visible = self._switches.visible = has_clouds
            self._cameras.value = has_clouds
            for cloud in self.part.clouds:
                self._add_cloud(cloud, visible=cloud is self.part.clouds[0])
            self._add_cameras()
            self._go_to_start()
        self._draw_all()

    def _go_to_start(self) -> None:
        """Put every window's camera, and that of windows to come, at the start."""
        start = start_view(self.part, self._live.value)
        self._server.scene.set_up_direction(tuple(start.up.tolist()))
        self._aim(self._server.initial_camera, start)
        for client in self._server.get_clients().values():
            self._move(client, start)

    def _add_cloud(self, cloud: PointCloud, visible: bool) -> None:
        chosen = slice(None)
        if len(cloud.points) > MAX_POINTS:
            generator = torch.Generator().manual_seed(0)
            chosen = torch.randperm(len(cloud.points), generator=generator)[:MAX_POINTS]
        shown = PointCloud(cloud.name, cloud.points[chosen], cloud.colours[chosen], cloud.values[chosen])
        handle = self._server.scene.add_point_cloud(
            f"/clouds/{cloud.name}",
            shown.points.float().cpu().numpy(),
            self._colours_of(shown),
            point_size=self._point_width(),
            point_shape="circle",
            point_shading="flat",
            precision="float32",
            visible=visible,
        )
        with self._switches:
            switch = self._server.gui.add_checkbox(cloud.name, visible)
        switch.on_update(lambda _: self._show_clouds())
        self._clouds.append(ShownCloud(shown, handle, switch))
        self._nodes += [handle, switch]

    def _add_cameras(self) -> None:
        cameras = self.part.cameras
        centres = torch.stack([camera.world_from_cam[:3, 3] for camera in cameras])
        distance = float((self.part.target - centres).norm(dim=-1).median())
        spacing = _spacing(centres)
        for index, camera in enumerate(cameras):
            length = FRUSTUM * distance
            if camera.image is None and spacing > 0:
                length = min(length, 0.5 * spacing)
            height, width = camera.size
            handle = self._server.scene.add_camera_frustum(
                f"/cameras/{index:04d}",
                fov=_fov_y(camera),
                aspect=width / float(camera.K[0, 0]) * float(camera.K[1, 1]) / height,
                scale=length,
                thickness=1.5,
                thickness_units="screen",
                color=(40, 90, 160),
                image=None if camera.image is None else to_uint8(camera.image),
                wxyz=_quaternion(camera.world_from_cam),
                position=camera.world_from_cam[:3, 3].tolist(),
                visible=self._cameras.value,
            )
            handle.on_click(lambda event, camera=camera: self._look_through(event.client, camera))
            self._nodes.append(handle)

    def _colours_of(self, cloud: PointCloud) -> np.ndarray:
        if self._colours.value == DEPTH:
            return colorize_depth(cloud.values[None], None, *self.part.limits)[0]
        return to_uint8(cloud.colours.T[:, None])[0]

    def _point_width(self) -> float:
        """A pixel of the first camera at the distance of the target, times the slider."""
        camera = self.part.cameras[0]
        distance = (self.part.target - camera.world_from_cam[:3, 3]).norm()
        return float(distance / camera.K[0, 0]) * self._point_size.value

    # ---- answers to the panel ------------------------------------------------------------------------------

    def _recolour(self) -> None:
        with self._lock, self._server.atomic():
            for shown in self._clouds:
                shown.handle.colors = self._colours_of(shown.cloud)
        self._draw_all()

    def _resize_points(self) -> None:
        with self._lock:
            for shown in self._clouds:
                shown.handle.point_size = self._point_width()

    def _switch_live(self) -> None:
        """A live picture begins in the first camera; clouds and cameras would stand in its way."""
        with self._lock, self._server.atomic():
            self._cameras.value = not self._live.value
            self._show_clouds()
            self._go_to_start()
        self._draw_all()

    def _show_clouds(self) -> None:
        for shown in self._clouds:
            shown.handle.visible = shown.switch.value and not self._live.value

    def _show_cameras(self) -> None:
        with self._lock, self._server.atomic():
            for node in self._nodes:
                if getattr(node, "name", "").startswith("/cameras/"):
                    node.visible = self._cameras.value

    def _look_through(self, client: Any, camera: ViewerCamera) -> None:
        self._move(client, look_through(self.part, camera))

    # ---- windows -------------------------------------------------------------------------------------------

    def _connect(self, client: Any) -> None:
        self._artists[client.client_id] = NewestOnly(lambda _: self._draw(client))
        client.camera.on_update(lambda _: self._ask(client))
        self._move(client, start_view(self.part, self._live.value))
        self._ask(client)

    def _disconnect(self, client: Any) -> None:
        artist = self._artists.pop(client.client_id, None)
        if artist is not None:
            artist.stop()

    def _move(self, client: Any, view: StartView) -> None:
        """Move a window's camera; an upright window shows the same width instead of the same height."""
        aspect = min(client.camera.aspect, 1.0)
        fov_y = 2 * math.atan(math.tan(view.fov_y / 2) / aspect)
        with client.atomic():
            self._aim(client.camera, replace(view, fov_y=fov_y))

    def _aim(self, camera: Any, view: StartView) -> None:
        """Move a window's camera, or the one that new windows begin with."""
        distance = float((view.target - view.position).norm())
        camera.position = tuple(view.position.tolist())
        camera.look_at = tuple(view.target.tolist())
        with contextlib.suppress(AttributeError):
            camera.up_direction = tuple(view.up.tolist())
        camera.fov = view.fov_y
        camera.near, camera.far = 1e-3 * distance, 1e2 * distance

    def _ask(self, client: Any) -> None:
        artist = self._artists.get(client.client_id)
        if artist is not None:
            artist.ask(None)

    def _draw_all(self) -> None:
        for client in self._server.get_clients().values():
            self._ask(client)

    def _draw(self, client: Any) -> None:
        """Render what the window's camera sees now, and put it behind everything; in the window's thread."""
        live, limits = self.part.live, self.part.limits
        if live is None or not self._live.value:
            client.scene.set_background_image(None)
            self._status.content = ""
            return
        started = time.perf_counter()
        camera = client.camera
        pose, fov_y, aspect = camera_pose(camera.wxyz, camera.position), camera.fov, camera.aspect
        with self._rendering:
            picture: LivePicture = live.render(pose)
        as_depth = self._colours.value == DEPTH and picture.depth is not None
        pixels = colorize_depth(picture.depth, None, *limits) if as_depth else to_uint8(picture.image)
        window = fit_window(pixels, live.K, fov_y, aspect, live.blank)
        client.scene.set_background_image(window, format="jpeg", jpeg_quality=92)
        self.pictures_sent += 1
        milliseconds = 1000 * (time.perf_counter() - started)
        height, width = live.size
        self._status.content = f"Rendered at {width} x {height} px in {milliseconds:.0f} ms."


def _fov_y(camera: ViewerCamera) -> float:
    """Vertical field of view, radians."""
    return 2 * math.atan(camera.size[0] / 2 / float(camera.K[1, 1]))


def _spacing(centres: Tensor) -> float:
    """Median distance from a camera centre [n, 3] to the nearest other one; 0 for a single camera."""
    if len(centres) < 2:
        return 0.0
    distances = torch.cdist(centres.double(), centres.double())
    return float(distances.fill_diagonal_(torch.inf).min(dim=1).values.median())


def _quaternion(pose: Tensor) -> np.ndarray:
    """(w, x, y, z) of the rotation of a pose [4, 4]."""
    return importlib.import_module("viser.transforms").SO3.from_matrix(
        pose[:3, :3].double().cpu().numpy()
    ).wxyz


def _plain_markdown(text: str) -> str:
    """Text that Markdown shows as it stands, whatever signs are in it."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)
