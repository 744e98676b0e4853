"""Scripts import this before PyTorch: until `command_line` takes over, Ctrl-C ends them in one line."""

import os
import signal
from typing import Any


def _end(number: int, frame: Any) -> None:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)  # an exception could be caught, or turned into another one, by what is imported


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored (nohup)
    signal.signal(signal.SIGINT, _end)
