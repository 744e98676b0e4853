"""What the training loops have in common: run folder, device, logs, checkpoints, exact resume, a clean stop.

Nothing here calls back into a paper's code: `train.py` keeps its loop and asks a `Run` for help.

    with open_run(config, args, paper="deepvoxels") as run:
        state = {"model": model, "optimizer": optimizer}
        start = run.restore(state)                   # finished steps: 0, or those of checkpoints/last.pt
        for step in run.steps(start, config.steps):  # start + 1, ..., config.steps; step n is the n-th update
            ...
            run.check_finite(step, l1=l1, gan=gan)
            ...                                      # backward
            run.check_tensors(step, weights_and_gradients(model=model))
            ...                                      # the optimiser's step
            run.log(step, l1=l1, gan=gan)
            if run.every(step, config.checkpoint_every):
                run.save(step, state, metrics={"psnr": psnr}, score=psnr)
        run.finish({"psnr": psnr})
"""

import argparse
import contextlib
import ctypes
import json
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from shared.errors import DataError, NonFiniteError, RunError, RunStopped
from shared.files.disk import jsonable, write_bytes, write_json
from shared.files.images import encode_png, to_uint8
from shared.runs.checkpoint import (
    Checkpoint,
    Stateful,
    first_nan,
    first_nonfinite,
    load_checkpoint,
    remove_stray_files,
    save_checkpoint,
)
from shared.runs.command import progress_bar, select_device
from shared.runs.config import config_differences, config_to_dict, save_config
from shared.runs.folder import (
    lock_folder,
    made_by,
    make_folder,
    read_metrics,
    refuse_existing_run,
    run_facts,
    write_results,
)
from shared.runs.seeds import rng_state, seed_everything, set_rng_state

__all__ = [
    "Run",
    "StopRequest",
    "keep_large_buffers",
    "open_run",
    "process_group",
]


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's malloc.h
LARGEST = 2**31 - 1


def keep_large_buffers() -> bool:
    """Tell glibc to reuse freed memory of any size; returns whether that was possible (Linux with glibc).

    By default every tensor above 32 MB is mapped anew, and the system clears its pages at first touch: at
    512 x 512 pixels and 64 channels this takes longer than the element-wise operation itself. The price is a
    process that does not shrink again before its end.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started; does nothing in a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # one that leaves early would cut the others' last exchange short
    finally:
        dist.destroy_process_group()


class StopRequest:
    """Whether Ctrl-C or SIGTERM has come: noted once, while `listening`; the second one acts at once."""

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0: none

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        def note(number: int, frame: Any) -> None:
            self.number = number
            signal.signal(number, previous[number])

        # None stands for a handler that was not set from Python and cannot be put back.
        previous = {n: signal.getsignal(n) or signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM)}
        if threading.current_thread() is not threading.main_thread():
            previous = {}  # only the main thread may catch signals
        try:
            for number in previous:
                signal.signal(number, note)
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def seen_by_any(self, device: torch.device) -> bool:
        """True if any process of the group was asked; all of them get the same answer after the same step."""
        if dist.is_initialized() and dist.get_world_size() > 1:  # or the others would wait for ever
            asked = torch.tensor(self.number, device=device)
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            self.number = int(asked)
        return self.number != 0


MAY_CHANGE_AT_RESUME = ("steps", "workers")  # a longer run, other machinery; and whatever ends in _every


class RunConfig(Protocol):
    """What a paper's config dataclass must have, besides its own fields."""

    seed: int
    steps: int


@contextlib.contextmanager
def open_run(
    config: RunConfig, args: argparse.Namespace, paper: str, may_change: Collection[str] = ()
) -> Iterator["Run"]:
    """Open the run folder for this process alone and hand out the `Run` that keeps it.

    `config` is a dataclass with `seed` and `steps`; `args` come from `parse_train_args`. Raises RunError if
    the folder holds a run and --resume is not given, if another process writes to it, or if it cannot be
    written; on --resume also if the config differs from the checkpoint's in more than `steps`, intervals
    (`*_every`) and the dotted keys in `may_change`.
    """
    folder = args.out or Path("runs") / f"{paper}-{args.config.stem}"
    device = select_device(args.device, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cpu":
        keep_large_buffers()
    with process_group(device), contextlib.ExitStack() as stack:
        rank = dist.get_rank() if dist.is_initialized() else 0
        if rank == 0:
            make_folder(folder)
            stack.enter_context(lock_folder(folder))
            if not args.resume:
                refuse_existing_run(folder)
        checkpoint = None
        if args.resume and (folder / "checkpoints" / "last.pt").exists():
            checkpoint = load_checkpoint(folder / "checkpoints" / "last.pt", paper)
            _refuse_changed_config(checkpoint, config, folder, may_change)
        if rank == 0:
            for place in (folder, folder / "checkpoints", folder / "previews"):
                remove_stray_files(place)
            save_config(config, folder / "config.yaml")
        seed_everything(config.seed, *((rank,) if rank else ()))
        run = Run(folder, config, paper, device, checkpoint, args)
        stack.callback(run.close)
        yield run


def _refuse_changed_config(
    checkpoint: Checkpoint, config: RunConfig, folder: Path, may_change: Collection[str]
) -> None:
    allowed = {*MAY_CHANGE_AT_RESUME, *may_change}
    differences = {
        key: pair
        for key, pair in config_differences(checkpoint.config, config_to_dict(config)).items()
        if key not in allowed and not key.endswith("_every")
    }
    if differences:
        listed = ", ".join(f"{key} was {old} and is now {new}" for key, (old, new) in differences.items())
        raise RunError(f"{folder}: this is not the config of the run: {listed}; choose another --out")


class Run:
    """One training run: its folder, device and logs. Made by `open_run`; only rank 0 writes.

    Public: `folder`, `config`, `device`, `rank`, `world_size`, `is_main`.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        paper: str,
        device: torch.device,
        checkpoint: Checkpoint | None,
        args: argparse.Namespace,
    ):
        self.folder = folder
        self.config = config
        self.paper = paper
        self.device = device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.is_main = self.rank == 0
        self._checkpoint = checkpoint
        self._is_resumed = checkpoint is not None
        self._args = args
        self._state: Mapping[str, Stateful] | None = None
        self._facts: dict[str, Any] = {}
        self._last_step = config.steps
        self._saved_step = 0
        self._best_score: float | None = None
        self._started, self._cpu_started = time.monotonic(), time.process_time()
        self._made_by = made_by(paper, args)
        self._log_file: Any = None
        self._board: Any = None
        self._bar: Any = None
        self._stop_request = StopRequest()

    # -- start, loop, end

    def restore(self, state: Mapping[str, Stateful], facts: Mapping[str, Any] | None = None) -> int:
        """Load the checkpoint of a resumed run into `state` and return the number of finished steps.

        Restores the random generators as well and drops the log entries made after the checkpoint, so that
        the run goes on as if it had never stopped. Raises CheckpointError if the checkpoint does not fit.
        `facts` go into the metrics of every checkpoint, also of the one that a signal asks for.
        """
        self._state, self._facts = state, dict(facts or {})
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None:
            if self._args.resume:
                self.say(f"no checkpoint in {self.folder}: starting at step 0")
            self._open_log(0)
            return 0
        checkpoint.load_into(state)
        if len(checkpoint.rng) == self.world_size:
            set_rng_state(checkpoint.rng[self.rank])
        else:  # another number of processes: a new stream for each, the same at every attempt
            seed_everything(self.config.seed, self.rank, checkpoint.step)
        self._saved_step = checkpoint.step
        self._best_score = checkpoint.progress["best_score"]
        self._started = time.monotonic() - checkpoint.progress["time_s"]
        self._cpu_started = time.process_time() - checkpoint.progress.get("cpu_s", 0.0)
        if "made_by" in checkpoint.progress and self._args.config == self.folder / "config.yaml":
            before = checkpoint.progress["made_by"]  # the run's own copy says nothing of where it came from
            self._made_by = before | {"set": [*before["set"], *self._made_by["set"]]}
        self._open_log(checkpoint.step)
        self.say(f"resuming {self.folder} after step {checkpoint.step}")
        return checkpoint.step

    def steps(self, start: int, stop: int) -> Iterator[int]:
        """Yield start + 1, ..., stop, with a progress bar; Ctrl-C or SIGTERM ends the run after the step.

        The state given to `restore` is then saved and RunStopped raised. A second Ctrl-C ends it at once.
        """
        self._last_step = stop
        with self._stop_request.listening(), progress_bar(start, stop, self.is_main) as self._bar:
            for step in range(start + 1, stop + 1):
                yield step
                self._bar.update()
                if self._stop_request.seen_by_any(self.device):
                    self._stop(step)

    def every(self, step: int, interval: int) -> bool:
        """Tell whether `step` is a multiple of `interval` or the last step; interval 0 means never."""
        return interval > 0 and (step % interval == 0 or step == self._last_step)

    def finish(self, results: Mapping[str, Any] | None = None) -> None:
        """Write `results`, if given, to eval.json with how the run was made, and say where the run is."""
        if not self.is_main:
            return
        seconds = time.monotonic() - self._started
        cpu_seconds = time.process_time() - self._cpu_started
        if results is not None:
            facts = {"resumed": self._is_resumed, "processes": self.world_size}
            origin = self._made_by | facts | run_facts(self.device, seconds, cpu_seconds)
            write_results(self.folder, results, origin)
        self.say(f"done after {tqdm.format_interval(seconds)}: {self.folder}")

    def close(self) -> None:
        """Close the logs; called by `open_run`."""
        if self._log_file is not None:
            with contextlib.suppress(OSError):  # a full disk was reported when the row was written
                self._log_file.close()
        if self._board is not None:
            self._board.close()

    # -- records

    def log(self, step: int, **values: Tensor | float) -> None:
        """Add the values to metrics.jsonl, the progress bar and, where installed, TensorBoard."""
        if not self.is_main:
            return
        numbers = {name: torch.as_tensor(value).detach().item() for name, value in values.items()}
        if self._log_file is None:
            self._open_log(step - 1)
        row = {"step": step, "time_s": round(time.monotonic() - self._started, 3), **jsonable(numbers)}
        with self._clear_log_errors():
            self._log_file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, number in numbers.items():
                self._board.add_scalar(name, number, step)
        if self._bar is not None:
            shown = [f"{name} {number:.4g}" for name, number in list(numbers.items())[:4]]
            self._bar.set_postfix_str("  ".join(shown), refresh=False)

    def preview(self, step: int, name: str, image: Any) -> None:
        """Write an image to previews/NAME_STEP.png: a tensor [3 or 1, H, W] in [0, 1] or uint8 [H, W, 3]."""
        if self.is_main:
            pixels = to_uint8(image)
            write_bytes(self.folder / "previews" / f"{name}_{step:07d}.png", encode_png(pixels))
            if self._board is not None:
                self._board.add_image(name, pixels, step, dataformats="HWC")

    def say(self, text: str) -> None:
        """Write a line to stderr without breaking the progress bar."""
        if self.is_main:
            tqdm.write(text, file=sys.stderr)

    # -- checkpoints

    def save(
        self,
        step: int,
        state: Mapping[str, Stateful],
        metrics: Mapping[str, Any] | None = None,
        score: float | None = None,
    ) -> None:
        """Write checkpoints/last.pt after `step`; best.pt too if `score` (higher is better) beats all before.

        With several processes, call it in each: all give their random states, rank 0 writes. Raises
        NonFiniteError if any state holds NaN or a weight infinity; the files on disk then stay as they are.
        """
        self._refuse_nonfinite_state(step, state)
        rng = [rng_state()]
        if self.world_size > 1:
            gathered: list = [None] * self.world_size
            dist.all_gather_object(gathered, rng[0])
            rng = gathered
        is_best = score is not None and (self._best_score is None or score > self._best_score)
        best_score = float(score) if is_best else self._best_score
        if self.is_main:
            if self._log_file is not None:
                with self._clear_log_errors():  # the log must not lag behind the checkpoint
                    os.fsync(self._log_file.fileno())
            save_checkpoint(
                self.folder / "checkpoints" / "last.pt",
                state,
                paper=self.paper,
                step=step,
                config=config_to_dict(self.config),
                metrics=self._facts | dict(metrics or {}),
                progress={
                    "best_score": best_score,
                    "time_s": time.monotonic() - self._started,
                    "cpu_s": time.process_time() - self._cpu_started,
                    "made_by": self._made_by,
                },
                rng=rng,
                also=self.folder / "checkpoints" / "best.pt" if is_best else None,
            )
        self._best_score, self._saved_step = best_score, step

    def check_finite(self, step: int, samples: Any = None, **terms: Tensor | float) -> None:
        """Raise NonFiniteError naming the first term that is NaN or infinite, before it can do harm.

        Give it the loss terms; `samples` (file names, indices) are written to nonfinite.json with the terms,
        to find the culprit. Synchronises the device once.
        """
        if not terms:
            return
        values = [torch.as_tensor(term, dtype=torch.float64).detach() for term in terms.values()]
        means = torch.stack([value.mean().to(self.device) for value in values])
        found = dict(zip(terms, means.tolist(), strict=True))
        bad = next((name for name, value in found.items() if not math.isfinite(value)), None)
        if bad is None:
            return
        others = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if name != bad)
        what = f"{bad} is {found[bad]}{f' ({others})' if others else ''}"
        culprit = first_nonfinite(self._weights())
        texts = {name: str(value) for name, value in found.items()}  # JSON has no word for NaN
        self._stop_nonfinite(step, f"{what}, as {culprit} is not finite" if culprit else what, texts, samples)

    def update(
        self,
        step: int,
        optimizer: torch.optim.Optimizer,
        loss: Tensor,
        terms: Mapping[str, Tensor] | None = None,
        samples: Any = None,
    ) -> None:
        """One update of what `optimizer` holds: check the terms, go backward, check the gradients, step.

        Raises NonFiniteError, naming the term or the weight, before anything is changed; `samples` (file
        names, indices) are then written to nonfinite.json. Synchronises the device twice.
        """
        self.check_finite(step, samples, **{"loss": loss, **(terms or {})})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        weights = [weight for weight in weights if weight.grad is not None]
        if not torch.stack(torch._foreach_norm([weight.grad for weight in weights])).sum().isfinite():
            names = {id(weight): name for name, weight in self._weights().items()}
            named = {f"the gradient of {names.get(id(w), 'a weight')}": w.grad for w in weights}
            self.check_tensors(step, named, samples)
        optimizer.step()

    def check_tensors(self, step: int, tensors: Mapping[str, Tensor], samples: Any = None) -> None:
        """Raise NonFiniteError naming the first tensor that holds NaN or infinity; see `check_finite`.

        With `weights_and_gradients` between backward and the optimiser's step, no network is ever spoilt.
        """
        bad = first_nonfinite(tensors)
        if bad is not None:
            self._stop_nonfinite(step, f"{bad} is not finite", {bad: "not finite"}, samples)

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """Wrap a network in DistributedDataParallel if there are several processes, else return it as is."""
        if self.world_size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices)

    # -- internals

    def _open_log(self, step: int) -> None:
        """Open metrics.jsonl for the steps after `step`, without the rows an earlier part wrote beyond it."""
        if not self.is_main:
            return
        path = self.folder / "metrics.jsonl"
        if path.exists():
            kept = [json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step]
            write_bytes(path, "".join(kept).encode())
        with self._clear_log_errors():
            self._log_file = open(path, "a", buffering=1)  # noqa: SIM115 - closed by `close`
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            purge_step = step + 1 if step else None
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=purge_step)

    @contextlib.contextmanager
    def _clear_log_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); free some space and go on with --resume"
            raise RunError(f"{self.folder / 'metrics.jsonl'}: {reason}") from None

    def _stop(self, step: int) -> NoReturn:
        if self._state is not None and self._saved_step != step:
            self.save(step, self._state)
        message = f"stopped after step {step}; go on with --resume --out {self.folder}"
        raise RunStopped(message, self._stop_request.number)

    def _weights(self) -> dict[str, Tensor]:
        """The parameters of all networks of the run, by name."""
        networks = {name: item for name, item in (self._state or {}).items() if isinstance(item, nn.Module)}
        return {
            f"{key} of {name}": parameter
            for name, network in networks.items()
            for key, parameter in network.named_parameters()
        }

    def _refuse_nonfinite_state(self, step: int, state: Mapping[str, Stateful]) -> None:
        for name, item in state.items():
            bad = first_nan(item.state_dict())
            if bad is None and isinstance(item, nn.Module):  # infinity may stand in a buffer, in no weight
                bad = first_nonfinite(dict(item.named_parameters()))
            if bad is not None:
                raise self._nonfinite_error(f"step {step}: {bad} of {name} is not finite")

    def _stop_nonfinite(self, step: int, what: str, terms: Mapping[str, str], samples: Any) -> NoReturn:
        error = self._nonfinite_error(f"step {step}: {what}")
        with contextlib.suppress(DataError):  # a full disk must not hide what is wrong
            dump = {"step": step, "terms": terms, "samples": samples}
            write_json(self.folder / f"nonfinite{self.rank or ''}.json", dump)
        raise error

    def _nonfinite_error(self, what: str) -> NonFiniteError:
        kept = f"the checkpoint of step {self._saved_step} is intact"
        remedy = "lower the learning rate or look at the samples of this step"
        return NonFiniteError(f"{what}; {kept if self._saved_step else 'no checkpoint yet'}; {remedy}")
