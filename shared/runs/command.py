"""The command line of every script: arguments, device, progress bar, and errors as one line."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from shared.errors import ConfigError, DataError, RunError, RunStopped

__all__ = [
    "add_checkpoint_argument",
    "add_device_argument",
    "command_line",
    "parse_eval_args",
    "parse_train_args",
    "progress_bar",
    "select_device",
]


SET_HELP = "override values of the config, e.g. optimizer.learning_rate=1e-4"
CHECKPOINT_HELP = "which checkpoint to use; best (the default) falls back to last"
DEVICE_HELP = "auto (the default) takes a CUDA device if there is one"
AddArguments = Callable[[argparse.ArgumentParser], Any]


def parse_train_args(
    doc: str | None, argv: Sequence[str] | None = None, add_arguments: AddArguments | None = None
) -> argparse.Namespace:
    """Parse the arguments every `train.py` has; with --resume and --out the config may be left out."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file, e.g. configs/quick.yaml")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=SET_HELP)
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/PAPER-CONFIG)")
    parser.add_argument("--resume", action="store_true", help="go on from the run folder's last checkpoint")
    add_device_argument(parser)
    if add_arguments is not None:
        add_arguments(parser)
    args = parser.parse_args(argv)
    if args.config is None and args.resume and args.out is not None:
        args.config = args.out / "config.yaml"
    if args.config is None:
        parser.error("--config FILE is needed (or --resume --out DIR to go on with the config saved there)")
    return args


def parse_eval_args(
    doc: str | None,
    argv: Sequence[str] | None = None,
    add_arguments: AddArguments | None = None,
    has_checkpoints: bool = True,
) -> argparse.Namespace:
    """Parse the arguments every `eval.py` has: the run folder, the device and, if wanted, the checkpoint."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder of train.py")
    if has_checkpoints:
        add_checkpoint_argument(parser)
    add_device_argument(parser)
    if add_arguments is not None:
        add_arguments(parser)
    return parser.parse_args(argv)


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help=CHECKPOINT_HELP)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=DEVICE_HELP)


def command_line(main: Callable[[], Any]) -> NoReturn:
    """Call a script's `main` and exit: a known error becomes one line on stderr and exit code 2.

    Any other error is a defect of the program and keeps its traceback. A run stopped by a signal exits as
    shells expect, with 128 + the signal's number.
    """
    try:
        main()
    except (DataError, ConfigError, RunError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except RunStopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        sys.exit(128 + stopped.signal_number)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(128 + signal.SIGINT)
    sys.exit(0)


def select_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into a device; raises RunError if CUDA is asked for and absent."""
    if name not in ("auto", "cpu", "cuda"):
        raise RunError(f"--device {name}: unknown device; choose auto, cpu or cuda")
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
