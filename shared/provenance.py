"""How a run was made: stands beside its figures, so that no number lacks its command and its machine."""

import argparse
import os
import platform
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["machine_kind", "made_by", "named_overrides", "run_facts"]


def made_by(paper: str, args: argparse.Namespace) -> dict[str, Any]:
    """Config and overrides of a run; `args` are those of its train.py. Where data lies is left out."""
    return {"config": f"{paper}/configs/{args.config.name}", "set": named_overrides(args.set)}


def run_facts(device: torch.device, seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """Time and machine of a run that has just finished.

    `seconds` is wall time from the start, data and evaluation included; `cpu_seconds` that of all threads
    of this process, which lacks worker processes. Both include what an interrupted run did before, up to
    the checkpoint it went on from.
    """
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": machine_kind(device),
        "torch": torch.__version__,
    }


def named_overrides(overrides: Sequence[str]) -> list[str]:
    """The `key=value` overrides without those that only say where data lies (`...root=`)."""
    return [entry for entry in overrides if not entry.partition("=")[0].endswith("root")]


def machine_kind(device: torch.device | None = None) -> str:
    """The kind of machine in a few words: the GPU if one is used, else number and kind of CPU cores."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
