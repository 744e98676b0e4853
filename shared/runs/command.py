"""What every script needs: arguments, device, memory, signals, progress bar, and errors as one line."""

import argparse
import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from tqdm import tqdm

from shared.errors import ConfigError, DataError, RunError, RunStopped

__all__ = [
    "add_checkpoint_argument",
    "add_device_argument",
    "command_line",
    "keep_large_buffers",
    "largest_of_group",
    "noted_signals",
    "parse_eval_args",
    "parse_train_args",
    "process_group",
    "progress_bar",
    "select_device",
    "user_path",
]


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h
LARGEST = 2**31 - 1
DEVICES = ("auto", "cpu", "cuda", "mps")


def parse_train_args(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the arguments every `train.py` has; with --resume and --out the config may be left out."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=user_path, metavar="FILE", help="YAML file, e.g. configs/quick.yaml")
    text = "override values of the config, e.g. optimizer.learning_rate=1e-4"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("--out", type=user_path, metavar="DIR", help="run folder, or runs/PAPER-CONFIG")
    parser.add_argument("--resume", action="store_true", help="go on from the run folder's last checkpoint")
    add_device_argument(parser)
    args = parser.parse_args(argv)
    if args.config is None and args.resume and args.out is not None:
        args.config = args.out / "config.yaml"
    if args.config is None:
        parser.error("--config FILE is needed (or --resume --out DIR to go on with the config saved there)")
    return args


def parse_eval_args(
    doc: str | None,
    argv: Sequence[str] | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], Any] | None = None,
    has_checkpoints: bool = True,
) -> argparse.Namespace:
    """Parse the arguments every `eval.py` has: the run folder, the device and, if wanted, the checkpoint."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=user_path, required=True, metavar="DIR", help="run folder of train.py")
    if has_checkpoints:
        add_checkpoint_argument(parser)
    add_device_argument(parser)
    if add_arguments is not None:
        add_arguments(parser)
    return parser.parse_args(argv)


def user_path(text: str) -> Path:
    """A path of the command line; ~ is expanded, which no shell does within --out=~/run."""
    return Path(text).expanduser()


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    text = "which checkpoint to use; best (the default) falls back to last"
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help=text)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    text = "auto (the default) takes a CUDA device if there is one"
    parser.add_argument("--device", choices=DEVICES, default="auto", help=text)


def command_line(main: Callable[[], Any]) -> NoReturn:
    """Call a script's `main` and exit: a known error becomes one line on stderr and exit code 2.

    Any other error is a defect of the program and keeps its traceback. A run stopped by a signal exits as
    shells expect, with 128 + the signal's number.
    """
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in place of that of shared.interrupt
    code = 0
    try:
        main()
    except (DataError, ConfigError, RunError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        code = 2
    except RunStopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        code = 128 + stopped.signal_number
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = 128 + signal.SIGINT
    except (NotImplementedError, TypeError) as error:
        if "MPS" not in str(error):
            raise
        reason = str(error).partition(". ")[0]
        sys.stderr.write(f"error: --device mps: {reason}; use --device cpu\n")
        code = 2
    sys.exit(code)  # after the error and all that it kept alive, such as worker processes


def select_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Turn one of DEVICES into a device; raises RunError if it is asked for and absent."""
    if name not in DEVICES:
        raise RunError(f"--device {name}: unknown device; choose {', '.join(DEVICES)}")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise RunError("--device mps: PyTorch finds no Apple GPU; use --device cpu")
        return torch.device("mps")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RunError("--device cuda: PyTorch finds no CUDA device; use --device cpu, or check the driver")
    if name == "cpu" or not available:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} found"
        raise RunError(f"process {local_rank} has no CUDA device of its own ({found}); start fewer processes")
    return torch.device("cuda", local_rank)


def progress_bar(start: int, stop: int, visible: bool = True) -> tqdm:
    """A bar with rate and remaining time; where stderr is no terminal, a line every 15 seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(
        initial=start,
        total=stop,
        unit="step",
        disable=not visible,
        file=sys.stderr if terminal else _LineStream(),
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 15,
    )


class _LineStream:
    """Turns each update of a progress bar into one line."""

    def write(self, text: str) -> None:
        sys.stderr.write(text.replace("\r", "").rstrip() + "\n" if text.strip() else "")

    def flush(self) -> None:
        sys.stderr.flush()


# ---- the process: memory, signals, distributed group -------------------------------------------------------


def keep_large_buffers() -> bool:
    """Tell glibc to reuse freed memory of any size; returns whether that was possible (Linux with glibc).

    By default every tensor above 32 MB is mapped again, and the system clears its pages at first touch: at
    512 x 512 pixels and 64 channels this takes longer than the element-wise operation itself. The price is a
    process that does not shrink again before its end.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun started, if any; gives this one's rank and their number."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
        dist.barrier()  # one that leaves early would cut the others' last exchange short
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Note a Ctrl-C or SIGTERM in the list that is yielded; the second one acts as it does without this."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        signal.signal(number, previous[number])

    # None means a handler that was not set from Python and cannot be put back.
    previous = {n: signal.getsignal(n) or signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM)}
    if threading.current_thread() is not threading.main_thread():
        previous = {}  # only the main thread may catch signals
    try:
        for number in previous:
            signal.signal(number, note)
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def largest_of_group(number: int, device: torch.device) -> int:
    """The largest `number` of all processes of the group, the same in each of them."""
    if not dist.is_initialized():
        return number
    numbers = torch.tensor(number, device=device)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)
