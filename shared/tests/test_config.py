"""Configuration files: what fits is read with the right type, what does not is refused by file and line."""

import dataclasses
import enum
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ConfigError, FieldError
from shared.runs.config import (
    check_ranges,
    config_differences,
    config_from_dict,
    config_to_dict,
    load_config,
    save_config,
)


class Grid(enum.Enum):
    COARSE = "coarse"
    FINE = "fine"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: float = 4e-4
    betas: tuple[float, float] = (0.5, 0.999)
    decay_steps: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    steps: int = 100
    name: str = "toy"
    data: Path | None = None
    variant: Literal["head", "paper", 3] = "head"
    grid: Grid = Grid.FINE
    gan: bool = True
    size: tuple[int, ...] = (64, 48)
    scale: int | float = 1
    optimizer: OptimizerConfig = OptimizerConfig()
    second: OptimizerConfig | None = None
    weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps must not be negative")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_kind_of_field(tmp_path):
    path = write(
        tmp_path / "full.yaml",
        "steps: 1e5\nname: cube\ndata: some/where\nvariant: paper\ngrid: coarse\ngan: false\n"
        "size: [3, 5, 7]\nscale: 0.5\n"
        "optimizer: {learning_rate: 4e-4, betas: [0, 1], decay_steps: [10, 20]}\n"
        "second:\n  learning_rate: 1\nweights: {l1: 200, gan: 1e0}\n",
    )
    config = load_config(ToyConfig, path)
    assert config == ToyConfig(
        steps=100_000,
        name="cube",
        data=Path("some/where"),
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


def test_saved_config_loads_back_equal(tmp_path):
    second = OptimizerConfig(1e-8)
    config = ToyConfig(data=Path("a b/ü.txt"), second=second, name="yes: 1", weights={"7": 1e300})
    save_config(config, tmp_path / "out" / "config.yaml")
    assert load_config(ToyConfig, tmp_path / "out" / "config.yaml") == config
    assert config_from_dict(ToyConfig, config_to_dict(config), "here") == config


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    rate=st.floats(allow_nan=False),
    steps=st.integers(0, 10**18),
    variant=st.sampled_from(["head", "paper", 3]),
    weights=st.dictionaries(st.text("abc.: 019", max_size=5), st.floats(allow_nan=False), max_size=3),
)
def test_round_trip_of_any_value(tmp_path, name, rate, steps, variant, weights):
    config = ToyConfig(steps, name, variant=variant, optimizer=OptimizerConfig(rate), weights=weights)
    save_config(config, tmp_path / "c.yaml")
    assert load_config(ToyConfig, tmp_path / "c.yaml") == config


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
        ("name=true", "name", "true"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ("steps=5", "steps", 5),
        ("gan=false", "gan", False),
        ("data=null", "data", None),
        ("data=1.0", "data", Path("1.0")),
        ("size=[4, 5]", "size", (4, 5)),
        ("variant=3", "variant", 3),
        ("variant=paper", "variant", "paper"),
        ("grid=coarse", "grid", Grid.COARSE),
        ("scale=3", "scale", 3),
        ("second.learning_rate=3", "second", OptimizerConfig(3.0)),
        ("second={learning_rate: 3}", "second", OptimizerConfig(3.0)),
        ("weights.l1=2", "weights", {"l1": 2.0}),
    ],
)
def test_override_takes_the_type_of_its_field(tmp_path, override, field, value):
    config = load_config(ToyConfig, write(tmp_path / "c.yaml", "data: x\n"), [override])
    assert getattr(config, field) == value
    assert type(getattr(config, field)) is type(value)


BAD_FILES = {
    "unknown key": ("steps: 1\nstep: 3\n", "line 2", "unknown key step; did you mean steps?"),
    "unknown nested key": ("optimizer:\n  lerning_rate: 1\n", "line 2", "mean optimizer.learning_rate?"),
    "unknown far key": ("zzzzz: 1\n", "line 1", "known keys: steps, name"),
    "float for int": ("steps: 2.5\n", "line 1", "steps must be a whole number, got 2.5"),
    "bool for int": ("steps: true\n", "line 1", "steps must be a whole number, got the truth value true"),
    "text for int": ("steps: many\n", "line 1", "got the text 'many'"),
    "int for bool": ("gan: 1\n", "line 1", "gan must be true or false, got 1"),
    "number for text": ("name: 3\n", "line 1", "name must be text, got 3"),
    "nothing for text": ("name:\n", "line 1", "name must be text, got nothing (null)"),
    "list for number": ("steps: [1]\n", "line 1", "got the list [1]"),
    "scalar for mapping": ("optimizer: 3\n", "line 1", "optimizer must be a mapping"),
    "text for list": ("size: big\n", "line 1", "size must be a list of which each entry is a whole number"),
    "wrong list entry": ("name: x\nsize: [1, b]\n", "line 2", "size.1 must be a whole number"),
    "wrong length": ("optimizer: {betas: [1]}\n", "line 1", "optimizer.betas must have 2 entries, got 1"),
    "nan": ("optimizer: {learning_rate: .nan}\n", "line 1", "must be a number, got nan"),
    "wrong choice": ("variant: papr\n", "line 1", "head, paper, 3; got the text 'papr'; did you mean paper?"),
    "true is not 1": ("variant: true\n", "line 1", "must be one of"),
    "wrong enum": ("grid: FINE\n", "line 1", "grid must be one of coarse, fine"),
    "union": ("scale: big\n", "line 1", "scale must be a whole number or a number, got the text 'big'"),
    "union of mapping": ("second: {betas: 3}\n", "line 1", "second.betas must be a list of 2 entries"),
    "own check": ("steps: -1\n", "", "steps must not be negative"),
    "tag": ("name: !!python/object/apply:os.system ['touch pwned']\n", "line 1", "is not allowed"),
    "harmless tag": ("name: !!str 3\n", "line 1", "is not allowed"),
    "anchor": ("name: &a x\ndata: *a\n", "line 1", "is not allowed"),
    "duplicate key": ("steps: 1\nname: x\nsteps: 2\n", "line 3", "the key steps is given twice"),
    "nested duplicate": ("optimizer:\n  betas: [0, 1]\n  betas: [0, 1]\n", "line 3", "betas is given twice"),
    "broken yaml": ("steps: [1\nname: x\n", "line 2", "not valid YAML"),
    "two documents": ("steps: 1\n---\nsteps: 2\n", "line 2", "not valid YAML"),
    "list on top": ("- 1\n", "", "expected lines of the form"),
    "text on top": ("hello\n", "", "expected lines of the form"),
    "sexagesimal stays text": ("steps: 1:30\n", "line 1", "got the text '1:30'"),
    "mapping as key": ("? {a: 1}\n: 2\n", "line 1", "a key must be a plain word"),
    "missing base": ("base: gone.yaml\n", "line 1", "gone.yaml does not exist"),
    "base of wrong type": ("base: [a, b]\n", "line 1", "base must be the name of one YAML file"),
    "base is itself": ("base: bad.yaml\n", "", "in a circle: bad.yaml -> bad.yaml"),
    "not a date": ("steps: 2020-01-01\n", "line 1", "got the text '2020-01-01'"),
    "huge number": ("optimizer: {learning_rate: 1" + "0" * 400 + "}\n", "line 1", "must be a number"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_by_file_and_line(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    text, line, reason = BAD_FILES[case]
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(ToyConfig, path)
    message = str(caught.value)
    assert str(path) in message
    assert line in message
    assert reason in message
    assert "\n" not in message
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("a..b=3", "expected key=value"),
        ("optimzer.learning_rate=3", "did you mean optimizer?"),
        ("steps=two", "steps must be a whole number, got the text 'two'"),
        ("steps.x=2", "steps must be a whole number, got the mapping"),
        ("steps={", "cannot read the value '{' of steps"),
        ("gan=1", "gan must be true or false"),
        ("base=other.yaml", "unknown key base"),
    ],
)
def test_bad_override_is_refused(tmp_path, override, reason):
    with pytest.raises(ConfigError) as caught:
        load_config(ToyConfig, write(tmp_path / "c.yaml", "steps: 1\n"), [override])
    assert f"--set {override}" in str(caught.value)
    assert reason in str(caught.value)


def test_error_names_the_base_file_that_holds_the_key(tmp_path):
    write(tmp_path / "base.yaml", "name: x\nstps: 1\n")
    top = write(tmp_path / "top.yaml", "base: base.yaml\nsteps: 2\n")
    with pytest.raises(ConfigError, match=r"base\.yaml, line 2: unknown key stps; did you mean steps\?"):
        load_config(ToyConfig, top)


def test_circle_of_three_files(tmp_path):
    for name, base in [("a", "b"), ("b", "c"), ("c", "a")]:
        write(tmp_path / f"{name}.yaml", f"base: {base}.yaml\n")
    with pytest.raises(ConfigError, match=r"in a circle: a.yaml -> b.yaml -> c.yaml -> a.yaml"):
        load_config(ToyConfig, tmp_path / "a.yaml")


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            load_config(ToyConfig, path)


def test_missing_required_key(tmp_path):
    @dataclasses.dataclass
    class Needs:
        folder: str
        steps: int = 3

    with pytest.raises(ConfigError, match="the key folder is missing and has no default"):
        load_config(Needs, write(tmp_path / "c.yaml", "steps: 1\n"))


def test_differences_are_named_by_dotted_key():
    old = config_to_dict(ToyConfig(second=OptimizerConfig()))
    new = config_to_dict(ToyConfig(steps=5, optimizer=OptimizerConfig(1.0), second=None))
    assert config_differences(old, old) == {}
    differences = config_differences(old, new)
    assert differences["steps"] == (100, 5)
    assert differences["optimizer.learning_rate"] == (4e-4, 1.0)
    assert set(differences) == {"steps", "optimizer.learning_rate", "second"}
    assert config_differences({"a": 1}, {"a": True}) == {"a": (1, True)}


def test_config_that_yaml_cannot_hold_is_refused(tmp_path):
    @dataclasses.dataclass
    class Odd:
        anything: Any = None

    with pytest.raises(TypeError, match="cannot hold"):
        save_config(Odd(anything=object()), tmp_path / "c.yaml")
    with pytest.raises(TypeError, match="expected an instance of a dataclass"):
        config_to_dict(Odd)
    assert not list(tmp_path.iterdir())


def test_saved_file_reads_like_one_written_by_hand(tmp_path):
    save_config(ToyConfig(), tmp_path / "c.yaml")
    text = (tmp_path / "c.yaml").read_text()
    assert text.startswith("steps: 100\nname: toy\ndata: null\nvariant: head\ngrid: fine\n")
    assert yaml.safe_load(text)["optimizer"]["learning_rate"] == 4e-4


@dataclasses.dataclass
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        check_ranges(self, size=(1, 10))


@dataclasses.dataclass
class Limited:
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_limits_are_allowed_values_and_none_is_no_number():
    @dataclasses.dataclass
    class Pair:
        low: float = 1.0
        high: float | None = None

    check_ranges(Pair(), low=(1, 2), high=(1, 2))
    check_ranges(Pair(2.0, 1.0), low=(1, 2), high=(1, 2))
    for wrong in (Pair(0.999), Pair(1.0, 2.001), Pair(float("nan"))):
        with pytest.raises(FieldError, match="must be from 1 to 2, got"):
            check_ranges(wrong, low=(1, 2), high=(1, 2))


def test_a_field_error_is_named_with_its_place(tmp_path):
    path = tmp_path / "limits.yaml"
    path.write_text("inner:\n  size: 3\n")
    assert load_config(Limited, path).inner.size == 3
    path.write_text("inner:\n  size: -3\n")
    with pytest.raises(ConfigError, match=r"limits.yaml, line 2: inner.size must be from 1 to 10, got -3"):
        load_config(Limited, path)
    with pytest.raises(ConfigError, match=r"--set inner.size=11: inner.size must be from 1 to 10, got 11"):
        load_config(Limited, path, ["inner.size=11"])
    with pytest.raises(ValueError, match="^size must be from 1 to 10, got 0$"):
        Inner(size=0)


@pytest.mark.parametrize("value", ["2024-99-99", "1" * 5000, "[" * 3000])
def test_a_value_that_yaml_cannot_read_is_refused(value, tmp_path):
    path = tmp_path / "limits.yaml"
    path.write_text("inner:\n  size: 3\n")
    with pytest.raises(ConfigError, match="inner.size"):
        load_config(Limited, path, [f"inner.size={value}"])
