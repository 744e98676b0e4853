"""Repeatable random numbers: seeds, generator states, and draws that depend on the step alone.

An exact resume is easiest without any state: a sample drawn through `step_generator(seed, step)` is the same
whether the run was stopped before it or not, with any number of workers. What does hold state (dropout, a
library's global draws) is kept by `rng_state`.
"""

import hashlib
import random
from typing import Any

import numpy as np
import torch

__all__ = ["LARGEST_SEED", "rng_state", "seed_everything", "set_rng_state", "step_generator"]

LARGEST_SEED = 2**32 - 1  # of NumPy


def seed_everything(seed: int, *stream: int | str) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (all devices); `stream` separates ranks."""
    mixed = _mix(seed, *stream) if stream else seed
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(mixed)


def step_generator(
    seed: int, step: int, *stream: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator whose draws depend on (seed, step, stream) alone, the same in every process.

    `stream` separates independent uses within one step, e.g. `step_generator(seed, step, "views")`.
    """
    return torch.Generator(device=device).manual_seed(_mix(seed, step, *stream))


def _mix(*parts: int | str) -> int:
    """Hash the parts to 63 bits; unlike Python's `hash` the result is the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def rng_state() -> dict[str, Any]:
    """Return the state of the global generators (CUDA's too, once in use) as tensors and plain values."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, words, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(words), gauss],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Set the global generators to what `rng_state` returned."""
    kind, keys, position, has_gauss, cached = state["numpy"]
    version, words, gauss = state["python"]
    torch.set_rng_state(state["torch"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    random.setstate((version, tuple(words), gauss))
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
