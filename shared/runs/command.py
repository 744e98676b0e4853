"""What every script needs: arguments, device, memory, signals, progress bar, and errors in three lines.

Importing this module takes neither PyTorch nor anything else that is not in Python itself, so that a script
answers --help at once. A script begins and ends like this, with its arguments in `<paper>/arguments.py`:

    from PAPER import arguments
    from shared.runs.command import begin, command_line

    if __name__ == "__main__":
        begin(arguments.predict, __doc__)  # before the slow imports

    import torch
    ...
    if __name__ == "__main__":
        command_line(main)
"""

import argparse
import contextlib
import ctypes
import importlib
import importlib.util
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from shared.errors import ConfigError, DataError, RunError, RunStopped, explain

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

__all__ = [
    "add_checkpoint_argument",
    "add_colmap_command",
    "add_device_argument",
    "add_download_commands",
    "begin",
    "command_line",
    "find_config",
    "keep_large_buffers",
    "largest_of_group",
    "make_parser",
    "noted_signals",
    "parse_eval_args",
    "parse_table_args",
    "parse_train_args",
    "peak_memory_gb",
    "process_group",
    "progress_bar",
    "rendering",
    "say_done",
    "select_device",
    "user_path",
]

Thing = TypeVar("Thing")
Parse = Callable[[str | None, Sequence[str] | None], argparse.Namespace]
CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h
LARGEST = 2**31 - 1
BACKBONES = ("alexnet", "vgg16", "vgg19", "resnet18")
DEVICES = ("auto", "cpu", "cuda", "mps")


# ---- arguments ---------------------------------------------------------------------------------------------


def begin(parse: Parse | None = None, doc: str | None = None) -> None:
    """Answer --help and wrong arguments, then say that the script starts: loading PyTorch takes seconds.

    Without `parse` the script reads its arguments itself, later.

    Where PyTorch is missing, which is how a forgotten activation shows, the program ends and says what to do.
    OpenMP's threads are told to sleep while they wait for each other, unless OMP_WAIT_POLICY is set: as they
    spin by default, they take time from each other where other programs run. Two threads on two processors,
    medians in seconds per step of the quick runs, spinning and asleep: light field 0.32 and 0.30 on a quiet
    machine, 0.80 and 0.41 next to two busy programs; DeepVoxels 0.60 and 0.62, 14.3 and 1.57
    (results/deepvoxels/tried/waiting_threads.json).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when PyTorch is loaded
    importlib.import_module("shared.interrupt")  # Ctrl-C ends in one line during the imports, too
    if parse is not None:
        parse(doc, None)
    elif {"-h", "--help"} & set(sys.argv):
        return
    if importlib.util.find_spec("torch") is None:
        remedy = "source .venv/bin/activate (made by `make setup`), or activate your conda environment"
        sys.stderr.write(explain(DataError(sys.executable, "this Python has no PyTorch", remedy)))
        sys.exit(2)
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write("starting ...\n")


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose --help shows the docstring as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def find_config(configs: Path) -> Callable[[str], Path]:
    """What turns the value of --config into a path: a file, or the name of one in the folder `configs`."""

    def find(text: str) -> Path:
        path = user_path(text)
        named = configs / f"{text}.yaml"
        if path.suffix or path.exists() or len(path.parts) != 1:
            return path
        if not named.is_file():
            known = ", ".join(sorted(file.stem for file in configs.glob("*.yaml")))
            raise argparse.ArgumentTypeError(f"there is no config {text!r}: name a file, or one of {known}")
        return named

    return find


def _add_set(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)


def parse_train_args(
    doc: str | None, argv: Sequence[str] | None = None, configs: Path = Path("configs")
) -> argparse.Namespace:
    """Parse the arguments every `train.py` has; with --resume and --out the config may be left out."""
    parser = make_parser(doc)
    text = "YAML file, or the name of one in configs/, as in --config quick"
    parser.add_argument("--config", type=find_config(configs), metavar="FILE", help=text)
    _add_set(parser, "override values of the config, e.g. optimizer.learning_rate=1e-4")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", help="run folder (default: runs/PAPER-CONFIG)"
    )
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
    parser = make_parser(doc)
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


def parse_table_args(
    doc: str | None,
    argv: Sequence[str] | None = None,
    *,
    config: Path,
    out: Path,
    rows: Collection[str],
    chosen: Collection[str] | None = None,
    seeds: Sequence[int] | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], Any] | None = None,
) -> argparse.Namespace:
    """Parse the arguments every `table.py` has; `chosen` and `seeds` are trained if none are named."""
    parser = make_parser(doc)
    default = list(rows if chosen is None else chosen)
    add = parser.add_argument
    add("--config", type=find_config(config.parent), default=config, metavar="FILE", help="of all rows")
    _add_set(parser, "override values of all rows, as in train.py")
    add("--out", type=user_path, default=out, metavar="DIR", help=f"folder of the runs (default: {out})")
    help_rows = f"train only these of: {', '.join(rows)} (default: {', '.join(default)})"
    add("--rows", nargs="+", choices=list(rows), default=default, metavar="ROW", help=help_rows)
    if seeds is not None:
        help_seeds = "train every row once with each"
        add("--seeds", nargs="+", type=int, default=list(seeds), metavar="N", help=help_seeds)
    add_device_argument(parser)
    if add_arguments is not None:
        add_arguments(parser)
    return parser.parse_args(argv)


def add_colmap_command(commands: Any, text: str, camera_models: Sequence[str] = CAMERA_MODELS) -> None:
    """Add `prepare.py colmap`, which finds cameras, to `commands`, what `add_subparsers` returned."""
    colmap: argparse.ArgumentParser = commands.add_parser("colmap", help=text)
    help_photos = "folder of photos, with sub-folders; or a film"
    colmap.add_argument("photos", type=user_path, metavar="PHOTOS", help=help_photos)
    colmap.add_argument("--every", default="0.5s", metavar="SECONDS", help="of a film: from frame to frame")
    colmap.add_argument(
        "--out", type=user_path, required=True, metavar="DIR", help="new folder for the scene"
    )
    colmap.add_argument("--camera-model", default="RADIAL", choices=camera_models)
    matching = {"default": "exhaustive", "choices": ("exhaustive", "sequential")}
    colmap.add_argument("--matching", **matching, help="sequential: video frames in the order of their names")
    colmap.add_argument("--max-image-side", type=int, default=1600, metavar="PX", help="for finding features")
    colmap.add_argument("--threads", type=int, default=-1, metavar="N", help="all cores by default")
    colmap.add_argument("--seed", type=int, default=0)


def add_download_commands(commands: Any) -> None:
    """Add `prepare.py fetch` and `prepare.py weights` to `commands`, what `add_subparsers` returned."""
    fetch = commands.add_parser("fetch", help="download a published data set, or say how to get it")
    fetch.add_argument("name", nargs="?", metavar="NAME", help="default: list them")
    fetch.add_argument("--out", type=user_path, metavar="DIR", help="new folder for it (default: data/NAME)")
    fetch.add_argument("--accept-licence", action="store_true", help="do not ask at the terminal")
    weights = commands.add_parser("weights", help="download a network trained on ImageNet")
    text = f"of {', '.join(BACKBONES)} (default: {BACKBONES[0]}, which LPIPS takes; 244 MB)"
    choose = {"nargs": "?", "default": BACKBONES[0], "choices": BACKBONES}
    weights.add_argument("network", metavar="NETWORK", help=text, **choose)


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    text = "which checkpoint to use; best (the default) falls back to last"
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help=text)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    text = "auto (the default) takes a CUDA device if there is one"
    parser.add_argument("--device", choices=DEVICES, default="auto", help=text)


# ---- start and end -----------------------------------------------------------------------------------------


def command_line(main: Callable[[], Any]) -> NoReturn:
    """Call a script's `main` and exit: a known error becomes three lines on stderr and exit code 2.

    Any other error is a defect of the program and keeps its traceback. A run stopped by a signal exits as
    shells expect, with 128 + the signal's number.
    """
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in place of that of shared.interrupt
    code = 0
    try:
        main()
    except (DataError, ConfigError, RunError) as error:
        sys.stderr.write(explain(error))
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
        sys.stderr.write(explain(RunError(f"--device mps: {reason}; use --device cpu")))
        code = 2
    sys.exit(code)  # after the error and all that it kept alive, such as worker processes


def say_done(written: str | Path, then: str = "") -> None:
    """The last lines of a command, on stderr: what was written (or "", if nothing), and what to do then."""
    sys.stdout.flush()  # it comes before
    sys.stderr.write((f"written: {written}\n" if written else "") + (f"next:    {then}\n" if then else ""))


def select_device(name: str = "auto", local_rank: int = 0) -> "torch.device":
    """Turn one of DEVICES into a device; raises RunError if it is asked for and absent.

    On CUDA, convolutions in float32 round their inputs to TF32 (10 bits), as PyTorch does by default; matrix
    products, of which geometry is made, do not. It is set here, as PyTorch's defaults have changed before.
    """
    import torch  # here, as everywhere in this module, so that --help does not wait for it

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
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    return torch.device("cuda", local_rank)


def progress_bar(start: int, stop: int, visible: bool = True, unit: str = "step") -> "tqdm":
    """A bar with rate and remaining time; where stderr is no terminal, a line every 15 seconds."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(
        initial=start,
        total=stop,
        unit=unit,
        unit_scale=unit == "B",
        disable=not visible,
        file=sys.stderr if terminal else _LineStream(),
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 15,
    )


def rendering(things: Iterable[Thing], count: int, unit: str = "view") -> Iterator[Thing]:
    """The things themselves, with a progress bar for data that are made on first use."""
    with progress_bar(0, count, unit=f" {unit}") as bar:
        for thing in things:
            yield thing
            bar.update()


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


def peak_memory_gb(device: "torch.device") -> float | None:
    """The most memory that a CUDA device, else this process (Linux only), has held, in 10^9 bytes."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024e-9 for line in lines if line.startswith("VmHWM")), None)


@contextlib.contextmanager
def process_group(device: "torch.device") -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun started, if any; gives this one's rank and their number."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Others wait for rank 0 while it evaluates alone, which may take hours.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=24))
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


def largest_of_group(number: int, device: "torch.device") -> int:
    """The largest `number` of all processes of the group, the same in each of them."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return number
    numbers = torch.tensor(number, device=device)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)
