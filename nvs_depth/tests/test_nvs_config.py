"""Configurations: every file is valid, what makes no sense together is refused with its key."""

from pathlib import Path

import pytest

from nvs_depth import table, train
from nvs_depth.config import TrainConfig
from shared.errors import ConfigError
from shared.runs.config import load_config

CONFIGS = Path(train.__file__).parent / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_folder_is_valid(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.data.layout.startswith("kitti") == (config.model.depth_range == "scene")


@pytest.mark.parametrize("row", list(table.ROWS))
def test_every_row_of_the_table_is_a_valid_configuration(row: str) -> None:
    label, changes = table.ROWS[row]
    assert load_config(TrainConfig, CONFIGS / "quick_table.yaml", [*changes, f"label={label}"]).label == label


@pytest.mark.parametrize(
    ("name", "overrides", "key"),
    [
        ("quick", "data.layout=posed", "data.layout"),
        ("quick_street", "data.layout=kitti_odometry", "data.layout"),
        ("kitti_eigen", "model.depth_range=object", "model"),
        ("quick", "model.image_side=100", "model.image_side"),
        ("quick", "data.pairs.azimuth_steps_deg=[20,0]", "data.pairs.azimuth_steps_deg"),
        ("quick", "data.crop_square=[-1,0,64]", "data.crop_square"),
        ("quick", "betas=[0.5,1]", "betas"),
        (
            "quick",
            "weights.reconstruction=0 weights.photometric=0 weights.consistency=0 weights.smoothness=0",
            "weights.reconstruction",
        ),
    ],
)
def test_what_would_do_harm_is_refused(name: str, overrides: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load_config(TrainConfig, CONFIGS / f"{name}.yaml", overrides.split())
