"""YAML files into typed dataclasses, and back.

A configuration is a dataclass; its YAML file may name another file by `base:` and override some of its
values, and the command line overrides both (`--set optimizer.learning_rate=1e-4`). Whatever does not fit (an
unknown key, a wrong type, a YAML tag, a key given twice) ends in one `ConfigError` that names file and line.
"""

import dataclasses
import difflib
import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from shared.errors import ConfigError, DataError, FieldError
from shared.files.disk import read_text, write_bytes

__all__ = [
    "check_ranges",
    "config_differences",
    "config_from_dict",
    "config_to_dict",
    "load_config",
    "save_config",
]


Config = TypeVar("Config")
KeyPath = tuple[str, ...]
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}






class CommandLineText(str):
    """The value of a `--set`: its type is known only when it meets the field it is meant for."""


@dataclasses.dataclass(frozen=True)
class Spot:
    """A key within the configuration and the file and line it came from, for error messages."""

    default_place: str
    places: Mapping[KeyPath, str]
    key: KeyPath = ()

    def child(self, name: Any) -> "Spot":
        return dataclasses.replace(self, key=(*self.key, str(name)))

    def __str__(self) -> str:
        return ".".join(self.key)

    def error(self, reason: str) -> ConfigError:
        """The error at this key's file and line, or at those of the nearest mapping or list around it."""
        around = (self.key[:length] for length in range(len(self.key), 0, -1))
        place = next((self.places[key] for key in around if key in self.places), self.default_place)
        return ConfigError(place, reason)


def load_config(config_type: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, the files it builds on by `base:`, and `key=value` overrides into `config_type`.

    `base` is relative to the file that names it. Mappings are merged key by key, lists are replaced.
    Raises ConfigError, naming file and line, for anything that does not fit the dataclass.
    """
    places: dict[KeyPath, str] = {}
    values = _read_with_base(Path(path), places, chain=())
    for text in overrides:
        _apply_override(values, text, places)
    return _to_dataclass(values, config_type, Spot(str(path), places))


def config_from_dict(config_type: type[Config], values: Mapping[str, Any], place: str) -> Config:
    """Build the dataclass from a plain dict such as the one in a checkpoint; errors name `place`."""
    return _to_dataclass(values, config_type, Spot(place, {}))


def config_to_dict(config: Any) -> dict[str, Any]:
    """Turn a (nested) dataclass into the dicts, lists, numbers, strings and None that YAML can hold."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"expected an instance of a dataclass, got {type(config).__name__}")
    return {f.name: _to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def check_ranges(config: Any, **limits: tuple[float, float]) -> None:
    """Check numbers of a dataclass, in its `__post_init__`: `check_ranges(self, steps=(1, 10_000))`.

    Both limits are allowed values; None passes, NaN does not. Raises FieldError for the first field outside.
    """
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise FieldError(name, f"must be from {low} to {high}, got {value}")


def save_config(config: Any, path: str | Path) -> None:
    """Write every value of `config`, defaults included, as YAML that `load_config` reads back equal."""
    text = yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True, width=110)
    write_bytes(path, text.encode())


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """List what differs between two plain configurations as `{"dotted.key": (old value, new value)}`."""
    differences = {}
    for key in [*old, *(key for key in new if key not in old)]:
        a, b = old.get(key, "(not set)"), new.get(key, "(not set)")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            differences |= {f"{key}.{inner}": pair for inner, pair in config_differences(a, b).items()}
        elif a != b or type(a) is not type(b):
            differences[key] = (a, b)
    return differences


# ---- reading YAML ------------------------------------------------------------------------------------------


def _read_with_base(path: Path, places: dict[KeyPath, str], chain: tuple[Path, ...]) -> dict[str, Any]:
    """Read one file and, first, the file it names as its base."""
    resolved = path.resolve()
    if resolved in chain:
        circle = " -> ".join(p.name for p in (*chain, resolved))
        raise ConfigError(str(path), f"the files name each other as base in a circle: {circle}")
    own_places: dict[KeyPath, str] = {}
    values = _read_yaml(path, own_places)
    base = values.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(own_places[("base",)], f"base must be the name of one YAML file, got {base!r}")
        base_path = path.parent / base
        if not base_path.is_file():
            raise ConfigError(own_places[("base",)], f"the base file {base_path} does not exist")
        values = _merge(_read_with_base(base_path, places, (*chain, resolved)), values)
    places.update(own_places)
    return values


def _read_yaml(path: Path, places: dict[KeyPath, str]) -> dict[str, Any]:
    try:
        text = read_text(path)
    except DataError as error:
        raise ConfigError(str(path), error.reason) from None
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            _refuse_tags_and_aliases(event, path)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        values = {} if node is None else _construct(loader, node, (), path, places)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(place, f"not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(values, dict):
        raise ConfigError(str(path), f"expected lines of the form `key: value`, got {_describe(values)}")
    return values


def _refuse_tags_and_aliases(event: yaml.Event, path: Path) -> None:
    place = f"{path}, line {event.start_mark.line + 1}"
    if getattr(event, "tag", None) is not None:
        raise ConfigError(place, f"the YAML tag {event.tag} is not allowed; write a plain value")
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise ConfigError(place, f"the YAML anchor {event.anchor} is not allowed; write the value out")


def _construct(loader: yaml.SafeLoader, node: yaml.Node, key: KeyPath, path: Path, places: dict) -> Any:
    """Build plain values from a YAML node, noting the file and line of each key."""
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, key, path, {}) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        # Dates and the like stay text, and so does 1:30, which YAML 1.1 would read as the number 90.
        if node.tag not in PLAIN_TAGS or (node.tag.endswith((":int", ":float")) and ":" in node.value):
            return node.value
        return loader.construct_object(node)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = f"{path}, line {key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(place, "a key must be a plain word")
        name = key_node.value
        if name in values:
            raise ConfigError(place, f"the key {'.'.join((*key, name))} is given twice")
        places[(*key, name)] = place
        values[name] = _construct(loader, value_node, (*key, name), path, places)
    return values


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in top.items():
        both_are_mappings = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if both_are_mappings else value
    return merged


def _apply_override(values: dict[str, Any], text: str, places: dict[KeyPath, str]) -> None:
    dotted, separator, value = text.partition("=")
    key = tuple(part.strip() for part in dotted.split("."))
    if not separator or not all(key):
        raise ConfigError(f"--set {text}", "expected key=value, with dots for nested keys, as in a.b=3")
    target = values
    for depth, name in enumerate(key[:-1], start=1):
        if not isinstance(target.get(name), dict):
            target[name] = {}
        places[key[:depth]] = f"--set {text}"
        target = target[name]
    target[key[-1]] = CommandLineText(value.strip())
    places[key] = f"--set {text}"


# ---- plain values into types -------------------------------------------------------------------------------


def _to_dataclass(values: Mapping, cls: type[Config], spot: Spot) -> Config:
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.5)
            hint = f"did you mean {spot.child(near[0])}?" if near else f"known keys: {', '.join(fields)}"
            raise spot.child(name).error(f"unknown key {spot.child(name)}; {hint}")
    arguments = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _convert(values[name], hints[name], spot.child(name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise spot.error(f"the key {spot.child(name)} is missing and has no default")
    try:  # the checks in the dataclass's own __post_init__
        return cls(**arguments)
    except FieldError as error:
        at = spot.child(error.field)
        raise at.error(f"{at} {error.reason}") from None
    except ValueError as error:
        raise spot.error(str(error)) from None


def _convert(value: Any, hint: Any, spot: Spot) -> Any:
    """Turn a plain value into the type a field asks for, or raise ConfigError."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint, spot)
    if isinstance(value, CommandLineText):
        value = _parse_command_line(value, hint, spot)
    if hint is Any or (hint is type(None) and value is None):
        return value
    if origin is Literal:
        return _choose(value, {option: option for option in options}, spot)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choose(value, {member.value: member for member in hint}, spot)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _to_dataclass(value, hint, spot)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return _convert_sequence(value, origin, options, spot)
    if origin is dict and isinstance(value, Mapping):
        return {str(name): _convert(item, options[1], spot.child(name)) for name, item in value.items()}
    if hint in SCALARS and (converted := SCALARS[hint](value)) is not None:
        return converted
    raise spot.error(f"{spot} must be {_describe_type(hint)}, got {_describe(value)}")


def _convert_union(value: Any, hint: Any, spot: Spot) -> Any:
    # None first, then an exact fit, so that `int | float` keeps 3 an int and `str | None` keeps null a None.
    options = typing.get_args(hint)
    errors = {}
    for option in sorted(options, key=lambda option: (option is not type(None), type(value) is not option)):
        try:
            return _convert(value, option, spot)
        except ConfigError as error:
            errors[option] = error
    structured = [error for option, error in errors.items() if option not in (*SCALARS, type(None))]
    if len(structured) == 1 and isinstance(value, Mapping | list):
        raise structured[0]  # it says more than "none of them fits"
    raise spot.error(f"{spot} must be {_describe_type(hint)}, got {_describe(value)}")


def _convert_sequence(value: Sequence, origin: type, options: tuple, spot: Spot) -> list | tuple:
    item_types = list(options)
    if origin is list or options[-1] is Ellipsis:
        item_types = [options[0]] * len(value)
    if len(value) != len(item_types):
        raise spot.error(f"{spot} must have {len(item_types)} entries, got {len(value)}")
    pairs = enumerate(zip(value, item_types, strict=True))
    return origin(_convert(item, hint, spot.child(index)) for index, (item, hint) in pairs)


def _parse_command_line(text: CommandLineText, hint: Any, spot: Spot) -> Any:
    """Read the text of a `--set` as YAML, unless the field wants text: then it is taken as it stands."""
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    if hint in (str, Path) or str(text) in choices:
        return str(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that does not exist
        raise spot.error(f"cannot read the value {str(text)!r} of {spot}") from None


def _choose(value: Any, choices: dict, spot: Spot) -> Any:
    for plain, chosen in choices.items():
        if value == plain and type(value) is type(plain):
            return chosen
    names = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise spot.error(f"{spot} must be one of {', '.join(names)}; got {_describe(value)}{hint}")


def _as_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:  # text too, because YAML 1.1 reads 4e-4 (no dot) as text
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _as_int(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = _as_float(value)  # so that 1e5 is a whole number too
    return int(number) if number is not None and number.is_integer() else None


SCALARS = {
    bool: lambda value: value if isinstance(value, bool) else None,
    int: _as_int,
    float: _as_float,
    str: lambda value: value if isinstance(value, str) else None,
    Path: lambda value: Path(value) if isinstance(value, str | Path) else None,
}


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"a configuration cannot hold {value!r} of type {type(value).__name__}")


# ---- words for messages ------------------------------------------------------------------------------------


def _describe(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    kinds = {Mapping: "the mapping", list: "the list", str: "the text", bool: "the truth value"}
    kind = next((name for cls, name in kinds.items() if isinstance(value, cls)), "")
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{kind} {text if len(text) < 60 else text[:57] + '...'}".strip()


def _describe_type(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    if hint in names:
        return names[hint]
    if hint is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(_describe_type(option) for option in options)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in options)
    if origin is list or (origin is tuple and options[-1] is Ellipsis):
        return f"a list of which each entry is {_describe_type(options[0])}"
    if origin is tuple:
        return f"a list of {len(options)} entries"
    if dataclasses.is_dataclass(hint) or origin is dict:
        return "a mapping (key: value)"
    return getattr(hint, "__name__", str(hint))
