"""What can be chosen about the networks; the defaults are the paper's."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from shared.errors import FieldError
from shared.runs.config import STRICT, LocalPath

__all__ = ["DEPTH_RANGES", "ModelOptions"]

# name -> nearest and farthest depth, in the unit of the translations
DEPTH_RANGES = {"object": (0.0, 4.0), "object_narrow": (1.0, 3.0), "scene": (1 / 10.01, 100.0)}


@dataclass(config=STRICT)
class ModelOptions:
    """Sizes, the ablations of the method as switches, and the rules of the released code as switches."""

    image_side: Annotated[int, Field(ge=64, multiple_of=32)] = 256
    width: Annotated[float, Field(gt=0, le=4)] = 1.0  # factor on every number of channels
    narrowest: Annotated[int, Field(ge=2, le=16, multiple_of=2)] = 4  # no level has fewer; the paper's: 16
    latent_points: PositiveInt = 200
    encoder_init: Literal["imagenet", "normal002", "default"] = "imagenet"
    imagenet_weights: LocalPath = ""  # file with torchvision's ResNet-18; empty: torch hub's copy

    depth_range: Literal["object", "object_narrow", "scene"] = "object"
    latent_translation: bool = False  # scenes: true; objects turn about their own middle
    latent_motion: Literal["released", "rigid"] = "released"

    # How the second use of the depth decoder, for the target view, gets its features.
    target_features: Literal["direct_warp", "two_pass", "zeros"] = "direct_warp"
    # latent: the depth decoder sees no features at all, as the predecessor's.
    depth_from: Literal["features", "latent"] = "features"
    # one: the finest map, shrunk for the coarser scales.
    depth_heads: Literal["per_scale", "one"] = "per_scale"
    shared_depth_decoder: bool = True
    # The source picture is warped with its features and enters the last level of both decoders; the new view
    # mixes, by a learned share of each pixel, painted colours and those fetched with the target's depth.
    blend_fetched: bool = False

    intrinsics: Literal["half_pixel", "released"] = "half_pixel"  # how K follows a smaller feature map
    sampling: Literal["pixel_centres", "released"] = "pixel_centres"  # released: up to half a pixel outwards

    def __post_init__(self) -> None:
        if self.encoder_init == "imagenet" and self.width != 1:
            raise FieldError("encoder_init", f"must be default or normal002 for width {self.width:g}")

    def channels(self, count: int) -> int:
        """The paper's number of channels times `width`: even, because the encoder halves its last map."""
        return max(self.narrowest, 2 * round(count * self.width / 2))
