"""Everything the evaluation and the pictures need about a batch of pairs, from one pass of the network."""

from typing import NamedTuple

import torch
from torch import Tensor

from nvs_depth.datasets.pairs import PairBatch
from nvs_depth.models.synthesis import ViewSynthesizer
from shared.geometry.camera import invert_pose
from shared.geometry.warp import backward_warp, forward_warp

__all__ = ["Prediction", "predict_pairs"]


class Prediction(NamedTuple):
    """B pairs: images [B, 3, S, S] in [0, 1], depths [B, 1, S, S] in the unit of the translations."""

    image: Tensor  # the synthesised target
    depth_new: Tensor  # D_t: of the target view, from the source image
    depth_read: Tensor  # D_b: of the target view, from the target image
    depth_source: Tensor  # D_s
    direct_warp: Tensor  # the source image splatted with D_s; nothing else is shown
    inverse_warp: Tensor  # the source image fetched with D_t


@torch.no_grad()
def predict_pairs(network: ViewSynthesizer, batch: PairBatch) -> Prediction:
    """Predictions for a batch on the network's device; the target image is used for `depth_read` alone."""
    source = network.encode(batch.image_source, batch.K_source)
    rendered = network.render(source, batch.K_target, batch.target_from_source)
    depth_read = network.encode(batch.image_target, batch.K_target).depth.full
    cameras = batch.K_source, batch.K_target
    direct, _, _ = forward_warp(batch.image_source, source.depth.full, *cameras, batch.target_from_source)
    source_from_target = invert_pose(batch.target_from_source)
    inverse, _ = backward_warp(batch.image_source, rendered.depth.full, *cameras, source_from_target)
    return Prediction(rendered.images[0], rendered.depth.full, depth_read, source.depth.full, direct, inverse)
