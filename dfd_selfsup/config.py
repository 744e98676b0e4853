"""The configuration of a run; `configs/*.yaml` fill it in, `--set a.b=value` overrides."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from dfd_selfsup.models.options import HeadOptions, NetworkOptions, PsfOptions
from shared.errors import FieldError
from shared.runs.config import STRICT, LocalPath, Seed, Weights

__all__ = ["DataConfig", "EmbeddedConfig", "LossOptions", "TrainConfig"]

Side = Annotated[int, Field(ge=16)]  # pixels


@dataclass(config=STRICT, frozen=True)
class EmbeddedConfig:
    """Scenes (rooms, table-tops) per split, views of each, size of the pictures, rays per pixel and slice.

    lenses: one camera for all, focused at five distances, or many, with eight slices each.
    """

    train_scenes: tuple[NonNegativeInt, NonNegativeInt] = (2, 6)
    validation_scenes: tuple[NonNegativeInt, NonNegativeInt] = (0, 1)
    test_scenes: tuple[NonNegativeInt, NonNegativeInt] = (1, 2)
    views: PositiveInt = 3
    height: Side = 96
    width: Side = 128
    lens_samples: PositiveInt = 48
    lenses: Literal["one", "many"] = "one"
    seed: Seed = 0


@dataclass(config=STRICT, frozen=True)
class DataConfig:
    """Which stacks. `kind` is one of `datasets.splits.KINDS`; `root` is where they are.

    resize_to: (height, width) of the training stacks, null keeps them; the released code squashes NYUv2 to
    256 x 256. rescale_pitch: let the blur follow a resize. validation: the released split takes a fifth of
    the TEST set. depth_encoding: of NYUv2; wrap16 repeats the released data's overflow. lens: of Mobile
    Depth, the one that the released code invents, or none.
    """

    kind: str = "embedded"
    root: LocalPath = "data/dfd_selfsup"
    embedded: EmbeddedConfig = field(default_factory=EmbeddedConfig)
    resize_to: tuple[Side, Side] | None = None
    rescale_pitch: bool = True
    validation: Literal["train_holdout", "released"] = "train_holdout"
    depth_encoding: Literal["clean", "wrap16"] = "clean"
    lens: Literal["released", "unknown"] = "released"


@dataclass(config=STRICT, frozen=True)
class LossOptions:
    """Weights and switches of `losses.py`; the defaults are the README command of the released code.

    soft_coarse_px: 0 picks the coarse image hard (released); above 0 softly, over this many pixels of blur.
    smooth_on: depth in metres (released) or inverse depth. border_fix: no pull towards 0 in the first row
    and column.
    """

    recon: NonNegativeFloat = 1000.0
    sharp: NonNegativeFloat = 0.0
    aif: NonNegativeFloat = 100.0
    aif_blur: NonNegativeFloat = 10.0
    coarse_blur: NonNegativeFloat = 10.0
    smooth: NonNegativeFloat = 10.0
    beta: NonNegativeFloat = 2.5
    soft_coarse_px: NonNegativeFloat = 0.0
    smooth_on: Literal["depth", "inverse"] = "depth"
    border_fix: bool = False


@dataclass(config=STRICT)
class TrainConfig:
    """Everything a run depends on. Defaults are the README command of the released code."""

    method: Literal["selfsup", "supervised"] = "selfsup"
    supervise: Literal["depth", "aif", "both"] = "both"  # what the supervised method may see
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    heads: HeadOptions = field(default_factory=HeadOptions)
    psf: PsfOptions = field(default_factory=PsfOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    dead_heads: Literal["keep", "bias", "reseed"] = "bias"
    released_checkpoint: LocalPath = ""  # start from this file of the released code
    init_from: Weights = ""  # weights to start from: a run folder, a checkpoint, the name of shipped ones

    seed: Seed = 0
    steps: NonNegativeInt = 24_000  # 1000 epochs of 24 batches
    batch_size: PositiveInt = 32  # over all processes
    crop: NonNegativeInt = 0  # side of random square crops; 0: whole stacks
    flip: bool = False  # mirror half of the crops left to right
    zoom: Annotated[float, Field(ge=1, le=4)] = 1.0  # most by which a crop is enlarged
    recolour: bool = False  # shuffle and scale the colours of a crop
    slices: tuple[PositiveInt, PositiveInt] | None = None  # fewest and most that a step shows; null: all
    noise_std: NonNegativeFloat = 0.0  # Gaussian noise on the input stack
    learning_rate: PositiveFloat = 5e-4
    weight_decay: NonNegativeFloat = 5e-4
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999  # of AdamW; smaller forgets faster
    warmup_steps: NonNegativeInt = 0
    precision: Literal["float32", "bfloat16"] = "float32"  # of the network's convolutions in training
    guide: Literal["focus", "descent"] = "focus"  # a focus measure's depth, or what `descent.py` finds
    guide_steps: NonNegativeInt = 0  # the guide leads over so many steps, ever less; not in the paper

    log_every: NonNegativeInt = 10
    validate_every: NonNegativeInt = 250
    checkpoint_every: NonNegativeInt = 250
    evaluate_stacks: NonNegativeInt = 0  # test stacks measured at the end; 0: all
    compare_slow: bool = True  # at the end: plane sweep and descent too, which take seconds per stack

    def __post_init__(self) -> None:
        if self.init_from and self.released_checkpoint:
            raise FieldError("init_from", "and released_checkpoint are both given: name one")
        if self.slices and not 2 <= self.slices[0] <= self.slices[1]:
            raise FieldError("slices", f"must be two numbers from 2 on, the smaller first, got {self.slices}")

    @property
    def name(self) -> str:
        """Its key in tables: selfsup, supervised_depth, supervised_aif or supervised_both."""
        return "selfsup" if self.method == "selfsup" else f"supervised_{self.supervise}"
