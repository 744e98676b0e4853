"""Carrying what the encoder made from source to target camera: feature maps and latent points."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nvs_depth.models.options import ModelOptions
from shared.geometry.camera import invert_pose, resize_intrinsics, rotate_vectors
from shared.geometry.warp import backward_warp, forward_warp

__all__ = ["Cameras", "direct_warp_pyramid", "inverse_warp_pyramid", "move_latent", "scaled_intrinsics"]


class Cameras(NamedTuple):
    """Source and target cameras of B pairs: intrinsics of the whole images, and the motion."""

    K_source: Tensor  # [B, 3, 3]
    K_target: Tensor  # [B, 3, 3]
    target_from_source: Tensor  # [B, 4, 4]


def move_latent(latent: Tensor, target_from_source: Tensor, options: ModelOptions) -> Tensor:
    """Latent points [B, P, 3] in the target camera [B, 4, 4] (transforming auto-encoder).

    `latent_motion` "rigid": R z (+ t). "released": Z R as rows, hence R^T z (+ t), the rotation of the
    opposite direction, which the learned space absorbs and all predecessors have; released weights need it.
    t is added for scenes only (`latent_translation`); objects turn about their own centre.
    """
    pose = target_from_source.to(torch.promote_types(latent.dtype, torch.float32))  # also under autocast
    rotation = pose[..., :3, :3]
    if options.latent_motion == "released":
        rotation = rotation.transpose(-1, -2)
    moved = rotate_vectors(rotation, latent)
    return moved + pose[..., None, :3, 3] if options.latent_translation else moved


def direct_warp_pyramid(
    features: list[Tensor], depths: list[Tensor], cameras: Cameras, options: ModelOptions
) -> list[Tensor]:
    """Splat features [B, C, s, s] with SOURCE depths [B, 1, s, s]; holes are 0, depth gets no gradient."""
    return [
        forward_warp(feature, depth, *Ks, cameras.target_from_source)[0]
        for feature, depth, Ks in zip(features, depths, _intrinsics(depths, cameras, options), strict=True)
    ]


def inverse_warp_pyramid(
    features: list[Tensor], depths: list[Tensor], cameras: Cameras, options: ModelOptions
) -> list[Tensor]:
    """Fetch features [B, C, s, s] with TARGET depths [B, 1, s, s]; no holes, gradients reach both."""
    source_from_target = invert_pose(cameras.target_from_source)
    warped = []
    for feature, depth, Ks in zip(features, depths, _intrinsics(depths, cameras, options), strict=True):
        K_source, K_target = Ks
        if options.sampling == "released":
            K_source = _misaligned(K_source, depth.shape[-1])
        fetched, _ = backward_warp(feature, depth, K_source, K_target, source_from_target, padding="border")
        warped.append(fetched)
    return warped


def _intrinsics(
    maps: list[Tensor], cameras: Cameras, options: ModelOptions
) -> Iterator[tuple[Tensor, Tensor]]:
    """K of source and target at the size of each map."""
    for side in (m.shape[-1] for m in maps):
        yield tuple(
            scaled_intrinsics(K, options.image_side, side, options.intrinsics)
            for K in (cameras.K_source, cameras.K_target)
        )


def scaled_intrinsics(
    K: Tensor, image_side: int, side: int, rule: Literal["half_pixel", "released"]
) -> Tensor:
    """K [..., 3, 3] of the image for a map of another side; "released" scales c without the half pixel."""
    if rule == "half_pixel":
        return resize_intrinsics(K, (image_side, image_side), (side, side))
    scale = side / image_side
    return K * K.new_tensor([scale, scale, 1.0])[:, None]


def _misaligned(K: Tensor, side: int) -> Tensor:
    """K such that pixel x is sampled at x side / (side - 1) - 1/2.

    The released code normalises with 2 x / (side - 1) - 1, the rule of align_corners=True, and then samples
    with align_corners=False: an identity reads from -1/2 to side - 1/2 instead of 0 to side - 1.
    """
    stretch = side / (side - 1)
    shift = K.new_zeros(3, 3)
    shift[:2, 2] = -0.5
    return K * K.new_tensor([stretch, stretch, 1.0])[:, None] + shift
