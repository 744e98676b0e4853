"""The training run: folder, device, log, checkpoints, exact resume, a clean stop.

`train.py` keeps its loop and asks a `Run` for help; nothing here calls back into a paper's code.

    with open_run(config, args, paper="deepvoxels") as run:
        state = {"model": model, "optimizer": optimizer}
        start = run.restore(state)                   # finished steps: 0, or those of checkpoints/last.pt
        for step in run.steps(start, config.steps):  # start + 1, ..., config.steps; step n is the n-th update
            terms = {"l1": ..., "gan": ...}
            run.update(step, optimizer, sum(terms.values()), terms)
            run.log(step, **terms)
            if run.every(step, config.checkpoint_every):
                run.save(step, state, score=psnr)
        run.finish({"psnr": psnr})
"""

import argparse
import contextlib
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from shared.errors import ConfigError, DataError, NonFiniteError, RunError, RunStopped
from shared.files.disk import write_bytes, write_json
from shared.files.images import encode_png, to_uint8
from shared.runs.checkpoint import (
    Checkpoint,
    first_nan,
    first_nonfinite,
    load_checkpoint,
    load_trained,
    named_tensors,
    save_checkpoint,
    unwrap,
)
from shared.runs.command import (
    keep_large_buffers,
    largest_of_group,
    noted_signals,
    peak_memory_gb,
    process_group,
    progress_bar,
    say_done,
    select_device,
)
from shared.runs.config import (
    config_differences,
    config_from_dict,
    config_to_dict,
    path_keys,
    save_config,
)
from shared.runs.folder import Log, RunFolder, data_in_place, made_by, write_results
from shared.runs.seeds import rng_state, seed_everything, set_rng_state

__all__ = ["Run", "open_run"]

MEASURED_STEPS = 4  # at the start, all but the first, tell how long a run will take
MAY_CHANGE_AT_RESUME = ("steps", "workers", "precision")  # other machinery; and all that ends in _every


@contextlib.contextmanager
def open_run(
    config: Any,
    args: argparse.Namespace,
    paper: str,
    may_change: Collection[str] = (),
    *,
    rate: Callable[[int, Any], float] | None = None,
    distributed: bool = False,
) -> Iterator["Run"]:
    """Open the run folder for this process alone; gives the `Run`.

    `config` is a dataclass with `seed` and `steps`; `args` come from `parse_train_args`. `rate(step, config)`
    is the learning rate where `steps` has a say in it; `distributed`: the loop is made for torchrun. Raises
    RunError if the folder holds a run and --resume is not given, if another process writes to it, or if it
    cannot be written; under torchrun if not `distributed`; on --resume if the config differs from the
    checkpoint's in more than `steps`, intervals (`*_every`), places of files and the dotted keys in
    `may_change`, or if other `steps` make the rate jump.
    """
    if not distributed and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(f"{paper} trains in one process; start train.py without torchrun")
    folder = RunFolder(args.out or Path("runs") / f"{paper}-{args.config.stem}")
    device = select_device(args.device, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cpu":
        keep_large_buffers()
    with process_group(device) as (rank, world_size), contextlib.ExitStack() as stack:
        if rank == 0:
            stack.enter_context(folder.opened(args.resume))
        checkpoint, changes = None, {}
        if args.resume and folder.last.exists():
            checkpoint = load_checkpoint(folder.last, paper)
            changes = _changes(checkpoint, config, {*MAY_CHANGE_AT_RESUME, *may_change}, rate)
        if rank == 0 and checkpoint is None:  # that of a resumed run changes when its data were found
            save_config(config, folder.config)
        seed_everything(config.seed, *((rank,) if rank else ()))
        run = Run(folder, config, paper, device, args, rank, world_size, checkpoint)
        stack.callback(run.close)
        for key, (old, new) in changes.items():
            run.say(f"note: {key} was {old} and is now {new}")
        if checkpoint is not None:
            stack.enter_context(data_in_place(config, "--set data.root="))
        yield run


def _changes(
    checkpoint: Checkpoint,
    config: Any,
    allowed: Collection[str],
    rate: Callable[[int, Any], float] | None,
) -> dict[str, tuple[Any, Any]]:
    """What differs from the config of the checkpoint, but for intervals; RunError if it may not."""
    trained = checkpoint.config
    with contextlib.suppress(ConfigError):  # keys newer than the checkpoint count with their defaults
        trained = config_to_dict(config_from_dict(type(config), trained, str(checkpoint.path)))
    differences = config_differences(trained, config_to_dict(config)).items()
    changes = {key: pair for key, pair in differences if not key.endswith("_every")}
    may_change = {*allowed, *path_keys(type(config))}
    listed = ", ".join(
        f"{key} was {old} and is now {new}" for key, (old, new) in changes.items() if key not in may_change
    )
    if listed:
        raise RunError(f"{checkpoint.path}: trained with another config: {listed}; choose another --out")
    if "steps" in changes and rate is not None:
        before = config_from_dict(type(config), checkpoint.config, str(checkpoint.path))
        old, new = (rate(max(checkpoint.step, 1), each) for each in (before, config))
        if not math.isclose(old, new, rel_tol=1e-9):
            reason = f"with steps={config.steps} in place of {before.steps} the learning rate after step"
            jump = f"{reason} {checkpoint.step} would jump from {old:.3g} to {new:.3g}"
            raise RunError(f"{checkpoint.path}: {jump}; train with them from the start, in another --out")
    return changes


class Run:
    """One training run: its folder, device, log and checkpoints. Made by `open_run`; only rank 0 writes.

    Public: `folder`, `config`, `device`, `rank`, `world_size`, `is_main`.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Any,
        paper: str,
        device: torch.device,
        args: argparse.Namespace,
        rank: int = 0,
        world_size: int = 1,
        checkpoint: Checkpoint | None = None,
    ):
        self.folder, self.config, self.device = folder.path, config, device
        self.rank, self.world_size, self.is_main = rank, world_size, rank == 0
        self._paths, self._paper, self._args, self._checkpoint = folder, paper, args, checkpoint
        self._state: Mapping[str, Any] = {}
        self._weights: dict[str, Tensor] = {}
        self._facts: dict[str, Any] = {}
        self._made_by = made_by(paper, args)
        self._last_step, self._saved_step = config.steps, 0
        self._best_score: float | None = None
        self._started, self._cpu_started = time.monotonic(), time.process_time()
        self._log: Log | None = None
        self._bar: tqdm | None = None

    # -- start, loop, end

    def restore(self, state: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> int:
        """Load the checkpoint of a resumed run into `state` and return the number of finished steps.

        Restores the random generators as well and drops the log entries made after the checkpoint, so that
        the run goes on as if it had never stopped. Raises CheckpointError if the checkpoint does not fit.
        `facts`, what using the network takes in addition to config and weights, go into every checkpoint.
        A new run whose config has `init_from` takes the networks' weights from there, and nothing else.
        """
        self._state, self._facts = state, dict(facts or {})
        if self._checkpoint is not None:
            self._continue_from(self._checkpoint)
            self.say(f"resuming {self.folder} after step {self._saved_step}")
        elif self._args.resume:
            self.say(f"no checkpoint in {self.folder}: starting at step 0")
        networks = {name: unwrap(item) for name, item in state.items() if isinstance(item, nn.Module)}
        if self._checkpoint is None and getattr(self.config, "init_from", ""):
            self._begin_from(load_trained(self.config.init_from, self._paper), networks)
        self._weights = {
            f"{key} of {name}": weight
            for name, network in networks.items()
            for key, weight in network.named_parameters()
        }
        if self.is_main:
            save_config(self.config, self._paths.config)
            self._log = Log(self._paths, self._saved_step)
        return self._saved_step

    def _begin_from(self, checkpoint: Checkpoint, networks: Mapping[str, nn.Module]) -> None:
        """Shipped weights hold the network alone; what else is trained, such as a critic, is then new."""
        held = {name: network for name, network in networks.items() if name in checkpoint.state}
        checkpoint.load_into(held or networks)
        fresh = [name for name in networks if name not in held]
        note = f"; new: {', '.join(fresh)}" if fresh else ""
        self.say(f"weights of {checkpoint.path} (step {checkpoint.step}){note}")

    def _continue_from(self, checkpoint: Checkpoint) -> None:
        checkpoint.load_into(self._state)
        count = len(checkpoint.rng)
        if count == self.world_size:
            with checkpoint.using("random state"):
                set_rng_state(checkpoint.rng[self.rank])
        else:  # a new stream for each process, the same at every attempt
            seed_everything(self.config.seed, self.rank, checkpoint.step)
            text = "draws differ, and the samples of a step where batch_size is one process's"
            self.say(f"note: trained by {count} processes so far, from here on by {self.world_size}: {text}")
        with checkpoint.using("progress"):
            progress = checkpoint.progress
            best, before = progress.get("best_score"), progress.get("made_by")
            self._saved_step = checkpoint.step
            self._best_score = None if best is None else float(best)
            self._started -= float(progress.get("time_s", 0.0))
            self._cpu_started -= float(progress.get("cpu_s", 0.0))
            if before is not None and self._args.config == self._paths.config:
                # The run's own copy of the config does not tell which one it was started with.
                self._made_by = before | {"set": [*before["set"], *self._made_by["set"]]}

    def steps(self, start: int, stop: int) -> Iterator[int]:
        """Yield start + 1, ..., stop, with a progress bar; Ctrl-C or SIGTERM ends the run after the step.

        The state given to `restore` is then saved and RunStopped raised. A second Ctrl-C ends it at once.
        """
        self._last_step = stop
        with noted_signals() as noted, progress_bar(start, stop, self.is_main) as self._bar:
            seconds, began = [], time.monotonic()
            for step in range(start + 1, stop + 1):
                yield step
                self._bar.update()
                if step <= start + MEASURED_STEPS:
                    seconds.append(time.monotonic() - began)
                if step == start + MEASURED_STEPS and step < stop:
                    self._say_needs(stop - step, statistics.median(seconds[1:]))
                self._check_folder()
                number = largest_of_group(max(noted, default=0), self.device)  # else others would wait
                if number:
                    if self._saved_step != step:
                        self.save(step, self._state)
                    message = f"stopped after step {step}; go on with --resume --out {self.folder}"
                    raise RunStopped(message, number)
                began = time.monotonic()

    def _say_needs(self, steps: int, seconds: float) -> None:
        """Say what the coming steps of so many seconds take, and what memory and checkpoints take."""
        minutes = steps * seconds / 60
        time_left = f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
        memory_gb = peak_memory_gb(self.device)
        memory = "" if memory_gb is None else f", {memory_gb:.1f} GB of memory"
        states = {name: item.state_dict() for name, item in self._state.items()}
        disk_mb = sum(tensor.nbytes for _, tensor in named_tensors(states)) / 1e6
        self.say(f"{steps} more steps: about {time_left}{memory}; a checkpoint takes {disk_mb:.1f} MB")

    def every(self, step: int, interval: int) -> bool:
        """Tell whether `step` is a multiple of `interval` or the last step; interval 0 means never."""
        return interval > 0 and (step % interval == 0 or step == self._last_step)

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
        self._check_terms(step, {"loss": loss, **(terms or {})}, samples)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        names = {id(weight): name for name, weight in self._weights.items()}
        weights = [(g.get("name", "weight"), w) for g in optimizer.param_groups for w in g["params"]]
        named = {names.get(id(w), f"{name} {index}"): w for index, (name, w) in enumerate(weights)}
        bad = first_nonfinite({name: w.grad for name, w in named.items() if w.grad is not None})
        if bad is not None:
            self._stop_nonfinite(step, f"the gradient of {bad} is not finite", samples)
        optimizer.step()

    def finish(self, results: Mapping[str, Any] | None = None) -> None:
        """Write `results`, if given, to eval.json with how the run was made, and say where the run is."""
        if not self.is_main:
            return
        self._check_folder()
        seconds = time.monotonic() - self._started
        if results is not None:
            cores = f"{os.cpu_count()} CPU cores ({platform.machine()})"
            on_gpu = self.device.type == "cuda"
            facts = {
                "resumed": self._checkpoint is not None,
                "processes": self.world_size,
                "seconds": round(seconds, 1),  # with the parts before an interruption, up to the checkpoint
                "cpu_seconds": round(time.process_time() - self._cpu_started, 1),  # without worker processes
                "threads": torch.get_num_threads(),
                "machine": torch.cuda.get_device_name(self.device) if on_gpu else cores,
                "torch": torch.__version__,
            }
            write_results(self.folder, results, self._made_by | facts)
        self.say(f"done after {tqdm.format_interval(seconds)}")
        report, viewer = self.folder / "report.html", f"python -m shared.show.viewer {self.folder}"
        then = f"open {report} in a browser, or look around: {viewer}"
        say_done(self.folder, then if report.exists() else "")

    def close(self) -> None:
        """Close the log; called by `open_run`."""
        if self._log is not None:
            self._log.close()

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """Wrap a network in DistributedDataParallel if there are several processes, else return it as is."""
        if self.world_size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices)

    # -- records

    def log(self, step: int, **values: Tensor | float) -> None:
        """Add the values to metrics.jsonl, the progress bar, and the boards of `Log`."""
        if self._log is None:
            return
        numbers = {name: torch.as_tensor(value).detach().item() for name, value in values.items()}
        self._log.add(step, time.monotonic() - self._started, numbers)
        if self._bar is not None:
            shown = [f"{name} {number:.4g}" for name, number in list(numbers.items())[:4]]
            self._bar.set_postfix_str("  ".join(shown), refresh=False)

    def preview(self, step: int, name: str, image: Any) -> None:
        """Write an image to previews/NAME_STEP.png: a tensor [3 or 1, H, W] in [0, 1] or uint8 [H, W, 3]."""
        if self._log is not None:
            self._check_folder()
            pixels = to_uint8(image)
            write_bytes(self._paths.previews / f"{name}_{step:07d}.png", encode_png(pixels))
            self._log.add_image(step, name, pixels)

    def say(self, text: str) -> None:
        """Write a line to stderr without breaking the progress bar."""
        if self.is_main:
            tqdm.write(text, file=sys.stderr)

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        score: float | None = None,
    ) -> None:
        """Write checkpoints/last.pt after `step`; best.pt too if `score` (higher is better) beats all before.

        `facts` are added to those given to `restore`. With several processes, call it in each: all give
        their random states, rank 0 writes. Raises NonFiniteError if a weight is not finite or any state holds
        NaN; the files on disk then stay as they are.
        """
        states = {name: item.state_dict() for name, item in state.items()}
        bad = first_nonfinite(self._weights) or first_nan(states)
        if bad is not None:
            self._stop_nonfinite(step, f"{bad} is not finite")
        rng: list = [rng_state()]
        if self.world_size > 1:
            gathered: list = [None] * self.world_size
            dist.all_gather_object(gathered, rng[0])
            rng = gathered
        is_best = score is not None and (self._best_score is None or score > self._best_score)
        best_score = float(score) if is_best else self._best_score
        if self.is_main:
            self._check_folder()
            if self._log is not None:
                self._log.sync()  # the log must not lag behind the checkpoint
            save_checkpoint(
                self._paths.last,
                state,
                paper=self._paper,
                step=step,
                config=config_to_dict(self.config),
                facts=self._facts | dict(facts or {}),
                progress={
                    "best_score": best_score,
                    "time_s": time.monotonic() - self._started,
                    "cpu_s": time.process_time() - self._cpu_started,
                    "made_by": self._made_by,
                },
                rng=rng,
                also=self._paths.best if is_best else None,
            )
        self._best_score, self._saved_step = best_score, step

    def _check_folder(self) -> None:
        """Raise RunError if the folder was removed: parts of a run would be written in its place."""
        if self._log is not None and self._log.is_removed:
            raise RunError(f"{self.folder}: the run folder was removed while the run was writing to it")

    # -- values that are not finite

    def _check_terms(self, step: int, terms: Mapping[str, Tensor], samples: Any) -> None:
        """Raise NonFiniteError naming the first term that is NaN or infinite, and what made it so."""
        means = [term.detach().float().mean().to(self.device) for term in terms.values()]
        found = dict(zip(terms, torch.stack(means).tolist(), strict=True))
        bad = next((name for name, value in found.items() if not math.isfinite(value)), None)
        if bad is None:
            return
        others = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if name != bad)
        what = f"{bad} is {found[bad]}{f' ({others})' if others else ''}"
        culprit = first_nonfinite(self._weights)
        what = f"{what}, as {culprit} is not finite" if culprit else what
        self._stop_nonfinite(step, what, samples, {name: str(value) for name, value in found.items()})

    def _stop_nonfinite(
        self, step: int, what: str, samples: Any = None, terms: Mapping[str, str] | None = None
    ) -> NoReturn:
        with contextlib.suppress(DataError):  # a full disk must not hide what is wrong
            dump = {"step": step, "terms": terms or {what: "not finite"}, "samples": samples}
            write_json(self.folder / f"nonfinite{self.rank or ''}.json", dump)
        saved = self._saved_step
        kept = f"the checkpoint of step {saved} is intact" if saved else "no checkpoint yet"
        remedy = "lower the learning rate or look at the samples of this step"
        raise NonFiniteError(f"step {step}: {what}; {kept}; {remedy}")
