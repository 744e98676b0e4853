"""Values that a user can set: what makes no sense is refused at the start, with its key and place."""

from pathlib import Path

import pytest

from deepvoxels import train
from deepvoxels.config import DataConfig, EmbeddedConfig, TrainConfig, VolumeConfig
from deepvoxels.models.baselines import BaselineOptions
from deepvoxels.models.options import GeneratorOptions, preset
from shared.errors import ConfigError
from shared.runs.config import config_from_dict, config_to_dict, load_config
from shared.tests.config_limits import assert_every_number_has_limits, numbers, refused

CONFIGS = Path(train.__file__).parent / "configs"
QUICK = CONFIGS / "quick.yaml"


def test_every_number_has_limits():
    expected = {"data.embedded.seed", "volume.near", "model.grid_pad", "baseline.vectors", "learning_rate"}
    assert expected <= {key for key, _ in numbers(TrainConfig)}
    assert_every_number_has_limits(TrainConfig, QUICK)


@pytest.mark.parametrize(
    "key",
    [
        "data.embedded.train_views",
        "data.embedded.validation_views",
        "data.embedded.test_views",
        "data.embedded.image_side",
        "volume.side_length",
        "volume.near",
        "model.image_side",
        "model.feature_side",
        "model.grid_side",
        "model.grid_features",
        "model.grid_pad",
        "model.nf0",
        "model.occlusion_base",
        "model.occlusion_max",
        "baseline.image_side",
        "targets",
        "nearest_sources",
        "learning_rate",
    ],
)
def test_zero_is_refused_where_it_makes_no_sense(key: str):
    assert f"{key} must be from " in refused(TrainConfig, QUICK, f"{key}=0")


def test_zero_is_allowed_where_it_has_a_meaning():
    keys = [
        *("seed", "steps", "gan_weight", "border_px", "decay_steps", "map_cache_mb", "evaluate_views"),
        *("log_every", "preview_every", "checkpoint_every", "data.embedded.seed"),
        *("baseline.hidden", "baseline.vectors", "model.depth_planes", "model.renderer_dropout"),
        *("model.extractor_levels", "model.extractor_max", "model.occlusion_levels"),
        *("model.renderer_levels", "model.renderer_base", "model.renderer_max"),
    ]
    config = load_config(TrainConfig, QUICK, [f"{key}=0" for key in keys])
    assert config.model.planes == 2 * config.model.grid_side
    assert load_config(TrainConfig, QUICK, ["l1_weight=0"]).gan_weight == 1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("volume.origin=[0, inf, 0]", "volume.origin must have coordinates from -1000000000.0 to"),
        ("model.inpainting_widths=[1, 0]", "model.inpainting_widths must have entries from 1 to 65536"),
        ("model.renderer_up_widths=[32, 1e30]", "model.renderer_up_widths must have entries from 1 to"),
        ("baseline.widths=[16, -1]", "baseline.widths must have entries from 1 to 65536, got [16, -1]"),
        ("model.renderer_dropout=1", "model.renderer_dropout must be from 0 to less than 1, got 1.0"),
    ],
)
def test_numbers_in_lists_and_shares_have_limits(override: str, says: str):
    assert refused(TrainConfig, QUICK, override).startswith(f"--set {override}: {says}")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.sampling=skip_-1", "data.sampling must be all or skip_N with a number N, got 'skip_-1'"),
        ("data.scene=sofa", "data.scene must be one of the embedded cube, vase, pedestal, chair, got 'sofa'"),
        ("data.layout=colmap", "data.layout must be deepvoxels or auto, as embedded scenes are written"),
        ("model.image_side=96", "model.image_side must be feature_side * 2 ** k with k >= 1, got 96 and 32"),
        ("model.renderer_up_widths=[32]", "model.renderer_up_widths needs 2 entries for image_side 128"),
        ("model.extractor_levels=6", "model.extractor_levels asks for 6 halvings (at least one)"),
        ("model.renderer_levels=6", "model.renderer_levels asks for 6 halvings (at least one)"),
        ("model.inpainting_widths=[1]", "model.inpainting_widths asks for 0 halvings (at least one)"),
        ("model.occlusion_levels=4", "model.occlusion_levels must be from 1 to 3, as often as depth_planes"),
        ("model.depth_planes=55", "model.depth_planes must be even for the occlusion network, got 55"),
        ("model.lattice=corner", "model.lattice must be one of centred, released, got 'corner'"),
        ("model.collapse=max", "model.collapse must be mean or sum, got 'max'"),
        ("baseline.widths=[4]", "baseline.widths do not fit: [4] ask for 0 halvings"),
        ("border_px=64", "border_px 64 leaves nothing of a 128 px image"),
    ],
)
def test_what_does_not_go_together_names_its_key(override: str, says: str):
    assert refused(TrainConfig, QUICK, override).startswith(f"--set {override}: {says}")


def test_a_relation_without_one_wrong_key_names_both():
    with pytest.raises(ConfigError, match=r"quick.yaml: baseline.image_side and model.image_side must agree"):
        load_config(TrainConfig, QUICK, ["method=pix2pix", "baseline.image_side=64"])
    with pytest.raises(ConfigError, match=r"quick.yaml: l1_weight and gan_weight are both 0"):
        load_config(TrainConfig, QUICK, ["l1_weight=0", "gan_weight=0"])


def test_a_bad_value_in_a_file_is_named_with_its_line(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("model:\n  grid_pad: 1.1\n  grid_side: 1e30\n")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 3: model.grid_side must be from 1 to 4096, got"):
        load_config(TrainConfig, path)


def test_in_code_the_same_checks_are_value_errors():
    for make in (
        lambda: TrainConfig(targets=0),
        lambda: EmbeddedConfig(image_side=7),
        lambda: VolumeConfig(near=float("nan")),
        lambda: VolumeConfig(origin=(0.0, float("nan"), 0.0)),
        lambda: GeneratorOptions(grid_pad=0),
        lambda: BaselineOptions(hidden=-1),
        lambda: DataConfig(sampling="none"),
    ):
        with pytest.raises(ValueError, match="must (be|have)"):
            make()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_folder_is_valid(path: Path):
    config = load_config(TrainConfig, path)
    assert config.steps in (400, 1500, 3000, 191_600)
    assert config_from_dict(TrainConfig, config_to_dict(config), "a checkpoint") == config


@pytest.mark.parametrize("name", ["head", "legacy", "paper"])
def test_every_preset_is_valid(name: str):
    options = preset(name)
    assert config_from_dict(GeneratorOptions, config_to_dict(options), name) == options
