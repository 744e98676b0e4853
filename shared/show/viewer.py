"""Look at a run in the browser, or at what a predict.py wrote: move around its scene.

    python -m shared.show.viewer runs/deepvoxels-quick
    python -m shared.show.viewer my_depth/ --port 9000 --open
    python -m shared.show.viewer my_depth/depth_0000.pfm         # or any map that DepthMap.save wrote

A DeepVoxels run is rendered live from any viewpoint; depth runs are shown as coloured points with their
cameras, with unit and scale status. Of a run in training each newer checkpoint is shown. The page is served
to this machine only, unless --host says otherwise, and not to other pages that its browser shows; nothing is
fetched from the network. Ctrl-C ends it. Needs the extra `viewer`: pip install -e '.[viewer]'
"""

if __name__ == "__main__":
    from shared.runs.command import begin

    begin()

import argparse
import contextlib
import importlib
import io
import ipaddress
import itertools
import math
import re
import socket
import sys
import threading
import urllib.parse
import webbrowser
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.errors import CheckpointError, DataError, RunError
from shared.files.images import encode_png, to_uint8
from shared.geometry.trajectories import interpolate_poses
from shared.results import DepthMap, Views
from shared.runs.checkpoint import load_checkpoint
from shared.runs.command import add_checkpoint_argument, add_device_argument, command_line, select_device
from shared.runs.folder import RunFolder, find_checkpoint
from shared.show.export import load_export, relief_of
from shared.show.pictures import colorize_depth, depth_legend, evenly
from shared.show.viewer_scene import Part, PointCloud, ViewerCamera, ViewerScene, cloud_from_depth

__all__ = ["ViewerPage", "main", "open_scene", "path_text"]

PAPERS = Path(__file__).parents[2]  # the folder that holds the papers' folders
MAX_CLOUDS = 8  # of a folder of views
PATH_FRAMES = 24  # from one recorded viewpoint to the next
MAX_POINTS = 400_000  # of each cloud; beyond it a random share is shown
CLOUD_FOV = (math.radians(30), math.radians(60))  # vertical, of the browser's camera
FRUSTUM = 0.04  # size of a drawn camera, as a share of the distance to the target
PICTURE, DEPTH = "picture", "depth"
UNFINISHED = "not trained to the end"
FOLLOW_S = 3.0  # seconds from one look for a newer checkpoint to the next
HELP = "Drag to turn, right-drag to shift, scroll to come closer. A click on a camera takes you there."


def open_scene(run: str | Path, which: str, device: torch.device) -> ViewerScene:
    """Load a run folder through the `viewer.py` of its paper, a folder of a predict.py, or a depth map.

    Raises RunError where the folder holds no run, the run has nothing to show yet, or no paper here wrote it;
    DataError or CheckpointError for damaged files.
    """
    run = Path(run)
    if run.is_file() and run.suffix != ".pt":
        depth = DepthMap.load(run)
        colours = torch.from_numpy(colorize_depth(depth)).permute(2, 0, 1) / 255
        return _map_scene(run.name, Views.of_one(colours, depth), None)
    if (run / "depth.json").is_file() and not (run / "checkpoints").is_dir():
        return _map_scene(run.name, *load_export(run))
    checkpoint = load_checkpoint(find_checkpoint(run, which))
    scene = _viewer_module(checkpoint.paper, run).scene_of(run, which, device)
    planned = checkpoint.config.get("steps", checkpoint.step)
    if checkpoint.step < planned:
        note = f"{UNFINISHED}: this is step {checkpoint.step:,} of {planned:,}"
        scene = replace(scene, notes=(note, *scene.notes))
    return scene


def _map_scene(title: str, views: Views, world_from_cam: Tensor | None) -> ViewerScene:
    """Views with their depth as clouds; a map without a camera as a relief."""
    size, depth = tuple(views.images.shape[-2:]), views.depth
    poses = torch.eye(4).expand(len(views), 4, 4) if world_from_cam is None else world_from_cam
    cameras, clouds = [], []
    known = depth.K is not None and depth.kind in ("z_depth", "ray_distance", "inv_depth")
    for index in evenly(len(views), MAX_CLOUDS):
        one, image, name = depth[index], views.images[index], f"view {index}"
        solid = one.z_depth() if known else relief_of(one).values
        camera_K = one.K if known else relief_of(one).K
        cloud = cloud_from_depth(name, image, solid, camera_K, poses[index], one.valid)
        if cloud is not None and not known:
            keep = solid.isfinite() & one.valid
            cloud = replace(cloud, values=one.values[keep])
        clouds.append(cloud)
        cameras.append(ViewerCamera(name, poses[index], camera_K, size, image))
    notes = () if known else ("The camera is not known: the points are a relief, not a measured shape.",)
    status = f"{depth.kind}: {depth.scale}"
    part = Part.of_clouds(title, cameras, clouds)
    return ViewerScene(title, depth.unit, status, (part,), notes, not known and depth.near_is_large)


def path_text(poses: Sequence[Tensor], frames: int = PATH_FRAMES) -> str:
    """Camera-to-world poses, 16 numbers on each line, as `predict.py --poses` takes them.

    Between the recorded poses [4, 4] the camera moves smoothly, `frames` steps from each to the next.
    """
    steps = torch.arange(frames) / frames
    legs = [interpolate_poses(a, b, steps) for a, b in itertools.pairwise(poses)]
    path = torch.cat([*legs, poses[-1][None]])
    return "".join(" ".join(f"{x:.9g}" for x in pose.flatten().tolist()) + "\n" for pose in path)


def _viewer_module(paper: str, run: Path) -> ModuleType:
    """`<paper>.viewer` of a folder next to `shared`; a checkpoint cannot name any other module."""
    is_name = re.fullmatch(r"[a-z][a-z0-9_]*", paper) is not None
    if not is_name or not (PAPERS / paper / "viewer.py").is_file():
        raise RunError(f"{run}: it was written by {paper!r}, which has no viewer here; copy its folder here")
    return importlib.import_module(f"{paper}.viewer")


def fit_window(picture: np.ndarray, K: Tensor, fov_y: float, aspect: float, blank: int = 255) -> np.ndarray:
    """Cut or pad a picture uint8 [H, W, 3] taken with `K` so that it fills a window, at its own resolution.

    The window has the vertical field of view `fov_y` (radians), `aspect` = width / height, and its middle on
    the optical axis. What the picture does not show is `blank`. Edges are rounded to whole pixels.
    """
    height, width = picture.shape[:2]
    half_height = float(K[1, 1]) * math.tan(fov_y / 2)
    half_width = float(K[0, 0]) * math.tan(fov_y / 2) * aspect
    centre_x, centre_y = float(K[0, 2]) + 0.5, float(K[1, 2]) + 0.5  # from the outer border
    left, top = round(centre_x - half_width), round(centre_y - half_height)
    right, bottom = max(left + 1, round(centre_x + half_width)), max(top + 1, round(centre_y + half_height))
    x, y = max(0, -left), max(0, -top)  # added in front
    pad = ((y, max(0, bottom - height)), (x, max(0, right - width)), (0, 0))
    return np.pad(picture, pad, constant_values=blank)[top + y : bottom + y, left + x : right + x]


@dataclass(frozen=True)
class Viewpoint:
    """A position of the browser's camera, and what it turns about (frames as in `Part`)."""

    position: Tensor  # [3]
    target: Tensor  # [3]
    up: Tensor  # [3]
    fov_y: float  # radians


def look_through(part: Part, camera: ViewerCamera) -> Viewpoint:
    """Exactly where a camera was; the view turns about the point as far ahead as the target is."""
    pose = camera.world_from_cam
    position, down, forward = pose[:3, 3], pose[:3, 1], pose[:3, 2]
    ahead = position + (part.target - position).norm() * forward
    is_level = abs(float(part.up.to(pose) @ forward)) < 0.95  # else it looks straight up or down
    return Viewpoint(position, ahead, part.up if is_level else -down, camera.fov_y)


def look_from_behind(part: Part, camera: ViewerCamera) -> Viewpoint:
    """Behind and above a camera, so that it is in sight, too."""
    pose, fov_y = camera.world_from_cam, min(max(camera.fov_y, CLOUD_FOV[0]), CLOUD_FOV[1])
    position, right, forward = pose[:3, 3], pose[:3, 0], pose[:3, 2]
    step = 0.3 * right - 0.4 * forward + 0.3 * part.up.to(position)
    return Viewpoint(position + (part.target - position).norm() * step, part.target, part.up, fov_y)


class ViewerPage:
    """A running page; `url` is where it is. Ends with `stop`, or at the end of a with block.

    Raises RunError without viser, and where the port cannot be had.
    """

    def __init__(self, scene: ViewerScene, host: str = "127.0.0.1", port: int | None = None):
        self.scene = scene
        self.part = scene.parts[0]
        self.pictures_sent = 0
        self._lock = threading.RLock()  # over what is shown
        self._rendering = threading.Lock()  # one network, however many windows
        self._asked: dict[int, object] = {}  # the newest request of each window
        self._quiet = False  # while switches are set together
        self._nodes: list[Any] = []  # of the part that is shown
        self._frustums: list[Any] = []
        self._clouds: list[tuple[PointCloud, Any, Any]] = []  # with its handle and its switch
        self._viser, self._server = _start_server(scene.title, host, port)
        name = "localhost" if host in ("127.0.0.1", "0.0.0.0", "") else host  # noqa: S104 (a comparison)
        self.url = f"http://{name}:{self._server.get_port()}"
        self._build_panel()
        self._show_part(self.part.name)
        self._server.on_client_connect(self._connect)
        self._server.on_client_disconnect(lambda client: self._asked.pop(client.client_id, None))

    def __enter__(self) -> "ViewerPage":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the page off the network."""
        self._asked.clear()
        with contextlib.redirect_stdout(io.StringIO()), self._rendering:
            self._server.stop()

    # ---- the panel at the side -----------------------------------------------------------------------------

    def _build_panel(self) -> None:
        gui = self._server.gui
        gui.configure_theme(show_logo=False, show_share_button=False)
        names = [part.name for part in self.scene.parts]
        self._choice = gui.add_dropdown("Scene", names, initial_value=names[0], visible=len(names) > 1)
        self._choice.on_update(lambda _: self._show_part(self._choice.value))
        self._colours = gui.add_dropdown("Colours", (PICTURE, DEPTH), initial_value=PICTURE)
        self._colours.on_update(lambda _: self._refresh())
        self._legend = gui.add_image(np.full((8, 320, 3), 255, np.uint8), format="png")
        self._live = gui.add_checkbox("Rendered live", True, hint="by the network, from where you are")
        self._live.on_update(lambda _: self._switch_live())
        self._cameras = gui.add_checkbox("Cameras", True, hint="click one to look through it")
        self._cameras.on_update(lambda _: self._refresh())
        self._point_size = gui.add_slider("Point size", min=0.25, max=4.0, step=0.25, initial_value=1.0)
        self._point_size.on_update(lambda _: self._refresh())
        self._switches = gui.add_folder("Point clouds")
        self._build_path_panel()
        self._status = gui.add_markdown("")
        self._words = gui.add_markdown("")
        self._say_what_it_is()

    def _say_what_it_is(self) -> None:
        lines = [self.scene.title, f"Depth: {self.scene.status}; unit: {self.scene.unit}."]
        lines += [*self.scene.notes, HELP]
        escaped = [re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", line) for line in lines]
        self._words.content = "\n\n".join(escaped)

    def _build_path_panel(self) -> None:
        """Buttons that begin again, save a picture, and record a camera path for `predict.py --poses`."""
        gui = self._server.gui
        gui.add_button("Back to the start").on_click(lambda event: self._move(event.client, self._start))
        gui.add_button("Save a picture").on_click(lambda event: self._save_picture(event.client))
        with gui.add_folder("Camera path"):
            add = gui.add_button("Record this viewpoint")
            save = gui.add_button("Save the path", hint="for predict.py --poses FILE")
            clear = gui.add_button("Begin again")
            count = gui.add_markdown("nothing recorded")
        path: list[Tensor] = []

        def record(event: Any) -> None:
            path.append(self._pose_of(event.client))
            count.content = f"{len(path)} viewpoints"

        def forget(event: Any) -> None:
            path.clear()
            count.content = "nothing recorded"

        def download(event: Any) -> None:
            if path:
                event.client.send_file_download("path.txt", path_text(path).encode())

        for button, act in ((add, record), (save, download), (clear, forget)):
            button.on_click(act)

    def _save_picture(self, client: Any) -> None:
        width = 1280
        height = round(width / max(client.camera.aspect, 0.1))
        picture = client.get_render(height, width, transport_format="png")
        client.send_file_download("view.png", encode_png(np.ascontiguousarray(picture[..., :3])))

    def _pose_of(self, client: Any) -> Tensor:
        """world_from_cam [4, 4] of a window's camera; viser's has OpenCV axes, too."""
        pose = np.eye(4)
        pose[:3, :3] = self._viser.transforms.SO3(client.camera.wxyz).as_matrix()
        pose[:3, 3] = client.camera.position
        return torch.from_numpy(pose).float()

    # ---- one part ------------------------------------------------------------------------------------------

    def show(self, scene: ViewerScene) -> None:
        """Show a newer state of the same run; switches stay as they are, and windows where they are."""
        with self._lock:
            self.scene = scene
            self._say_what_it_is()
            names = [part.name for part in scene.parts]
            is_there = self.part.name in names
            if tuple(self._choice.options) != tuple(names):
                self._choice.options = names
            self._show_part(self.part.name if is_there else names[0], stay=is_there)

    def _show_part(self, name: str, stay: bool = False) -> None:
        """Put another part on the page and every window's camera at its start, unless they are to stay."""
        with self._all_at_once():
            shown = {cloud.name: switch.value for cloud, _, switch in self._clouds} if stay else {}
            for node in self._nodes:
                node.remove()
            self.part = next(part for part in self.scene.parts if part.name == name)
            self._nodes, self._clouds = [], []
            legend = (*self.part.limits, self.scene.unit, self.scene.status, self.scene.near_is_large)
            self._legend.image = depth_legend(320, *legend)
            has_live, has_clouds = self.part.live is not None, bool(self.part.clouds)
            self._live.visible = has_live
            self._point_size.visible = self._switches.visible = has_clouds
            if not stay:
                self._live.value = has_live and not has_clouds
                self._cameras.value = has_clouds
            for index, cloud in enumerate(self.part.clouds):
                self._add_cloud(cloud, visible=shown.get(cloud.name, index == 0))
            self._frustums = [self._add_camera(*numbered) for numbered in enumerate(self.part.cameras)]
            self._nodes += self._frustums
            if not stay:
                self._go_to_start()

    def _add_cloud(self, cloud: PointCloud, visible: bool) -> None:
        if len(cloud.points) > MAX_POINTS:
            generator = torch.Generator().manual_seed(0)
            kept = torch.randperm(len(cloud.points), generator=generator)[:MAX_POINTS]
            cloud = PointCloud(cloud.name, cloud.points[kept], cloud.colours[kept], cloud.values[kept])
        handle = self._server.scene.add_point_cloud(
            f"/clouds/{cloud.name}",
            cloud.points.float().cpu().numpy(),
            self._colours_of(cloud),
            point_shape="circle",
            point_shading="flat",
            precision="float32",
        )
        with self._switches:
            switch = self._server.gui.add_checkbox(cloud.name, visible)
        switch.on_update(lambda _: self._refresh())
        self._clouds.append((cloud, handle, switch))
        self._nodes += [handle, switch]

    def _add_camera(self, index: int, camera: ViewerCamera) -> Any:
        centres = torch.stack([other.world_from_cam[:3, 3] for other in self.part.cameras])
        height, width = camera.size
        rotation = camera.world_from_cam[:3, :3].double().cpu().numpy()
        handle = self._server.scene.add_camera_frustum(
            f"/cameras/{index:04d}",
            fov=camera.fov_y,
            aspect=width / float(camera.K[0, 0]) * float(camera.K[1, 1]) / height,
            scale=FRUSTUM * float((self.part.target - centres).norm(dim=-1).median()),
            thickness=1.5,
            thickness_units="screen",
            color=(40, 90, 160),
            image=None if camera.image is None else to_uint8(camera.image),
            wxyz=self._viser.transforms.SO3.from_matrix(rotation).wxyz,
            position=camera.world_from_cam[:3, 3].tolist(),
        )
        handle.on_click(lambda event: self._move(event.client, look_through(self.part, camera)))
        return handle

    def _colours_of(self, cloud: PointCloud) -> np.ndarray:
        if self._colours.value == DEPTH:
            return colorize_depth(
                cloud.values[None], None, *self.part.limits, near_is_large=self.scene.near_is_large
            )[0]
        return to_uint8(cloud.colours.T[:, None])[0]

    def _switch_live(self) -> None:
        """A live picture begins in the first camera; clouds and cameras would be in its way."""
        if not self._quiet:
            with self._all_at_once():
                self._cameras.value = not self._live.value
                self._go_to_start()

    @contextlib.contextmanager
    def _all_at_once(self) -> Iterator[None]:
        """Set several switches, then show the outcome once."""
        with self._lock, self._server.atomic():
            self._quiet = True
            try:
                yield
            finally:
                self._quiet = False
        self._refresh()

    def _refresh(self) -> None:
        """Show what the panel says."""
        if self._quiet:
            return
        camera = self.part.cameras[0]
        pixel = (self.part.target - camera.world_from_cam[:3, 3]).norm() / camera.K[0, 0]  # at the target
        with self._lock, self._server.atomic():
            for cloud, handle, switch in self._clouds:
                handle.visible = switch.value and not self._live.value
                handle.point_size = float(pixel) * self._point_size.value
                handle.colors = self._colours_of(cloud)
            for frustum in self._frustums:
                frustum.visible = self._cameras.value
        for client in self._server.get_clients().values():
            self._draw(client)

    # ---- windows -------------------------------------------------------------------------------------------

    def _connect(self, client: Any) -> None:
        client.camera.on_update(lambda _: self._draw(client))
        self._move(client, self._start)
        self._draw(client)

    @property
    def _start(self) -> Viewpoint:
        return (look_through if self._live.value else look_from_behind)(self.part, self.part.cameras[0])

    def _go_to_start(self) -> None:
        """Put every window's camera, and that of windows to come, at the start."""
        self._server.scene.set_up_direction(tuple(self._start.up.tolist()))
        self._aim(self._server.initial_camera, self._start)
        for client in self._server.get_clients().values():
            self._move(client, self._start)

    def _move(self, client: Any, view: Viewpoint) -> None:
        """Move a window's camera; an upright window shows the same width instead of the same height."""
        aspect = min(client.camera.aspect, 1.0)
        fov_y = 2 * math.atan(math.tan(view.fov_y / 2) / aspect)
        with client.atomic():
            self._aim(client.camera, replace(view, fov_y=fov_y))
            client.camera.up_direction = tuple(view.up.tolist())

    def _aim(self, camera: Any, view: Viewpoint) -> None:
        """Move a window's camera, or the one that new windows begin with."""
        distance = float((view.target - view.position).norm())
        camera.position = tuple(view.position.tolist())
        camera.look_at = tuple(view.target.tolist())
        camera.fov = view.fov_y
        camera.near, camera.far = 1e-3 * distance, 1e2 * distance

    def _draw(self, client: Any) -> None:
        """Render what the window's camera sees, behind everything else.

        viser calls this in threads of its own, faster than a network renders: overtaken requests are dropped.
        """
        request = self._asked[client.client_id] = object()
        with self._rendering:
            if self._asked.get(client.client_id) is not request:
                return
            live, limits = self.part.live, self.part.limits
            if live is None or not self._live.value:
                client.scene.set_background_image(None)
                self._status.content = ""
                return
            camera = client.camera
            fov_y, aspect = camera.fov, camera.aspect
            picture = live.render(self._pose_of(client))
            as_depth = self._colours.value == DEPTH and picture.depth is not None
            pixels = colorize_depth(picture.depth, None, *limits) if as_depth else to_uint8(picture.image)
            window = fit_window(pixels, live.K, fov_y, aspect, live.blank)
            client.scene.set_background_image(window, format="jpeg", jpeg_quality=92)
            self.pictures_sent += 1
            self._status.content = f"Rendered at {live.size[1]} x {live.size[0]} px."


def _start_server(title: str, host: str, port: int | None) -> tuple[ModuleType, Any]:
    """The module viser and a running server; viser takes the first free port from 8080 on."""
    try:
        viser = importlib.import_module("viser")
        importlib.import_module("viser.transforms")
    except ModuleNotFoundError:
        remedy = "install it with: pip install -e '.[viewer]'"
        raise RunError(f"the viewer needs the package viser, which is not installed; {remedy}") from None
    try:  # viser would try other ports for ever
        family = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        where = f"host {host}" if port is None else f"port {port} of {host}"
        raise RunError(f"{where} cannot be used ({error}); choose another with --port or --host") from None
    # redirected: its banner; the caller says where the page is
    with contextlib.redirect_stdout(io.StringIO()), _guarded({"localhost", host, socket.gethostname()}):
        return viser, viser.ViserServer(host, port or 8080, label=title, verbose=False)


@contextlib.contextmanager
def _guarded(names: set[str]) -> Iterator[None]:
    """Servers of websockets that are started meanwhile answer their own page alone; viser has no switch."""
    servers = importlib.import_module("websockets.asyncio.server")
    serve, guards = servers.serve, []

    def guarded_serve(*args: Any, process_request: Callable, **options: Any) -> Any:
        def answer(connection: Any, request: Any) -> Any:
            if not is_own_page(request.headers.get("Host", ""), request.headers.get("Origin"), names):
                return connection.respond(403, "This page is for its own address alone.\n")
            return process_request(connection, request)

        guards.append(answer)
        return serve(*args, process_request=answer, **options)

    servers.serve = guarded_serve
    try:
        yield
    finally:
        servers.serve = serve
    if not guards:
        raise RunError("this version of viser cannot be kept from other pages; install viser 1.1")


def is_own_page(host: str, origin: str | None, names: Collection[str]) -> bool:
    """Whether the headers Host and Origin of a request name this server, and not the page of somebody else.

    A foreign page in the same browser has its own Origin, and its own Host if its name was made to point
    here. Numeric addresses cannot be made to point anywhere.
    """
    if origin not in (None, f"http://{host}", f"https://{host}"):
        return False
    with contextlib.suppress(ValueError):
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        return name in {other.lower() for other in names} or bool(ipaddress.ip_address(name))
    return False


def follow(
    page: Any,
    run: Path,
    device: torch.device,
    shown: int,
    stopped: threading.Event,
    every_s: float = FOLLOW_S,
) -> None:
    """Show each newer checkpoint that a run in training writes, and say its step, until `stopped`.

    shown: when the one on the page was written, `_written`.
    """
    while not stopped.wait(every_s):
        with contextlib.suppress(OSError, RunError, DataError, CheckpointError):  # it may just be removed
            newest = _written(run)
            if newest != shown:
                scene = open_scene(run, "last", device)
                page.show(scene)
                shown = newest
                note = next(iter(scene.notes), "")
                sys.stdout.write(f"{note if note.startswith(UNFINISHED) else 'trained to the end'}\n")
                sys.stdout.flush()


def _written(run: Path) -> int:
    """When the last checkpoint was written, in nanoseconds; 0 without one."""
    last = RunFolder(run).last
    return last.stat().st_mtime_ns if last.exists() else 0


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C; RunError or DataError if there is nothing to show."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    what = "run folder of train.py, folder of predict.py, or a depth map"
    parser.add_argument("run", type=Path, metavar="RUN", help=what)
    add_checkpoint_argument(parser)
    add_device_argument(parser)
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 8080 on")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this)")
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")
    args = parser.parse_args(argv)
    if args.port is not None and not 1 <= args.port <= 65535:
        parser.error(f"--port must be between 1 and 65535, got {args.port}")
    device = select_device(args.device)
    in_training = (args.run / "checkpoints").is_dir() and not (args.run / "eval.json").exists()
    shown = _written(args.run)
    scene = open_scene(args.run, "last" if in_training else args.checkpoint, device)
    with ViewerPage(scene, args.host, args.port) as page:
        sys.stdout.write(f"{scene.title}\nopen {page.url} in a browser; Ctrl-C ends it\n")
        sys.stdout.flush()
        if args.open:
            webbrowser.open(page.url)
        with contextlib.suppress(KeyboardInterrupt):
            if in_training:
                follow(page, args.run, device, shown, threading.Event())
            threading.Event().wait()


if __name__ == "__main__":
    command_line(main)
