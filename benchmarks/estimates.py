"""What full-size runs on the published data would cost on a GPU: an estimate from counts; nothing ran on one.

    python -m benchmarks.estimates           # a few minutes on the CPU; writes results/estimates.json

One training step of each full-size configuration is carried out on random data, and counted: operations of
convolutions and matrix products, bytes that all operations read and write as PyTorch runs them one by one,
how many operations, and what autograd keeps. A card gets through them between two bounds:

    fast   the longest of the three, as if they overlapped, at 40 % of the peak and 80 % of the bandwidth, and
           5 microseconds to start an operation
    slow   their sum, at 20 %, 50 % and 10 microseconds

Bytes are counted in float32, also where convolutions are halved. Reading the data is not in it, nor are
validation and the evaluation at the end.
"""

if __name__ == "__main__":
    from shared.runs.command import begin

    begin()

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import deepvoxels_cases, dfd_selfsup_cases, nvs_depth_cases
from deepvoxels.config import TrainConfig as VolumeConfig
from dfd_selfsup.config import TrainConfig as FocusConfig
from nvs_depth.config import TrainConfig as PairConfig
from shared.files.disk import write_json
from shared.runs.command import command_line, make_parser, say_done
from shared.runs.config import load_config

__all__ = ["Counts", "count", "hours", "main"]

CARD = "A100, 80 GB"
PEAK = {"bfloat16": 312e12, "float32": 156e12}  # operations per second; float32 is TF32
BANDWIDTH = 2.0e12  # bytes per second
# shares of peak and bandwidth, seconds to start an operation
FAST, SLOW = (0.4, 0.8, 5e-6), (0.2, 0.5, 10e-6)
STATES = 12  # bytes per parameter: its gradient and Adam's two moments


class Counts(NamedTuple):
    """Of one training step: operations (a multiply-add is two), bytes moved, kernels started, bytes held."""

    flops: float
    moved: float
    starts: int
    held: float


class Full(NamedTuple):
    """A full-size configuration: how often its run is needed, a step of it, and its data."""

    config: str
    config_class: type
    runs: int
    step: Callable[[], Callable[[], float]]
    data: str
    times: int = 1  # the batch of the configuration is that of the step so many times


def volume_step() -> Callable[[], float]:
    return deepvoxels_cases.our_step(deepvoxels_cases.LARGE, True, gan=True)


def pairs_step() -> Callable[[], float]:
    return nvs_depth_cases.training_step(False, 256, 8, perceptual=True)


def stacks_step() -> Callable[[], float]:
    return dfd_selfsup_cases.training_step(False, 256, stacks=2)


FULL = {
    "deepvoxels: four scenes": Full(
        "deepvoxels/configs/official.yaml",
        VolumeConfig,
        4,
        volume_step,
        "5,916 pictures of 512 px: at most 4.7 GB, without depth",
    ),
    "nvs_depth: chairs": Full(
        "nvs_depth/configs/shapenet_chairs.yaml",
        PairConfig,
        1,
        pairs_step,
        "50,184 pictures of 512 px with depth: at most 39 GB, and 53 GB for a channel of depth",
    ),
    "nvs_depth: cars": Full(
        "nvs_depth/configs/shapenet_cars.yaml",
        PairConfig,
        1,
        pairs_step,
        "252,936 pictures of 512 px with depth: at most 199 GB, and 265 GB for a channel of depth",
    ),
    "nvs_depth: KITTI": Full(
        "nvs_depth/configs/kitti_eigen.yaml", PairConfig, 1, pairs_step, "175 GB of raw drives"
    ),
    "dfd_selfsup: NYUv2": Full(
        "dfd_selfsup/configs/nyuv2.yaml",
        FocusConfig,
        1,
        stacks_step,
        "2.8 GB, and at most 4.8 GB for the stacks made from it",
        times=16,
    ),
}


class _Moved(TorchDispatchMode):
    """Sums the bytes that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.starts = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [returned.alias_info for returned in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        if not is_view and not func._schema.name.startswith("aten::empty"):
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(min(x.nbytes, x.untyped_storage().nbytes()) for x in tensors)
            self.starts += 1
        return result


def count(step: Callable[[], float]) -> Counts:
    """Carry a step out, a second time so that the optimiser has its state, and count it."""
    weights: dict[int, int] = {}  # bytes of storages, by address
    kept: dict[int, int] = {}

    def note_weights(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            weights.update(
                (x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) for x in group["params"]
            )

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hook = register_optimizer_step_pre_hook(note_weights)
    step()
    hook.remove()
    noted = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with noted, FlopCounterMode(display=False) as counter, _Moved() as moved:
        step()
    held = sum((kept | weights).values()) + STATES / 4 * sum(weights.values())
    return Counts(counter.get_total_flops(), moved.bytes, moved.starts, held)


def hours(counts: Counts, precision: str, steps: int) -> tuple[float, float]:
    """Between how many hours a card takes for `steps` of them: (fast, slow), as above."""
    times = [
        [counts.flops / PEAK[precision] / peak, counts.moved / BANDWIDTH / width, counts.starts * start]
        for peak, width, start in (FAST, SLOW)
    ]
    return max(times[0]) * steps / 3600, sum(times[1]) * steps / 3600


def main(argv: Sequence[str] | None = None) -> None:
    parser: argparse.ArgumentParser = make_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/estimates.json"), metavar="FILE")
    args = parser.parse_args(argv)
    counted: dict[Callable, Counts] = {}
    rows: dict[str, Any] = {}
    for name, full in FULL.items():
        sys.stderr.write(f"{name} ...\n")
        config = load_config(full.config_class, full.config)
        if full.step not in counted:
            counted[full.step] = count(full.step())
        flops, moved, starts, held = counted[full.step]
        counts = Counts(full.times * flops, full.times * moved, starts, full.times * held)
        fast, slow = hours(counts, config.precision, config.steps * full.runs)
        rows[name] = {
            "config": full.config,
            "steps": config.steps,
            "runs": full.runs,
            "precision": config.precision,
            "tera_operations_per_step": counts.flops / 1e12,
            "gigabytes_moved_per_step": counts.moved / 1e9,
            "kernels_per_step": counts.starts,
            "gigabytes_held": counts.held / 1e9,
            "hours": [fast, slow],
            "data": full.data,
        }
        sys.stdout.write(f"{name}: {rows[name]}\n")
    write_json(args.out, {"card": CARD, "what": (__doc__ or "").partition("\n")[0], "rows": rows})
    say_done(args.out, "make results")


if __name__ == "__main__":
    command_line(main)
