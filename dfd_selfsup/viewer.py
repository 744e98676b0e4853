"""What the viewer shows of a run: test stacks as points, predicted and true, in front of their camera."""

from pathlib import Path
from typing import Literal

import torch

from dfd_selfsup.api import DepthFromDefocus
from dfd_selfsup.datasets.splits import load_splits
from dfd_selfsup.datasets.stack import Estimate, FocalStack
from dfd_selfsup.measures import METHOD_NAMES
from shared.show.pictures import depth_range, evenly
from shared.show.viewer_scene import Part, ViewerCamera, ViewerScene, cloud_from_depth, relief

__all__ = ["scene_of"]

MAX_STACKS = 6


def scene_of(run: Path, checkpoint: Literal["best", "last"], device: torch.device) -> ViewerScene:
    """Some test stacks with the depth that the network of a run folder finds in them."""
    method = DepthFromDefocus.load(run, device, checkpoint)
    stacks = load_splits(method.config.data)["test"]
    chosen = [stacks[index] for index in evenly(len(stacks), MAX_STACKS)]
    parts = tuple(_part(stack, method.predict(stack)) for stack in chosen)
    notes = ("Colours are those of the all-in-focus picture that the network made.",)
    if chosen[0].lens is None:
        notes += ("No lens is known: the points are a relief of the map, not a measured shape.",)
    name = METHOD_NAMES[method.config.name].removesuffix(" (ours)")
    title = f"Depth from defocus, {name}: {method.config.data.kind} stacks"
    near_is_large = not chosen[0].is_metric or chosen[0].lens is None  # q, of the relief in `_part`
    meaning = chosen[0].depth_unit, chosen[0].depth_in_words
    return ViewerScene(title, *meaning, parts, notes, near_is_large)


def _part(stack: FocalStack, estimate: Estimate) -> Part:
    if not stack.is_metric or stack.lens is None:
        cloud, camera = relief("predicted", estimate.aif, estimate.q, depth_range(estimate.q))
        return Part.of_clouds(stack.name, (camera,), (cloud,))
    clouds = [cloud_from_depth("predicted", estimate.aif, estimate.depth.values, stack.K)]
    if stack.depth is not None:
        clouds.append(
            cloud_from_depth("true depth", stack.images[-1], stack.depth, stack.K, valid=stack.valid)
        )
    camera = ViewerCamera(stack.name, torch.eye(4), stack.K, stack.size, estimate.aif)
    return Part.of_clouds(stack.name, (camera,), clouds)
