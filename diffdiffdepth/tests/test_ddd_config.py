"""Values that a user can set: what makes no sense is refused at the start, with its key and place."""

from pathlib import Path

import pytest
import torch

from diffdiffdepth import train
from diffdiffdepth.config import DataConfig, PointsConfig, RateConfig, ScheduleConfig, TrainConfig
from diffdiffdepth.datasets import make_embedded_light_field, make_embedded_multi_view
from diffdiffdepth.inputs import load_scene
from diffdiffdepth.losses import LossWeights
from diffdiffdepth.models.point_depth import DepthOptions
from diffdiffdepth.points import save_points
from diffdiffdepth.scene import SparsePoints
from shared.errors import ConfigError, DataError, RunError
from shared.runs.config import load_config
from shared.tests.config_limits import assert_every_number_has_limits, numbers
from shared.tests.config_limits import refused as refused_by

CONFIGS = Path(train.__file__).parent / "configs"
QUICK = CONFIGS / "quick.yaml"


def refused(override: str, config: Path = QUICK) -> str:
    return refused_by(TrainConfig, config, override)


def test_every_number_has_limits():
    known = dict(numbers(TrainConfig))
    assert {"data.neighbours", "depth.tolerance", "schedule.labels.damping", "loss.blur_px"} <= set(known)
    assert_every_number_has_limits(TrainConfig, QUICK)


@pytest.mark.parametrize(
    "key",
    [
        "data.neighbours",
        "data.max_side",
        "data.embedded.height",
        "data.embedded.width",
        "data.embedded.points",
        "depth.supersampling",
        "depth.half_size",
        "depth.tolerance",
        "depth.barrier_level",
        "label_unit",
        "schedule.iterations",
        "schedule.densify",
        "schedule.labels.rate",
        "schedule.labels.decay",
        "views_per_step",
    ],
)
def test_zero_is_refused_where_it_makes_no_sense(key: str):
    assert f"{key} must be from " in refused(f"{key}=0")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("schedule.groups=[labels, labels]", "schedule.groups must be different"),
        ("schedule.groups=[]", "schedule.groups must be different and at least one"),
        ("schedule.groups=[depth]", "schedule.groups.0 must be one of smoothness, labels"),
        ("schedule.densify=4", "schedule.densify adds points after the preliminary iterations"),
        ("schedule.passes=100000", "schedule has 5200000 steps; at most 1000000"),
        ("data.points.source=file", "data.points.file is empty"),
        ("data.points.file=points.npz", "data.points.file is read with source file, and source is epi"),
        ("vgg_weights=vgg16.pth", "vgg_weights is read with features vgg, and features is rgb"),
        ("loss.visibility=all", "loss.visibility must be one of footprint, pixel"),
    ],
)
def test_what_does_not_go_together_is_refused(override: str, says: str):
    assert says in refused(override)


def test_a_bad_value_in_a_file_is_named_with_its_line(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("loss:\n  edge: 0.1\n  blur_px: -3\n")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 3: loss.blur_px must be from 0 to 20, got -3"):
        load_config(TrainConfig, path)


def test_in_code_the_same_checks_are_value_errors():
    for make in (
        lambda: ScheduleConfig(iterations=0),
        lambda: RateConfig(0.1, decay=1.5),
        lambda: LossWeights(edge=-0.01),
        lambda: TrainConfig(views_per_step=0),
    ):
        with pytest.raises(ValueError, match="must be from"):
            make()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_folder_is_valid(path: Path):
    assert load_config(TrainConfig, path).steps in (50 + 5 * 4 * 25, 4 * 4 * 13, 5 * 4 * 13, 6 * 4 * 13)


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config") / "field"
    return make_embedded_light_field(folder, size=(24, 32), side=3, antialias=1)


@pytest.mark.parametrize("choice", [{"image": "a.png"}, {"max_side": 100}])
def test_choices_for_photos_are_refused_for_a_light_field(field: Path, choice: dict):
    with pytest.raises(DataError, match=f"data.{next(iter(choice))} means nothing"):
        load_scene(DataConfig(str(field), **choice))


def test_choices_for_light_fields_are_refused_for_photos(field: Path, tmp_path: Path):
    make_embedded_multi_view(tmp_path / "photos", (24, 32), views=2, points=30, antialias=1)
    with pytest.raises(DataError, match="is a COLMAP scene, for which data.views means nothing"):
        load_scene(DataConfig(str(tmp_path / "photos"), views="cross"))
    inverse = TrainConfig(depth=DepthOptions(inverse_depth=True))
    with pytest.raises(RunError, match="inverse_depth is for photos"):
        train.build_model(inverse, load_scene(DataConfig(str(field))))


def test_position_noise_that_leaves_no_point_in_the_image_is_named(field: Path, tmp_path: Path):
    save_points(tmp_path / "one.npz", SparsePoints(torch.zeros(1, 2), torch.ones(1), "disparity"))
    points = PointsConfig(source="file", file=str(tmp_path / "one.npz"), position_noise_px=100)
    with pytest.raises(DataError, match="position noise of 100 px moved all points out of the image"):
        load_scene(DataConfig(str(field), points=points))
