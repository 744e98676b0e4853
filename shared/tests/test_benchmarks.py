"""The logic of the benchmark harness, with a clock that only the candidates move."""

import importlib
import json
from pathlib import Path

import pytest
import torch

import shared

ROOT = Path(shared.__file__).parent.parent
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("a part of the repository without benchmarks", allow_module_level=True)

harness = importlib.import_module("benchmarks.harness")
fresh = importlib.import_module("benchmarks.fresh")
run = importlib.import_module("benchmarks.run")


class Clock:
    """Time passes only while a candidate works; `log` says who did, in order."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def work(self, label, seconds, value=1.0):
        durations = iter(seconds) if isinstance(seconds, list) else None

        def candidate():
            self.log.append(label)
            self.now += next(durations) if durations else seconds
            return value

        return candidate


def case(candidates, **settings):
    trial = {key: settings.pop(key) for key in ("difference", "tolerance", "differences") if key in settings}
    return harness.Case("a/case", "", lambda: harness.Trial(candidates, **trial), **settings)


def test_candidates_take_turns_and_ratios_are_to_the_first():
    clock = Clock()
    candidates = {"ours": clock.work("A", 2.0), "other": clock.work("B", 6.0)}
    result = harness.run_case(case(candidates, seconds=1000), rounds=3, clock=clock)
    assert clock.log == ["A", "B"] * 4  # one to warm up, three rounds
    assert result["rounds"] == 3
    assert result["candidates"]["ours"]["ratio"] == 1
    assert result["candidates"]["other"]["ratio"] == 3
    assert result["candidates"]["other"]["seconds"] == 6


def test_ratio_is_taken_round_by_round():
    # the machine is ten times slower in the second round: the ratio of the rounds stays
    clock = Clock()
    ours, other = clock.work("A", [9.0, 1.0, 10.0, 1.0]), clock.work("B", [9.0, 2.0, 20.0, 2.0])
    candidates = {"ours": ours, "other": other}
    figures = harness.run_case(case(candidates, seconds=1000), rounds=3, clock=clock)["candidates"]
    assert figures["other"]["ratio"] == 2
    assert (figures["ours"]["fastest"], figures["ours"]["seconds"], figures["ours"]["slowest"]) == (1, 1, 10)


def test_short_work_is_repeated_and_reported_per_unit():
    clock = Clock()
    step = 2.0**-10  # 21 of them last longer than SHORTEST
    candidates = {"ours": clock.work("A", step), "other": clock.work("B", 4.0)}
    result = harness.run_case(case(candidates, unit="view", units=8, seconds=1000), rounds=2, clock=clock)
    assert clock.log == ["A", "A", "B"] + (["A"] * 21 + ["B"]) * 2
    assert result["candidates"]["ours"]["seconds"] == step / 8
    assert result["candidates"]["other"]["ratio"] == 4.0 / step


@pytest.mark.parametrize("value", [1.2, float("nan")])
def test_candidates_that_disagree_are_not_compared(value):
    clock = Clock()
    candidates = {"ours": clock.work("A", 1.0), "other": clock.work("B", 1.0, value)}
    wrong = case(candidates, difference=lambda other, ours: abs(other - ours), tolerance=0.1)
    with pytest.raises(harness.DisagreementError, match="'other' differs from ours"):
        harness.run_case(wrong, clock=clock)
    assert clock.log == ["A", "B"]


def test_candidates_that_measure_themselves_need_no_warm_up():
    clock = Clock()
    ours = clock.work("A", 5.0, harness.Sample(1.0, memory_gb=2.0, value=0))
    other = clock.work("B", 5.0, harness.Sample(3.0, memory_gb=8.0, value=0))
    goals = (harness.Goal("other", "ratio", at_least=2), harness.Goal("other", "memory_ratio", at_least=5))
    result = harness.run_case(case({"ours": ours, "other": other}, goals=goals), rounds=2, clock=clock)
    assert clock.log == ["A", "B", "A", "B"]
    assert result["candidates"]["other"]["ratio"] == 3
    assert result["candidates"]["other"]["memory_ratio"] == 4
    assert [goal["met"] for goal in result["goals"]] == [True, False]
    json.dumps(result, allow_nan=False)


def test_a_fresh_process_reports_its_own_peak():
    held = torch.ones(100_000_000)  # 400 MB of the parent, which must not be in the figure
    sample = fresh.in_fresh_process("benchmarks.fresh:hold_memory", count=50_000_000)
    assert 0.19 < sample.memory_gb < 0.3
    assert sample.value == [1.0, 1.0, 1.0]
    assert sample.seconds > 0
    assert held.sum() > 0


def test_cases_are_chosen_by_name_or_group():
    names = [case.name for case in run.CASES]
    assert len(set(names)) == len(names)
    assert run.select(run.CASES, []) == run.CASES
    assert [case.name for case in run.select(run.CASES, ["shared/ssim"])] == ["shared/ssim"]
    assert {case.name.split("/")[0] for case in run.select(run.CASES, ["shared"])} == {"shared"}
    with pytest.raises(SystemExit, match="there is no case 'shared/sim'"):
        run.main(["--only", "shared/sim"])
