"""YAML files into validated dataclasses, and back.

A config is a pydantic dataclass with limits at the fields. Checks that involve several fields go into
`__post_init__` and raise `FieldError(field, reason)`:

    from dataclasses import field
    from typing import Annotated, Literal
    from pydantic import Field, NonNegativeInt, PositiveFloat  # also PositiveInt, NonNegativeFloat
    from pydantic.dataclasses import dataclass
    from shared.runs.config import STRICT, Fraction, LocalPath, Seed

    @dataclass(config=STRICT)
    class DataConfig:
        root: LocalPath = "data"
        kind: Literal["embedded", "folders"] = "embedded"

    @dataclass(config=STRICT)
    class TrainConfig:
        data: DataConfig = field(default_factory=DataConfig)
        seed: Seed = 0
        steps: NonNegativeInt = 100
        learning_rate: PositiveFloat = 1e-3
        levels: Annotated[int, Field(ge=1, le=8)] = 4

Values are not converted: "3" is no whole number, true is no number. A YAML file may name another file by
`base:` and override some of its values; the command line overrides both (`--set data.kind=folders`).
"""

import dataclasses
import difflib
import json
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import pydantic
import yaml
from pydantic_core import to_jsonable_python

from shared.errors import ConfigError, DataError, FieldError
from shared.files.disk import LARGEST_YAML, PlainLoader, read_text, write_bytes
from shared.runs.seeds import LARGEST_SEED

__all__ = [
    "STRICT",
    "Fraction",
    "LocalPath",
    "Seed",
    "Weights",
    "config_differences",
    "config_from_dict",
    "config_to_dict",
    "load_config",
    "path_keys",
    "save_config",
]

STRICT = pydantic.ConfigDict(
    strict=True, extra="forbid", allow_inf_nan=False, validate_default=True, defer_build=True
)

Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
Seed = Annotated[int, pydantic.Field(ge=0, le=LARGEST_SEED)]


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def _absolute_if_path(source: str) -> str:
    return _absolute(source) if "/" in source or os.sep in source else source


LocalPath = Annotated[str, pydantic.AfterValidator(_absolute)]  # a file or folder, from then on absolute
Weights = Annotated[str, pydantic.AfterValidator(_absolute_if_path)]  # what `load_trained` opens; or a name

Config = TypeVar("Config")


def load_config(config_type: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, the files it builds on by `base:`, and `key=value` overrides into `config_type`.

    `base` is relative to the file that names it. Mappings are merged key by key, lists are replaced.
    Raises ConfigError, naming key, file and line, for anything that does not fit the dataclass.
    """
    values = _read_with_base(Path(path), chain=())
    for text in overrides:
        values = _merge(values, _read_override(text, config_type))
    return config_from_dict(config_type, values, str(path))


def config_from_dict(config_type: type[Config], values: Mapping[str, Any], place: str) -> Config:
    """Build the dataclass from a plain dict such as the one in a checkpoint; errors name `place`."""
    try:
        # By way of JSON, since the strict mode for Python objects wants tuples, enums and dataclasses.
        return pydantic.TypeAdapter(config_type).validate_json(json.dumps(values, default=str))
    except pydantic.ValidationError as error:
        raise _config_error(error, config_type, values, place) from None


def config_to_dict(config: Any) -> dict[str, Any]:
    """Turn a (nested) dataclass into the dicts, lists, numbers, strings and None that YAML can hold.

    Raises PydanticSerializationError (a ValueError) for anything else.
    """
    return to_jsonable_python(config)


def save_config(config: Any, path: str | Path) -> None:
    """Write every value of `config`, defaults included, as YAML that `load_config` reads back equal."""
    options = {"sort_keys": False, "allow_unicode": True, "width": 110}
    write_bytes(path, yaml.dump(config_to_dict(config), Dumper=_Dumper, **options).encode())


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """List what differs between two plain configs as `{"dotted.key": (old value, new value)}`."""
    differences = {}
    for key in [*old, *(key for key in new if key not in old)]:
        a, b = old.get(key, "(not set)"), new.get(key, "(not set)")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            differences |= {f"{key}.{inner}": pair for inner, pair in config_differences(a, b).items()}
        elif a != b or isinstance(a, bool) is not isinstance(b, bool):  # 1 is 1.0, but not true
            differences[key] = (a, b)
    return differences


def path_keys(config_type: Any) -> set[str]:
    """The dotted keys of all fields that are a `LocalPath`: what may be elsewhere tomorrow."""
    keys = set()
    for name, hint in typing.get_type_hints(config_type, include_extras=True).items():
        inner = _dataclass_in(hint)
        if LocalPath in (hint, *typing.get_args(hint)):
            keys.add(name)
        elif inner is not None:
            keys |= {f"{name}.{key}" for key in path_keys(inner)}
    return keys


# ---- reading YAML ------------------------------------------------------------------------------------------


class _Key(str):
    """A key of a config that knows the file and line, or the --set, it comes from."""

    place: str

    def __new__(cls, name: str, place: str) -> "_Key":
        key = super().__new__(cls, name)
        key.place = place
        return key


class _Loader(PlainLoader):
    """Safe YAML whose keys know their place. 1e-4 is a number, and 1e5 a whole one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = f"{self.name}, line {key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(place, "a key must be a plain word")
            if key_node.value in values:
                raise ConfigError(place, f"the key {key_node.value} is given twice")
            values[_Key(key_node.value, place)] = self.construct_object(value_node, deep=True)
        return values

    def construct_exponent(self, node: yaml.ScalarNode) -> int | float:
        number = float(node.value)
        return int(number) if number.is_integer() else number


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would read as numbers."""


_EXPONENT = "!exponent", re.compile("[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
_Loader.add_constructor("!exponent", _Loader.construct_exponent)
_Loader.add_implicit_resolver(*_EXPONENT)
_Dumper.add_implicit_resolver(*_EXPONENT)


def _parse_yaml(text: str, name: str) -> Any:
    loader = _Loader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}, line {mark.line + 1}" if mark else name
        raise ConfigError(place, f"not valid YAML ({getattr(error, 'problem', None) or error})") from None


def _read_with_base(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    """Read one file and, first, the file it names as its base."""
    resolved = path.resolve()
    if resolved in chain:
        circle = " -> ".join(p.name for p in (*chain, resolved))
        raise ConfigError(str(path), f"the files name each other as base in a circle: {circle}")
    try:
        text = read_text(path, LARGEST_YAML)
    except DataError as error:
        raise ConfigError(str(path), error.reason) from None
    values = _parse_yaml(text, str(path))
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(str(path), f"expected lines of the form `key: value`, got {_shown(values)}")
    if "base" not in values:
        return values
    place = next(key.place for key in values if key == "base")
    base = values.pop("base")
    if not isinstance(base, str) or not (path.parent / base).is_file():
        raise ConfigError(place, f"base must name a YAML file next to this one, got {_shown(base)}")
    return _merge(_read_with_base(path.parent / base, (*chain, resolved)), values)


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in top.items():
        old = merged.pop(name, None)  # popped, so that the new key with its place is stored
        merged[name] = _merge(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return merged


def _read_override(text: str, config_type: type) -> dict[str, Any]:
    """Turn `a.b=3` into {"a": {"b": 3}}: the value is YAML, unless the field wants text."""
    dotted, separator, value = text.partition("=")
    place, names, value = f"--set {text}", [part.strip() for part in dotted.split(".")], value.strip()
    if not separator or not all(names):
        raise ConfigError(place, "expected key=value, with dots for nested keys, as in a.b=3")
    options = _options(_type_at(config_type, names))
    literals = [typing.get_args(option) for option in options if typing.get_origin(option) is Literal]
    is_null = type(None) in options and value in ("", "null", "~")
    is_text = str in options or Path in options or any(value in choices for choices in literals)
    parsed: Any = value if is_text and not is_null else _parse_yaml(value, place)
    for name in reversed(names):
        parsed = {_Key(name, place): parsed}
    return parsed


# ---- messages ----------------------------------------------------------------------------------------------


def _options(hint: Any) -> tuple:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _dataclass_in(hint: Any) -> Any:
    return next((option for option in _options(hint) if dataclasses.is_dataclass(option)), None)


def _type_at(config_type: Any, key: Sequence[str]) -> Any:
    """The type of a field by its dotted key, None if there is no such field."""
    for name in key:
        dataclass = _dataclass_in(config_type)
        config_type = typing.get_type_hints(dataclass).get(name) if dataclass else None
    return config_type


def _config_error(
    error: pydantic.ValidationError, config_type: type, values: Mapping, place: str
) -> ConfigError:
    """The message for what pydantic found wrong: dotted key, file and line, reason."""
    # An unknown key may be why another one is missing; of a union, the deepest error says most.
    found = max(error.errors(), key=lambda e: (e["type"] == "unexpected_keyword_argument", len(e["loc"])))
    cause = found.get("ctx", {}).get("error")
    field_and_reason = cause.args if isinstance(cause, FieldError) else ()
    location = (*found["loc"], *field_and_reason[:1])
    names: list[str] = []
    node: Any = values
    for part in location:
        items = dict(enumerate(node)) if isinstance(node, list | tuple) else node
        key = next((key for key in items if key == part), None) if isinstance(items, Mapping) else None
        if key is not None:
            place, node = getattr(key, "place", place), items[part]
        elif cause is None and found["type"] != "missing":
            continue  # the name of a type in a union
        names.append(str(part))
    dotted = ".".join(names)
    if found["type"] == "unexpected_keyword_argument":
        owner = _dataclass_in(_type_at(config_type, names[:-1]))
        known = [field.name for field in dataclasses.fields(owner)] if owner else []
        near = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.5)
        remedy = f"did you mean {'.'.join([*names[:-1], *near])}?" if near else f"known: {', '.join(known)}"
        return ConfigError(place, f"unknown key {dotted}; {remedy}")
    if found["type"] == "missing":
        return ConfigError(place, f"the key {dotted} is missing and has no default")
    if cause is not None:
        return ConfigError(place, f"{dotted} {field_and_reason[1] if field_and_reason else cause}".strip())
    reason = f"{dotted}: {found['msg']}".replace(": Input should", " must")
    reason = reason.replace("an object", "a mapping (key: value)").replace("a valid array", "a list")
    return ConfigError(place, f"{reason}, got {_shown(found['input'])}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) < 60 else text[:57] + "..."
