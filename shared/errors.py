"""The errors that commands show as one message: what, why, and what to do."""

import os
from collections.abc import Mapping
from typing import Any

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FieldError",
    "NonFiniteError",
    "RunError",
    "RunStopped",
    "check_shape",
]


class DataError(Exception):
    """A file or folder that cannot be used; the message names it, the reason and the remedy."""

    def __init__(self, path: str | os.PathLike, reason: str, remedy: str):
        super().__init__(str(path), reason, remedy)  # all three in args, so that pickling keeps them
        self.path, self.reason, self.remedy = str(path), reason, remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}. {self.remedy}"


class CheckpointError(DataError):
    """A checkpoint that cannot be read, written or used."""


class ConfigError(Exception):
    """A configuration that cannot be used: ConfigError(place, reason)."""

    def __str__(self) -> str:
        return ": ".join(self.args)


class FieldError(ValueError):
    """A value of one config field that cannot be used: FieldError("rate", "must be positive, got 0").

    For `__post_init__`; `load_config` adds the file and line.
    """

    def __str__(self) -> str:
        return " ".join(self.args)


class RunError(Exception):
    """A run that cannot start or go on; the message names the place, the reason and the remedy."""


class NonFiniteError(RunError):
    """A loss term or gradient became NaN or infinite; the message names it and the step."""


class RunStopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and did so after saving a checkpoint."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def check_shape(
    tensor: Any, layout: str, name: str, sizes: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The sizes of `tensor` by the letters of `layout`; ValueError, naming `name`, where its shape differs.

    layout: numbers and letters such as "B 3 H W", after "..." for any leading dimensions. The same
    letter means the same size, in `sizes` as well, so that two tensors can be compared.

        >>> sizes = check_shape(torch.rand(2, 3, 4, 5), "B 3 H W", "image")
        >>> check_shape(torch.rand(2, 1, 4, 6), "B 1 H W", "depth", sizes)
        Traceback (most recent call last):
        ValueError: depth must be [2, 1, 4, 5], got [2, 1, 4, 6]
    """
    given, found = dict(sizes or {}), dict(sizes or {})
    tokens, shape = layout.split(), list(tensor.shape)
    core = tokens[tokens[0] == "..." :]
    fits = len(shape) == len(core) or (len(core) < len(tokens) and len(shape) > len(core))
    for token, size in zip(core, shape[len(shape) - len(core) :], strict=False):
        fits = fits and size == (int(token) if token.isdecimal() else found.setdefault(token, size))
    if not fits:
        wanted = ", ".join(str(given.get(token, token)) for token in tokens)
        raise ValueError(f"{name} must be [{wanted}], got {shape}")
    return found
