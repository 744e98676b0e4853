"""What can be chosen about the networks; the defaults are the paper's."""

from dataclasses import dataclass
from typing import Literal

from shared.errors import FieldError
from shared.runs.config import check_ranges

__all__ = ["DEPTH_RANGES", "ModelOptions"]

# name -> nearest and farthest depth, in the unit of the translations
DEPTH_RANGES = {"object": (0.0, 4.0), "object_narrow": (1.0, 3.0), "scene": (1 / 10.01, 100.0)}


@dataclass
class ModelOptions:
    """Sizes, the ablations of the method as switches, and the rules of the released code as switches."""

    image_side: int = 256
    width: float = 1.0  # factor on every number of channels
    narrowest: int = 4  # but no level gets fewer; the paper's narrowest has 16
    latent_points: int = 200
    encoder_init: Literal["imagenet", "normal002", "default"] = "imagenet"
    imagenet_weights: str = ""  # file with torchvision's ResNet-18; empty: the copy in torch hub's cache

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

    intrinsics: Literal["half_pixel", "released"] = "half_pixel"  # how K follows a smaller feature map
    sampling: Literal["pixel_centres", "released"] = "pixel_centres"  # released: up to half a pixel outwards

    def __post_init__(self) -> None:
        check_ranges(self, image_side=(64, 4096), width=(1e-3, 4), narrowest=(2, 16))
        check_ranges(self, latent_points=(1, 100_000))
        if self.image_side % 32:
            raise FieldError("image_side", f"must be a multiple of 32, got {self.image_side}")
        if self.narrowest % 2:
            raise FieldError("narrowest", f"must be even, got {self.narrowest}")

    def channels(self, count: int) -> int:
        """The paper's number of channels times `width`: even, because the encoder halves its last map."""
        return max(self.narrowest, 2 * round(count * self.width / 2))
