"""The configuration of a DeepVoxels run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import dataclass, field
from typing import Literal

from deepvoxels.datasets.embedded import EMBEDDED_NAMES
from deepvoxels.datasets.scene import sampling_step
from deepvoxels.models.baselines import BASELINES, BaselineOptions
from deepvoxels.models.options import GeneratorOptions
from shared.errors import FieldError
from shared.runs.config import check_ranges
from shared.runs.seeds import LARGEST_SEED

__all__ = ["DataConfig", "EmbeddedConfig", "TrainConfig", "VolumeConfig"]

MAX_STEPS = 10_000_000  # weeks of computing
LARGEST_COORDINATE = 1e9  # scene units


@dataclass
class EmbeddedConfig:
    """A procedural scene, rendered into the data folder on first use."""

    train_views: int = 128
    validation_views: int = 8
    test_views: int = 64
    image_side: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, **dict.fromkeys(("train_views", "validation_views", "test_views"), (1, 100_000)))
        check_ranges(self, image_side=(8, 4096), seed=(0, LARGEST_SEED))


@dataclass
class DataConfig:
    """Where the views are. `scene` names a folder below {train,test}/ of the official layout."""

    root: str = "data/deepvoxels"
    scene: str = ""  # empty: `root` itself is one scene (NeRF or COLMAP) and every 8th view is held out
    layout: Literal["auto", "deepvoxels", "nerf", "colmap"] = "auto"
    # How K follows a resized image; released is for the layout deepvoxels only.
    intrinsics: Literal["half_pixel", "released"] = "half_pixel"
    sampling: str = "all"  # or skip_N: every (N + 1)-th training view
    embedded: EmbeddedConfig | None = None

    def __post_init__(self) -> None:
        try:
            sampling_step(self.sampling)
        except ValueError:
            reason = f"must be all or skip_N with a number N, got {self.sampling!r}"
            raise FieldError("sampling", reason) from None
        if self.embedded is not None and self.scene not in EMBEDDED_NAMES:
            known = ", ".join(EMBEDDED_NAMES)
            raise FieldError("scene", f"must be one of the embedded {known}, got {self.scene!r}")
        if self.embedded is not None and self.layout not in ("auto", "deepvoxels"):
            reason = f"must be deepvoxels or auto, as embedded scenes are written, got {self.layout}"
            raise FieldError("layout", reason)


@dataclass
class VolumeConfig:
    """Corrections to the grid that the data set describes; null keeps its value (scene units)."""

    origin: tuple[float, float, float] | None = None
    side_length: float | None = None
    near: float | None = None
    fit_planes: bool = False  # true: the planes just span the grid as all cameras see it; else one per voxel

    def __post_init__(self) -> None:
        lengths = (1e-9, LARGEST_COORDINATE)
        check_ranges(self, side_length=lengths, near=lengths)
        if self.origin is not None and not all(abs(x) <= LARGEST_COORDINATE for x in self.origin):
            limits = f"from {-LARGEST_COORDINATE} to {LARGEST_COORDINATE}"
            raise FieldError("origin", f"must have coordinates {limits}, got {list(self.origin)}")


@dataclass
class TrainConfig:
    """Everything a run depends on. Defaults are the paper's and its released code's."""

    method: Literal["deepvoxels", "pix2pix", "tatarchenko", "worrall", "nearest_neighbour"] = "deepvoxels"
    data: DataConfig = field(default_factory=DataConfig)
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    model: GeneratorOptions = field(default_factory=GeneratorOptions)
    baseline: BaselineOptions = field(default_factory=BaselineOptions)

    seed: int = 0
    steps: int = 191_600  # 400 epochs of 479 views; 0: the untrained network is measured
    targets: int = 2  # per step: the drawn view and random others
    nearest_sources: int = 4  # the source is one of so many nearest views; the paper says 5, its code draws 4
    l1_weight: float = 200.0
    gan_weight: float = 1.0  # 0: no discriminator at all
    border_px: int = 5  # cut from rendered and true image before any loss or (primary) measure
    learning_rate: float = 4e-4
    decay_steps: int = 0  # over the last this many steps the learning rate falls linearly to a twentieth
    map_cache_mb: int = 2000  # sampling maps kept in memory; views beyond it are computed anew each time

    log_every: int = 10  # steps; 0 in these three: never
    preview_every: int = 250
    checkpoint_every: int = 1000
    evaluate_views: int = 0  # test views measured at the end; 0: all

    def __post_init__(self) -> None:
        check_ranges(self, seed=(0, LARGEST_SEED), steps=(0, MAX_STEPS), decay_steps=(0, MAX_STEPS))
        check_ranges(self, targets=(1, 10_000), nearest_sources=(1, 1_000_000), evaluate_views=(0, 1_000_000))
        check_ranges(self, l1_weight=(0, 1e9), gan_weight=(0, 1e9), learning_rate=(1e-12, 10))
        check_ranges(self, border_px=(0, 4096), map_cache_mb=(0, 10**9))
        check_ranges(self, **dict.fromkeys(("log_every", "preview_every", "checkpoint_every"), (0, 10**9)))
        if self.l1_weight == self.gan_weight == 0:
            raise ValueError("l1_weight and gan_weight are both 0: nothing would be learned")
        if self.method in BASELINES and self.baseline.image_side != self.model.image_side:
            sides = f"{self.baseline.image_side} and {self.model.image_side}"
            raise ValueError(f"baseline.image_side and model.image_side must agree, got {sides}")
        if not 2 * self.border_px < self.model.image_side:
            reason = f"{self.border_px} leaves nothing of a {self.model.image_side} px image"
            raise FieldError("border_px", reason)
