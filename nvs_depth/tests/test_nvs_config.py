"""Values that a user can set: what makes no sense is refused at the start, with its key and place."""

from pathlib import Path

import pytest

from nvs_depth import train
from nvs_depth.config import TrainConfig
from nvs_depth.datasets.embedded import EmbeddedConfig
from nvs_depth.datasets.pairs import PairOptions
from nvs_depth.datasets.select import DataConfig
from nvs_depth.losses import LossWeights
from nvs_depth.models.options import ModelOptions
from shared.errors import ConfigError
from shared.runs.config import load_config
from shared.tests.config_limits import assert_every_number_has_limits, numbers, refused

CONFIGS = Path(train.__file__).parent / "configs"
QUICK = CONFIGS / "quick.yaml"


def test_every_number_has_limits():
    known = dict(numbers(TrainConfig))
    assert {"data.scale", "data.embedded.step_m", "data.pairs.nearest", "model.width", "seed"} <= set(known)
    assert_every_number_has_limits(TrainConfig, QUICK)


@pytest.mark.parametrize(
    "key",
    [
        "data.holdout_every",
        "data.focal_share",
        "data.scale",
        "data.pairs.max_gap",
        "data.pairs.nearest",
        "data.embedded.train_groups",
        "data.embedded.test_groups",
        "data.embedded.image_side",
        "data.embedded.frames",
        "data.embedded.step_m",
        "data.embedded.antialias",
        "model.image_side",
        "model.width",
        "model.narrowest",
        "model.latent_points",
        "batch_size",
        "learning_rate",
        "decay_epochs",
    ],
)
def test_zero_is_refused_where_it_makes_no_sense(key: str):
    assert f"--set {key}=0: {key} must be from " in refused(TrainConfig, QUICK, f"{key}=0")


@pytest.mark.parametrize(
    "key",
    [
        "steps",
        "constant_epochs",
        "decay_steps",
        "workers",
        "log_every",
        "preview_every",
        "checkpoint_every",
        "evaluate_pairs",
        "seed",
        "data.cache_mb",
        "data.embedded.seed",
        "weights.reconstruction",
        "weights.photometric",
    ],
)
def test_zero_keeps_its_meaning_elsewhere(key: str):
    value = load_config(TrainConfig, QUICK, [f"{key}=0"])
    for name in key.split("."):
        value = getattr(value, name)
    assert value == 0


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("betas=[0.5, 1]", "betas must be two numbers from 0 to below 1, got [0.5, 1.0]"),
        ("betas=[-0.1, 0.9]", "betas must be two numbers from 0 to below 1"),
        ("betas=[.inf, 0.9]", "betas must be two numbers from 0 to below 1"),
        ("betas=[.nan, 0.9]", "betas.0 must be a number"),
        ("data.background=[0, 0, 1.5]", "data.background must be three numbers from 0 to 1"),
        ("data.background=[0, -.inf, 0]", "data.background must be three numbers from 0 to 1"),
        ("data.crop_square=[-1, 0, 64]", "data.crop_square must be top row and left column from 0"),
        ("data.crop_square=[0, 1e30, 64]", "data.crop_square must be top row and left column from 0"),
        ("data.crop_square=[0, 0, 1e30]", "data.crop_square must be top row and left column from 0"),
        ("data.pairs.azimuth_steps_deg=[20, 0]", "data.pairs.azimuth_steps_deg must be at least one step"),
        ("data.pairs.azimuth_steps_deg=[1e30]", "data.pairs.azimuth_steps_deg must be at least one step"),
        ("model.image_side=100", "model.image_side must be a multiple of 32, got 100"),
        ("model.narrowest=5", "model.narrowest must be even, got 5"),
    ],
)
def test_numbers_in_lists_and_of_other_kinds_are_refused(override: str, says: str):
    assert refused(TrainConfig, QUICK, override).startswith(f"--set {override}: {says}")


@pytest.mark.parametrize(
    ("name", "override", "says"),
    [
        ("quick", "data.layout=posed",
         "--set data.layout=posed: "
         "data.layout must be shapenet or shapenet_flat for embedded chairs, got posed"),
        ("quick_street", "data.layout=kitti_odometry",
         "--set data.layout=kitti_odometry: data.layout must be kitti_raw for embedded street"),
        ("kitti_eigen", "model.depth_range=object",
         "--set model.depth_range=object: model has depth_range=object, but data.layout=kitti_raw needs "
         "model.depth_range=scene"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(name: str, override: str, says: str):
    assert refused(TrainConfig, CONFIGS / f"{name}.yaml", override).startswith(says)


def test_a_loss_without_any_term_is_refused(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    terms = ("perceptual", "photometric", "reconstruction", "consistency", "smoothness")
    path.write_text("weights:\n" + "".join(f"  {term}: 0\n" for term in terms))
    with pytest.raises(ConfigError, match=r"mine.yaml, line 4: weights.reconstruction is 0 like all other"):
        load_config(TrainConfig, path)


def test_a_bad_value_in_a_file_is_named_with_its_line(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("data:\n  embedded:\n    kind: chairs\n    antialias: 1000\n")
    message = r"mine.yaml, line 4: data.embedded.antialias must be from 1 to 16, got 1000"
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, path)


def test_in_code_the_same_checks_are_value_errors():
    for make in (
        lambda: TrainConfig(batch_size=0),
        lambda: DataConfig(scale=0.0),
        lambda: EmbeddedConfig(seed=2**32),
        lambda: PairOptions(nearest=0),
        lambda: ModelOptions(width=4.5),
        lambda: LossWeights(smoothness=float("nan")),
    ):
        with pytest.raises(ValueError, match="must be from"):
            make()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_folder_is_valid(path: Path):
    config = load_config(TrainConfig, path)
    assert config.steps >= 500
    assert config.data.layout.startswith("kitti") == (config.model.depth_range == "scene")
