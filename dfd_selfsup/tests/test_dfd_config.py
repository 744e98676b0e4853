"""Values that a user can set: what makes no sense is refused at the start, with its key and place."""

from pathlib import Path

import pytest

from dfd_selfsup import train
from dfd_selfsup.config import TrainConfig
from shared.runs.config import load_config
from shared.tests.config_limits import assert_every_number_has_limits, refused

CONFIGS = Path(train.__file__).parent / "configs"
QUICK = CONFIGS / "quick.yaml"


def test_every_number_has_limits() -> None:
    assert_every_number_has_limits(TrainConfig, QUICK)


@pytest.mark.parametrize(
    "key",
    [
        "data.embedded.height",
        "data.embedded.views",
        "data.embedded.lens_samples",
        "network.base_width",
        "network.levels",
        "heads.near_m",
        "heads.composite_px",
        "psf.window",
        "psf.psf_std_scale",
        "psf.threshold_px",
        "batch_size",
        "learning_rate",
    ],
)
def test_zero_is_refused_where_it_makes_no_sense(key: str) -> None:
    assert f"{key} must be from " in refused(TrainConfig, QUICK, f"{key}=0")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("heads.far_m=0.5", "heads.far_m must be larger than near_m = 0.7, got 0.5"),
        ("psf.window=8", "psf.window must be odd, got 8"),
        ("data.resize_to=[8, 128]", "data.resize_to must be two sides from 16"),
        ("data.embedded.test_scenes=[-1, 2]", "data.embedded.test_scenes must be two numbers from 0"),
        ("heads.depth=relative", "heads.depth must be one of norm, clip, raw, inverse, refine"),
    ],
)
def test_what_does_not_go_together_is_refused(override: str, says: str) -> None:
    assert says in refused(TrainConfig, QUICK, override)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_folder_is_valid(path: Path) -> None:
    assert load_config(TrainConfig, path).steps > 0
