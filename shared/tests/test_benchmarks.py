"""The logic of the benchmark harness, with a clock that only the candidates move."""

import json
from pathlib import Path

import pytest
import torch

import shared

ROOT = Path(shared.__file__).parent.parent
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("a part of the repository without benchmarks", allow_module_level=True)

REASON = "benchmarks are found from the repository's root only: python -m pytest"
harness = pytest.importorskip("benchmarks.harness", reason=REASON)
fresh = pytest.importorskip("benchmarks.fresh", reason=REASON)
run = pytest.importorskip("benchmarks.run", reason=REASON)


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


def test_no_round_begins_after_the_time_of_the_case():
    clock = Clock()
    candidates = {"ours": clock.work("A", 2.0), "other": clock.work("B", 6.0)}
    assert harness.run_case(case(candidates, seconds=9), rounds=50, clock=clock)["rounds"] == 2


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


def test_differences_found_while_preparing_count_too():
    clock = Clock()
    candidates = {"ours": clock.work("A", 1.0), "other": clock.work("B", 1.0)}
    with pytest.raises(harness.DisagreementError):
        harness.run_case(case(candidates, differences={"other": 0.2}, tolerance=0.1), clock=clock)
    result = harness.run_case(case(candidates, differences={"other": 0.05}, tolerance=0.1), clock=clock)
    assert result["candidates"]["other"]["difference"] == 0.05


def test_candidates_that_measure_themselves_need_no_warm_up():
    clock = Clock()
    ours = clock.work("A", 5.0, harness.Sample(1.0, memory_gb=2.0, value=0))
    other = clock.work("B", 5.0, harness.Sample(3.0, memory_gb=8.0, value=0))
    goals = (
        harness.Goal("other", "ratio", at_least=2),
        harness.Goal("other", "memory_ratio", at_least=5),
        harness.Goal("ours", "seconds", at_most=1),
        harness.Goal("absent", "ratio", at_least=2),
    )
    result = harness.run_case(case({"ours": ours, "other": other}, goals=goals), rounds=2, clock=clock)
    assert clock.log == ["A", "B", "A", "B"]
    assert result["candidates"]["other"]["ratio"] == 3
    assert result["candidates"]["other"]["memory_ratio"] == 4
    assert result["goals"] == [
        {"goal": "other: ratio at least 2", "met": True},
        {"goal": "other: memory ratio at least 5", "met": False},
        {"goal": "ours: seconds at most 1", "met": True},
    ]
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


def test_only_a_full_run_writes_the_results(tmp_path, monkeypatch, capsys):
    clock = Clock()
    one = case({"ours": clock.work("A", 2.0), "other": clock.work("B", 6.0)})
    monkeypatch.setattr(run, "CASES", [one])
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setitem(run.CLOCKS, "wall", clock)
    monkeypatch.setattr(run.torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(run.cv2, "setNumThreads", lambda count: None)
    run.main(["--only", "a", "--threads", "1"])
    assert not list(tmp_path.iterdir())
    run.main(["--threads", "1"])
    assert "3.00 x ours" in capsys.readouterr().out
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["cases"]["a/case"]["candidates"]["other"]["ratio"] == 3
    assert written["machine"]["threads"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4e-7, "0.4 us")])
def test_durations_have_a_fitting_unit(seconds, text):
    assert run.duration(seconds).split() == text.split()
