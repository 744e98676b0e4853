"""Checkpoints: tensors and plain values in one file, written whole or not at all, read without running code.

A checkpoint is a torch archive of one dict: a header (format, version, paper, step, config, the fingerprint
of each network), the state dicts and the state of the random generators. It is read with `weights_only=True`;
a file that is pickled, truncated, foreign or of another network ends in one `CheckpointError` that leaves all
as it was.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import math
import os
import pickle
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from shared.errors import CheckpointError, RunError
from shared.runs.folder import find_checkpoint

__all__ = [
    "Checkpoint",
    "Stateful",
    "fingerprint",
    "first_nan",
    "first_nonfinite",
    "load_checkpoint",
    "load_trained",
    "remove_stray_files",
    "save_checkpoint",
    "weights_and_gradients",
]


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; synchronises the device once if there is none."""
    numbers = {name: t.detach() for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not numbers:
        return None
    if math.isfinite(torch.nn.utils.get_total_norm(numbers.values())):  # L2: ten times as fast as the largest
        return None
    # Also squares of large finite numbers overflow.
    return next((name for name, tensor in numbers.items() if not tensor.isfinite().all()), None)


def weights_and_gradients(**networks: nn.Module) -> dict[str, Tensor]:
    """The parameters of the networks and their gradients, under names to be read in an error message."""
    tensors = {}
    for name, network in networks.items():
        inner = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        parameters = dict(inner.named_parameters())
        tensors |= {f"{key} of {name}": parameter for key, parameter in parameters.items()}
        tensors |= {
            f"the gradient of {key} of {name}": parameter.grad
            for key, parameter in parameters.items()
            if parameter.grad is not None
        }
    return tensors


def first_nan(state: Any, name: str = "") -> str | None:
    """Dotted name of the first tensor with NaN in nested dicts, lists and tuples; infinity is let pass."""
    return next((where for where, tensor in _tensors(state, name) if tensor.isnan().any()), None)


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}.{index}" if name else str(index))


FORMAT = "depth-and-views checkpoint"
VERSION = 1
ANOTHER_FILE = "Name a checkpoint that train.py wrote (checkpoints/last.pt or best.pt of a run folder)"
COPY_AGAIN = "Copy it again from where it came from, or use the other checkpoint of the run"




class Stateful(Protocol):
    """What a checkpoint can keep: a network, an optimiser, a scheduler, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read from its file, on the CPU.

    `step` counts finished steps. `progress` holds the run's own plain values (best score, seconds spent).
    """

    path: Path
    paper: str
    step: int
    config: dict[str, Any]
    architecture: dict[str, str]
    metrics: dict[str, Any]
    progress: dict[str, Any]
    rng: list[dict[str, Any]]
    state: dict[str, dict[str, Any]]

    def load_into(self, objects: Mapping[str, Stateful]) -> None:
        """Load the named states into networks, optimisers and so on; if one does not fit, nothing changes."""
        for name, target in objects.items():
            if name not in self.state:
                reason = f"it holds no state named {name!r}, only {', '.join(self.state)}"
                raise CheckpointError(self.path, reason, ANOTHER_FILE)
            if isinstance(target, nn.Module):
                self._check_architecture(name, unwrap(target))
        # Networks come last: they were checked above, whereas the others check themselves while they load.
        for name, target in sorted(objects.items(), key=lambda item: isinstance(item[1], nn.Module)):
            try:
                unwrap(target).load_state_dict(self.state[name])
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                reason = f"the state of {name!r} does not fit: {' '.join(str(error).split())}"
                raise CheckpointError(self.path, reason, ANOTHER_FILE) from None

    def _check_architecture(self, name: str, module: nn.Module) -> None:
        held, wanted = tensor_shapes(self.state[name]), tensor_shapes(module.state_dict())
        differences = [
            f"{key} is {held.get(key, 'missing')} in the file and {wanted.get(key, 'missing')} here"
            for key in [*wanted, *(key for key in held if key not in wanted)]
            if held.get(key) != wanted.get(key)
        ]
        if differences:
            shown = "; ".join(differences[:3])
            more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
            reason = f"the network {name!r} has another architecture: {shown}{more}"
            raise CheckpointError(self.path, reason, "Use the config the checkpoint was trained with")


def save_checkpoint(
    path: str | Path,
    state: Mapping[str, Stateful],
    *,
    paper: str,
    step: int,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    progress: Mapping[str, Any] | None = None,
    rng: list[dict[str, Any]] | None = None,
    also: str | Path | None = None,
) -> None:
    """Write the states and a header to `path` in one step, and under the name `also` if that is given.

    Raises CheckpointError if the file cannot be written; the older file then stays as it was. Raises
    TypeError for a state that holds anything but tensors, numbers, strings, None, lists, tuples and dicts.
    """
    path = Path(path)
    states = {name: plain(unwrap(item).state_dict(), name) for name, item in state.items()}
    networks = [name for name, item in state.items() if isinstance(item, nn.Module)]
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "paper": paper,
        "step": step,
        "config": plain(dict(config), "config"),
        "architecture": {name: fingerprint(states[name]) for name in networks},
        "metrics": plain(dict(metrics or {}), "metrics"),
        "progress": plain(dict(progress or {}), "progress"),
        "rng": plain(rng or [], "rng"),
        "state": states,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _written_whole(path, also) as file:
            torch.save(payload, file)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        reason = f"cannot be written ({getattr(cause, 'strerror', None) or error}); the older file is intact"
        raise CheckpointError(path, reason, "Check the free space and the write permission") from None


@contextlib.contextmanager
def _written_whole(path: Path, also: str | Path | None) -> Iterator[BinaryIO]:
    """Open a temporary neighbour; at the end force it to the disk and give it its name (or names)."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    second = temporary.with_suffix(".second.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if also is not None:
            os.link(temporary, second)
            os.replace(second, also)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        second.unlink(missing_ok=True)


def load_checkpoint(path: str | Path, paper: str | None = None) -> Checkpoint:
    """Read a checkpoint onto the CPU without running code from it; `paper`, if given, must be its paper.

    Raises CheckpointError for a file that is missing, truncated, damaged, pickled, foreign, of another paper,
    or whose state holds NaN.
    """
    path = Path(path)
    payload = _read_archive(path)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(path, "it is a torch file, but not a checkpoint of this project", ANOTHER_FILE)
    if payload.get("version") != VERSION:
        reason = f"it has format version {payload.get('version')}, this program reads version {VERSION}"
        raise CheckpointError(path, reason, "Use the version of this project that wrote it")
    if paper is not None and payload.get("paper") != paper:
        reason = f"it was trained for the paper {payload.get('paper')!r}, not for {paper!r}"
        raise CheckpointError(path, reason, ANOTHER_FILE)
    names = [field.name for field in dataclasses.fields(Checkpoint) if field.name != "path"]
    missing = [name for name in names if name not in payload]
    if missing:
        raise CheckpointError(path, f"its header lacks {', '.join(missing)}", COPY_AGAIN)
    checkpoint = Checkpoint(path=path, **{name: payload[name] for name in names})
    for name in checkpoint.architecture:
        _check_network(checkpoint, name)
    bad = first_nan(checkpoint.state)
    if bad is not None:
        raise CheckpointError(path, f"{bad} holds NaN", "Use an earlier checkpoint or train again")
    return checkpoint


def load_trained(source: str | Path, paper: str, which: str = "best") -> Checkpoint:
    """The checkpoint behind `source`: a run folder, a checkpoint file, or the name of shipped weights.

    Of a run folder `best` is taken, or `last` where the run did not validate. Shipped weights are
    <paper>/weights/NAME.pt. Touches no data set and does not care about the working folder. Raises
    CheckpointError or RunError, which names the weights that there are.
    """
    source = Path(source).expanduser()
    weights = Path(importlib.import_module(paper).__file__).parent / "weights"
    if source.is_dir():
        return load_checkpoint(find_checkpoint(source, which), paper)
    if source.is_file() or source.suffix == ".pt":
        return load_checkpoint(source, paper)
    if (weights / f"{source}.pt").is_file():
        return load_checkpoint(weights / f"{source}.pt", paper)
    names = ", ".join(sorted(path.stem for path in weights.glob("*.pt"))) or "none yet"
    raise RunError(f"{source}: no run folder, no checkpoint, no shipped weights (there are: {names})")


def _read_archive(path: Path) -> Any:
    """Read a torch zip archive whose checksums agree, with tensors and plain values only."""
    if not path.is_file():
        raise CheckpointError(path, "there is no such file", ANOTHER_FILE)
    try:
        with zipfile.ZipFile(path) as archive:
            inside = {Path(name).name for name in archive.namelist()}
            if "data.pkl" not in inside or "constants.pkl" in inside:  # the latter is a TorchScript program
                raise CheckpointError(path, "it is a zip archive, but no checkpoint", ANOTHER_FILE)
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise CheckpointError(path, "it is compressed, as no checkpoint is", ANOTHER_FILE)
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(path, f"it is damaged (checksum of {damaged})", COPY_AGAIN)
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except zipfile.BadZipFile:
        raise CheckpointError(path, "it is truncated, or no checkpoint at all", COPY_AGAIN) from None
    except pickle.UnpicklingError:
        reason = "it holds Python objects besides tensors and plain values, which could run foreign code"
        raise CheckpointError(path, reason, ANOTHER_FILE) from None
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        raise CheckpointError(path, reason, "Check that the file is complete and readable") from None
    except Exception as error:  # noqa: BLE001 - a parser of damaged bytes may fail in any way
        lines = str(error).splitlines() or [type(error).__name__]
        reason = f"it is no readable torch file ({lines[0]})"
        raise CheckpointError(path, reason, ANOTHER_FILE) from None


def _check_network(checkpoint: Checkpoint, name: str) -> None:
    state = checkpoint.state.get(name)
    if state is None or fingerprint(state) != checkpoint.architecture[name]:
        reason = f"the state of {name!r} is not the one its header describes"
        raise CheckpointError(checkpoint.path, reason, COPY_AGAIN)


def tensor_shapes(state: Mapping[str, Any]) -> dict[str, str]:
    """Describe each tensor of a state dict in words, as in `{"0.weight": "(64, 3, 4, 4)"}`."""
    return {key: str(tuple(value.shape)) for key, value in state.items() if isinstance(value, Tensor)}


def fingerprint(state: Mapping[str, Any]) -> str:
    """Hash the names and shapes of a network's tensors to 16 hexadecimal digits, whatever their order."""
    lines = sorted(f"{key} {shape}" for key, shape in tensor_shapes(state).items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def unwrap(item: Any) -> Any:
    """Return the network inside `DistributedDataParallel` or `torch.compile`, so that names stay the same."""
    while True:
        if isinstance(item, nn.parallel.DistributedDataParallel):
            item = item.module
        elif hasattr(item, "_orig_mod"):  # the wrapper that torch.compile puts around a module
            item = item._orig_mod
        else:
            return item


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
        items = [plain(item, f"{name}.{index}") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(f"{name}: a checkpoint cannot hold an object of type {type(value).__name__}")


def remove_stray_files(folder: str | Path) -> list[Path]:
    """Delete the temporary files that a killed process left in `folder`; for the holder of the lock only."""
    names = (*Path(folder).glob(".*.tmp"), *Path(folder).glob(".*.tmp.*"))  # the latter keep a video's suffix
    stray = [path for path in names if path.is_file()]
    for path in stray:
        path.unlink(missing_ok=True)
    return stray
