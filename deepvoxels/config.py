"""The configuration of a DeepVoxels run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import dataclass, field
from typing import Literal

from deepvoxels.datasets.embedded import EMBEDDED_NAMES
from deepvoxels.datasets.scene import sampling_step
from deepvoxels.models.baselines import BASELINES, BaselineOptions
from deepvoxels.models.options import GeneratorOptions

__all__ = ["DataConfig", "EmbeddedConfig", "TrainConfig", "VolumeConfig"]


@dataclass
class EmbeddedConfig:
    """A procedural scene, rendered into the data folder on first use."""

    train_views: int = 128
    validation_views: int = 8
    test_views: int = 64
    image_side: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_side < 8 or min(self.train_views, self.validation_views, self.test_views) < 1:
            raise ValueError(f"an embedded scene needs 8 pixels and a view per split at least, got {self}")


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
        sampling_step(self.sampling)
        if self.embedded is not None and self.scene not in EMBEDDED_NAMES:
            known = ", ".join(EMBEDDED_NAMES)
            raise ValueError(f"scene must be one of the embedded {known}, got {self.scene!r}")
        if self.embedded is not None and self.layout not in ("auto", "deepvoxels"):
            raise ValueError(f"embedded scenes are written in the layout deepvoxels, not {self.layout}")


@dataclass
class VolumeConfig:
    """Corrections to the grid that the data set describes; null keeps its value (scene units)."""

    origin: tuple[float, float, float] | None = None
    side_length: float | None = None
    near: float | None = None
    fit_planes: bool = False  # true: the planes just span the grid as all cameras see it; else one per voxel

    def __post_init__(self) -> None:
        for name in ("side_length", "near"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive or null, got {value}")


@dataclass
class TrainConfig:
    """Everything a run depends on. Defaults are the paper's and its released code's."""

    method: Literal["deepvoxels", "pix2pix", "tatarchenko", "worrall", "nearest_neighbour"] = "deepvoxels"
    data: DataConfig = field(default_factory=DataConfig)
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    model: GeneratorOptions = field(default_factory=GeneratorOptions)
    baseline: BaselineOptions = field(default_factory=BaselineOptions)

    seed: int = 0
    steps: int = 191_600  # 400 epochs of 479 views
    targets: int = 2  # per step: the drawn view and random others
    nearest_sources: int = 4  # the source is one of so many nearest views; the paper says 5, its code draws 4
    l1_weight: float = 200.0
    gan_weight: float = 1.0  # 0: no discriminator at all
    border_px: int = 5  # cut from rendered and true image before any loss or (primary) measure
    learning_rate: float = 4e-4
    decay_steps: int = 0  # over the last this many steps the learning rate falls linearly to a twentieth
    map_cache_mb: int = 2000  # sampling maps kept in memory; views beyond it are computed anew each time

    log_every: int = 10
    preview_every: int = 250
    checkpoint_every: int = 1000
    evaluate_views: int = 0  # test views measured at the end; 0: all

    def __post_init__(self) -> None:
        if self.targets < 1 or self.nearest_sources < 1 or self.steps < 0:
            raise ValueError("targets and nearest_sources must be at least 1 and steps at least 0")
        for name in ("l1_weight", "gan_weight", "decay_steps", "map_cache_mb", "evaluate_views"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.l1_weight == self.gan_weight == 0:
            raise ValueError("l1_weight and gan_weight are both 0: nothing would be learned")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.method in BASELINES and self.baseline.image_side != self.model.image_side:
            sides = f"{self.baseline.image_side} and {self.model.image_side}"
            raise ValueError(f"baseline.image_side and model.image_side must agree, got {sides}")
        if not 0 <= 2 * self.border_px < self.model.image_side:
            raise ValueError(
                f"border_px {self.border_px} leaves nothing of a {self.model.image_side} px image"
            )
