"""Config files: what fits is read with the right type, what does not is refused by key, file and line."""

import dataclasses
import enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from pydantic.dataclasses import dataclass

from shared.errors import ConfigError, FieldError
from shared.runs import keys
from shared.runs.config import (
    STRICT,
    Fraction,
    LocalPath,
    Seed,
    Weights,
    config_from_dict,
    config_to_dict,
    load_config,
    path_keys,
    save_config,
)


class Grid(enum.Enum):
    COARSE = "coarse"
    FINE = "fine"


@dataclass(config=STRICT, frozen=True)
class OptimizerConfig:
    learning_rate: PositiveFloat = 4e-4
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    decay_steps: list[int] = dataclasses.field(default_factory=list)


@dataclass(config=STRICT, frozen=True)
class ToyConfig:
    steps: NonNegativeInt = 100
    name: str = "toy"
    data: Path | None = None
    root: LocalPath = "data"
    seed: Seed = 0
    variant: Literal["head", "paper", 3] = "head"
    grid: Grid = Grid.FINE
    gan: bool = True
    size: tuple[int, ...] = (64, 48)
    scale: int | float = 1
    levels: Annotated[int, Field(ge=1, le=8)] = 4
    optimizer: OptimizerConfig = OptimizerConfig()
    second: OptimizerConfig | None = None
    weights: dict[str, NonNegativeFloat] = dataclasses.field(default_factory=dict)
    stages: list[OptimizerConfig] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.levels > 4 and self.gan:
            raise FieldError("levels", f"must be at most 4 with gan, got {self.levels}")
        if self.name == Path(self.root).name:
            raise ValueError("name and root are the same")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_kind_of_field(tmp_path):
    path = write(
        tmp_path / "full.yaml",
        "steps: 1e5\nname: cube\ndata: some/where\nroot: ~/photos\nvariant: paper\ngrid: coarse\ngan: false\n"
        "size: [3, 5, 7]\nscale: 0.5\nseed: 4_000\n"
        "optimizer: {learning_rate: 4e-4, betas: [0, 1], decay_steps: [10, 20]}\n"
        "second:\n  learning_rate: 1\nweights: {l1: 200, gan: 1e0}\n",
    )
    config = load_config(ToyConfig, path)
    assert config == ToyConfig(
        steps=100_000,
        name="cube",
        data=Path("some/where"),
        root=str(Path.home() / "photos"),
        seed=4000,
        variant="paper",
        grid=Grid.COARSE,
        gan=False,
        size=(3, 5, 7),
        scale=0.5,
        optimizer=OptimizerConfig(4e-4, (0.0, 1.0), [10, 20]),
        second=OptimizerConfig(learning_rate=1.0),
        weights={"l1": 200.0, "gan": 1.0},
    )
    assert type(config.steps) is int
    assert type(config.optimizer.betas[0]) is float
    assert type(config.weights["l1"]) is float


def test_empty_file_means_defaults(tmp_path):
    assert load_config(ToyConfig, write(tmp_path / "empty.yaml", "# nothing\n")) == ToyConfig()


@pytest.mark.parametrize("given", ["data", "./data", "~/data", "", None])
def test_places_are_kept_absolute_whatever_the_current_folder_is_later(tmp_path, monkeypatch, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # `data` is the default, too
    path = write(tmp_path / "c.yaml", "steps: 1\n")
    config = load_config(ToyConfig, path, [] if given is None else [f"root={given}"])
    assert config.root == ("" if given == "" else str(tmp_path / "data"))
    monkeypatch.chdir("/")
    save_config(config, path)
    assert load_config(ToyConfig, path) == config
    assert path_keys(ToyConfig) == {"root"}


def test_weights_are_a_path_or_a_name(tmp_path, monkeypatch):
    @dataclass(config=STRICT)
    class Begun:
        init_from: Weights = ""

    monkeypatch.chdir(tmp_path)
    for source, kept in {"": "", "cube": "cube", "runs/cube": str(tmp_path / "runs/cube")}.items():
        assert config_from_dict(Begun, {"init_from": source}, "here").init_from == kept


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
    | st.sampled_from(["1e5", "-1E-5", "yes", "2020-01-01", ".5", "0x1", "1:30", ".inf", "~", "~/a"]),
    rate=st.floats(1e-300, 1e300),
    steps=st.integers(0, 10**18),
    variant=st.sampled_from(["head", "paper", 3]),
    weights=st.dictionaries(st.text("abc.: 019e~", max_size=5), st.floats(0, 1e300), max_size=3),
)
def test_a_saved_config_loads_back_equal(tmp_path, name, rate, steps, variant, weights):
    optimizer = OptimizerConfig(rate)
    config = ToyConfig(steps, name, Path("a b/ü"), variant=variant, optimizer=optimizer, weights=weights)
    save_config(config, tmp_path / "c.yaml")
    assert load_config(ToyConfig, tmp_path / "c.yaml") == config
    assert config_from_dict(ToyConfig, config_to_dict(config), "here") == config
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["name"] == name


def test_base_is_merged_key_by_key_and_lists_are_replaced(tmp_path):
    optimizer = "{learning_rate: 0.1, decay_steps: [1]}"
    write(tmp_path / "base.yaml", f"steps: 7\nsize: [1, 2, 3]\noptimizer: {optimizer}\n")
    write(tmp_path / "deep" / "mid.yaml", "base: ../base.yaml\nname: mid\noptimizer: {betas: [0, 0]}\n")
    top = write(tmp_path / "top.yaml", "base: deep/mid.yaml\nsize: [9]\n")
    config = load_config(ToyConfig, top, ["optimizer.learning_rate=2e-3"])
    assert config == ToyConfig(
        steps=7, name="mid", size=(9,), optimizer=OptimizerConfig(2e-3, (0.0, 0.0), [1])
    )


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("name=123", "name", "123"),
        ("name=a=b", "name", "a=b"),
        ("steps=5", "steps", 5),
        ("data=null", "data", None),
        ("size=[4, 5]", "size", (4, 5)),
        ("variant=3", "variant", 3),
        ("grid=coarse", "grid", Grid.COARSE),
        ("second.learning_rate=3", "second", OptimizerConfig(3.0)),
        ("weights.l1=2", "weights", {"l1": 2.0}),
    ],
)
def test_override_takes_the_type_of_its_field(tmp_path, override, field, value):
    config = load_config(ToyConfig, write(tmp_path / "c.yaml", "data: x\n"), [override])
    assert getattr(config, field) == value
    assert type(getattr(config, field)) is type(value)


BAD_FILES = {
    "unknown key": ("steps: 1\nstep: 3\n", "line 2: unknown key step; did you mean steps?"),
    "unknown nested key": ("optimizer:\n  lerning_rate: 1\n", "line 2: .*mean optimizer.learning_rate?"),
    "in a list": ("stages:\n- betas: [0, 1]\n- beta: 1\n", "line 3: unknown key stages.1.beta"),
    "bool for int": ("steps: true\n", "line 1: steps .*true"),
    "text for int": ("steps: '3'\n", 'line 1: steps .*"3"'),
    "nothing for text": ("name:\n", "line 1: name .*null"),
    "scalar for mapping": ("optimizer: 3\n", "line 1: optimizer must be a mapping"),
    "wrong list entry": ("name: x\nsize: [1, b]\n", "line 2: size.1 "),
    "below its limit": ("steps: -1\n", "line 1: steps .*-1"),
    "limit in a mapping": ("weights:\n  l1: -1\n", "line 2: weights.l1 .*-1"),
    "nan": ("optimizer: {learning_rate: .nan}\n", "line 1: optimizer.learning_rate "),
    "wrong choice": ("variant: papr\n", "line 1: variant .*'paper'"),
    "true is not 1": ("variant: true\n", "line 1: variant "),
    "union of mapping": ("second: {betas: 3}\n", "line 1: second.betas "),
    "check of one field": ("steps: 1\nlevels: 5\n", "line 2: levels must be at most 4 with gan"),
    "check of several": ("name: data\n", "bad.yaml: name and root are the same"),
    "tag": ("name: !!python/object/apply:os.system ['touch pwned']\n", "line 1: not valid YAML"),
    "duplicate key": ("steps: 1\nname: x\nsteps: 2\n", "line 3: the key steps is given twice"),
    "aliases, which can stand for gigabytes": ("name: &n x\nroot: *n\n", "line 2: not valid YAML"),
    "no config": ("#" * 1_100_000, "1.0 MB, more than the 1 of its kind"),
    "list on top": ("- 1\n", "expected lines of the form"),
    "missing base": ("base: gone.yaml\n", "line 1: .*gone.yaml"),
    "base is itself": ("base: bad.yaml\n", "in a circle: bad.yaml -> bad.yaml"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_by_file_and_line(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    text, reason = BAD_FILES[case]
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config(ToyConfig, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("steps", "expected key=value"),
        ("optimzer.learning_rate=3", "did you mean optimizer?"),
        ("steps=two", "steps must be"),
        ("steps=" + "[" * 3000, "not valid YAML"),
        ("levels=9", "levels must be less than or equal to 8, got 9"),
        ("base=other.yaml", "unknown key base"),
    ],
)
def test_bad_override_is_refused(tmp_path, override, reason):
    with pytest.raises(ConfigError) as caught:
        load_config(ToyConfig, write(tmp_path / "c.yaml", "steps: 1\nlevels: 2\n"), [override])
    assert f"--set {override}" in str(caught.value)
    assert reason in str(caught.value)


def test_error_names_the_base_file_that_holds_the_key(tmp_path):
    write(tmp_path / "base.yaml", "name: x\nstps: 1\n")
    top = write(tmp_path / "top.yaml", "base: base.yaml\nsteps: 2\n")
    with pytest.raises(ConfigError, match=r"base\.yaml, line 2: unknown key stps"):
        load_config(ToyConfig, top)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            load_config(ToyConfig, path)


@dataclass(config=STRICT)
class Listed:
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    steps: NonNegativeInt = 3  # updates of the weights


def test_keys_and_measures_are_listed(tmp_path):
    rows = list(keys.config_keys(Listed))
    assert rows[0] == ("optimizer.learning_rate", "0.0004", "")
    assert rows[-1] == ("steps", "3", "updates of the weights")
    assert [key for key, *_ in rows] == [
        "optimizer.learning_rate", "optimizer.betas", "optimizer.decay_steps", "steps"
    ]  # fmt: skip
    results = '{"mean": {"psnr": 20.5}, "definitions": {"psnr": "RGB"}, "run": {"seconds": 1.0}}'
    (tmp_path / "eval.json").write_text(results)
    assert keys.measures(tmp_path) == {"mean.psnr": "RGB"}
