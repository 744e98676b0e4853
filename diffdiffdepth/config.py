"""The configuration of a run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from diffdiffdepth.losses import LossWeights
from diffdiffdepth.models.point_depth import GROUPS, DepthOptions, Group
from shared.errors import FieldError
from shared.runs.config import STRICT, Fraction, LocalPath, Seed

__all__ = ["DataConfig", "EmbeddedConfig", "LightFieldScene", "PointsConfig", "RateConfig", "ScheduleConfig"]
__all__ += ["TrainConfig"]

LightFieldScene = Literal["still_life", "tabletop"]
Side = Annotated[int, Field(ge=24, le=4096)]


@dataclass(config=STRICT)
class EmbeddedConfig:
    """A procedural scene, rendered on first use into a folder named after data.root."""

    kind: Literal["light_field", "multi_view"] = "light_field"
    scene: LightFieldScene = "still_life"  # of a light field; a multi-view scene is of the still life
    height: Side = 128
    width: Side = 160
    points: Annotated[int, Field(ge=10)] = 500  # of the multi-view scene's sparse model
    seed: Seed = 0


@dataclass(config=STRICT)
class PointsConfig:
    """Where the points come from, and noise added to them on purpose."""

    # auto: EPI edges, or the COLMAP model's points; sweep: those, and points of a plane sweep over the photos
    source: Literal["auto", "epi", "model", "sweep", "file"] = "auto"
    file: LocalPath = ""  # .npz with x, y, label, kind and maybe weight, for source "file"
    label_noise: NonNegativeFloat = 0.0  # standard deviation: px for disparity, share for depth
    outlier_share: Fraction = 0.0  # of points that get the label of another point

    def __post_init__(self) -> None:
        if self.source == "file" and not self.file:
            raise FieldError("file", "is empty: source file needs the name of an NPZ file")
        if self.file and self.source != "file":
            raise FieldError("file", f"is read with source file, and source is {self.source}")


@dataclass(config=STRICT)
class DataConfig:
    """A light field (HCI, Stanford, cross-hair) or one image of a COLMAP scene; their files say which."""

    root: LocalPath = "data/diffdiffdepth"
    embedded: EmbeddedConfig | None = None
    views: Literal["all", "cross"] = "all"  # of a light field: all, or the centre's row and column
    image: str = ""  # of a COLMAP scene: the centre's name; empty: the first
    neighbours: PositiveInt = 4  # of a COLMAP scene: so many other views
    max_side: Annotated[int, Field(ge=32)] | None = None  # of a COLMAP scene: larger images are reduced
    points: PointsConfig = field(default_factory=PointsConfig)


@dataclass(config=STRICT)
class RateConfig:
    """Learning rate of a group, its factor from pass to pass, and a damping instead of the schedule's."""

    rate: PositiveFloat
    decay: Annotated[float, Field(gt=0, le=1)]
    damping: NonNegativeFloat | None = None


@dataclass(config=STRICT)
class ScheduleConfig:
    """Turns of one group at a time: `passes` times over all groups, `iterations` each (paper, Sec. 3.5).

    13 iterations for light fields, 25 for multi-view scenes; those start with `preliminary` iterations of the
    smoothness alone, after which edge pixels with the map's depth are added until there are `densify` times
    the points. Rates are the released code's; labels count in units of `LabelScale`, positions in pixels.
    """

    iterations: PositiveInt = 13
    passes: NonNegativeInt = 5
    groups: Annotated[tuple[Group, ...], Field(min_length=1)] = GROUPS
    smoothness: RateConfig = field(default_factory=lambda: RateConfig(0.015, 0.9))
    labels: RateConfig = field(default_factory=lambda: RateConfig(0.015, 0.9))
    weights: RateConfig = field(default_factory=lambda: RateConfig(0.015, 0.8))
    positions: RateConfig = field(default_factory=lambda: RateConfig(0.1, 0.75))
    damping: NonNegativeFloat = 0.0  # of entries with small gradients, see `GroupAdam`; 0: plain Adam
    preliminary: NonNegativeInt = 0
    densify: Annotated[int, Field(ge=1, le=1000)] = 1

    def __post_init__(self) -> None:
        if len({*self.groups}) < len(self.groups):
            raise FieldError("groups", "names a group twice")
        if self.densify > 1 and not self.preliminary:
            raise FieldError("densify", "adds points after the preliminary iterations, and preliminary is 0")


@dataclass(config=STRICT)
class TrainConfig:
    """Everything a run depends on. Defaults are the paper's for light fields, but for `features`."""

    data: DataConfig = field(default_factory=DataConfig)
    depth: DepthOptions = field(default_factory=DepthOptions)
    label_unit: PositiveFloat | None = None  # px or scene units; None: 90 % of the labels span four units
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    features: Literal["rgb", "vgg"] = "rgb"  # what images are compared by; vgg is the paper's choice
    vgg_weights: LocalPath | None = None  # a local file; None: torchvision's in torch hub's cache
    views_per_step: PositiveInt = 5  # drawn for every step; all, if there are fewer

    seed: Seed = 0
    log_every: NonNegativeInt = 1  # steps; 0 in these three: never
    preview_every: NonNegativeInt = 52
    checkpoint_every: NonNegativeInt = 26  # the result is kept in any case

    def __post_init__(self) -> None:
        if self.vgg_weights is not None and self.features != "vgg":
            raise FieldError("vgg_weights", f"is read with features vgg, and features is {self.features}")

    @property
    def steps(self) -> int:
        """Loss evaluations of the whole schedule: 260 for the paper's light fields."""
        schedule = self.schedule
        return schedule.preliminary + schedule.passes * len(schedule.groups) * schedule.iterations
