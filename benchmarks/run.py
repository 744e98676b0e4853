"""Measure every hot operation next to a plain reference and next to what you would use instead.

    python -m benchmarks.run
    python -m benchmarks.run --only shared deepvoxels/step-128 --rounds 3

A run of all cases writes benchmarks/results.json; a part of them is only printed, unless --out is given.
"""

if __name__ == "__main__":
    from shared.runs.command import begin

    begin()

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks import (
    deepvoxels_cases,
    dfd_selfsup_cases,
    diffdiffdepth_cases,
    light_field_cases,
    nvs_depth_cases,
    shared_cases,
)
from benchmarks.fresh import ROOT
from benchmarks.harness import Case, run_case
from shared.files.disk import write_json

__all__ = ["lines_of", "machine", "select", "main"]

CASES = [*shared_cases.CASES, *deepvoxels_cases.CASES, *diffdiffdepth_cases.CASES, *light_field_cases.CASES]
CASES += [*nvs_depth_cases.CASES, *dfd_selfsup_cases.CASES]
RESULTS = ROOT / "benchmarks" / "results.json"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "opencv-python-headless", "opencv-python")
LIBRARIES += ("scikit-image", "pycolmap", "pyamg")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        cases = select(CASES, args.only)
    except ValueError as error:
        sys.exit(f"error: {error}")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    start, where = time.monotonic(), machine(args.threads, args.clock)
    print(f"{where['processor']}, {args.threads} threads, load {where['load_before']:.1f}")  # noqa: T201
    results = {}
    for case in cases:
        results[case.name] = run_case(case, args.rounds, CLOCKS[args.clock])
        print("\n".join(["", *lines_of(case.name, results[case.name])]), flush=True)  # noqa: T201
    where |= {"load_after": os.getloadavg()[0], "minutes": (time.monotonic() - start) / 60}
    out = args.out or (None if args.only else RESULTS)
    if out is not None:
        write_json(out, {"machine": where, "cases": results})
        print(f"\n{out} written after {where['minutes']:.1f} minutes")  # noqa: T201


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"cases or groups of: {names}")
    parser.add_argument("--rounds", type=int, default=7, help="at most so many rounds (default 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch and OpenCV")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: processor time, for busy machines, with one thread",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="results file")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if args.clock == "cpu" and args.threads > 1:
        parser.error("--clock cpu adds up the time of all threads: give --threads 1")
    return args


def select(cases: Sequence[Case], wanted: Sequence[str]) -> list[Case]:
    """Cases by name or by group ("shared"), in their own order; all if nothing is asked for."""
    known = {name for case in cases for name in (case.name, case.name.split("/")[0])}
    for name in wanted:
        if name not in known:
            raise ValueError(f"there is no case {name!r}; there are {', '.join(sorted(known))}")
    return [case for case in cases if not wanted or {case.name, case.name.split("/")[0]} & set(wanted)]


def machine(threads: int, clock: str) -> dict[str, Any]:
    """What the figures were measured on."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "clock": clock,
        "load_before": os.getloadavg()[0],
        "commit": commit.stdout.strip() or None,
        "versions": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def lines_of(name: str, result: Mapping[str, Any]) -> list[str]:
    """One case's figures for people."""
    lines = [f"{name}: {result['what']} ({result['rounds']} rounds)"]
    width = max(len(label) for label in (*result["candidates"], *result["skipped"]))
    for number, (label, figures) in enumerate(result["candidates"].items()):
        spread = f"{duration(figures['fastest'])} to {duration(figures['slowest'])}"
        line = f"  {label:<{width}}  {duration(figures['seconds'])} per {result['unit']}  ({spread})"
        if number:
            ratio = figures["ratio"]
            line += f"  {ratio:.0%} of it" if result["parts"] else f"  {ratio:.2f} x ours"
        if "memory_gb" in figures:
            line += f"  {figures['memory_gb']:.2f} GB"
            line += f", {figures['memory_ratio']:.2f} x ours" if number else ""
        line += "".join(f"  {name} {value:.3g}" for name, value in figures.get("scores", {}).items())
        lines.append(line)
    lines += [f"  {label:<{width}}  skipped: {reason}" for label, reason in result["skipped"].items()]
    return lines + [
        f"  goal {goal['goal']}: {'met' if goal['met'] else 'MISSED'}" for goal in result["goals"]
    ]


def duration(seconds: float) -> str:
    """Three digits with a fitting unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:7.3g} {unit}"
    raise AssertionError("unreachable")


if __name__ == "__main__":
    main()
