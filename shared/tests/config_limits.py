"""What every paper's config has to refuse, with the key and the place it came from."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.runs.config import load_config

__all__ = ["assert_every_number_has_limits", "numbers", "refused"]


def numbers(config_type: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted keys of all numbers of a config, and whether they are whole."""
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        hint = hints[field.name]
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        for option in typing.get_args(hint) if is_union else (hint,):
            if dataclasses.is_dataclass(option):
                yield from numbers(option, f"{prefix}{field.name}.")
            elif option in (int, float):
                yield prefix + field.name, option is int


def refused(config_type: type, path: Path, override: str) -> str:
    """The error that `--set override` ends in."""
    with pytest.raises(ConfigError) as caught:
        load_config(config_type, path, [override])
    return str(caught.value)


def assert_every_number_has_limits(config_type: type, path: Path) -> None:
    """Also one that is added later."""
    for key, is_whole in numbers(config_type):
        for value in ("-1", "1e30") if is_whole else ("-1", "1e30", "inf", "-inf", "nan"):
            message = refused(config_type, path, f"{key}={value}")
            assert message.startswith(f"--set {key}={value}: "), message
            assert key in message.partition(": ")[2], message
