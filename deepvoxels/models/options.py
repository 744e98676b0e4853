"""Sizes of the generator, and the variants that the paper and its released code document."""

import math
from dataclasses import dataclass, field, replace

from deepvoxels.models.blocks import unet_widths
from shared.errors import FieldError
from shared.runs.config import check_ranges

__all__ = ["LARGEST_WIDTH", "LATTICES", "GeneratorOptions", "preset"]

LATTICES = ("centred", "released")
LARGEST_WIDTH = 65_536  # channels


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
        self._check_numbers()
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
            raise FieldError("lattice", f"must be one of {', '.join(LATTICES)}, got {self.lattice!r}")
        if self.collapse not in ("mean", "sum"):
            raise FieldError("collapse", f"must be mean or sum, got {self.collapse!r}")

    def _check_numbers(self) -> None:
        check_ranges(self, image_side=(2, 8192), feature_side=(1, 4096), grid_side=(1, 4096))
        check_ranges(self, depth_planes=(0, 8192), grid_pad=(1e-3, 1000))
        widths = ("grid_features", "nf0", "occlusion_base", "occlusion_max")
        check_ranges(self, **dict.fromkeys(widths, (1, LARGEST_WIDTH)))
        check_ranges(
            self, **dict.fromkeys(("extractor_max", "renderer_base", "renderer_max"), (0, LARGEST_WIDTH))
        )
        levels = ("extractor_levels", "occlusion_levels", "renderer_levels")
        check_ranges(self, **dict.fromkeys(levels, (0, 12)))
        for name in ("extractor_dropout", "integration_dropout", "renderer_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise FieldError(name, f"must be from 0 to less than 1, got {getattr(self, name)}")
        for name in ("inpainting_widths", "renderer_up_widths"):
            entries = getattr(self, name)
            if not all(1 <= width <= LARGEST_WIDTH for width in entries):
                raise FieldError(name, f"must have entries from 1 to {LARGEST_WIDTH}, got {entries}")

    def _check_sides(self) -> None:
        ratio = self.image_side / self.feature_side
        if ratio < 2 or ratio != 1 << round(math.log2(ratio)):
            sides = f"{self.image_side} and {self.feature_side}"
            raise FieldError("image_side", f"must be feature_side * 2 ** k with k >= 1, got {sides}")
        if len(self.up_widths) != self.doublings:
            raise FieldError(
                "renderer_up_widths",
                f"needs {self.doublings} entries for image_side {self.image_side} over feature_side "
                f"{self.feature_side}, got {self.renderer_up_widths}",
            )
        halvings = {
            "extractor_levels": ("feature_side", self._levels(self.extractor_levels)),
            "renderer_levels": ("feature_side", self._levels(self.renderer_levels)),
            "inpainting_widths": ("grid_side", len(self.inpainting_widths) - 1),
        }
        for name, (side, levels) in halvings.items():
            if levels < 1 or getattr(self, side) % (1 << levels):
                reason = f"asks for {levels} halvings (at least one); {side} {getattr(self, side)} does not"
                raise FieldError(name, f"{reason} allow that")
        if self.occlusion and self._occlusion_halvings == 0:
            raise FieldError("depth_planes", f"must be even for the occlusion network, got {self.planes}")
        if self.occlusion and not 1 <= self.occlusion_depth <= self._occlusion_halvings:
            raise FieldError(
                "occlusion_levels",
                f"must be from 1 to {self._occlusion_halvings}, as often as depth_planes ({self.planes}) and "
                f"feature_side ({self.feature_side}) can both be halved; got {self.occlusion_depth}",
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
