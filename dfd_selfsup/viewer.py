"""What the viewer shows of a run: test stacks as points, predicted and true, before their camera."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.splits import load_splits
from dfd_selfsup.datasets.stack import FocalStack
from dfd_selfsup.eval import load_run, row_key
from dfd_selfsup.methods import METHOD_NAMES, Estimate, network_method
from dfd_selfsup.report import depth_meaning
from shared.geometry.camera import intrinsics_matrix
from shared.show.pictures import evenly
from shared.show.viewer import Part, ViewerCamera, ViewerScene, cloud_from_depth, relief

__all__ = ["scene_of"]

MAX_STACKS = 6


def scene_of(run: Path, checkpoint: Literal["best", "last"], device: torch.device) -> ViewerScene:
    """Some test stacks with the depth that the network of a run folder finds in them."""
    config, model = load_run(run, checkpoint, device)
    stacks = load_splits(config.data)["test"]
    method = network_method(model, device)
    chosen = [stacks[index] for index in evenly(len(stacks), MAX_STACKS)]
    parts = tuple(_part(stack, method(stack), config) for stack in chosen)
    unit, status = depth_meaning(chosen[0])
    notes = ("Colours are those of the all-in-focus picture that the network made.",)
    if chosen[0].lens is None:
        notes += ("No lens is known: the points are a relief of the map, not a measured shape.",)
    name = METHOD_NAMES[row_key(config)].removesuffix(" (ours)")
    title = f"Depth from defocus, {name}: {config.data.kind} stacks"
    return ViewerScene(title, unit, status, parts, notes)


def _part(stack: FocalStack, estimate: Estimate, config: TrainConfig) -> Part:
    height, width = stack.size
    if not stack.is_metric or stack.lens is None:
        nearness = estimate.q
        cloud, camera = relief("predicted", estimate.aif, nearness, _spread(nearness))
        return Part.of_clouds(stack.name, (camera,), (cloud,))
    focal_px = stack.lens.focal_length_m / (stack.lens.pixel_pitch_um * 1e-6)
    K = intrinsics_matrix(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)
    clouds = [cloud_from_depth("predicted", estimate.aif, estimate.depth, K)]
    if stack.depth is not None:
        clouds.append(cloud_from_depth("true depth", stack.images[-1], stack.depth, K, valid=stack.valid))
    camera = ViewerCamera(stack.name, torch.eye(4), K, (height, width), estimate.aif)
    return Part.of_clouds(stack.name, (camera,), clouds)


def _spread(values: Tensor) -> tuple[float, float]:
    low, high = values.quantile(torch.tensor([0.01, 0.99])).tolist()
    return low, high
