"""A trained scene as an object: loaded from one file, without its data set, and rendered from any camera."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepvoxels.config import TrainConfig
from deepvoxels.datasets.scene import PosedScene, nearest_neighbour
from deepvoxels.models.baselines import build_baseline
from deepvoxels.models.generator import Generator
from shared.errors import CheckpointError, RunError
from shared.geometry.camera import check_pose
from shared.results import DepthMap, Views
from shared.runs.checkpoint import load_trained
from shared.runs.command import progress_bar, select_device
from shared.runs.config import config_from_dict
from shared.show.pictures import evenly

__all__ = ["Baseline", "DeepVoxels", "TrainedScene", "build_network", "scene_facts", "trained_scene"]

VIEWS_AT_ONCE = 8  # rendered in one batch
Done = Callable[[int], Any]  # told how many views more are done
THUMBNAILS, THUMBNAIL_SIDE = 48, 64  # photos that a checkpoint keeps, and their side in pixels
FLAT = 0.5  # share of all planes; a ray that mixes more of them sees no surface
TRAIN_AGAIN = "Train again: checkpoints made before hold no cameras"


def build_network(config: TrainConfig) -> nn.Module:
    """The untrained network of a config's method: the generator, or a baseline's."""
    if config.method == "deepvoxels":
        return Generator(config.model)
    return build_baseline(config.method, config.baseline)


def scene_facts(config: TrainConfig, views: PosedScene) -> dict[str, Any]:
    """What a checkpoint keeps of the training views: cameras, grid, depth range and photos.

    Of the photos a few thumbnails; all of them for the baselines, which render from the nearest one.
    """
    chosen = list(range(len(views))) if config.method != "deepvoxels" else evenly(len(views), THUMBNAILS)
    photos = views.images[chosen]
    if config.method == "deepvoxels" and views.image_side > THUMBNAIL_SIDE:
        photos = F.interpolate(photos.float(), size=(THUMBNAIL_SIDE,) * 2, mode="area").round().byte()
    names = ("names", "K", "world_from_cam", "image_side", "grid_origin", "grid_side_length", "near", "far")
    facts = {name: getattr(views, name) for name in names}
    scene = config.data.scene or views.path.resolve().name
    return facts | {"scene": scene, "photos": dict(zip(chosen, photos, strict=True))}


class TrainedScene:
    """A network trained on the views of one scene, and what is known of them.

    config: of the run. scene: its name. image_side: S, pixels. Of the training views, names; world_from_cam
    [N, 4, 4], OpenCV axes; intrinsics [N, 3, 3] at S pixels, the first of which is K; photos: some of them as
    uint8 [3, s, s], by index. grid_origin: the middle of the grid in the world. near, far: z-depth range of
    the grid, in scene units. device: where the network is.
    """

    def __init__(self, network: nn.Module, facts: Mapping[str, Any], config: TrainConfig) -> None:
        self.network = network
        self.config = config
        self.scene: str = facts["scene"]
        self.names: list[str] = facts["names"]
        self.world_from_cam: Tensor = facts["world_from_cam"]
        self.intrinsics: Tensor = facts["K"]
        self.K = self.intrinsics[0]
        self.image_side: int = facts["image_side"]
        self.grid_origin: tuple[float, float, float] = tuple(facts["grid_origin"])
        self.grid_side_length: float = facts["grid_side_length"]
        self.near: float = facts["near"]
        self.far: float = facts["far"]
        self.photos: dict[int, Tensor] = facts["photos"]
        self.device = next(network.parameters()).device

    @classmethod
    def load(cls, source: str | Path, device: str | torch.device = "auto", checkpoint: str = "best") -> Self:
        """Open a run folder, a checkpoint file or shipped weights by name; no data set is needed.

        `device`: auto, cpu, cuda or a device. `checkpoint`: best or last, of a run folder. Called on
        `TrainedScene` it opens the runs of baselines as well. Raises RunError or CheckpointError.
        """
        saved = load_trained(source, "deepvoxels", checkpoint)
        config = config_from_dict(TrainConfig, saved.config, str(saved.path))
        if "photos" not in saved.facts:
            raise CheckpointError(saved.path, "it holds no cameras", TRAIN_AGAIN)
        network = saved.network(lambda: build_network(config))
        device = select_device(device) if isinstance(device, str) else device
        with saved.using("facts"):
            scene = trained_scene(network.to(device).eval(), saved.facts, config)
        if not isinstance(scene, cls):
            raise RunError(f"{source}: a run of {config.method}, which {type(scene).__name__}.load opens")
        return scene

    @torch.no_grad()
    def render(self, world_from_cam: Any, K: Any = None, progress: bool = False) -> Views:
        """Views from cameras [N, 4, 4] or [4, 4] with intrinsics [N, 3, 3] or [3, 3] at `image_side` pixels.

        Arrays, tensors or nested lists; K defaults to that of the first training view. The result is on the
        CPU; the network stays in the mode it was in. progress: show a bar. Raises ValueError for what is no
        camera.
        """
        poses, K = self._cameras(world_from_cam, K)
        training = self.network.training  # then it may have changed since the last call
        self.network.eval()
        try:
            with progress_bar(0, len(poses), progress, "view") as bar:
                return self._render(poses, K, training, bar.update)
        finally:
            self.network.train(training)

    def _render(self, world_from_cam: Tensor, K: Tensor, changed: bool, done: Done) -> Views:
        raise NotImplementedError

    def _cameras(self, world_from_cam: Any, K: Any) -> tuple[Tensor, Tensor]:
        """The arguments of `render` as float32 [N, 4, 4] and [N, 3, 3]."""
        poses = _as_tensor(world_from_cam, "world_from_cam")
        poses = poses[None] if poses.ndim == 2 else poses
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(poses) == 0:
            raise ValueError(f"world_from_cam must be [N, 4, 4] or [4, 4], got {list(poses.shape)}")
        check_pose(poses, "world_from_cam")
        K = self.K if K is None else _as_tensor(K, "K")
        if K.shape not in ((3, 3), (len(poses), 3, 3)):
            raise ValueError(f"K must be [3, 3] or [{len(poses)}, 3, 3], got {list(K.shape)}")
        if not (K.isfinite().all() and (K[..., 0, 0] > 0).all() and (K[..., 1, 1] > 0).all()):
            raise ValueError(f"K must be finite with positive focal lengths, got {K.tolist()}")
        return poses, K.expand(len(poses), 3, 3)


class DeepVoxels(TrainedScene):
    """The paper's method: a persistent grid of features, in-painted once and rendered from any camera.

    The in-painted grid is kept between calls of `render`, unless the network is still in training mode.

        >>> scene = DeepVoxels.load("runs/deepvoxels-quick")                  # doctest: +SKIP
        >>> views = scene.render(scene.world_from_cam[:2])                    # doctest: +SKIP
        >>> views.images.shape, views.depth.values.shape, views.depth.unit    # doctest: +SKIP
        (torch.Size([2, 3, 128, 128]), torch.Size([2, 32, 32]), 'scene units')
    """

    network: Generator

    def __init__(self, network: Generator, facts: Mapping[str, Any], config: TrainConfig) -> None:
        super().__init__(network, facts, config)
        far = self.far if config.volume.fit_planes else None
        self.geometry = network.geometry(self.grid_origin, self.grid_side_length, self.near, far)
        self._volume: Tensor | None = None

    def _render(self, world_from_cam: Tensor, K: Tensor, changed: bool, done: Done) -> Views:
        volume = self._volume
        if volume is None or changed:
            volume = self.network.inpaint(self.network.state)
        self._volume = None if changed else volume
        images, depths, planes, inside = [], [], [], []
        batches = zip(world_from_cam.split(VIEWS_AT_ONCE), K.split(VIEWS_AT_ONCE), strict=True)
        for cameras in batches:
            poses, intrinsics = (camera.to(self.device) for camera in cameras)
            maps = [self.network.projection(self.geometry, *c) for c in zip(intrinsics, poses, strict=True)]
            seen = self.network.render(volume, maps)
            images.append(seen.images.clamp(0, 1).cpu())
            if seen.depth_fraction is not None:
                depths.append(self.geometry.metric_depth(seen.depth_fraction)[:, 0].cpu())
                planes.append(torch.special.entr(seen.visibility).sum(dim=2).exp()[:, 0].cpu())
                grid = self.network.project(torch.ones_like(volume[:, :1]), maps)
                inside.append((grid * seen.visibility).sum(dim=2)[:, 0].cpu())
            done(len(poses))
        rays = (torch.cat(part) for part in (depths, planes, inside)) if depths else None
        return Views(torch.cat(images), self._depth_map(*rays, K) if rays else None)

    def _depth_map(self, values: Tensor, planes: Tensor, inside: Tensor, K: Tensor) -> DepthMap:
        """z-depth [N, h, w] of rays that mix `planes` planes, the share `inside` of that within the grid."""
        depth_planes = self.geometry.depth_planes
        K_map = [self.geometry.map_intrinsics(k, self.image_side, values.shape[-1]) for k in K]
        return DepthMap(
            values,
            "z_depth",
            "scene units",
            "in the units of the camera poses",
            valid=(planes < FLAT * depth_planes) & (inside > 0.5),
            invalid=f"no surface: {FLAT:.0%} of the planes mixed, or visibility mostly outside the grid",
            K=torch.stack(K_map),
            facts={
                "quantity": "mean along the ray, weighted by visibility",
                "depth_planes": depth_planes,
                "planes_per_ray": planes.quantile(0.25).item(),  # of the sharper rays, which see the object
            },
        )


class Baseline(TrainedScene):
    """A network that turns the nearest training photo and two poses into a view; it knows no depth."""

    def _render(self, world_from_cam: Tensor, K: Tensor, changed: bool, done: Done) -> Views:
        images = []
        for pose, intrinsics in zip(world_from_cam, K, strict=True):
            source = int(nearest_neighbour(self.world_from_cam, pose[None])[0])
            cameras = self.world_from_cam[source][None], pose[None], intrinsics[None]
            photo = self.photos[source][None].float() / 255
            image = self.network(photo.to(self.device), *(camera.to(self.device) for camera in cameras))
            images.append(image.clamp(0, 1).cpu())
            done(1)
        return Views(torch.cat(images))


def trained_scene(network: nn.Module, facts: Mapping[str, Any], config: TrainConfig) -> TrainedScene:
    """The object of a network and of what `scene_facts` says of its scene."""
    kind = DeepVoxels if config.method == "deepvoxels" else Baseline
    return kind(network, facts, config)


def _as_tensor(value: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(np.asarray(value) if isinstance(value, list | tuple) else value).float().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be numbers, got {type(value).__name__}") from None
