"""The errors that commands show as one message: what, why, and what to do."""

import os
import textwrap

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FieldError",
    "NonFiniteError",
    "RunError",
    "RunStopped",
    "explain",
]

KEYS = "see the keys and their defaults: python -m shared.runs.keys PAPER"
LINE = 100  # characters; longer lines of `explain` are broken


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
    """A configuration that cannot be used: ConfigError(place, "reason; remedy")."""

    def __str__(self) -> str:
        return ": ".join(self.args)


class FieldError(ValueError):
    """A value of one config field that cannot be used: FieldError("rate", "must be positive, got 0").

    For `__post_init__`; `load_config` adds the file and line.
    """

    def __str__(self) -> str:
        return " ".join(self.args)


class RunError(Exception):
    """A run that cannot start or go on, in the form "what: why; what to do"."""


class NonFiniteError(RunError):
    """A loss term or gradient became NaN or infinite; the message names it and the step."""


class RunStopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and did so after saving a checkpoint."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def explain(error: Exception) -> str:
    """An error of this module as the lines that a command shows: what, why, and what to do.

    >>> print(explain(RunError("runs/a: it already holds a run; choose another --out")), end="")
    error: runs/a
      why: it already holds a run
      do:  choose another --out
    """
    if isinstance(error, DataError):
        what, why, remedy = error.path, error.reason, error.remedy
    else:
        what, reason = error.args if len(error.args) == 2 else str(error).partition(": ")[::2]
        head = reason or what  # a short one has no "what: "
        why, _, remedy = head.rpartition("; ") if "; " in head else (head, "", "")
        what, why = (what, why) if reason else (why, "")
        remedy = KEYS if isinstance(error, ConfigError) and not remedy else remedy
    parts = {"error: ": what, "  why: ": why, "  do:  ": remedy}
    wrap = {"width": LINE, "subsequent_indent": " " * 7, "break_long_words": False, "break_on_hyphens": False}
    filled = [textwrap.wrap(text, initial_indent=head, **wrap) for head, text in parts.items() if text]
    return "\n".join(line for lines in filled for line in lines) + "\n"
