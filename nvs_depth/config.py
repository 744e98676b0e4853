"""The configuration of a run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import dataclass, field
from typing import Literal

from nvs_depth.datasets.select import DataConfig
from nvs_depth.losses import LossOptions, LossWeights
from nvs_depth.models.options import ModelOptions
from shared.errors import FieldError
from shared.runs.config import check_ranges
from shared.runs.seeds import LARGEST_SEED

__all__ = ["TrainConfig"]

MAX_STEPS = 10_000_000  # days of computing even for small networks


@dataclass
class TrainConfig:
    """Everything a run depends on. Defaults are those of the paper's released code."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelOptions = field(default_factory=ModelOptions)
    weights: LossWeights = field(default_factory=LossWeights)
    losses: LossOptions = field(default_factory=LossOptions)
    label: str = "Full method"  # the row's name in tables

    seed: int = 0
    steps: int = 111_400  # 25 epochs of the chairs; 0: measures the network as it begins
    batch_size: int = 8  # per process
    learning_rate: float = 6e-5
    betas: tuple[float, float] = (0.5, 0.999)
    constant_epochs: int = 10  # then the rate falls by 1 / decay_epochs of itself in each epoch
    decay_epochs: int = 31
    decay_steps: int = 0  # instead: over this many last steps linearly down to a twentieth
    precision: Literal["float32", "bfloat16"] = "float32"  # of convolutions; geometry is always float32
    workers: int = 0  # processes that read images; 0: the one that trains

    log_every: int = 20  # steps; 0 in these three: never
    preview_every: int = 500
    checkpoint_every: int = 2000
    evaluate_pairs: int = 0  # test pairs measured at the end; 0: all

    def __post_init__(self) -> None:
        steps, count = (0, MAX_STEPS), (0, 10**9)
        check_ranges(self, seed=(0, LARGEST_SEED), steps=steps, batch_size=(1, 100_000), workers=(0, 1024))
        check_ranges(self, learning_rate=(1e-12, 10), constant_epochs=steps, decay_epochs=(1, MAX_STEPS))
        check_ranges(self, decay_steps=steps, log_every=count, preview_every=count, checkpoint_every=count)
        check_ranges(self, evaluate_pairs=count)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise FieldError("betas", f"must be two numbers from 0 to below 1, got {list(self.betas)}")
        if self.data.layout.startswith("kitti") and self.model.depth_range != "scene":
            needs = f"data.layout={self.data.layout} needs model.depth_range=scene, because its unit is 50 m"
            raise FieldError("model", f"has depth_range={self.model.depth_range}, but {needs}")
