"""Carrying a pyramid of feature maps from source to target camera, every scale with its own depth."""

from typing import Literal

from torch import Tensor

from shared.geometry.camera import resize_intrinsics
from shared.geometry.warp import backward_warp, forward_warp

__all__ = ["inverse_warp_pyramid", "direct_warp_pyramid", "scaled_intrinsics"]


def scaled_intrinsics(
    K: Tensor, image_side: int, side: int, rule: Literal["half_pixel", "released"]
) -> Tensor:
    """K [..., 3, 3] of the image for a map of another side; "released" scales c without the half pixel."""
    if rule == "half_pixel":
        return resize_intrinsics(K, (image_side, image_side), (side, side))
    if rule != "released":
        raise ValueError(f"unknown rule for intrinsics {rule!r}: use half_pixel or released")
    scale = side / image_side
    return K * K.new_tensor([scale, scale, 1.0])[:, None]


def direct_warp_pyramid(
    features: list[Tensor],
    depths: list[Tensor],
    K_source: Tensor,
    K_target: Tensor,
    target_from_source: Tensor,
    image_side: int,
    intrinsics: Literal["half_pixel", "released"] = "half_pixel",
) -> list[Tensor]:
    """Splat features [B, C, s, s] with SOURCE depths [B, 1, s, s]; holes are 0, depth gets no gradient."""
    warped = []
    for feature, depth in zip(features, depths, strict=True):
        K_from, K_to = (
            scaled_intrinsics(K, image_side, depth.shape[-1], intrinsics) for K in (K_source, K_target)
        )
        warped.append(forward_warp(feature, depth, K_from, K_to, target_from_source)[0])
    return warped


def inverse_warp_pyramid(
    features: list[Tensor],
    depths: list[Tensor],
    K_source: Tensor,
    K_target: Tensor,
    source_from_target: Tensor,
    image_side: int,
    intrinsics: Literal["half_pixel", "released"] = "half_pixel",
    sampling: Literal["pixel_centres", "released"] = "pixel_centres",
) -> list[Tensor]:
    """Fetch features [B, C, s, s] with the TARGET depths [B, 1, s, s]; no holes, gradients reach both."""
    warped = []
    for feature, depth in zip(features, depths, strict=True):
        side = depth.shape[-1]
        K_from, K_to = (scaled_intrinsics(K, image_side, side, intrinsics) for K in (K_source, K_target))
        if sampling == "released":
            K_from = _misaligned(K_from, side)
        warped.append(backward_warp(feature, depth, K_from, K_to, source_from_target, padding="border")[0])
    return warped


def _misaligned(K: Tensor, side: int) -> Tensor:
    """K such that pixel x is sampled at x side / (side - 1) - 1/2.

    The released code normalises with 2 x / (side - 1) - 1, the rule of align_corners=True, and then samples
    with align_corners=False: an identity reads from -1/2 to side - 1/2 instead of 0 to side - 1.
    """
    stretch = side / (side - 1)
    shift = K.new_zeros(3, 3)
    shift[:2, 2] = -0.5
    return K * K.new_tensor([stretch, stretch, 1.0])[:, None] + shift
