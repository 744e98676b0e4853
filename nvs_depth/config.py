"""The configuration of a run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from nvs_depth.datasets.options import DataConfig
from nvs_depth.losses import LossOptions, LossWeights
from nvs_depth.models.options import ModelOptions
from shared.errors import FieldError
from shared.runs.config import STRICT, Seed, Weights

__all__ = ["TrainConfig"]

Beta = Annotated[float, Field(ge=0, lt=1)]


@dataclass(config=STRICT)
class TrainConfig:
    """Everything a run depends on. Defaults are those of the paper's released code."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelOptions = field(default_factory=ModelOptions)
    weights: LossWeights = field(default_factory=LossWeights)
    losses: LossOptions = field(default_factory=LossOptions)
    label: str = "Full method"  # the row's name in tables
    init_from: Weights = ""  # weights to start from: a run folder, a checkpoint, the name of shipped ones

    seed: Seed = 0
    steps: NonNegativeInt = 111_400  # 25 epochs of the chairs; 0: measures the network as it begins
    batch_size: PositiveInt = 8  # per process
    learning_rate: PositiveFloat = 6e-5
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    constant_epochs: NonNegativeInt = 10  # then the rate falls by 1 / decay_epochs of itself in each epoch
    decay_epochs: PositiveInt = 31
    decay_steps: NonNegativeInt = 0  # instead: over this many last steps linearly down to a twentieth
    precision: Literal["float32", "bfloat16"] = "float32"  # of convolutions; geometry is always float32
    workers: NonNegativeInt = 0  # processes that read images; 0: the one that trains

    log_every: NonNegativeInt = 20  # steps; 0 in these three: never
    preview_every: NonNegativeInt = 500
    checkpoint_every: NonNegativeInt = 2000
    evaluate_pairs: NonNegativeInt = 0  # test pairs measured at the end; 0: all

    def __post_init__(self) -> None:
        if self.data.layout.startswith("kitti") and self.model.depth_range != "scene":
            needs = f"data.layout={self.data.layout} needs model.depth_range=scene, because its unit is 50 m"
            raise FieldError("model", f"has depth_range={self.model.depth_range}, but {needs}")
