"""What the viewer shows of a run: test pairs as points, and the view from wherever one stands."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import PairBatch, load_pairs
from nvs_depth.datasets.select import Split
from nvs_depth.eval import load_run
from nvs_depth.models.synthesis import ViewSynthesizer
from nvs_depth.prediction import predict_pairs
from nvs_depth.report import DEPTH_STATUS
from shared.geometry.camera import invert_pose
from shared.show.pictures import evenly
from shared.show.viewer import LivePicture, LiveView, Part, ViewerCamera, ViewerScene, cloud_from_depth

__all__ = ["scene_of"]

MAX_PAIRS = 6
BACKGROUND = 0.02  # objects stand on black, which has no meaningful depth


def scene_of(run: Path, checkpoint: Literal["best", "last"], device: torch.device) -> ViewerScene:
    """Some test pairs with the depths that the network of a run folder gives them."""
    config, network, split = load_run(run, checkpoint, device)
    pairs = split.test_pairs[evenly(len(split.test_pairs), MAX_PAIRS)]
    batch = load_pairs(split.test.views, pairs).to(device)
    parts = _parts(config, network, split, batch)
    unit = "m" if split.test.views.unit_m else "scene units"
    notes = [
        "D_s is the depth of the given picture, D_t that of a view the network has not seen.",
        "Rendered live: the view from where you stand, made from the one given picture. The network "
        "knows only moves like those of its training.",
    ]
    if _is_object(config):
        notes.append("The black background is left out.")
    title = f"Single-image view synthesis, {config.label.lower()}: {Path(config.data.root).name}"
    status = f"z-depth, {DEPTH_STATUS}"
    return ViewerScene(title, unit, status, parts, (*notes, *split.notes))


def _parts(config: TrainConfig, network: ViewSynthesizer, split: Split, batch: PairBatch) -> tuple[Part, ...]:
    """One part per pair, in the coordinates of its source camera and the unit of its depth."""
    views, found = split.test.views, predict_pairs(network, batch)
    unit_m = views.unit_m or 1.0
    side = (views.side, views.side)
    parts = []
    for i, (source, target) in enumerate(batch.indices.tolist()):
        source_from_target = invert_pose(batch.target_from_source[i]).cpu()
        source_from_target[:3, 3] *= unit_m
        image_source, image_target = batch.image_source[i].cpu(), found.image[i].float().cpu()
        K_source, K_target = batch.K_source[i].cpu(), batch.K_target[i].cpu()
        depth_source, depth_new, depth_target = (
            unit_m * depth[i, 0].float().cpu()
            for depth in (found.depth_source, found.depth_new, batch.depth_target)
        )
        known = batch.valid_target[i, 0].cpu()
        shown = [_foreground(config, image) for image in (image_source, image_target)]
        source_camera, target_camera = (K_source, None), (K_target, source_from_target)
        clouds = [
            cloud_from_depth("D_s, given picture", image_source, depth_source, *source_camera, shown[0]),
            cloud_from_depth("D_t, new view", image_target, depth_new, *target_camera, shown[1]),
            cloud_from_depth(
                "true depth of the new view", batch.image_target[i].cpu(), depth_target, *target_camera, known
            ),
        ]
        cameras = (
            ViewerCamera("given", torch.eye(4), K_source, side, image_source),
            ViewerCamera("new", source_from_target, K_target, side, image_target),
        )
        live = _live_view(network, batch, i, unit_m)
        name = f"{i + 1}: {views.names[source]} to {views.names[target]}"
        parts.append(Part.of_clouds(name, cameras, clouds, live))
    return tuple(parts)


def _live_view(network: ViewSynthesizer, batch: PairBatch, index: int, unit_m: float) -> LiveView:
    """New views of one source, which is encoded once."""
    image, K = batch.image_source[index : index + 1], batch.K_source[index : index + 1]
    with torch.no_grad():
        source = network.encode(image, K)

    def render(source_from_cam: Tensor) -> LivePicture:
        pose = source_from_cam.clone()
        pose[:3, 3] /= unit_m
        rendered = network.views(source, K, invert_pose(pose)[None].to(K.device))
        depth = unit_m * rendered.depth.full[0, 0].float().cpu()
        return LivePicture(rendered.images[0][0].float().clamp(0, 1).cpu(), depth)

    return LiveView(K[0].cpu(), tuple(image.shape[-2:]), render, blank=0)


def _foreground(config: TrainConfig, image: Tensor) -> Tensor | None:
    """The pixels [S, S] of an object's picture that are not background; None: all of them."""
    foreground = image.amax(0) > BACKGROUND
    return foreground if _is_object(config) and bool(foreground.any()) else None


def _is_object(config: TrainConfig) -> bool:
    return config.model.depth_range != "scene"
