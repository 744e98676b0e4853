"""What a paper hands to the viewer. Each paper folder has a `viewer.py` with one function:

    scene_of(run: Path, checkpoint: "best" | "last", device: torch.device) -> ViewerScene

Which folder that is, the checkpoint says: its header names the paper, and the folder of that name lies beside
`shared`. So `shared` knows no paper, and a new one needs no entry anywhere.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

import shared
from shared.camera import check_pose, pixel_grid, transform_points, unproject
from shared.command import RunError
from shared.pictures import depth_range
from shared.run import find_checkpoint, load_checkpoint

__all__ = [
    "LivePicture",
    "LiveView",
    "Part",
    "PointCloud",
    "ViewerCamera",
    "ViewerScene",
    "cloud_from_depth",
    "open_scene",
    "relief",
]

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
