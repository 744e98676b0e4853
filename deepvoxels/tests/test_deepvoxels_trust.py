"""What a DeepVoxels run promises, attacked.

Proven: a run stopped after 10 of 20 steps, in the middle of an epoch of 12 views, and resumed equals one that
never stopped, to the bit (both networks, the voxel state, Adam's moments, random generators, losses); 50
SIGKILLs while saving leave a complete checkpoint; NaN and infinity end the run at their step; a full disk, a
locked folder and a second run are refused in one line.
"""

from pathlib import Path

import pytest
import torch

from deepvoxels import train
from deepvoxels.datasets.scene import PosedScene
from shared.tests.trust import NOT_FINITE, Attack, AttacksOnRuns, Method, spoil, spoil_gradient


@pytest.fixture
def method(tiny_config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Method:
    return Method(train, tiny_config_file, monkeypatch)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("pix2pix", "tatarchenko", "worrall")]


@pytest.mark.parametrize("name", ["deepvoxels", *SLOW])
def test_resume_in_the_middle_of_an_epoch_is_exact(method: Method, tmp_path: Path, name: str) -> None:
    settings = (f"method={name}", "steps=20", "checkpoint_every=20", "preview_every=0")
    method.assert_exact_resume(tmp_path, 10, 20, *settings)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_nan_ends_the_run_at_its_step(method: Method, tmp_path: Path, capsys, value: float) -> None:
    """In the images, in each of the three losses, in a gradient and in a weight of either network."""

    def spoiled_images(patch: pytest.MonkeyPatch, state: dict) -> None:
        original = PosedScene.batch

        def batch(scene: PosedScene, indices: list[int]) -> torch.Tensor:
            images = original(scene, indices)
            images[0, 0, 9, 9] = value
            return images

        patch.setattr(PosedScene, "batch", batch)

    def spoiled_term(name: str) -> Attack:
        original = getattr(train, name)
        return lambda patch, state: patch.setattr(train, name, lambda *maps: original(*maps) + value)

    def first(network: torch.nn.Module) -> torch.Tensor:
        return next(network.parameters())

    attacks = {
        "l1 is ": spoiled_images,
        f"l1 is {value}": spoiled_term("l1_loss"),
        f"gan is {value}": spoiled_term("generator_gan_loss"),
        f"discriminator is {value}": spoiled_term("discriminator_loss"),
        "the gradient of extractor": lambda patch, state: spoil_gradient(first(state["model"]), value),
        "the gradient of convs.0.weight of discriminator": lambda patch, state: spoil_gradient(
            first(state["discriminator"]), value
        ),
        "of model is not finite": lambda patch, state: spoil(first(state["model"]), value),
        "of discriminator is not finite": lambda patch, state: spoil(first(state["discriminator"]), value),
    }
    method.assert_stops_on_nonfinite(tmp_path / "run", list(attacks.items()), capsys)


class TestAttacksOnRuns(AttacksOnRuns):
    """Kills, a full disk, locked folders, foreign checkpoints, one seed."""

    settings_of_50_steps = ("steps=50", "preview_every=0")

    @pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
    def test_kills_while_saving(self, method: Method, tmp_path: Path, kills: int) -> None:
        super().test_kills_while_saving(method, tmp_path, kills)
