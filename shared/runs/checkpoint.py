"""Checkpoints: tensors and plain values in one file, written atomically, read without running any code."""

import contextlib
import dataclasses
import importlib
import math
import os
import pickle
import shutil
import typing
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.errors import CheckpointError, ConfigError, DataError, RunError
from shared.files.disk import temporary_file
from shared.runs.folder import find_checkpoint

__all__ = [
    "Checkpoint",
    "first_nan",
    "first_nonfinite",
    "load_checkpoint",
    "load_trained",
    "named_tensors",
    "save_checkpoint",
    "unwrap",
]

FORMAT = "depth-and-views checkpoint"
VERSION = 2  # 1: without `facts`
LARGEST_STEP = 2**53
DEEPEST, MOST_VALUES = 32, 2_000_000  # of nested containers; values in a file, each weight tensor being one
ANOTHER_FILE = "Name a checkpoint that train.py wrote (checkpoints/last.pt or best.pt of a run folder)"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read from its file, on the CPU.

    `step` counts finished steps. `facts` holds what the paper's object needs in addition to config and
    weights (a camera, a depth range), `progress` the run's own values (best score, seconds spent).
    """

    path: Path
    paper: str
    step: int
    config: dict[str, Any]
    facts: dict[str, Any]
    progress: dict[str, Any]
    rng: list[dict[str, Any]]
    state: dict[str, dict[str, Any]]

    @property
    def about(self) -> str:
        """What shipped weights were trained on: the first paragraph of their card; empty for a run."""
        card = self.path.with_suffix(".md")
        paragraphs = card.read_text(encoding="utf-8").split("\n\n") if card.is_file() else []
        return paragraphs[1] if len(paragraphs) > 1 else ""

    @contextlib.contextmanager
    def using(self, part: str) -> Iterator[None]:
        """For whatever is done with values of this file: any error that they cause is a CheckpointError."""
        try:
            yield
        except (DataError, ConfigError, RunError):
            raise
        except Exception as error:
            reason = f"its {part} does not fit: {type(error).__name__}: {' '.join(str(error).split())}"
            raise CheckpointError(self.path, reason, ANOTHER_FILE) from None

    def network(self, build: Callable[[], nn.Module], name: str = "model") -> nn.Module:
        """The network that `build` makes, with the weights of this file.

        It is made without memory first, and compared: a file's config can ask for any size.
        """
        with self.using("config"), torch.device("meta"):
            skeleton = build()
        self._check_shapes(name, skeleton)
        with torch.random.fork_rng(devices=[]):  # the first weights are drawn in vain
            network = build()
        self.load_into({name: network})
        return network

    def load_into(self, objects: Mapping[str, Any]) -> None:
        """Load the named states into networks, optimisers and so on; if one does not fit, nothing changes."""
        for name, target in objects.items():
            if not isinstance(self.state.get(name), dict):
                raise CheckpointError(self.path, f"it holds no state named {name!r}", ANOTHER_FILE)
            if isinstance(target, nn.Module):
                self._check_shapes(name, unwrap(target))
            elif isinstance(target, torch.optim.Optimizer):
                with self.using(f"state of {name!r}"):
                    _check_optimizer(self.state[name], target)
        # Networks come last: they were checked above, whereas the others check themselves while they load.
        for name, target in sorted(objects.items(), key=lambda item: isinstance(item[1], nn.Module)):
            with self.using(f"state of {name!r}"):
                unwrap(target).load_state_dict(self.state[name])

    def _check_shapes(self, name: str, network: nn.Module) -> None:
        states = self.state.get(name, {}), network.state_dict()
        held, wanted = ({k: tuple(v.shape) for k, v in s.items() if isinstance(v, Tensor)} for s in states)
        differences = [
            f"{key} is {held.get(key, 'missing')} in the file and {wanted.get(key, 'missing')} here"
            for key in wanted | held
            if held.get(key) != wanted.get(key)
        ]
        if differences:
            count = f" ({len(differences)} differences)" if len(differences) > 3 else ""
            reason = f"the network {name!r} has another architecture: {'; '.join(differences[:3])}{count}"
            raise CheckpointError(self.path, reason, "Use the config the checkpoint was trained with")


def _check_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError unless options are of the right kinds, and moments have their weights' shapes."""
    groups = zip(state["param_groups"], optimizer.state_dict()["param_groups"], strict=True)
    for held, wanted in groups:
        for key in (key for key in wanted if key != "params"):
            kinds = [float if type(group[key]) is int else type(group[key]) for group in (held, wanted)]
            if kinds[0] is not kinds[1]:
                raise ValueError(f"{key} is {held[key]!r}")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, moments in state["state"].items():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.ndim and moment.shape != weights[index].shape:
                shapes = f"{tuple(moment.shape)}, its weight {tuple(weights[index].shape)}"
                raise ValueError(f"{name} {index} is {shapes}")


def save_checkpoint(
    path: str | Path,
    state: Mapping[str, Any],
    *,
    paper: str,
    step: int,
    config: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    progress: Mapping[str, Any] | None = None,
    rng: list[dict[str, Any]] | None = None,
    also: str | Path | None = None,
) -> None:
    """Write the states of networks, optimisers and so on, and a header, to `path` and `also` atomically.

    Raises CheckpointError if the file cannot be written; the older file then stays as it was. Raises
    TypeError for a state that holds anything but tensors, numbers, strings, None, lists, tuples and dicts.
    """
    path = Path(path)
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "paper": paper,
        "step": step,
        "config": plain(dict(config), "config"),
        "facts": plain(dict(facts or {}), "facts"),
        "progress": plain(dict(progress or {}), "progress"),
        "rng": plain(rng or [], "rng"),
        "state": {name: plain(unwrap(item).state_dict(), name) for name, item in state.items()},
    }
    try:
        with temporary_file(path) as temporary:
            with open(temporary, "xb") as file:
                torch.save(payload, file)
                file.flush()
                os.fsync(file.fileno())
            if also is not None:
                with temporary_file(also) as second:
                    _link_or_copy(temporary, second)
    except (DataError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        cause = error.__context__ or error
        reason = error.reason if isinstance(error, DataError) else f"cannot be written ({cause})"
        remedy = "Check the free space and the write permission"
        raise CheckpointError(path, f"{reason}; the older file is intact", remedy) from None


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # exFAT and some network drives know no hard links
        shutil.copyfile(source, target)


def load_checkpoint(path: str | Path, paper: str | None = None) -> Checkpoint:
    """Read a checkpoint onto the CPU; `paper`, if given, must be its paper.

    Raises CheckpointError for a file that is missing, truncated, damaged, pickled, foreign, of another paper,
    or whose state holds NaN.
    """
    path = Path(path)
    payload = _read_archive(path)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(path, "it is a torch file, but not a checkpoint of this project", ANOTHER_FILE)
    if payload.get("version") != VERSION:
        reason = f"it has format version {payload.get('version')}, this program reads version {VERSION}"
        raise CheckpointError(path, reason, "Train again with this version, or use the one that wrote it")
    if paper is not None and payload.get("paper") != paper:
        reason = f"it was trained for the paper {payload.get('paper')!r}, not for {paper!r}"
        raise CheckpointError(path, reason, ANOTHER_FILE)
    fields = dataclasses.fields(Checkpoint)[1:]  # without the path
    kinds = {field.name: typing.get_origin(field.type) or field.type for field in fields}
    wrong = [name for name, kind in kinds.items() if type(payload.get(name)) is not kind]
    if wrong or not 0 <= payload["step"] <= LARGEST_STEP:
        raise CheckpointError(path, f"its header has no valid {', '.join(wrong) or 'step'}", ANOTHER_FILE)
    bad = first_nan(payload["state"])
    if bad is not None:
        raise CheckpointError(path, f"{bad} holds NaN", "Use an earlier checkpoint or train again")
    return Checkpoint(path, **{name: payload[name] for name in kinds})


def _read_archive(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise OSError(None, "it is a folder, a pipe or a device")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise zipfile.BadZipFile("it unpacks to more than its size")  # torch does not compress
            damaged = archive.testzip()  # torch does not look at the checksums
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged}")
        payload = torch.load(path, map_location="cpu", weights_only=True)
        _check_values(payload, {entry.file_size for entry in entries})
        return payload
    except pickle.UnpicklingError:
        reason = "it holds Python objects other than tensors and plain values, which could run foreign code"
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except Exception as error:  # damaged bytes make zipfile and torch fail in many ways
        lines = str(error).splitlines() or [type(error).__name__]
        reason = f"it is truncated, damaged or no checkpoint at all ({lines[0]})"
    raise CheckpointError(path, reason, ANOTHER_FILE)


def _check_values(payload: Any, sizes: set[int]) -> None:
    """Raise ValueError for what `save_checkpoint` never writes: other kinds of values, nesting without end,
    tensors that are larger than their bytes in the file, which are one of `sizes`."""
    waiting, count = [(payload, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > DEEPEST or count > MOST_VALUES:
            raise ValueError("its values are nested without end")
        if type(value) in (dict, OrderedDict):
            waiting += [(item, depth + 1) for pair in value.items() for item in pair]
        elif type(value) in (list, tuple):
            waiting += [(item, depth + 1) for item in value]
        elif type(value) is Tensor and value.layout is torch.strided and value.device.type == "cpu":
            held = value.untyped_storage().nbytes()
            if held not in sizes | {0} or value.numel() * value.element_size() > held:
                raise ValueError(f"a tensor {tuple(value.shape)} is not in the file")
        elif value is not None and type(value) not in (bool, int, float, str):
            raise ValueError(f"a value of type {type(value).__name__}")


def load_trained(source: str | Path, paper: str, which: str = "best") -> Checkpoint:
    """The checkpoint behind `source`: a run folder, a checkpoint file, or the name of shipped weights.

    Of a run folder `best` is taken, or `last` where the run did not validate. Shipped weights are
    <paper>/weights/NAME.pt. Needs no data set and no particular working folder. Raises CheckpointError, or
    RunError that names the weights there are.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        return load_checkpoint(find_checkpoint(source, which), paper)
    if source.is_file() or source.suffix == ".pt":
        return load_checkpoint(source, paper)
    weights = Path(importlib.import_module(paper).__file__).parent / "weights"
    if (weights / f"{source}.pt").is_file():
        return load_checkpoint(weights / f"{source}.pt", paper)
    names = ", ".join(sorted(path.stem for path in weights.glob("*.pt"))) or "none yet"
    found = f"no run folder, no checkpoint, no shipped weights (there are: {names})"
    raise RunError(f"{source}: {found}; train first (`make train-{paper}`), or name a run folder")


# ---- states and tensors ------------------------------------------------------------------------------------


def unwrap(item: Any) -> Any:
    """The network inside `DistributedDataParallel` or `torch.compile`, so that names stay the same."""
    if isinstance(item, nn.parallel.DistributedDataParallel):
        return unwrap(item.module)
    return unwrap(item._orig_mod) if hasattr(item, "_orig_mod") else item


def plain(value: Any, name: str) -> Any:
    """Reduce a state to tensors and plain values; raises TypeError naming the part that is neither."""
    if isinstance(value, Tensor):
        value = value.detach()
        is_part = value.untyped_storage().nbytes() != value.numel() * value.element_size()
        return value.clone() if is_part else value  # torch would save the whole storage behind a view
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([plain(item, f"{name}.{index}") for index, item in enumerate(value)])
    raise TypeError(f"{name}: a checkpoint cannot hold an object of type {type(value).__name__}")


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; synchronises the device once if there is none."""
    numbers = {name: t.detach() for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not numbers or math.isfinite(torch.nn.utils.get_total_norm(numbers.values())):
        return None
    # The squares of large finite numbers overflow, too.
    return next((name for name, tensor in numbers.items() if not tensor.isfinite().all()), None)


def first_nan(state: Any) -> str | None:
    """Dotted name of the first tensor with NaN in nested dicts, lists and tuples; infinity is let pass."""
    return next((name for name, tensor in named_tensors(state) if tensor.isnan().any()), None)


def named_tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dicts, lists and tuples, by dotted names."""
    if isinstance(state, Tensor):
        yield name, state
    items = dict(enumerate(state)) if isinstance(state, list | tuple) else state
    for key, item in items.items() if isinstance(items, Mapping) else ():
        yield from named_tensors(item, f"{name}.{key}" if name else str(key))
