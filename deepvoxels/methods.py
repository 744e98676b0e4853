"""The rows of the paper's table behind one interface: DeepVoxels, its ablation, and its baselines.

The training loop needs of a method only what `Method` says: views for a training step, what to remember
of the step, and novel views once it has learned.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from deepvoxels.config import TrainConfig
from deepvoxels.datasets.scene import PosedScene
from deepvoxels.models.baselines import build_baseline, nearest_neighbour
from deepvoxels.models.generator import Generator
from deepvoxels.models.volume import FrustumMap, SparseMap, VolumeGeometry

__all__ = [
    "BaselineMethod",
    "Method",
    "NearestNeighbourMethod",
    "NovelViews",
    "VoxelMethod",
    "build_method",
    "render_views",
]

VIEWS_AT_ONCE = 8  # novel views rendered in one batch


class NovelViews(NamedTuple):
    """A batch of rendered views; only methods with a notion of space have a depth."""

    images: Tensor  # [N, 3, S, S] in [0, 1]
    depth: Tensor | None  # [N, h, h] z-depth in scene units, h the side of the feature map


class Method(Protocol):
    """One row of the table. `network` is what is trained and saved; None where nothing is learned."""

    network: nn.Module | None

    def training_views(self, source: int, targets: Sequence[int]) -> Tensor:
        """Images [N, 3, S, S] of the training views `targets`, made from training view `source`."""
        ...

    def remember(self) -> None:
        """Keep what the step just made has seen; called once per step, before the losses."""
        ...

    def novel_views(self, world_from_cam: Tensor, K: Tensor) -> Iterator[NovelViews]:
        """Views from cameras [N, 4, 4] with intrinsics [N, 3, 3] at image size, in batches and in order."""
        ...


class VoxelMethod:
    """DeepVoxels proper: a persistent grid of features, fed by one source view per step."""

    def __init__(
        self, network: Generator, geometry: VolumeGeometry, scene: PosedScene, cache_bytes: int
    ) -> None:
        self.network = network
        self.geometry = geometry
        self.scene = scene
        self._free_bytes = cache_bytes
        self._maps: dict[tuple[str, int], SparseMap | FrustumMap] = {}
        self._new_state: Tensor | None = None
        self._volume: Tensor | None = None

    def inpainted(self) -> "VoxelMethod":
        """The scene as it is now, for rendering alone: in-painted once for all calls of `novel_views`."""
        fixed = copy.copy(self)
        with torch.no_grad():
            fixed._volume = self.network.inpaint(self.network.state)
        return fixed

    def training_views(self, source: int, targets: Sequence[int]) -> Tensor:
        images = self.scene.batch([source]).to(self.network.state.device)
        lifting = self._map("lifting", source)
        rendering, self._new_state = self.network(
            images, lifting, [self._map("projection", i) for i in targets]
        )
        return rendering.images

    def remember(self) -> None:
        self.network.remember(self._new_state.detach())
        self._new_state = None

    def novel_views(self, world_from_cam: Tensor, K: Tensor) -> Iterator[NovelViews]:
        device = self.network.state.device
        volume = self._volume
        if volume is None:
            volume = self.network.inpaint(self.network.state)  # once for all views
        for poses, intrinsics in zip(
            world_from_cam.split(VIEWS_AT_ONCE), K.split(VIEWS_AT_ONCE), strict=True
        ):
            cameras = zip(intrinsics.to(device), poses.to(device), strict=True)
            maps = [self.network.projection(self.geometry, *camera) for camera in cameras]
            rendering = self.network.render(volume, maps)
            fraction = rendering.depth_fraction
            depth = None if fraction is None else self.geometry.metric_depth(fraction)[:, 0]
            yield NovelViews(rendering.images.clamp(0, 1), depth)

    def _map(self, kind: str, view: int) -> SparseMap | FrustumMap:
        """The sampling map of a training view, kept while memory lasts."""
        key = (kind, view)
        if key in self._maps:
            return self._maps[key]
        device = self.network.state.device
        camera = self.scene.K[view].to(device), self.scene.world_from_cam[view].to(device)
        made = getattr(self.network, kind)(self.geometry, *camera)
        size = 2 * _tensor_bytes(made)  # twice, because the backward pass adds the transposed map
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._maps[key] = made
        return made


class BaselineMethod:
    """A network that turns one source view and two poses into the target view, without a notion of space."""

    def __init__(self, network: nn.Module, scene: PosedScene) -> None:
        self.network = network
        self.scene = scene

    def training_views(self, source: int, targets: Sequence[int]) -> Tensor:
        index = torch.as_tensor(targets)
        return self._views(source, self.scene.world_from_cam[index], self.scene.K[index])

    def remember(self) -> None:
        pass

    def novel_views(self, world_from_cam: Tensor, K: Tensor) -> Iterator[NovelViews]:
        for pose, intrinsics in zip(world_from_cam, K, strict=True):
            source = int(nearest_neighbour(self.scene.world_from_cam, pose[None])[0])
            yield NovelViews(self._views(source, pose[None], intrinsics[None]).clamp(0, 1), None)

    def _views(self, source: int, world_from_target: Tensor, K: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        count = len(world_from_target)
        images = self.scene.batch([source]).to(device).expand(count, -1, -1, -1)
        world_from_source = self.scene.world_from_cam[source].to(device).expand(count, 4, 4)
        return self.network(images, world_from_source, world_from_target.to(device), K.to(device))


class NearestNeighbourMethod:
    """The training photo that was taken in the most similar direction; nothing is learned."""

    network = None

    def __init__(self, scene: PosedScene) -> None:
        self.scene = scene

    def training_views(self, source: int, targets: Sequence[int]) -> Tensor:
        raise TypeError("the nearest-neighbour row has nothing to train")

    def remember(self) -> None:
        raise TypeError("the nearest-neighbour row has nothing to train")

    def novel_views(self, world_from_cam: Tensor, K: Tensor) -> Iterator[NovelViews]:
        for poses in world_from_cam.split(VIEWS_AT_ONCE):
            nearest = nearest_neighbour(self.scene.world_from_cam, poses)
            yield NovelViews(self.scene.batch(nearest), None)


@torch.no_grad()
def render_views(method: Method, world_from_cam: Tensor, K: Tensor) -> NovelViews:
    """Views from all cameras [N, 4, 4], [N, 3, 3], on the CPU; the network stays in the mode it was in."""
    training = method.network is not None and method.network.training
    if training:
        method.network.eval()
    batches = list(method.novel_views(world_from_cam, K))
    if training:
        method.network.train()
    images = torch.cat([batch.images.float().cpu() for batch in batches])
    if batches[0].depth is None:
        return NovelViews(images, None)
    return NovelViews(images, torch.cat([batch.depth.float().cpu() for batch in batches]))


def _tensor_bytes(value: object) -> int:
    """Memory of the tensors in a (nested) dataclass."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_tensor_bytes, vars(value).values())) if is_dataclass(value) else 0


def build_method(config: TrainConfig, scene: PosedScene, device: torch.device) -> Method:
    """The untrained method of a config for the training views of one scene."""
    if config.method == "nearest_neighbour":
        return NearestNeighbourMethod(scene)
    if config.method != "deepvoxels":
        return BaselineMethod(build_baseline(config.method, config.baseline).to(device), scene)
    network = Generator(config.model).to(device)
    geometry = network.geometry(
        scene.grid_origin, scene.grid_side_length, scene.near, scene.far if config.volume.fit_planes else None
    )
    return VoxelMethod(network, geometry, scene, config.map_cache_mb << 20)
