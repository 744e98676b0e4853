"""Check a GPU against the CPU, and measure the papers' full-size training steps on it, in a few minutes.

    python -m benchmarks.gpu_check                  # writes results/gpu/<card>.json
    python -m benchmarks.gpu_check --self-test      # the CPU against itself, tiny: does all of it run?

Needs nothing but this repository. Every operation with own code runs on both devices: values and gradients
must agree, and whether a second run is the same to the bit is written down. Then a few training steps of each
paper at full size on random data, in fp32 and, where training has it, in bf16: seconds, peak memory, losses.
What fails is written down with its message, and the exit code is 2. No check begins after --minutes.
"""

if __name__ == "__main__":
    from shared.runs.command import begin

    begin()

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks import deepvoxels_cases, dfd_selfsup_cases, diffdiffdepth_cases, nvs_depth_cases
from deepvoxels.models.fast.sampling import lift, sampled_rows
from deepvoxels.models.generator import Generator
from deepvoxels.models.volume import SamplingMap
from dfd_selfsup.models.options import PsfOptions
from dfd_selfsup.models.psf import render_stack
from diffdiffdepth.models.fast.diffusion import diffuse
from diffdiffdepth.models.fast.splatting import splat
from shared.errors import RunError
from shared.files.disk import write_json
from shared.geometry.warp import backward_warp, forward_warp
from shared.quality.ssim import ssim
from shared.runs.command import command_line, make_parser, select_device

__all__ = ["check_operation", "main", "operations"]

Builds = dict[str, Callable[[], Callable[[], float]]]  # what makes a training step, by its precision
Operation = tuple[Callable[..., Any], list[Tensor], int]  # function, inputs, how many have a gradient
TOLERANCE = 2e-3  # of the largest value: TF32 is off, sums run in another order
FACTORIES = {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "randperm", "tensor"}
FACTORIES |= {"zeros"}
STEPS = 5  # of each kind, after one to warm up


def main(argv: Sequence[str] | None = None) -> None:
    parser: argparse.ArgumentParser = make_parser(__doc__)
    tiny = "on the CPU, with tiny sizes; writes nothing"
    parser.add_argument("--self-test", action="store_true", help=tiny)
    parser.add_argument("--minutes", type=float, default=8, help="no check begins later (default: 8)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: results/gpu/<card>.json")
    args = parser.parse_args(argv)
    device = select_device("cpu" if args.self_test else "cuda")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # so that differences are those of the code
    end = time.monotonic() + 60 * args.minutes
    found: dict[str, Any] = {"operations": {}, "steps": {}}
    for name, operation in operations(32 if args.self_test else 256).items():
        found["operations"][name] = _guarded(end, lambda made=operation: check_operation(*made, device))
        sys.stdout.write(f"{name:<40}{found['operations'][name]}\n")
    for name, builds in steps(tiny=args.self_test):
        found["steps"][name] = _guarded(end, lambda made=builds: _measured_steps(made, device))
        sys.stdout.write(f"{name:<40}{found['steps'][name]}\n")
    if not args.self_test:
        card = torch.cuda.get_device_name(device)
        place = Path("results/gpu") / f"{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}.json"
        write_json(args.out or place, {"card": card, "torch": torch.__version__, "tf32": False} | found)
        sys.stdout.write(f"written: {args.out or place}\n")
    checks = [(name, result) for part in found.values() for name, result in part.items()]
    wrong = [name for name, result in checks if "failed" in result or result.get("agrees") is False]
    if wrong:
        raise RunError(f"{', '.join(wrong)}: differs from the CPU or failed; the lines above say how")


def operations(side: int) -> dict[str, Operation]:
    """Every operation with own code, on inputs made on the CPU; `side` of images and maps in pixels."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    K, pose = nvs_depth_cases.camera(side), nvs_depth_cases.poses(3)[2:]
    image, depth = rand(1, 8, side, side), 1.7 + 0.6 * rand(1, 1, side, side)
    options = deepvoxels_cases.options_of(deepvoxels_cases.SMALL)
    k, cameras = deepvoxels_cases.cameras(options.image_side)
    geometry = Generator(options).geometry((0.0, 0.0, 0.0), *deepvoxels_cases.SCENE)
    lifting = geometry.lifting(k, cameras[0], options.image_side, options.feature_side)
    projection = geometry.projection(k, cameras[1], options.image_side, options.feature_side)
    features = rand(1, options.grid_features, *(options.feature_side,) * 2)
    grid = rand(1, options.grid_features, *(options.grid_side,) * 3)
    points = rand(8 * side, 2) * (side - 1), 1 + rand(8 * side), 1 + rand(8 * side)
    problem = diffdiffdepth_cases.diffusion_problem(side, side)
    return {
        "forward warp": (lambda x, *rest: forward_warp(x, *rest)[0], [image, depth, K, K, pose], 1),
        "backward warp": (lambda *x: backward_warp(*x)[0], [image, depth, K, K, pose], 2),
        "ssim": (ssim, [rand(1, 3, side, side), rand(1, 3, side, side)], 2),
        "deepvoxels: lifting": (lambda x: lift(x, [_moved(lifting, x.device)]), [features], 1),
        "deepvoxels: projection": (lambda x: sampled_rows(x[0], _moved(projection, x.device)), [grid], 1),
        "dfd_selfsup: blur": (
            lambda *x: render_stack(*x, PsfOptions(window=7)),
            [rand(1, 3, side, side), 0.5 + 4 * rand(1, 5, side, side)],
            2,
        ),
        "diffdiffdepth: splat": (lambda *x: splat(*x, (side, side), near_is_large=True), [*points], 3),
        "diffdiffdepth: diffusion": (diffuse, problem, 3),
    }


def _moved(where: SamplingMap, device: torch.device) -> SamplingMap:
    return replace(where, coords=where.coords.to(device), position=where.position.to(device), derived={})


def check_operation(
    function: Callable[..., Any], inputs: list[Tensor], differentiable: int, device: torch.device
) -> dict[str, Any]:
    """How far values and gradients on the device are from the CPU's, relative; and from a second run."""

    def run(where: torch.device) -> list[Tensor]:
        moved = [x.detach().to(where) for x in inputs]
        leaves = [x.requires_grad_() for x in moved[:differentiable]]
        found = function(*moved)
        found = [x for x in (found if isinstance(found, tuple) else (found,)) if isinstance(x, Tensor)]
        total = sum((x * torch.linspace(0.5, 1.5, x.numel()).to(x).view(x.shape)).sum() for x in found)
        return [x.detach().cpu() for x in (*found, *torch.autograd.grad(total, leaves))]

    expected, one, two = run(torch.device("cpu")), run(device), run(device)
    pairs = list(zip(one, expected, strict=True))
    difference = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in pairs)
    same = all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    return {"difference": difference, "agrees": difference < TOLERANCE, "deterministic": same}


def steps(tiny: bool) -> Iterator[tuple[str, Builds]]:
    """Training steps by name and precision: those of the full-size configurations; or the same, tiny."""
    volume = deepvoxels_cases.TINY if tiny else deepvoxels_cases.LARGE
    side, batch = (64, 2) if tiny else (256, 8)
    scene = {"side": 64, "count": 300} if tiny else {"side": 512, "count": 20_000}
    of_pairs = {"side": side, "batch": batch, "perceptual": not tiny}
    both: dict[str, Callable[[bool], Callable[[], float]]] = {
        f"deepvoxels, {volume}": lambda half: deepvoxels_cases.our_step(volume, True, gan=True, half=half),
        f"nvs_depth, {batch} x {side} px": lambda half: nvs_depth_cases.training_step(
            False, **of_pairs, half=half
        ),
        f"dfd_selfsup, 5 x {side} px": lambda half: dfd_selfsup_cases.training_step(False, side, half=half),
    }
    for name, build in both.items():
        yield name, {"fp32": partial(build, False), "bf16": partial(build, True)}
    name = f"diffdiffdepth, {scene['side']} px, one evaluation"
    yield name, {"fp32": partial(diffdiffdepth_cases.evaluation_step, True, **scene)}


def _measured_steps(builds: Builds, device: torch.device) -> dict[str, Any]:
    """Seconds, memory and losses of steps by precision; each ends with a number, for which it waits."""
    on_gpu, found = device.type == "cuda", {}
    for name, build in builds.items():
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        with _MadeOn(device):
            step = build()
            losses = [step()]
            started = time.perf_counter()
            losses += [step() for _ in range(STEPS)]
        seconds = (time.perf_counter() - started) / STEPS
        memory_gb = torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else None
        found[name] = {"seconds": seconds, "memory_gb": memory_gb, "losses": losses}
        if not all(map(math.isfinite, losses)):
            raise RunError(f"{name}: losses {losses}")
    return found


class _MadeOn(TorchFunctionMode):
    """New tensors are made on a device; those of a generator of the CPU are drawn there and moved."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in FACTORIES and kwargs.get("device") is None:
            drawn = kwargs.get("generator") is not None and kwargs["generator"].device.type == "cpu"
            kwargs["device"] = "cpu" if drawn else self.device
            return func(*args, **kwargs).to(self.device)
        return func(*args, **kwargs)


def _guarded(end: float, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if time.monotonic() > end:
        return {"left out": "no time"}
    try:
        return check()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}


if __name__ == "__main__":
    command_line(main)
