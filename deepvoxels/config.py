"""The configuration of a DeepVoxels run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from deepvoxels.models.options import BaselineOptions, GeneratorOptions
from shared.errors import FieldError
from shared.runs.config import STRICT, LocalPath, Seed

__all__ = ["EMBEDDED_NAMES", "DataConfig", "EmbeddedConfig", "TrainConfig", "VolumeConfig"]

EMBEDDED_NAMES = ("cube", "vase", "pedestal", "chair")


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
class TrainConfig:
    """Everything a run depends on. Defaults are the paper's and its released code's."""

    method: Literal["deepvoxels", "pix2pix", "tatarchenko", "worrall", "nearest_neighbour"] = "deepvoxels"
    data: DataConfig = field(default_factory=DataConfig)
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    model: GeneratorOptions = field(default_factory=GeneratorOptions)
    baseline: BaselineOptions = field(default_factory=BaselineOptions)
    released_checkpoint: LocalPath = ""  # of the released code, to start from; with model.lattice=released

    seed: Seed = 0
    steps: NonNegativeInt = 191_600  # 400 epochs of 479 views; 0: the network is measured as it is
    targets: PositiveInt = 2  # per step: the drawn view and random others
    nearest_sources: PositiveInt = 4  # the source is one of so many nearest views; the paper: 5, its code: 4
    l1_weight: NonNegativeFloat = 200.0
    gan_weight: NonNegativeFloat = 1.0  # 0: no discriminator at all
    border_px: NonNegativeInt = 5  # cut from rendered and true image before any loss or (primary) measure
    learning_rate: PositiveFloat = 4e-4
    decay_steps: NonNegativeInt = 0  # over the last this many steps the rate falls linearly to a twentieth
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
        if not 2 * self.border_px < self.model.image_side:
            reason = f"{self.border_px} leaves nothing of a {self.model.image_side} px image"
            raise FieldError("border_px", reason)
