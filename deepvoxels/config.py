"""The configuration of a DeepVoxels run; `configs/*.yaml` fill it in, `--set a.b=value` overrides.

Sizes of networks default to those of the released code (`head`), or to the full size of a baseline.
"""

import math
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from shared.errors import FieldError
from shared.runs.config import STRICT, LocalPath, Seed, Weights

__all__ = [
    "EMBEDDED_NAMES",
    "BaselineOptions",
    "DataConfig",
    "EmbeddedConfig",
    "GeneratorOptions",
    "Lattice",
    "TrainConfig",
    "VolumeConfig",
    "unet_widths",
]

EMBEDDED_NAMES = ("cube", "vase", "pedestal", "chair")
Lattice = Literal["centred", "released"]
Dropout = Annotated[float, Field(ge=0, lt=1)]


def unet_widths(base: int, levels: int, widest: int) -> list[int]:
    """Channels at each resolution: doubled per level up to `widest`; the deepest level keeps its width."""
    widths = [min(base << level, widest) for level in range(levels)]
    return [*widths, widths[-1]]


@dataclass(config=STRICT)
class EmbeddedConfig:
    """A procedural scene, rendered into the data folder on first use."""

    train_views: PositiveInt = 128
    validation_views: PositiveInt = 8
    test_views: PositiveInt = 64
    image_side: Annotated[int, Field(ge=8)] = 128
    seed: Seed = 0


@dataclass(config=STRICT)
class DataConfig:
    """Where the views are. `scene` names a folder below {train,test}/ of the official layout."""

    root: LocalPath = "data/deepvoxels"
    scene: str = ""  # empty: `root` itself is one scene (NeRF or COLMAP) and every 8th view is held out
    layout: Literal["auto", "deepvoxels", "nerf", "colmap"] = "auto"
    # How K follows a resized image; released is for the layout deepvoxels only.
    intrinsics: Literal["half_pixel", "released"] = "half_pixel"
    sampling: Annotated[str, Field(pattern=r"^(all|skip_\d+)$")] = "all"  # skip_N: every (N + 1)-th view
    images_outside: bool = False  # a transforms.json may name images outside of its folder
    embedded: EmbeddedConfig | None = None

    def __post_init__(self) -> None:
        if self.embedded is not None and self.scene not in EMBEDDED_NAMES:
            known = ", ".join(EMBEDDED_NAMES)
            raise FieldError("scene", f"must be one of the embedded {known}, got {self.scene!r}")
        if self.embedded is not None and self.layout not in ("auto", "deepvoxels"):
            reason = f"must be deepvoxels or auto, as embedded scenes are written, got {self.layout}"
            raise FieldError("layout", reason)


@dataclass(config=STRICT)
class VolumeConfig:
    """Corrections to the grid that the data set describes; null keeps its value (scene units)."""

    origin: tuple[float, float, float] | None = None
    side_length: PositiveFloat | None = None
    near: PositiveFloat | None = None
    fit_planes: bool = False  # true: the planes just span the grid as all cameras see it; else one per voxel


@dataclass(config=STRICT)
class GeneratorOptions:
    """Every width, depth and rate of the generator. Sides are in pixels or voxels."""

    image_side: PositiveInt = 512  # feature_side * 2 ** k with k >= 1
    feature_side: PositiveInt = 64  # side of the lifted feature map and of the canonical view volume
    grid_side: Annotated[int, Field(ge=2)] = 32  # G
    grid_features: PositiveInt = 64  # F
    grid_pad: PositiveFloat = 1.0  # side of the grid / scale of the scene
    lattice: Lattice = "centred"  # half-voxel rule, see volume.py; released: for weights of the released code
    depth_planes: PositiveInt | None = None  # null: 2 * grid_side
    nf0: PositiveInt = 64  # base width of the 2D networks

    extractor_levels: PositiveInt | None = None  # null: down to an odd side (1 for a power of two)
    extractor_max: PositiveInt | None = None  # null: 8 * nf0
    extractor_dropout: Dropout = 0.0

    coordinates: bool = True  # integration and inpainting also read voxel coordinates; the paper's text: not
    integration_dropout: Dropout = 0.2
    largest_state: PositiveFloat | None = None  # end of the candidate's ReLU; null: none, as released
    inpainting_widths: list[PositiveInt] = field(default_factory=lambda: [1, 2, 2])  # in F, per resolution

    occlusion: bool = True  # False: the paper's ablation, depth planes collapsed by plain convolutions
    occlusion_base: PositiveInt = 4
    occlusion_max: PositiveInt = 16
    occlusion_levels: PositiveInt | None = None  # null: as often as planes and feature side can be halved
    collapse: Literal["mean", "sum"] = "mean"  # of weight * feature over depth, as released; the paper: sum

    renderer_levels: PositiveInt | None = None  # as for the extractor
    renderer_base: PositiveInt | None = None  # null: nf0 * image_side / feature_side
    renderer_max: PositiveInt | None = None  # null: 8 * nf0
    renderer_up_widths: list[PositiveInt] = field(default_factory=list)  # one per doubling; empty: nf0 each
    renderer_dropout: Dropout = 0.1
    colour_head: bool = False  # features become colours by one 1x1 layer as well, see losses.py

    batch_targets: bool = True  # False: targets one after the other as released (batch norm sees one view)

    def __post_init__(self) -> None:
        ratio = self.image_side / self.feature_side
        if ratio < 2 or ratio != 1 << round(math.log2(ratio)):
            sides = f"{self.image_side} and {self.feature_side}"
            raise FieldError("image_side", f"must be feature_side * 2 ** k with k >= 1, got {sides}")
        if len(self.up_widths) != self.doublings:
            reason = f"needs {self.doublings} entries for sides {self.feature_side} to {self.image_side}"
            raise FieldError("renderer_up_widths", f"{reason}, got {self.renderer_up_widths}")
        levels = {
            "extractor_levels": (len(self.extractor_widths) - 1, self.feature_side),
            "renderer_levels": (len(self.renderer_widths) - 1, self.feature_side),
            "inpainting_widths": (len(self.inpainting_widths) - 1, self.grid_side),
            "occlusion_levels": (self.occlusion_depth, math.gcd(self.planes, self.feature_side)),
        }
        for name, (halvings, side) in levels.items():
            if (halvings < 1 or side % (1 << halvings)) and (self.occlusion or name != "occlusion_levels"):
                reason = f"asks for {halvings} halvings (at least one), which {side} does not allow"
                raise FieldError(name, reason)

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
        return self.occlusion_levels or _halvings(math.gcd(self.planes, self.feature_side))

    @property
    def extractor_widths(self) -> list[int]:
        """Channels of the extractor's U-Net."""
        levels = self.extractor_levels or _halvings(self.feature_side)
        return unet_widths(self.nf0 << (self.doublings - 1), levels, self.extractor_max or 8 * self.nf0)

    @property
    def renderer_widths(self) -> list[int]:
        """Channels of the renderer's U-Net."""
        base = self.renderer_base or self.nf0 << self.doublings
        levels = self.renderer_levels or _halvings(self.feature_side)
        return unet_widths(base, levels, self.renderer_max or 8 * self.nf0)

    @property
    def up_widths(self) -> list[int]:
        """Output channels of the renderer's upsampling blocks."""
        return self.renderer_up_widths or [self.nf0] * self.doublings


@dataclass(config=STRICT)
class BaselineOptions:
    """Sizes of a baseline. The defaults, at 512 pixels, give each method 171 M parameters or more."""

    image_side: PositiveInt = 512
    widths: list[PositiveInt] = field(default_factory=list)  # at each side, largest first; empty: full size
    hidden: PositiveInt | None = None  # of the fully connected layers; null: 4 * the deepest width
    vectors: PositiveInt | None = None  # 3-vectors of the rotating latent; null: 2/3 of the deepest width

    def __post_init__(self) -> None:
        levels = len(self.widths) - 1
        if self.widths and (levels < 1 or self.image_side % (1 << levels)):
            reason = f"ask for {levels} halvings (at least one), which {self.image_side} does not allow"
            raise FieldError("widths", reason)

    def widths_up_to(self, widest: int) -> list[int]:
        """`widths`, or those of the full size: doubled from 64 on down to an odd side."""
        return self.widths or unet_widths(64, _halvings(self.image_side), widest)


@dataclass(config=STRICT)
class TrainConfig:
    """Everything a run depends on. Defaults are the paper's and its released code's."""

    method: Literal["deepvoxels", "pix2pix", "tatarchenko", "worrall", "nearest_neighbour"] = "deepvoxels"
    data: DataConfig = field(default_factory=DataConfig)
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    model: GeneratorOptions = field(default_factory=GeneratorOptions)
    baseline: BaselineOptions = field(default_factory=BaselineOptions)
    released_checkpoint: LocalPath = ""  # of the released code, to start from; with model.lattice=released
    init_from: Weights = ""  # weights to start from: a run folder, a checkpoint, the name of shipped ones

    seed: Seed = 0
    steps: NonNegativeInt = 191_600  # 400 epochs of 479 views; 0: the network is measured as it is
    targets: PositiveInt = 2  # per step: the drawn view and random others
    nearest_sources: PositiveInt = 4  # the source is one of so many nearest views; the paper: 5, its code: 4
    l1_weight: NonNegativeFloat = 200.0
    gan_weight: NonNegativeFloat = 1.0  # 0: no discriminator at all
    head_weight: NonNegativeFloat = 100.0  # of the L1 of model.colour_head
    border_px: NonNegativeInt = 5  # cut from rendered and true image before any loss or (primary) measure
    learning_rate: PositiveFloat = 4e-4
    decay_steps: NonNegativeInt = 0  # over the last this many steps the rate falls linearly to a twentieth
    precision: Literal["float32", "bfloat16"] = "float32"  # of convolutions; geometry is always float32
    map_cache_mb: NonNegativeInt = 2000  # sampling maps kept in memory; those of further views are made again

    log_every: NonNegativeInt = 10  # steps; 0 in these three: never
    preview_every: NonNegativeInt = 250
    checkpoint_every: NonNegativeInt = 1000
    evaluate_views: NonNegativeInt = 0  # test views measured at the end; 0: all

    def __post_init__(self) -> None:
        if self.l1_weight == self.gan_weight == 0:
            raise ValueError("l1_weight and gan_weight are both 0: nothing would be learned")
        baseline = self.method in ("pix2pix", "tatarchenko", "worrall")
        if baseline and self.baseline.image_side != self.model.image_side:
            sides = f"{self.baseline.image_side} and {self.model.image_side}"
            raise ValueError(f"baseline.image_side and model.image_side must agree, got {sides}")
        if baseline and self.released_checkpoint:
            raise FieldError("released_checkpoint", f"is of DeepVoxels, not of {self.method}")
        if self.init_from and self.released_checkpoint:
            raise FieldError("init_from", "and released_checkpoint are both given: name one")
        if self.model.colour_head and self.released_checkpoint:
            raise FieldError("model.colour_head", "is not in the released code, whose checkpoint is wanted")
        if not 2 * self.border_px < self.model.image_side:
            reason = f"{self.border_px} leaves nothing of a {self.model.image_side} px image"
            raise FieldError("border_px", reason)


def _halvings(side: int) -> int:
    """How often a side can be halved."""
    return (side & -side).bit_length() - 1
