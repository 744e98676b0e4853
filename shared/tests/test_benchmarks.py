"""The logic of the benchmark harness, with a clock that only the candidates move."""

import ast
import importlib
from pathlib import Path

import pytest
import torch

import shared

ROOT = Path(shared.__file__).parent.parent
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("a part of the repository without benchmarks", allow_module_level=True)

harness = importlib.import_module("benchmarks.harness")
fresh = importlib.import_module("benchmarks.fresh")
estimates = importlib.import_module("benchmarks.estimates")


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


def test_ratio_is_taken_round_by_round():
    # the machine is ten times slower in the second round: the ratio of the rounds stays
    clock = Clock()
    ours, other = clock.work("A", [9.0, 1.0, 10.0, 1.0]), clock.work("B", [9.0, 2.0, 20.0, 2.0])
    candidates = {"ours": ours, "other": other}
    figures = harness.run_case(case(candidates, seconds=1000), rounds=3, clock=clock)["candidates"]
    assert figures["other"]["ratio"] == 2
    assert (figures["ours"]["fastest"], figures["ours"]["seconds"], figures["ours"]["slowest"]) == (1, 1, 10)


@pytest.mark.parametrize("value", [1.2, float("nan")])
def test_candidates_that_disagree_are_not_compared(value):
    clock = Clock()
    candidates = {"ours": clock.work("A", 1.0), "other": clock.work("B", 1.0, value)}
    wrong = case(candidates, difference=lambda other, ours: abs(other - ours), tolerance=0.1)
    with pytest.raises(harness.DisagreementError, match="'other' differs from ours"):
        harness.run_case(wrong, clock=clock)
    assert clock.log == ["A", "B"]


def hold_memory(count):
    """A step that allocates `count` float32 numbers."""
    return lambda: torch.ones(count).mean().item()


def test_a_fresh_process_reports_its_own_peak():
    held = torch.ones(100_000_000)  # 400 MB of the parent, which must not be in the figure
    sample = fresh.in_fresh_process("shared.tests.test_benchmarks:hold_memory", count=50_000_000)
    assert 0.19 < sample.memory_gb < 0.3
    assert sample.value == [1.0, 1.0, 1.0]
    assert sample.seconds > 0
    assert held.sum() > 0


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_on_the_cpu(capsys):
    """Tiny, every operation and every training step that it would take on a card."""
    importlib.import_module("benchmarks.gpu_check").main(["--self-test"])
    found = [ast.literal_eval(line[40:]) for line in capsys.readouterr().out.splitlines()]
    steps = [each for each in found if "fp32" in each]
    assert len(steps) == 4
    for each in steps:
        if "bf16" in each:
            one, other = each["fp32"]["losses"], each["bf16"]["losses"]
            assert one != other  # it was really halved
            assert one[0] == pytest.approx(other[0], rel=0.01)  # later ones are of other weights


# ---- estimates ---------------------------------------------------------------------------------------------


def test_a_step_is_counted():
    """A product of matrices and its gradients, by hand: three products, and what each of them touches."""
    weight = torch.nn.Parameter(torch.rand(5, 7))
    inputs, optimizer = torch.rand(3, 5), torch.optim.SGD([weight], lr=0.1)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = (inputs @ weight).sum()
        loss.backward()
        optimizer.step()
        return loss.item()

    counts = estimates.count(step)
    assert counts.flops == 2 * (2 * 3 * 5 * 7)  # forward, and the gradient of the weight
    products = (15 + 35 + 21) + (15 + 21 + 35)
    assert 4 * products < counts.moved < 4 * (products + 35 * 6 + 21 * 4 + 10)
    assert counts.held == 4 * (15 + 35) + 3 * 4 * 35  # the inputs are kept; gradient and two moments to come


def test_a_card_is_bound_by_the_slowest_of_three():
    peak, width = estimates.PEAK["float32"], estimates.BANDWIDTH
    for counts in ((peak, 0, 0, 0), (0, 2 * width, 0, 0), (0, 0, 500_000, 0)):
        fast, slow = estimates.hours(estimates.Counts(*counts), "float32", 3600)
        assert fast == pytest.approx(2.5)
        assert slow == pytest.approx(5.0 if counts[1] == 0 else 4.0)
    fast, slow = estimates.hours(estimates.Counts(peak, 2 * width, 500_000, 0), "float32", 3600)
    assert (fast, slow) == (pytest.approx(2.5), pytest.approx(14.0))


def test_full_configurations_are_there_and_steps_make_up_their_batch():
    for full in estimates.FULL.values():
        config = estimates.load_config(full.config_class, ROOT / full.config)
        assert config.steps > 10_000
    assert estimates.FULL["dfd_selfsup: NYUv2"].times * 2 == config.batch_size
