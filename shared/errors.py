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
