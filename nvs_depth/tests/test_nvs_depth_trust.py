"""What a run of nvs_depth promises, attacked.

Proven: a run stopped after 10 of 20 steps, in the middle of an epoch, and resumed equals one that never
stopped, to the bit (parameters, Adam's moments, random generators, losses), with 0 and 2 loader workers; 0, 1
and 2 workers hand out the same samples; Ctrl-C while workers read ends the run cleanly; the checkpoint of a
stopped run can be predicted from; 50 SIGKILLs while saving leave a complete checkpoint; NaN and infinity end
the run at their step; a full disk, a locked folder and a second run are refused in one line.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nvs_depth import train
from nvs_depth.datasets.pairs import PairBatch, pair_batches
from nvs_depth.datasets.select import load_split
from nvs_depth.eval import load_network
from shared.runs.checkpoint import load_checkpoint
from shared.runs.config import load_config
from shared.tests.trust import NOT_FINITE, Attack, AttacksOnRuns, Method, assert_same, spoil, spoil_gradient

CONFIG = """
data:
  layout: shapenet_flat
  root: ROOT
  embedded: {kind: chairs, train_groups: 1, test_groups: 1, image_side: 24, antialias: 1}
  pairs: {redraw: true}
model: {image_side: 64, width: 0.125, encoder_init: default, depth_range: object_narrow}
weights: {perceptual: 0}
steps: 4
batch_size: 2
checkpoint_every: 50
preview_every: 0
log_every: 1
evaluate_pairs: 2
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvs")
    (folder / "tiny.yaml").write_text(CONFIG.replace("ROOT", str(folder / "data")))
    return folder / "tiny.yaml"


@pytest.fixture
def method(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Method:
    return Method(train, config_file, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch_is_exact(method: Method, tmp_path: Path, workers: int) -> None:
    """An epoch is 48 sources; with batches of 3 the stop lies in the first and the end in the second."""
    settings = ("steps=20", "batch_size=3", f"workers={workers}")
    checkpoint = method.assert_exact_resume(tmp_path, 10, 20, *settings)
    assert set(checkpoint.metrics) == {"K", "unit_m"}


def test_any_number_of_workers_gives_the_same_samples(config_file: Path) -> None:
    config = load_config(train.TrainConfig, config_file)
    pairs = load_split(config.data, 64).train
    straight, one, two, resumed = (
        list(pair_batches(pairs, 2, 0, True, start, 8, workers=workers))
        for start, workers in ((0, 0), (0, 1), (0, 2), (5, 2))
    )
    assert len(straight) == 8
    for batch, *others in zip(straight, one, two, strict=True):
        for other in others:
            assert_same(list(batch), list(other), "batch")
    assert_same([list(b) for b in straight[5:]], [list(b) for b in resumed], "resumed")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_stops_a_run_with_workers(
    config_file: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """A terminal sends Ctrl-C to the workers as well; the run still ends after its step and is saved."""
    code = f"""if True:
        import os, sys, time
        from torch.utils.data import get_worker_info
        from nvs_depth import train
        from nvs_depth.datasets.pairs import PairDataset
        from shared.runs.command import command_line
        read, count = PairDataset.__getitem__, [0]

        def slowly(dataset, pair):
            count[0] += 1
            time.sleep(0.4)  # so that the run waits for its workers when the signal comes
            if count[0] == 3 and get_worker_info().id == 0:
                os.killpg(0, {int(number)})
                time.sleep(0.2)
            return read(dataset, pair)

        PairDataset.__getitem__ = slowly
        command_line(lambda: train.main(sys.argv[1:]))
    """
    flags = ["--config", str(config_file), "--out", str(tmp_path / "run"), "--device", "cpu", "--set"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "workers=2", "steps=40"],
        capture_output=True, text=True, start_new_session=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 128 + number, done.stderr[-2000:]
    assert "go on with --resume" in done.stderr
    step = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt", "nvs_depth").step
    assert 1 <= step < 20


def test_a_stopped_run_can_be_predicted_from(method: Method, tmp_path: Path) -> None:
    method.stopped_run(tmp_path / "run", 1)
    _, _, facts = load_network(tmp_path / "run", "best", torch.device("cpu"))
    assert torch.tensor(facts["K"]).shape == (3, 3)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_nan_ends_the_run_at_its_step(method: Method, tmp_path: Path, capsys, value: float) -> None:
    """In images and camera matrices, in each loss term, in a gradient and in a weight."""

    def spoiled_input(field: str) -> Attack:
        def attack(patch: pytest.MonkeyPatch, state: dict) -> None:
            original = PairBatch.to

            def moved(batch: PairBatch, device: torch.device) -> PairBatch:
                values = getattr(batch, field).clone()
                values[(0,) * values.ndim] = value
                return original(batch._replace(**{field: values}), device)

            patch.setattr(PairBatch, "to", moved)

        return attack

    def spoiled_term(name: str) -> Attack:
        def attack(patch: pytest.MonkeyPatch, state: dict) -> None:
            original = train.loss_terms

            def terms(*values: object) -> dict[str, torch.Tensor]:
                found = original(*values)
                return found | {name: found[name] + value}

            patch.setattr(train, "loss_terms", terms)

        return attack

    terms = ("reconstruction", "photometric", "consistency", "smoothness")
    fields = ("image_source", "image_target", "K_source", "K_target", "target_from_source")
    attacks = [
        *((f"{name} is {value}", spoiled_term(name)) for name in terms),
        *((f"{field} is not finite", spoiled_input(field)) for field in fields),
        (
            "the gradient of encoder",
            lambda patch, state: spoil_gradient(next(state["model"].encoder.parameters()), value),
        ),
        ("of model is not finite", lambda patch, state: spoil(list(state["model"].parameters())[-1], value)),
    ]
    method.assert_stops_on_nonfinite(tmp_path / "run", attacks, capsys)


class TestAttacksOnRuns(AttacksOnRuns):
    """Kills, a full disk, locked folders, foreign checkpoints, one seed."""

    settings_of_50_steps = ("steps=50", "workers=2", "batch_size=1")
