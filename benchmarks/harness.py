"""Measure several ways of doing the same work in turn, after checking that they agree; keep the ratios.

A `Case` prepares a `Trial`: candidates by label, the first of which is ours. Every candidate runs once to
warm up and to show its result; then all are measured in turn, round after round (A B A B ...), so that a
change of the machine's mood meets all of them. A candidate may measure itself, in a process of its own for
example, by returning a `Sample`; what it does then is not repeated to warm up.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = ["Case", "DisagreementError", "Goal", "Sample", "Trial", "run_case"]

SHORTEST = 0.02  # seconds; quicker work is repeated within one measurement


class DisagreementError(Exception):
    """Two candidates of one case do different work: their times must not be compared."""


@dataclass(frozen=True)
class Sample:
    """What a candidate measured of itself: seconds, also of the processor, peak memory, and its result."""

    seconds: float
    cpu_seconds: float = math.nan
    memory_gb: float | None = None
    value: Any = None


@dataclass(frozen=True)
class Goal:
    """A bound on one of a candidate's figures; ratios are to ours."""

    label: str
    figure: Literal["ratio", "memory_ratio", "seconds", "memory_gb"]
    at_least: float = -math.inf
    at_most: float = math.inf

    def __str__(self) -> str:
        low = "" if self.at_least == -math.inf else f" at least {self.at_least:g}"
        high = "" if self.at_most == math.inf else f" at most {self.at_most:g}"
        return f"{self.label}: {self.figure.replace('_', ' ')}{low}{high}"


@dataclass
class Trial:
    """Candidates for the same work, ours first, with everything they need already made.

    `difference(other, ours)` of two results must not exceed `tolerance`; without it, `differences` holds what
    `prepare` has compared itself. `skipped` names candidates that cannot run here, and why. Where results may
    differ, each candidate puts into `scores` how good its own is.
    """

    candidates: dict[str, Callable[[], Any]]
    difference: Callable[[Any, Any], float] | None = None
    tolerance: float = 0.0
    differences: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One comparison. `prepare` makes inputs only when the case's turn has come.

    No round begins after `seconds` of measuring. Figures are per `unit`, of which one call does `units`.
    `parts`: the other candidates are steps of ours, and their ratio is a share.
    """

    name: str
    what: str
    prepare: Callable[[], Trial]
    seconds: float = 10.0
    goals: tuple[Goal, ...] = ()
    unit: str = "call"
    units: int = 1
    parts: bool = False


def run_case(case: Case, rounds: int = 7, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Check and measure one case; returns plain figures for the results file.

    `clock` is `time.perf_counter`, or on a busy machine and with one thread `time.process_time`. Raises
    DisagreementError if a candidate's result is not ours within the trial's tolerance.
    """
    trial = case.prepare()
    first, repeats = _warm_up(trial, clock)
    differences = _check_agreement(case.name, trial, {label: sample.value for label, sample in first.items()})
    measured = {label: [] if repeats[label] else [first[label]] for label in trial.candidates}
    del first  # results may be large
    spent, done = 0.0, 0
    while done < rounds and spent < case.seconds:
        gc.collect()
        for label, candidate in trial.candidates.items():
            if len(measured[label]) <= done:
                measured[label].append(_measure(candidate, max(repeats[label], 1), clock))
            spent += measured[label][done].seconds * max(repeats[label], 1)
        done += 1
    figures = _figures(case, measured)
    for label, difference in differences.items():
        figures[label]["difference"] = difference
    for label, scores in trial.scores.items():
        figures[label]["scores"] = scores
    goals = [{"goal": str(goal), "met": _met(goal, figures)} for goal in case.goals if goal.label in figures]
    result = {
        "what": case.what,
        "unit": case.unit,
        "rounds": done,
        "parts": case.parts,
        "candidates": figures,
    }
    return result | {"skipped": trial.skipped, "goals": goals}


def _warm_up(trial: Trial, clock: Callable[[], float]) -> tuple[dict[str, Sample], dict[str, int]]:
    """A first sample of every candidate, and how many calls its measurements take (0: it measures itself)."""
    first, repeats = {}, {}
    for label, candidate in trial.candidates.items():
        first[label], measures_itself = _call(candidate, clock)
        if measures_itself:
            repeats[label] = 0
            continue
        seconds = first[label].seconds
        if seconds < 1:  # the very first call pays for set-up
            seconds = _call(candidate, clock)[0].seconds
        repeats[label] = max(1, math.ceil(SHORTEST / max(seconds, 1e-7)))
    return first, repeats


def _call(candidate: Callable[[], Any], clock: Callable[[], float]) -> tuple[Sample, bool]:
    start = clock()
    value = candidate()
    seconds = clock() - start
    if not isinstance(value, Sample):
        return Sample(seconds, value=value), False
    return (replace(value, seconds=value.cpu_seconds) if clock is time.process_time else value), True


def _measure(candidate: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> Sample:
    if repeats == 1:
        sample, _ = _call(candidate, clock)
        return replace(sample, value=None)
    start = clock()
    for _ in range(repeats):
        candidate()
    return Sample((clock() - start) / repeats)


def _check_agreement(name: str, trial: Trial, values: Mapping[str, Any]) -> dict[str, float]:
    differences = dict(trial.differences)
    if trial.difference is not None:
        ours, *others = values
        differences |= {label: float(trial.difference(values[label], values[ours])) for label in others}
    for label, difference in differences.items():
        if not difference <= trial.tolerance:  # NaN does not agree either
            raise DisagreementError(
                f"{name}: {label!r} differs from ours by {difference:.3g}, allowed are {trial.tolerance:.3g}"
            )
    return differences


def _figures(case: Case, measured: Mapping[str, list[Sample]]) -> dict[str, dict[str, Any]]:
    """Median seconds per unit, their range, and the median over the rounds of the ratio to ours."""
    ours, *_ = measured.values()
    figures = {}
    for label, samples in measured.items():
        seconds = sorted(sample.seconds / case.units for sample in samples)
        ratios = [other.seconds / own.seconds for other, own in zip(samples, ours, strict=True)]
        figures[label] = {
            "seconds": statistics.median(seconds),
            "fastest": seconds[0],
            "slowest": seconds[-1],
            "ratio": statistics.median(ratios),
        }
        if samples[0].memory_gb is not None:
            memory, own = (statistics.median(s.memory_gb for s in group) for group in (samples, ours))
            figures[label] |= {"memory_gb": memory, "memory_ratio": memory / own}
    return figures


def _met(goal: Goal, figures: Mapping[str, Mapping[str, float]]) -> bool:
    return goal.at_least <= figures[goal.label][goal.figure] <= goal.at_most
