"""The configuration of a run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import dataclass, field
from typing import Literal

from dfd_selfsup.datasets.embedded import EmbeddedConfig
from dfd_selfsup.losses import LossOptions
from dfd_selfsup.models.heads import HeadOptions
from dfd_selfsup.models.psf import PsfOptions
from shared.errors import FieldError
from shared.runs.config import check_ranges
from shared.runs.seeds import LARGEST_SEED

__all__ = ["DataConfig", "NetworkConfig", "TrainConfig"]

MAX_STEPS = 10**9


@dataclass(frozen=True)
class DataConfig:
    """Which stacks. `folders`: <root>/{train,validation,test}/<stack>/ as `datasets.folder` describes them.

    resize_to: (height, width) of the training stacks, null keeps them; the released code squashes NYUv2 to
    256 x 256. rescale_pitch: let the blur follow a resize. validation: the released split takes a fifth of
    the TEST set.
    """

    kind: Literal["embedded", "folders", "nyuv2", "defocusnet"] = "embedded"
    root: str = "data/dfd_selfsup"
    embedded: EmbeddedConfig = field(default_factory=EmbeddedConfig)
    resize_to: tuple[int, int] | None = None
    rescale_pitch: bool = True
    validation: Literal["train_holdout", "released"] = "train_holdout"
    depth_encoding: Literal["clean", "wrap16"] = (
        "clean"  # of NYUv2; wrap16 repeats the released data's overflow
    )
    cache_stacks: int = 1000  # kept in memory

    def __post_init__(self) -> None:
        check_ranges(self, cache_stacks=(0, 10**9))
        if self.resize_to is not None and not 16 <= min(self.resize_to) <= max(self.resize_to) <= 16384:
            raise FieldError("resize_to", f"must be two sides from 16 to 16384, got {list(self.resize_to)}")


@dataclass(frozen=True)
class NetworkConfig:
    """Size of DAIF-Net, the paper's by default. init: PyTorch's (released) or He's, which keeps variance."""

    base_width: int = 16
    levels: int = 4
    init: Literal["default", "he"] = "default"

    def __post_init__(self) -> None:
        check_ranges(self, base_width=(1, 1024), levels=(1, 8))


@dataclass
class TrainConfig:
    """Everything a run depends on. Defaults are the README command of the released code."""

    method: Literal["selfsup", "supervised"] = "selfsup"
    supervise: Literal["depth", "aif", "both"] = "both"  # what the supervised method may see
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    heads: HeadOptions = field(default_factory=HeadOptions)
    psf: PsfOptions = field(default_factory=PsfOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    dead_heads: Literal["keep", "bias", "reseed"] = "bias"
    released_checkpoint: str = ""  # start from this file of the released code

    seed: int = 0
    steps: int = 24_000  # 1000 epochs of 24 batches
    batch_size: int = 32  # over all processes
    crop: int = 0  # side of random square crops; 0: whole stacks
    flip: bool = False  # mirror half of the crops left to right
    noise_std: float = 0.0  # Gaussian noise on the input stack
    learning_rate: float = 5e-4
    weight_decay: float = 5e-4
    beta2: float = 0.999  # of AdamW; smaller forgets faster, for losses whose size changes
    warmup_steps: int = 0
    guide: Literal["focus", "descent"] = "focus"  # a focus measure's depth, or what `descent.py` finds
    guide_steps: int = 0  # the guide leads over so many steps, ever less; the paper has no such

    log_every: int = 10
    validate_every: int = 250
    checkpoint_every: int = 250
    evaluate_stacks: int = 0  # test stacks measured at the end; 0: all
    compare_slow: bool = True  # at the end, with plane sweep and descent too, which take seconds per stack

    def __post_init__(self) -> None:
        check_ranges(self, steps=(0, MAX_STEPS), batch_size=(1, 100_000), crop=(0, 16384), noise_std=(0, 1))
        check_ranges(self, learning_rate=(1e-12, 10), weight_decay=(0, 10), beta2=(0, 0.999999))
        check_ranges(self, seed=(0, LARGEST_SEED), evaluate_stacks=(0, MAX_STEPS))
        every = ("log_every", "validate_every", "checkpoint_every", "warmup_steps", "guide_steps")
        check_ranges(self, **dict.fromkeys(every, (0, MAX_STEPS)))
