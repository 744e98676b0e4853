"""What the viewer shows of a run: the scene rendered live from wherever one stands, and its cameras."""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deepvoxels.eval import load_run
from deepvoxels.methods import VoxelMethod, render_views
from deepvoxels.published import METHOD_NAMES, row_name
from deepvoxels.report import STATUS, UNIT
from shared.show.pictures import evenly
from shared.show.viewer import LivePicture, LiveView, Part, ViewerCamera, ViewerScene

__all__ = ["scene_of"]

MAX_CAMERAS = 48


def scene_of(run: Path, checkpoint: Literal["best", "last"], device: torch.device) -> ViewerScene:
    """The trained network of a run folder behind a live view, and some of its training cameras."""
    config, method, views, _ = load_run(run, checkpoint, device)
    side = views.image_side
    if isinstance(method, VoxelMethod):
        method = method.inpainted()

    def render(world_from_cam: Tensor) -> LivePicture:
        rendered = render_views(method, world_from_cam[None], views.K[:1])
        if rendered.depth is None:
            return LivePicture(rendered.images[0], None)
        size = (side, side)
        depth = F.interpolate(rendered.depth[:, None], size=size, mode="bilinear", align_corners=False)
        return LivePicture(rendered.images[0], depth[0, 0])

    cameras = tuple(
        ViewerCamera(views.names[i], views.world_from_cam[i], views.K[i], (side, side), views.image(i))
        for i in evenly(len(views), MAX_CAMERAS)
    )
    part = Part(
        name="training cameras",
        target=torch.tensor(views.grid_origin),
        limits=(views.near, views.far),
        cameras=cameras,
        live=LiveView(views.K[0], (side, side), render),
    )
    name = METHOD_NAMES[row_name(config.method, config.model.occlusion)]
    title = f"{name}: {config.data.scene or views.path.name}"
    note = f"Trained on {len(views)} views; where no camera has looked there is nothing it can know."
    return ViewerScene(title, UNIT, STATUS, (part,), (note,))
