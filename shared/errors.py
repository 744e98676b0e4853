"""The errors that commands show as one message: what, why, and what to do."""

import os

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FieldError",
    "NonFiniteError",
    "RunError",
    "RunStopped",
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
    """A configuration that cannot be used; the message names the place and the reason."""

    def __init__(self, place: str, reason: str):
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class FieldError(ValueError):
    """A value of one config field that cannot be used; `load_config` adds its file and line.

    For `__post_init__`: FieldError("rate", "must be positive, got 0").
    """

    def __init__(self, field: str, reason: str):
        super().__init__(field, reason)
        self.field, self.reason = field, reason

    def __str__(self) -> str:
        return f"{self.field} {self.reason}"


class RunError(Exception):
    """A run that cannot start or go on; the message names the place, the reason and the remedy."""


class NonFiniteError(RunError):
    """A loss term or gradient became NaN or infinite; the message names it and the step."""


class RunStopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and did so after saving a checkpoint."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message, signal_number)
        self.message, self.signal_number = message, signal_number

    def __str__(self) -> str:
        return self.message
