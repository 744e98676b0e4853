"""What the viewer shows of a run: the scene rendered live from where you are, and its cameras."""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deepvoxels.api import TrainedScene
from deepvoxels.published import METHOD_NAMES, row_name
from deepvoxels.report import STATUS, UNIT, depth_limits
from shared.show.pictures import evenly
from shared.show.viewer_scene import LivePicture, LiveView, Part, ViewerCamera, ViewerScene

__all__ = ["scene_of"]

MAX_CAMERAS = 48


def scene_of(run: Path, checkpoint: Literal["best", "last"], device: torch.device) -> ViewerScene:
    """The trained network of a run folder behind a live view, and some of its training cameras."""
    scene = TrainedScene.load(run, device, checkpoint)
    size = (scene.image_side, scene.image_side)

    def render(world_from_cam: Tensor) -> LivePicture:
        views = scene.render(world_from_cam)
        if views.depth is None:
            return LivePicture(views.images[0], None)
        depth = F.interpolate(views.depth.values[None], size=size, mode="bilinear", align_corners=False)
        valid = F.interpolate(views.depth.valid[None].float(), size=size, mode="nearest") > 0
        return LivePicture(views.images[0], torch.where(valid, depth, torch.nan)[0, 0])

    cameras = tuple(
        ViewerCamera(scene.names[i], scene.world_from_cam[i], scene.intrinsics[i], size, scene.photos[i])
        for i in evenly(len(scene.names), MAX_CAMERAS)
    )
    part = Part(
        name="training cameras",
        target=torch.tensor(scene.grid_origin),
        limits=depth_limits(scene.render(scene.world_from_cam[evenly(len(scene.names), 4)]).depth),
        cameras=cameras,
        live=LiveView(scene.K, size, render),
    )
    name = METHOD_NAMES[row_name(scene.config.method, scene.config.model.occlusion)]
    note = f"Trained on {len(scene.names)} views; where no camera has looked there is nothing it can know."
    return ViewerScene(f"{name}: {scene.scene}", UNIT, STATUS, (part,), (note,))
