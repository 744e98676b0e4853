"""The configuration of a run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import dataclass, field
from typing import Literal

from nvs_depth.datasets.select import DataConfig
from nvs_depth.losses import LossOptions, LossWeights
from nvs_depth.models.options import ModelOptions

__all__ = ["TrainConfig"]


@dataclass
class TrainConfig:
    """Everything a run depends on. Defaults are those of the paper's released code."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelOptions = field(default_factory=ModelOptions)
    weights: LossWeights = field(default_factory=LossWeights)
    losses: LossOptions = field(default_factory=LossOptions)
    label: str = "Full method"  # the row's name in tables

    seed: int = 0
    steps: int = 111_400  # 25 epochs of the chairs
    batch_size: int = 8  # per process
    learning_rate: float = 6e-5
    betas: tuple[float, float] = (0.5, 0.999)
    constant_epochs: int = 10  # then the rate falls by 1 / decay_epochs of itself in each epoch
    decay_epochs: int = 31
    decay_steps: int = 0  # instead: over this many last steps linearly down to a twentieth
    precision: Literal["float32", "bfloat16"] = "float32"  # of convolutions; geometry is always float32
    workers: int = 0  # processes that read images

    log_every: int = 20
    preview_every: int = 500
    checkpoint_every: int = 2000
    evaluate_pairs: int = 0  # test pairs measured at the end; 0: all

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.steps < 0 or self.workers < 0:
            raise ValueError("batch_size must be at least 1, steps and workers at least 0")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if min(self.constant_epochs, self.decay_steps, self.evaluate_pairs) < 0 or self.decay_epochs < 1:
            raise ValueError(
                "decay_epochs must be at least 1; constant_epochs, decay_steps and evaluate_pairs at least 0"
            )
        if self.data.layout.startswith("kitti") and self.model.depth_range != "scene":
            raise ValueError("KITTI layouts need model.depth_range=scene: their unit is 50 m")
