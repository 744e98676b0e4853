"""The configuration of a run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import dataclass, field
from typing import Literal

from diffdiffdepth.losses import LossWeights
from diffdiffdepth.models.point_depth import GROUPS, DepthOptions, Group
from shared.errors import FieldError
from shared.runs.config import check_ranges
from shared.runs.seeds import LARGEST_SEED

__all__ = ["DataConfig", "EmbeddedConfig", "PointsConfig", "RateConfig", "ScheduleConfig", "TrainConfig"]

MAX_STEPS = 1_000_000  # days of computing


@dataclass
class EmbeddedConfig:
    """The procedural still life, rendered into the data folder on first use."""

    kind: Literal["light_field", "multi_view"] = "light_field"
    height: int = 128
    width: int = 160
    points: int = 500  # of the multi-view scene's sparse model
    seed: int = 0

    def __post_init__(self) -> None:
        sides = (24, 4096)
        check_ranges(self, height=sides, width=sides, points=(10, 100_000), seed=(0, LARGEST_SEED))


@dataclass
class PointsConfig:
    """Where the points come from, and noise added to them on purpose."""

    source: Literal["auto", "epi", "model", "file"] = "auto"  # auto: EPI edges, or the COLMAP model's points
    file: str = ""  # .npz with x, y, label, kind and maybe weight, for source "file"
    label_noise: float = 0.0  # standard deviation: px for disparity, share for depth
    position_noise_px: float = 0.0
    outlier_share: float = 0.0  # of points that get the label of another point

    def __post_init__(self) -> None:
        check_ranges(self, label_noise=(0, 10), position_noise_px=(0, 100), outlier_share=(0, 1))
        if self.source == "file" and not self.file:
            raise FieldError("file", "is empty: source file needs the name of an NPZ file")
        if self.file and self.source != "file":
            raise FieldError("file", f"is read with source file, and source is {self.source}")


@dataclass
class DataConfig:
    """A light field (HCI, Stanford, cross-hair) or one image of a COLMAP scene, told apart by their files."""

    root: str = "data/diffdiffdepth"
    embedded: EmbeddedConfig | None = None
    views: Literal["all", "cross"] = "all"  # of a light field: all, or the centre's row and column
    image: str = ""  # of a COLMAP scene: the centre's name; empty: the first
    neighbours: int = 4  # of a COLMAP scene: so many other views
    max_side: int | None = None  # of a COLMAP scene: larger images are reduced
    points: PointsConfig = field(default_factory=PointsConfig)

    def __post_init__(self) -> None:
        check_ranges(self, neighbours=(1, 1000), max_side=(32, 100_000))


@dataclass
class RateConfig:
    """Learning rate of a group, its factor from pass to pass, and a damping instead of the schedule's."""

    rate: float
    decay: float
    damping: float | None = None

    def __post_init__(self) -> None:
        check_ranges(self, rate=(1e-9, 10), decay=(1e-9, 1), damping=(0, 1e6))


@dataclass
class ScheduleConfig:
    """Turns of one group at a time: `passes` times over all groups, `iterations` each (paper, Sec. 3.5).

    13 iterations for light fields, 25 for multi-view scenes; those start with `preliminary` iterations of the
    smoothness alone, after which edge pixels with the map's depth are added until there are `densify` times
    the points. Rates are the released code's; labels count in units of `LabelScale`, positions in pixels.
    """

    iterations: int = 13
    passes: int = 5
    groups: tuple[Group, ...] = GROUPS
    smoothness: RateConfig = field(default_factory=lambda: RateConfig(0.015, 0.9))
    labels: RateConfig = field(default_factory=lambda: RateConfig(0.015, 0.9))
    weights: RateConfig = field(default_factory=lambda: RateConfig(0.015, 0.8))
    positions: RateConfig = field(default_factory=lambda: RateConfig(0.1, 0.75))
    damping: float = 0.0  # of entries with small gradients, see `GroupAdam`; 0 is plain Adam as released
    preliminary: int = 0
    densify: int = 1

    def __post_init__(self) -> None:
        check_ranges(self, iterations=(1, MAX_STEPS), passes=(0, MAX_STEPS), preliminary=(0, MAX_STEPS))
        check_ranges(self, damping=(0, 1e6), densify=(1, 1000))
        if not self.groups or len(set(self.groups)) < len(self.groups):
            raise FieldError("groups", f"must be different and at least one, got {', '.join(self.groups)}")
        if self.densify > 1 and not self.preliminary:
            raise FieldError("densify", "adds points after the preliminary iterations, and preliminary is 0")


@dataclass
class TrainConfig:
    """Everything a run depends on. Defaults are the paper's for light fields, but for `features`."""

    data: DataConfig = field(default_factory=DataConfig)
    depth: DepthOptions = field(default_factory=DepthOptions)
    label_unit: float | None = None  # px or scene units; None: 90 % of the labels span four units
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    features: Literal["rgb", "vgg"] = "rgb"  # what images are compared by; vgg is the paper's choice
    vgg_weights: str | None = None  # a local file; None: torchvision's in torch hub's cache
    views_per_step: int = 5  # drawn anew for every step; all, if there are fewer
    views_from: Literal["all", "cross", "corners"] = "all"  # of a light field, those the loss draws from

    seed: int = 0
    log_every: int = 1  # steps; 0 in these three: never
    preview_every: int = 52
    checkpoint_every: int = 26

    def __post_init__(self) -> None:
        check_ranges(self, label_unit=(1e-9, 1e9), views_per_step=(1, 10_000), seed=(0, LARGEST_SEED))
        check_ranges(self, **dict.fromkeys(("log_every", "preview_every", "checkpoint_every"), (0, 10**9)))
        if self.vgg_weights is not None and self.features != "vgg":
            raise FieldError("vgg_weights", f"is read with features vgg, and features is {self.features}")
        if self.steps > MAX_STEPS:
            raise FieldError("schedule", f"has {self.steps} steps; at most {MAX_STEPS} are possible")

    @property
    def steps(self) -> int:
        """Loss evaluations of the whole schedule: 260 for the paper's light fields."""
        schedule = self.schedule
        return schedule.preliminary + schedule.passes * len(schedule.groups) * schedule.iterations
