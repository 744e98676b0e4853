"""What can be chosen about the data; no loader is imported here."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from shared.errors import FieldError
from shared.runs.config import STRICT, Fraction, LocalPath, Seed

__all__ = ["DataConfig", "EmbeddedConfig", "PairOptions"]

Layout = Literal["shapenet", "shapenet_flat", "kitti_raw", "kitti_odometry", "kitti_odometry_flat", "posed"]
Azimuth = Annotated[int, Field(ge=0, lt=360)]
Turn = Annotated[int, Field(ge=1, le=360)]  # degrees; a turn of 0 would make a view its own target


@dataclass(config=STRICT)
class EmbeddedConfig:
    """What is rendered. Objects have numbers 0, 1, ...; the last `test_groups` are held out."""

    kind: Literal["chairs", "cars", "street"] = "chairs"
    train_groups: PositiveInt = 24
    test_groups: PositiveInt = 6
    image_side: Annotated[int, Field(ge=16, le=4096)] = 64
    frames: Annotated[int, Field(ge=2)] = 24  # street: of each drive
    step_m: PositiveFloat = 0.8  # street: distance between frames
    seed: Seed = 0
    antialias: Annotated[int, Field(ge=1, le=16)] = 2  # rays per pixel along each side
    # shapenet_flat: of the objects trained on, the next object's 20 degrees further on; none: the grid's 18
    azimuths_deg: tuple[Azimuth, ...] = ()

    @property
    def layouts(self) -> tuple[str, ...]:
        """The layouts in which such data can be written."""
        return ("kitti_raw",) if self.kind == "street" else ("shapenet", "shapenet_flat")

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Groups to train on and groups held out."""
        form = {"chairs": "chair_{:03d}", "cars": "car_{:03d}", "street": "street_{:04d}_02"}[self.kind]
        names = [form.format(index) for index in range(self.train_groups + self.test_groups)]
        return names[: self.train_groups], names[self.train_groups :]


@dataclass(config=STRICT)
class PairOptions:
    """The published rules; `symmetric` and `redraw` are the improvements the predecessors already had."""

    azimuth_steps_deg: Annotated[tuple[Turn, ...], Field(min_length=1)] = (20, 40)  # views on a grid
    elevation: Literal["any", "same"] = "any"
    max_gap: PositiveInt = 7  # frames of a sequence
    nearest: PositiveInt = 8  # targets of an unordered set: this many nearest cameras
    symmetric: bool = False  # also smaller azimuths and earlier frames
    redraw: bool = False  # a new target for each source in every epoch; false: drawn once
    vary: bool = False  # mirror and recolour training pairs, not in the paper


@dataclass(config=STRICT)
class DataConfig:
    """Where the views are, how they are framed, what is held out, and how pairs are drawn."""

    layout: Layout = "shapenet"
    root: LocalPath = "data/nvs_depth/chairs"
    embedded: EmbeddedConfig | None = None

    # Files relative to `root`: names of objects, drives or frames, one per line; test_pairs: "source target".
    train_list: str = ""
    validation_list: str = ""  # frames that must not be trained on, even if the training list has them
    test_list: str = ""
    test_pairs: str = ""
    # Without lists: every n-th object or drive, or every n-th azimuth or frame.
    holdout: Literal["groups", "coordinates"] = "groups"
    holdout_every: Annotated[int, Field(ge=2)] = 5

    crop: Literal["middle", "kitti"] = "middle"  # kitti: 256 px out of 1242x375
    crop_square: tuple[NonNegativeInt, NonNegativeInt, PositiveInt] | None = None  # top, left, side, instead
    resize: Literal["area", "nearest"] = "area"
    principal_point: Literal["true", "released"] = "true"  # kitti_raw
    pose_files: Literal["auto", "world_to_cam", "cam_to_world"] = "auto"  # shapenet
    depth_files: Literal["ray_length", "z"] = "ray_length"  # shapenet
    focal_share: PositiveFloat = 480 / 256  # shapenet_flat: focal length over image side
    background: tuple[Fraction, Fraction, Fraction] | None = (0.0, 0.0, 0.0)  # if transparent; null: refuse
    scale: PositiveFloat = 1.0  # posed: factor on the translations
    images_outside: bool = False  # posed: transforms.json may name images outside of its folder

    pairs: PairOptions = field(default_factory=PairOptions)
    cache_mb: NonNegativeInt = 1000  # views kept in memory as tensors; 0: none

    def __post_init__(self) -> None:
        if self.embedded is not None and self.layout not in self.embedded.layouts:
            fitting = " or ".join(self.embedded.layouts)
            reason = f"must be {fitting} for embedded {self.embedded.kind}, got {self.layout}"
            raise FieldError("layout", reason)
        if self.embedded is not None and self.embedded.azimuths_deg and self.layout != "shapenet_flat":
            reason = f"must be shapenet_flat for azimuths of your own, got {self.layout}"
            raise FieldError("layout", reason)
