"""Sizes of the generator, and the variants that the paper and its released code document."""

import math
from dataclasses import dataclass, field, replace

from deepvoxels.models.blocks import unet_widths

__all__ = ["LATTICES", "GeneratorOptions", "preset"]

LATTICES = ("centred", "released")


@dataclass
class GeneratorOptions:
    """Every width, depth and rate of the generator; the defaults are the released code's (`head`).

    Sides are in pixels or voxels. A value 0 stands for the rule in the comment beside it.
    """

    image_side: int = 512  # feature_side * 2 ** k with k >= 1
    feature_side: int = 64  # side of the lifted feature map and of the canonical view volume
    grid_side: int = 32  # G
    grid_features: int = 64  # F
    grid_pad: float = 1.0  # side of the grid / scale of the scene
    lattice: str = "centred"  # half-voxel rule of VolumeGeometry; "released" for weights of the released code
    depth_planes: int = 0  # 0: 2 * grid_side
    nf0: int = 64  # base width of the 2D networks

    extractor_levels: int = 0  # 0: down to an odd side (1 for a power of two)
    extractor_max: int = 0  # 0: 8 * nf0
    extractor_dropout: float = 0.0

    coordinates: bool = True  # integration and inpainting also read voxel coordinates; the paper's text: not
    integration_dropout: float = 0.2
    inpainting_widths: list[int] = field(default_factory=lambda: [1, 2, 2])  # in F, one per resolution

    occlusion: bool = True  # False: the paper's ablation, depth planes collapsed by plain convolutions
    occlusion_base: int = 4
    occlusion_max: int = 16
    occlusion_levels: int = 0  # 0: as often as depth planes and feature side can be halved
    collapse: str = "mean"  # of weight * feature over depth, as released; or "sum", as in the paper's text

    renderer_levels: int = 0  # as for the extractor
    renderer_base: int = 0  # 0: nf0 * image_side / feature_side
    renderer_max: int = 0  # 0: 8 * nf0
    renderer_up_widths: list[int] = field(default_factory=list)  # one per doubling; empty: nf0 each
    renderer_dropout: float = 0.1

    batch_targets: bool = True  # False: targets one after the other as released (batch norm sees one view)

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_sides()

    @property
    def doublings(self) -> int:
        """Factor-of-two steps between feature map and image."""
        return (self.image_side // self.feature_side).bit_length() - 1

    @property
    def planes(self) -> int:
        """Number of depth planes of the canonical view volume."""
        return self.depth_planes or 2 * self.grid_side

    @property
    def occlusion_depth(self) -> int:
        """Number of levels of the occlusion U-Net."""
        return self.occlusion_levels or self._occlusion_halvings

    @property
    def extractor_widths(self) -> list[int]:
        """Channels of the extractor's U-Net."""
        return unet_widths(
            self.nf0 << (self.doublings - 1),
            self._levels(self.extractor_levels),
            self.extractor_max or 8 * self.nf0,
        )

    @property
    def renderer_widths(self) -> list[int]:
        """Channels of the renderer's U-Net."""
        base = self.renderer_base or self.nf0 << self.doublings
        return unet_widths(base, self._levels(self.renderer_levels), self.renderer_max or 8 * self.nf0)

    @property
    def up_widths(self) -> list[int]:
        """Output channels of the renderer's upsampling blocks."""
        return self.renderer_up_widths or [self.nf0] * self.doublings

    @property
    def _occlusion_halvings(self) -> int:
        return min(_factors_of_two(self.planes), _factors_of_two(self.feature_side))

    def _levels(self, levels: int) -> int:
        return levels or _factors_of_two(self.feature_side)

    def _check_choices(self) -> None:
        if self.lattice not in LATTICES:
            raise ValueError(f"lattice must be one of {LATTICES}, got {self.lattice!r}")
        if self.collapse not in ("mean", "sum"):
            raise ValueError(f"collapse must be 'mean' or 'sum', got {self.collapse!r}")
        for name in (
            "image_side",
            "feature_side",
            "grid_side",
            "grid_features",
            "nf0",
            "occlusion_base",
            "occlusion_max",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.grid_pad <= 0:
            raise ValueError(f"grid_pad must be positive, got {self.grid_pad}")
        for name in ("extractor_dropout", "integration_dropout", "renderer_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    def _check_sides(self) -> None:
        ratio = self.image_side / self.feature_side
        if ratio < 2 or ratio != 1 << round(math.log2(ratio)):
            raise ValueError(
                f"image_side must be feature_side * 2 ** k with k >= 1, got {self.image_side} "
                f"and {self.feature_side}"
            )
        if len(self.up_widths) != self.doublings:
            raise ValueError(
                f"renderer_up_widths needs {self.doublings} entries for image_side "
                f"{self.image_side} over feature_side {self.feature_side}, "
                f"got {self.renderer_up_widths}"
            )
        halvings = {
            "extractor_levels": ("feature_side", self._levels(self.extractor_levels)),
            "renderer_levels": ("feature_side", self._levels(self.renderer_levels)),
            "inpainting_widths": ("grid_side", len(self.inpainting_widths) - 1),
        }
        for name, (side, levels) in halvings.items():
            if levels < 1 or getattr(self, side) % (1 << levels):
                raise ValueError(
                    f"{name} asks for {levels} halvings (at least one); {side} "
                    f"{getattr(self, side)} does not allow that"
                )
        if self.occlusion and not 1 <= self.occlusion_depth <= self._occlusion_halvings:
            raise ValueError(
                f"occlusion_levels must be from 1 to {self._occlusion_halvings}, as often as "
                f"depth_planes ({self.planes}) and feature_side ({self.feature_side}) can both "
                f"be halved; got {self.occlusion_depth}"
            )


def _factors_of_two(n: int) -> int:
    return (n & -n).bit_length() - 1


def preset(name: str, **changes: object) -> GeneratorOptions:
    """Options of a documented variant at grid 32, 64 features, 512 pixels, with `changes` applied.

    `head`: the released code since August 2019 (198.9 M parameters). `legacy`: the released code before
    (154.5 M). `paper`: `legacy` as the paper and its supplement have it: four levels of inpainting, no voxel
    coordinates, the sum along rays, dropout 0.2 (167.9 M; the paper says 170 M). The lattice stays `centred`:
    pass `lattice="released"` to run weights of the released code.
    """
    head = GeneratorOptions()
    legacy = {
        "extractor_levels": 5,
        "renderer_levels": 5,
        "renderer_base": 256,
        "depth_planes": 56,
        "renderer_up_widths": [256, 64, 64],
        "grid_pad": 1.1,
    }
    paper = {
        **legacy,
        "inpainting_widths": [1, 1, 2, 4, 4],
        "coordinates": False,
        "collapse": "sum",
        "renderer_dropout": 0.2,
    }
    variants = {"head": {}, "legacy": legacy, "paper": paper}
    if name not in variants:
        raise ValueError(f"unknown preset {name!r}: choose one of {sorted(variants)}")
    return replace(head, **(variants[name] | changes))
