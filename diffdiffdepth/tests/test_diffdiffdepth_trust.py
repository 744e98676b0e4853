"""What a run of the optimisation promises, attacked.

Proven: a run stopped after 10 of 20 steps, in the middle of a group's turn, and resumed equals one that never
stopped, to the bit (all four groups, Adam's moments, the solver's start, random generators, losses), also in
the turn before points are added; 50 SIGKILLs while saving leave a complete checkpoint; NaN and infinity end
the run at their step; a full disk, a locked folder and a second run are refused in one line.
"""

from pathlib import Path

import pytest
import torch

from diffdiffdepth import train
from diffdiffdepth.losses import ReprojectionLoss
from diffdiffdepth.models.point_depth import GROUPS
from diffdiffdepth.routine import turns
from shared.tests.trust import NOT_FINITE, Attack, AttacksOnRuns, Method, spoil, spoil_gradient

CONFIG = """
data: {root: ROOT, embedded: {kind: KIND, height: 40, width: 56, points: 60}}
depth: {supersampling: 1}
schedule: {iterations: 4, passes: 1, preliminary: 4, densify: 3, damping: DAMPING}
loss: {edge: 0.01, smoothness: 0.0075, ssim: 0.05}
preview_every: 0
checkpoint_every: 20
"""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ddd")


def make(data: Path, monkeypatch: pytest.MonkeyPatch, kind: str, damping: float = 0.0) -> Method:
    path = data / f"{kind}.yaml"
    text = CONFIG.replace("ROOT", str(data / kind)).replace("KIND", kind).replace("DAMPING", str(damping))
    path.write_text(text)
    return Method(train, path, monkeypatch)


@pytest.fixture
def method(data: Path, monkeypatch: pytest.MonkeyPatch) -> Method:
    return make(data, monkeypatch, "multi_view")


@pytest.mark.parametrize(
    ("kind", "stop", "damping"),
    [
        ("multi_view", 10, 0.3),
        pytest.param("multi_view", 3, 0.0, marks=pytest.mark.slow),
        pytest.param("light_field", 10, 0.3, marks=pytest.mark.slow),
    ],
)
def test_resume_in_the_middle_of_a_turn_is_exact(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, stop: int, damping: float
) -> None:
    """Step 10 is the second of the labels' turn; step 3 lies before the points are added."""
    method = make(data, monkeypatch, kind, damping)
    checkpoint = method.assert_exact_resume(tmp_path, stop, 20)
    config = train.load_config(train.TrainConfig, method.config)
    assert not any(turn.first == stop + 1 for turn in turns(config.schedule))
    assert set(checkpoint.state) == {"model", "adam"}
    assert checkpoint.state["adam"]["adam"]["state"][0]["step"] == 4


@pytest.mark.parametrize("value", NOT_FINITE)
def test_nan_ends_the_run_at_its_step(method: Method, tmp_path: Path, capsys, value: float) -> None:
    """In the views, in each loss term, in the gradient and in each group of numbers."""

    def spoiled_term(name: str) -> Attack:
        def attack(patch: pytest.MonkeyPatch, state: dict) -> None:
            original = ReprojectionLoss.__call__

            def terms(loss: ReprojectionLoss, *maps: torch.Tensor) -> dict[str, torch.Tensor]:
                found = original(loss, *maps)
                return found | {name: found[name] + value}

            patch.setattr(ReprojectionLoss, "__call__", terms)

        return attack

    def spoiled_views(patch: pytest.MonkeyPatch, state: dict) -> None:
        original = ReprojectionLoss.__call__

        def terms(loss: ReprojectionLoss, *maps: torch.Tensor) -> dict[str, torch.Tensor]:
            loss.scene.views[:, 0, 18:22, 20:30] = value
            return original(loss, *maps)

        patch.setattr(ReprojectionLoss, "__call__", terms)

    attacks: dict[str, Attack] = {
        f"{name} is {value}": spoiled_term(name) for name in ("data", "edge", "smoothness", "ssim", "total")
    }
    attacks["data is "] = spoiled_views
    # Step 3 is in the middle of a turn of the smoothness.
    attacks["the gradient of the smoothness is not finite"] = lambda patch, state: spoil_gradient(
        state["model"].groups["smoothness"], value
    )
    for group in GROUPS:
        attacks[f"{group} is not finite"] = lambda patch, state, group=group: spoil(
            state["model"].groups[group], value
        )
    method.assert_stops_on_nonfinite(tmp_path / "run", list(attacks.items()), capsys)


class TestAttacksOnRuns(AttacksOnRuns):
    """Kills, a full disk, locked folders, foreign checkpoints, one seed."""

    settings_of_50_steps = (
        "schedule.iterations=10",
        "schedule.preliminary=10",
        "schedule.densify=1",
        "views_per_step=2",
    )
