"""What the viewer shows of a run: test pairs as points, and the view from any place, rendered live."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nvs_depth.api import EncodedImage, PairPrediction, ViewSynthesizer
from nvs_depth.datasets.pairs import PairBatch, load_pairs
from nvs_depth.eval import load_test_pairs
from nvs_depth.report import DEPTH_STATUS
from shared.geometry.camera import invert_pose
from shared.show.pictures import evenly
from shared.show.viewer_scene import LivePicture, LiveView, Part, ViewerCamera, ViewerScene, cloud_from_depth

__all__ = ["scene_of"]

MAX_PAIRS = 6
BACKGROUND = 0.02  # objects are on black, which has no meaningful depth


def scene_of(run: Path, checkpoint: Literal["best", "last"], device: torch.device) -> ViewerScene:
    """Some test pairs with the depths that the network of a run folder gives them."""
    synthesizer = ViewSynthesizer.load(run, device, checkpoint)
    config, split = synthesizer.config, load_test_pairs(synthesizer.config)
    pairs = split.test_pairs[evenly(len(split.test_pairs), MAX_PAIRS)]
    batch = load_pairs(split.test.views, pairs).to(device)
    prediction = synthesizer.predict_pairs(batch)
    names = [[split.test.views.names[index] for index in pair] for pair in pairs.tolist()]
    parts = [
        _part(f"{i + 1}: {source} to {target}", synthesizer, batch, prediction, i)
        for i, (source, target) in enumerate(names)
    ]
    notes = [
        "D_s is the depth of the given picture, D_t that of a view the network has not seen.",
        "Rendered live: the view from where you are, made from the one given picture. The network "
        "knows only moves like those of its training.",
    ]
    if config.model.depth_range != "scene":
        notes.append("The black background is left out.")
    title = f"Single-image view synthesis, {config.label.lower()}: {Path(config.data.root).name}"
    status = f"z-depth, {DEPTH_STATUS}"
    return ViewerScene(title, synthesizer.unit, status, tuple(parts), (*notes, *split.notes))


def _part(
    name: str, synthesizer: ViewSynthesizer, batch: PairBatch, prediction: PairPrediction, i: int
) -> Part:
    """One pair, in the coordinates of its source camera and the unit of its depth."""
    unit_m, size = synthesizer.unit_m or 1.0, (synthesizer.side, synthesizer.side)
    source_from_target = invert_pose(batch.target_from_source[i]).cpu()
    source_from_target[:3, 3] *= unit_m
    image_source, image_target = batch.image_source[i].cpu(), prediction.image[i].float().cpu()
    K_source, K_target = batch.K_source[i].cpu(), batch.K_target[i].cpu()
    depth_source, depth_new, depth_true = (
        unit_m * depth[i, 0].float().cpu()
        for depth in (prediction.depth_source, prediction.depth_new, batch.depth_target)
    )
    is_object = synthesizer.config.model.depth_range != "scene"
    shown = [_foreground(image) if is_object else None for image in (image_source, image_target)]
    given, new = (K_source, None), (K_target, source_from_target)
    true_image, known = batch.image_target[i].cpu(), batch.valid_target[i, 0].cpu()
    clouds = [
        cloud_from_depth("D_s, given picture", image_source, depth_source, *given, shown[0]),
        cloud_from_depth("D_t, new view", image_target, depth_new, *new, shown[1]),
        cloud_from_depth("true depth of the new view", true_image, depth_true, *new, known),
    ]
    cameras = (
        ViewerCamera("given", torch.eye(4), K_source, size, image_source),
        ViewerCamera("new", source_from_target, K_target, size, image_target),
    )
    return Part.of_clouds(name, cameras, clouds, _live_view(synthesizer.encode(image_source, K_source)))


def _live_view(source: EncodedImage) -> LiveView:
    def render(source_from_cam: Tensor) -> LivePicture:
        views = source.views(invert_pose(source_from_cam)[None])
        return LivePicture(views.images[0].clamp(0, 1), views.depth.values[0])

    return LiveView(source.K, tuple(source.image.shape[-2:]), render, blank=0)


def _foreground(image: Tensor) -> Tensor | None:
    """The pixels [S, S] of an object's picture that are not background; None where all are."""
    foreground = image.amax(0) > BACKGROUND
    return foreground if bool(foreground.any()) else None
