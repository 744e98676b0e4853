"""Values that a user can set: what makes no sense is refused at the start, with its key and place."""

import re
from pathlib import Path

import pytest

from diffdiffdepth import arguments, train
from diffdiffdepth.config import DataConfig, TrainConfig
from diffdiffdepth.inputs import load_scene
from shared.errors import ConfigError, DataError
from shared.runs.config import load_config

CONFIGS = Path(train.__file__).parent / "configs"
QUICK = CONFIGS / "quick.yaml"


@pytest.mark.parametrize(
    ("parse", "given"),
    [
        (arguments.train, "--config quick"),
        (arguments.predict, "photos --out depth"),
        (arguments.evaluate, "--run run"),
        (arguments.table, ""),
    ],
)
def test_apple_gpus_lack_the_float64_of_the_solver(parse, given, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(None, [*given.split(), "--device", "mps"])
    assert "float64" in capsys.readouterr().err
    assert parse(None, [*given.split(), "--device", "cpu"]).device == "cpu"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.neighbours=0", "data.neighbours"),
        ("data.embedded.height=0", "data.embedded.height"),
        ("depth.supersampling=0", "depth.supersampling"),
        ("depth.tolerance=0", "depth.tolerance"),
        ("schedule.labels.decay=1.5", "schedule.labels.decay"),
        ("loss.blur_px=-3", "loss.blur_px"),
        ("schedule.groups=[]", "schedule.groups"),
        ("schedule.groups=[labels, labels]", "schedule.groups"),
        ("schedule.groups=[depth]", "schedule.groups"),
        ("schedule.densify=4", "schedule.densify adds points after the preliminary iterations"),
        ("data.points.source=file", "data.points.file is empty"),
        ("data.points.file=points.npz", "data.points.file is read with source file"),
        ("vgg_weights=vgg16.pth", "vgg_weights is read with features vgg"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(override: str, key: str):
    with pytest.raises(ConfigError, match=re.escape(key)):
        load_config(TrainConfig, QUICK, [override])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_folder_is_valid(path: Path):
    assert load_config(TrainConfig, path).steps > 70


@pytest.mark.parametrize(
    ("scene", "choice"),
    [("still_life", {"image": "a.png"}), ("still_life", {"max_side": 100}), ("views", {"views": "cross"})],
)
def test_choices_for_the_other_kind_of_scene_are_refused(small_scenes: Path, scene: str, choice: dict):
    with pytest.raises(DataError, match=f"data.{next(iter(choice))} means nothing"):
        load_scene(DataConfig(str(small_scenes / scene), **choice))
