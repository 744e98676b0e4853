"""Look at a run in the browser: move around its scene.

    python -m shared.show.viewer runs/deepvoxels-quick
    python -m shared.show.viewer runs/nvs_depth-quick --port 9000 --open

A DeepVoxels run is rendered live from where you stand; depth runs are shown as coloured points with their
cameras, with unit and scale status. The page is served to this machine only, unless --host says otherwise;
nothing is fetched from the network. Ctrl-C ends it. Needs the extra `viewer`: pip install -e '.[viewer]'
"""

import argparse
import contextlib
import importlib
import io
import math
import re
import socket
import sys
import threading
import time
import traceback
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

import shared
from shared.errors import RunError
from shared.files.images import to_uint8
from shared.geometry.camera import check_pose, pixel_grid, transform_points, unproject
from shared.runs.checkpoint import load_checkpoint
from shared.runs.command import add_checkpoint_argument, add_device_argument, command_line, select_device
from shared.runs.folder import find_checkpoint
from shared.show.pictures import colorize_depth, depth_legend, depth_range

__all__ = [
    "LivePicture",
    "LiveView",
    "MAX_POINTS",
    "NewestOnly",
    "Part",
    "PointCloud",
    "ViewerCamera",
    "ViewerPage",
    "ViewerScene",
    "camera_pose",
    "cloud_from_depth",
    "find_port",
    "fit_window",
    "look_through",
    "main",
    "open_scene",
    "relief",
    "start_view",
]


Request = TypeVar("Request")
NOTHING = object()


class NewestOnly(Generic[Request]):
    """Does `work(request)` in a thread of its own, always for the newest request.

    Requests that were overtaken while the work was busy are dropped, so a slow network lags by one picture at
    most. An error of `work` is reported on stderr and ends nothing.
    """

    def __init__(self, work: Callable[[Request], None]):
        self._work = work
        self._newest: object = NOTHING
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="live view", daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> None:
        """Ask for work; returns at once."""
        with self._changed:
            self._newest = request
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after the work it is at."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._newest is not NOTHING)
                if self._stopped:
                    return
                request, self._newest = self._newest, NOTHING
            try:
                self._work(request)
            except Exception:  # the next viewpoint may work, and the page must stay
                traceback.print_exc(file=sys.stderr)


def fit_window(picture: np.ndarray, K: Tensor, fov_y: float, aspect: float, blank: int = 255) -> np.ndarray:
    """Cut or pad a picture uint8 [H, W, 3] taken with `K` so that it fills a window, at its own resolution.

    The window has the vertical field of view `fov_y` (radians), `aspect` = width / height, and its middle on
    the optical axis. What the picture does not show is `blank`. Edges are rounded to whole pixels.
    """
    if not (0 < fov_y < math.pi and aspect > 0):
        raise ValueError(f"the field of view must be in (0, pi) and the aspect positive: {fov_y}, {aspect}")
    height, width = picture.shape[:2]
    reach = math.tan(fov_y / 2)
    half_height, half_width = float(K[1, 1]) * reach, float(K[0, 0]) * reach * aspect
    centre_x, centre_y = float(K[0, 2]) + 0.5, float(K[1, 2]) + 0.5  # from the outer border
    left, top = round(centre_x - half_width), round(centre_y - half_height)
    right, bottom = max(left + 1, round(centre_x + half_width)), max(top + 1, round(centre_y + half_height))
    window = np.full((bottom - top, right - left, 3), blank, np.uint8)
    inside_y = slice(max(0, top), min(height, bottom))
    inside_x = slice(max(0, left), min(width, right))
    part = picture[inside_y, inside_x]
    if part.size:
        y, x = inside_y.start - top, inside_x.start - left
        window[y : y + part.shape[0], x : x + part.shape[1]] = part
    return window


HOUSE = Path(shared.__file__).parent.parent  # where the papers' folders lie
RELIEF_DEPTH = 0.5  # of the picture's width


@dataclass(frozen=True)
class PointCloud:
    """Coloured points; `values` are their depths or disparities in the unit of the scene, for the legend."""

    name: str
    points: Tensor  # [n, 3] in the coordinates of the part
    colours: Tensor  # [n, 3] RGB in [0, 1]
    values: Tensor  # [n]

    def __post_init__(self) -> None:
        n = len(self.points)
        shapes = [tuple(tensor.shape) for tensor in (self.points, self.colours, self.values)]
        if n == 0 or shapes != [(n, 3), (n, 3), (n,)]:
            raise ValueError(f"{self.name}: a cloud has n > 0 points [n, 3], colours, values, got {shapes}")
        if not (self.points.isfinite().all() and self.values.isfinite().all()):
            raise ValueError(f"{self.name}: points and values must be finite; leave the others out")


@dataclass(frozen=True)
class ViewerCamera:
    """A camera to be drawn, with the picture it took if there is one."""

    name: str
    world_from_cam: Tensor  # [4, 4], OpenCV axes
    K: Tensor  # [3, 3] in pixels of `size`
    size: tuple[int, int]  # height, width
    image: Tensor | None = None  # [3, H, W] in [0, 1], of any size with the same proportions

    def __post_init__(self) -> None:
        check_pose(self.world_from_cam, self.name)


class LivePicture(NamedTuple):
    """What a network shows from one viewpoint."""

    image: Tensor  # [3, H, W] in [0, 1]
    depth: Tensor | None  # [H, W] in the unit of the scene


@dataclass(frozen=True)
class LiveView:
    """A network that renders from wherever one stands: `render(world_from_cam [4, 4])` always with this K."""

    K: Tensor  # [3, 3] in pixels of `size`
    size: tuple[int, int]  # height, width
    render: Callable[[Tensor], LivePicture]
    blank: int = 255  # grey level around the picture, where the window is wider


@dataclass(frozen=True)
class Part:
    """What is shown at one time, in one system of coordinates; the first camera is where one starts."""

    name: str
    target: Tensor  # [3] the point one moves around
    limits: tuple[float, float]  # of the colours of depth
    cameras: tuple[ViewerCamera, ...]
    clouds: tuple[PointCloud, ...] = ()
    live: LiveView | None = None

    def __post_init__(self) -> None:
        if not self.cameras or not (self.clouds or self.live):
            raise ValueError(f"{self.name}: a part needs a camera, and clouds or a live view")

    @classmethod
    def of_clouds(
        cls,
        name: str,
        cameras: Sequence[ViewerCamera],
        clouds: Sequence[PointCloud | None],
        live: LiveView | None = None,
    ) -> "Part":
        """A part around the middle of its first cloud, coloured over that cloud's values; None is left out.

        Raises ValueError if there is no cloud at all.
        """
        shown = tuple(cloud for cloud in clouds if cloud is not None)
        if not shown:
            raise ValueError(f"{name}: no pixel has a depth to show")
        target = shown[0].points.median(dim=0).values
        return cls(name, target, depth_range(shown[0].values[None]), tuple(cameras), shown, live)

    @property
    def up(self) -> Tensor:
        """The direction [3] that is up in most pictures; the axis of the world that comes close to it."""
        mean = -torch.stack([camera.world_from_cam[:3, 1] for camera in self.cameras]).mean(0)
        largest = mean.abs().argmax()
        if mean[largest].abs() > 0.8 * mean.norm():
            return torch.zeros(3).index_fill(0, largest, mean[largest].sign().item())
        return (mean / mean.norm()).float()


@dataclass(frozen=True)
class ViewerScene:
    """A run to look at. `unit` and `status` say what depth means in it, in words."""

    title: str
    unit: str
    status: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a scene needs parts with names of their own, got {names}")


def open_scene(run: str | Path, which: str, device: torch.device) -> ViewerScene:
    """Load a run folder through the `viewer.py` of its paper.

    Raises RunError where the folder holds no run, the run has nothing to show yet, or no paper here wrote it;
    DataError or CheckpointError for damaged files.
    """
    run = Path(run)
    checkpoint = load_checkpoint(find_checkpoint(run, which))
    scene = _viewer_module(checkpoint.paper, run).scene_of(run, which, device)
    planned = checkpoint.config.get("steps", checkpoint.step)
    if checkpoint.step < planned:
        note = f"not trained to the end: this is step {checkpoint.step:,} of {planned:,}"
        scene = replace(scene, notes=(note, *scene.notes))
    return scene


def _viewer_module(paper: str, run: Path) -> ModuleType:
    """`<paper>.viewer` of a folder beside `shared`; a checkpoint cannot name any other module."""
    is_name = re.fullmatch(r"[a-z][a-z0-9_]*", paper) is not None
    if not is_name or not (HOUSE / paper / "viewer.py").is_file():
        raise RunError(f"{run}: it was written by {paper!r}, which has no viewer here; copy its folder here")
    return importlib.import_module(f"{paper}.viewer")


def cloud_from_depth(
    name: str,
    image: Tensor,
    depth: Tensor,
    K: Tensor,
    world_from_cam: Tensor | None = None,
    valid: Tensor | None = None,
) -> PointCloud | None:
    """The points of a z-depth map [H, W] in the colours of its image [3, H, W]; None if no pixel is valid.

    Pixels count where `valid` [H, W] says so (default: all) and the depth is positive and finite.
    """
    keep = depth.isfinite() & (depth > 0)
    keep = keep if valid is None else keep & valid
    if not keep.any():
        return None
    grid = pixel_grid(*depth.shape, depth.device, depth.dtype)
    points = unproject(grid, torch.where(keep, depth, 1.0), K.to(depth))[keep]
    if world_from_cam is not None:
        points = transform_points(world_from_cam.to(points), points)
    return PointCloud(name, points, image.permute(1, 2, 0)[keep], depth[keep])


def relief(
    name: str, image: Tensor, nearness: Tensor, limits: tuple[float, float]
) -> tuple[PointCloud, ViewerCamera]:
    """A map [H, W] that is larger where things are nearer, as a relief: where no camera is known.

    x and y are pixels about the middle; `limits` of the map lie half the picture's width apart. The camera
    that comes with it stands in front and is there to look from, not to believe in.
    """
    height, width = nearness.shape
    low, high = limits
    far_share = ((high - nearness) / max(high - low, 1e-12)).clamp(-0.5, 1.5)
    middle = nearness.new_tensor([(width - 1) / 2, (height - 1) / 2])
    xy = pixel_grid(height, width, nearness.device, nearness.dtype) - middle
    points = torch.cat([xy, RELIEF_DEPTH * width * far_share[..., None]], dim=-1)
    keep = nearness.isfinite()
    cloud = PointCloud(name, points[keep], image.permute(1, 2, 0)[keep], nearness[keep])
    K = torch.tensor([[width, 0.0, middle[0]], [0.0, width, middle[1]], [0.0, 0.0, 1.0]])
    pose = torch.eye(4)
    pose[2, 3] = -float(width)  # the nearest points then fill the picture
    return cloud, ViewerCamera("from the front", pose, K, (height, width), image)


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


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C; RunError or DataError if there is nothing to show."""
    args = _parse(argv)
    scene = open_scene(args.run, args.checkpoint, select_device(args.device))
    with ViewerPage(scene, args.host, args.port) as page:
        sys.stdout.write(f"{scene.title}\nopen {page.url} in a browser; Ctrl-C ends it\n")
        sys.stdout.flush()
        if args.open:
            webbrowser.open(page.url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write("\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of train.py")
    add_checkpoint_argument(parser)
    add_device_argument(parser)
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 8080 on")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this)")
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")
    args = parser.parse_args(argv)
    if args.port is not None and not 1 <= args.port <= 65535:
        parser.error(f"--port must be between 1 and 65535, got {args.port}")
    return args


if __name__ == "__main__":
    command_line(main)
