"""Time and peak memory of a training step in a process of its own, so that nothing else is in the figures.

    python -m benchmarks.fresh MODULE:FUNCTION '{"argument": value}' THREADS

FUNCTION(**arguments) builds everything and returns a callable that does one step and returns its loss.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Sample

__all__ = ["in_fresh_process", "peak_memory_gb"]

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_STEPS = 1  # allocates the optimiser's moments
TIMED_STEPS = 2


def in_fresh_process(function: str, **arguments: Any) -> Sample:
    """Run `function` ("module:name") in a new interpreter with as many threads as this one.

    Memory is the peak less that of the interpreter with its libraries: weights, gradients, the optimiser's
    moments and all that a step keeps.
    """
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "benchmarks.fresh", function, json.dumps(arguments), threads]
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function} failed in its own process:\n{done.stderr[-2000:]}")
    return Sample(**json.loads(done.stdout.splitlines()[-1]))


def peak_memory_gb() -> float:
    """Peak resident memory of this process so far, in 10^9 bytes.

    Linux's ru_maxrss would start at the peak of the parent that launched this process; VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * per_unit / 1e9


def main(argv: Sequence[str]) -> None:
    function, arguments, threads = argv
    torch.set_num_threads(int(threads))
    module, name = function.split(":")
    build = getattr(importlib.import_module(module), name)
    torch.nn.Conv2d(1, 1, 3)(torch.ones(1, 1, 8, 8)).sum().backward()  # load what loads on first use
    libraries = peak_memory_gb()
    step = build(**json.loads(arguments))
    losses = [step() for _ in range(WARM_UP_STEPS)]
    start, start_cpu = time.perf_counter(), time.process_time()
    losses += [step() for _ in range(TIMED_STEPS)]
    seconds = (time.perf_counter() - start) / TIMED_STEPS
    cpu_seconds = (time.process_time() - start_cpu) / TIMED_STEPS
    memory_gb = peak_memory_gb() - libraries
    result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "memory_gb": memory_gb, "value": losses}
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
