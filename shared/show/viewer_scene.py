"""What the viewer shows, as a paper's viewer.py makes it: parts with cameras and points, or rendered live."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from shared.results import DepthMap
from shared.show.pictures import depth_range

__all__ = [
    "LivePicture",
    "LiveView",
    "Part",
    "PointCloud",
    "ViewerCamera",
    "ViewerScene",
    "cloud_from_depth",
    "relief",
]

RELIEF_DEPTH = 0.5  # of the picture's width


@dataclass(frozen=True)
class PointCloud:
    """Coloured points; `values` are their depths or disparities in the unit of the scene, for the legend."""

    name: str
    points: Tensor  # [n, 3] in the coordinates of the part
    colours: Tensor  # [n, 3] RGB in [0, 1]
    values: Tensor  # [n]


@dataclass(frozen=True)
class ViewerCamera:
    """A camera to be drawn, with the picture it took if there is one."""

    name: str
    world_from_cam: Tensor  # [4, 4], OpenCV axes
    K: Tensor  # [3, 3] in pixels of `size`
    size: tuple[int, int]  # height, width
    image: Tensor | None = None  # [3, H, W] in [0, 1], of any size with the same proportions

    @property
    def fov_y(self) -> float:
        """Vertical field of view, radians."""
        return 2 * math.atan(self.size[0] / 2 / float(self.K[1, 1]))


class LivePicture(NamedTuple):
    """What a network shows from one viewpoint."""

    image: Tensor  # [3, H, W] in [0, 1]
    depth: Tensor | None  # [H, W] in the unit of the scene


@dataclass(frozen=True)
class LiveView:
    """A network that renders from any viewpoint: `render(world_from_cam [4, 4])`, always with this K."""

    K: Tensor  # [3, 3] in pixels of `size`
    size: tuple[int, int]  # height, width
    render: Callable[[Tensor], LivePicture]
    blank: int = 255  # grey level around the picture, where the window is wider


@dataclass(frozen=True)
class Part:
    """What is shown at one time, in one system of coordinates; the view starts at the first camera."""

    name: str
    target: Tensor  # [3] the point the view turns about
    limits: tuple[float, float]  # of the colours of depth
    cameras: tuple[ViewerCamera, ...]
    clouds: tuple[PointCloud, ...] = ()
    live: LiveView | None = None

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
    """A run to look at, in parts of different names. `unit` and `status` say in words what depth means."""

    title: str
    unit: str
    status: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    near_is_large: bool = False  # as of disparity


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
    depth_map = DepthMap(torch.where(keep, depth, 1.0), "z_depth", "", "", valid=keep, K=K.to(depth))
    points = depth_map.points(world_from_cam)
    return PointCloud(name, points, image.permute(1, 2, 0)[keep], depth[keep])


def relief(
    name: str, image: Tensor, nearness: Tensor, limits: tuple[float, float]
) -> tuple[PointCloud, ViewerCamera]:
    """A map [H, W] that is larger where things are nearer, as a relief: where no camera is known.

    x and y are pixels from the middle; the `limits` of the map are half the picture's width apart. The camera
    that comes with it is a viewpoint in front of the relief, not the one that took the picture.
    """
    height, width = nearness.shape
    low, high = limits
    far_share = ((high - nearness) / max(high - low, 1e-12)).clamp(-0.5, 1.5)
    middle = nearness.new_tensor([(width - 1) / 2, (height - 1) / 2])
    y = torch.arange(height).to(nearness)[:, None].expand(height, width) - middle[1]
    x = torch.arange(width).to(nearness).expand(height, width) - middle[0]
    points = torch.stack([x, y, RELIEF_DEPTH * width * far_share], dim=-1)
    keep = nearness.isfinite()
    cloud = PointCloud(name, points[keep], image.permute(1, 2, 0)[keep], nearness[keep])
    K = torch.tensor([[width, 0.0, middle[0]], [0.0, width, middle[1]], [0.0, 0.0, 1.0]])
    pose = torch.eye(4)
    pose[2, 3] = -float(width)  # the nearest points then fill the picture
    return cloud, ViewerCamera("from the front", pose, K, (height, width), image)
