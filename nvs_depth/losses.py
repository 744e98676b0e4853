"""The five terms of the objective; images are in [0, 1] here.

The paper's code computes its losses on images in [-1, 1]: an L1 there is twice the one here (`SIGNED`), and
an edge weight of 10 there is 20 here. With these factors the published weights keep their meaning.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from nvs_depth.models.decoders import DepthMaps
from nvs_depth.models.synthesis import TrainingOutputs, View
from nvs_depth.models.warps import scaled_intrinsics
from shared.errors import FieldError
from shared.geometry.camera import invert_pose
from shared.geometry.warp import backward_warp
from shared.quality.losses import VggFeatures, edge_aware_smoothness, perceptual_loss
from shared.runs.config import STRICT, LocalPath

__all__ = [
    "LossOptions",
    "LossWeights",
    "consistency",
    "foreground",
    "loss_terms",
    "multi_scale_reconstruction",
    "perceptual_network",
    "photometric_reprojection",
    "smoothness",
]

SIGNED = 2.0
SCALE_WEIGHTS = (1.0, 0.5, 0.2, 0.1)  # of the images at S, S/2, S/4, S/8
EDGE_WEIGHT = 20.0
PERCEPTUAL_SIDE = 224
MIN_DEPTH, MAX_DEPTH = 1e-3, 80.0

PhotometricMask = Literal["black_channels", "foreground", "all"]


@dataclass(config=STRICT)
class LossWeights:
    """Factors of the terms; 0 leaves a term out. The defaults are those published for KITTI."""

    reconstruction: NonNegativeFloat = 100.0
    perceptual: NonNegativeFloat = 100.0
    photometric: NonNegativeFloat = 100.0
    consistency: NonNegativeFloat = 25.0  # ShapeNet: 100
    smoothness: NonNegativeFloat = 25.0  # ShapeNet: 10

    def __post_init__(self) -> None:
        if not any(vars(self).values()):
            raise FieldError("reconstruction", "is 0 like all other weights; at least one must be positive")


@dataclass(config=STRICT)
class LossOptions:
    """Where the released code has a trap: its way (the default) or the other."""

    # black_channels: each colour channel counts where it is above 0 (drops saturated colours of objects too)
    photometric_mask: PhotometricMask = "black_channels"
    photometric_mean: Literal["released", "valid"] = "released"  # released: out of view counts as no error
    # new_view: as the predecessor; both_images: also the source's own depth, by reprojecting the target
    photometric_on: Literal["target_image", "new_view", "both_images"] = "target_image"
    # from_8px: on smaller maps an object is a few pixels, and wrong depth scores better than the true one
    photometric_scales: Literal["all", "full", "from_8px"] = "all"
    consistency_mask: Literal["all", "foreground"] = "all"
    consistency_stop_gradient: bool = False  # true: D_b is not pulled towards D_t
    smoothness_on: Literal["target_image", "new_view"] = "target_image"
    perceptual_input: Literal["released", "imagenet"] = "released"  # released: [-1, 1] into ImageNet's mean
    vgg_weights: LocalPath = ""  # file with torchvision's VGG-16; empty: the copy in torch hub's cache


def multi_scale_reconstruction(images: Sequence[Tensor], target: Tensor) -> Tensor:
    """Weighted L1 of the predictions [B, 3, s, s] enlarged to the target [B, 3, S, S]; a scalar.

    The target is never shrunk: a coarse prediction answers for every fine pixel.
    """
    loss = target.new_zeros(())
    for weight, image in zip(SCALE_WEIGHTS, images, strict=True):
        if image.shape[-2:] != target.shape[-2:]:
            image = F.interpolate(image, target.shape[-2:], mode="bilinear", align_corners=False)
        loss = loss + weight * SIGNED * F.l1_loss(image, target)
    return loss


def photometric_reprojection(
    depths: Sequence[Tensor],
    source: View,
    target: View,
    source_from_target: Tensor,
    mask: PhotometricMask = "black_channels",
    mean: Literal["released", "valid"] = "released",
    intrinsics: Literal["half_pixel", "released"] = "half_pixel",
) -> Tensor:
    """Sum over depth maps [B, 1, s, s] of the target view: L1 between target and source fetched by the depth.

    Images are area-averaged to each map. "released": pixels that fall out of view stay in the denominator
    with error 0, so that a depth which throws everything out pays nothing; "valid" divides by what is
    compared. A batch without a single pixel to compare gives 0 with zero gradients.
    """
    loss = target.image.new_zeros(())
    image_side = target.image.shape[-1]
    for depth in depths:
        side = depth.shape[-1]
        images = (F.avg_pool2d(view.image, image_side // side) for view in (source, target))
        K_source, K_target = (
            scaled_intrinsics(view.K, image_side, side, intrinsics) for view in (source, target)
        )
        image_source, image_target = images
        depth = depth.clamp(MIN_DEPTH, MAX_DEPTH)
        warped, valid = backward_warp(
            image_source, depth, K_source, K_target, source_from_target, padding="border"
        )
        error = torch.where(valid, (image_target - warped).abs(), 0.0)
        kept = _kept(image_target, mask)
        if mean == "valid":
            kept = kept & valid
        loss = loss + SIGNED * torch.where(kept, error, 0.0).sum() / kept.sum().clamp(min=1)
    return loss


def smoothness(depth: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness of depth [B, 1, S, S] itself, not of its inverse, by its image [B, 3, S, S]."""
    return edge_aware_smoothness(depth, image, edge_weight=EDGE_WEIGHT)


def consistency(
    depth_new_view: Tensor,
    depth_target_image: Tensor,
    mask: Tensor | None = None,
    stop_gradient: bool = False,
) -> Tensor:
    """L1 between the target's depth from the source and that read from the target image, both [B, 1, S, S].

    mask: bool [B, 1, S, S]; without a pixel in it the loss is 0.
    """
    if stop_gradient:
        depth_target_image = depth_target_image.detach()
    difference = (depth_new_view - depth_target_image).abs()
    if mask is None:
        return difference.mean()
    return torch.where(mask, difference, 0.0).sum() / mask.sum().clamp(min=1)


def foreground(image: Tensor) -> Tensor:
    """Mask [B, 1, H, W] of pixels of [B, 3, H, W] that are not purely black, as behind objects."""
    return (image > 0).any(dim=1, keepdim=True)


def perceptual_network(options: LossOptions) -> VggFeatures:
    """VGG-16 with the four taps of the paper; DataError, saying what to fetch, without its weights."""
    normalisation = "imagenet_on_signed" if options.perceptual_input == "released" else "imagenet"
    return VggFeatures(weights=options.vgg_weights or None, normalisation=normalisation)


def loss_terms(
    outputs: TrainingOutputs,
    source: View,
    target: View,
    source_from_target: Tensor,
    weights: LossWeights,
    options: LossOptions,
    vgg: VggFeatures | None = None,
    intrinsics: Literal["half_pixel", "released"] = "half_pixel",
) -> dict[str, Tensor]:
    """Every term whose weight is not 0, unweighted, by the names of `LossWeights`."""
    images, depth_new = outputs.rendered
    depth_read = outputs.depth_target_image
    terms = {}
    if weights.reconstruction:
        terms["reconstruction"] = multi_scale_reconstruction(images, target.image)
    if weights.perceptual:
        terms["perceptual"] = perceptual_loss(vgg, images[0], target.image, size=PERCEPTUAL_SIDE)
    if weights.photometric:
        rules = options.photometric_mask, options.photometric_mean, intrinsics
        supervised = depth_new if options.photometric_on == "new_view" else depth_read
        maps = supervised_maps(supervised, options)
        photometric = photometric_reprojection(maps, source, target, source_from_target, *rules)
        if options.photometric_on == "both_images":
            maps, back = supervised_maps(outputs.depth_source, options), invert_pose(source_from_target)
            of_source = photometric_reprojection(maps, target, source, back, *rules)
            photometric = (photometric + of_source) / 2
        terms["photometric"] = photometric
    if weights.consistency:
        mask = foreground(target.image) if options.consistency_mask == "foreground" else None
        stop = options.consistency_stop_gradient
        terms["consistency"] = consistency(depth_new.full, depth_read.full, mask, stop)
    if weights.smoothness:
        smoothed = depth_read if options.smoothness_on == "target_image" else depth_new
        of_target = smoothness(smoothed.full, target.image)
        terms["smoothness"] = of_target + smoothness(outputs.depth_source.full, source.image)
    return terms


def supervised_maps(depth: DepthMaps, options: LossOptions) -> list[Tensor]:
    """The maps on which the photometric term is asked for."""
    smallest = {"all": 1, "from_8px": 8, "full": depth.full.shape[-1]}[options.photometric_scales]
    return [m for m in (depth.full, *depth.pyramid) if m.shape[-1] >= smallest]


def _kept(target: Tensor, mask: PhotometricMask) -> Tensor:
    if mask == "black_channels":
        return target > 0
    if mask == "foreground":
        return foreground(target).expand_as(target)
    return torch.ones_like(target, dtype=torch.bool)
