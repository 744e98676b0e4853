"""What a DeepVoxels run promises, attacked.

Proven: a run stopped after 10 of 20 steps, in the middle of an epoch of 12 views, and resumed equals one that
never stopped, to the bit (both networks, the voxel state, Adam's moments, random generators, losses); 50
SIGKILLs while saving leave a complete checkpoint; NaN and infinity end the run at their step; a full disk, a
locked folder and a second run are refused in one line.
"""

import math
from pathlib import Path

import pytest
import torch

from deepvoxels import train
from deepvoxels.datasets.scene import PosedScene
from shared.tests.trust import Attack, Method, spoil, spoil_gradient


@pytest.fixture
def method(tiny_config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Method:
    return Method(train, tiny_config_file, monkeypatch)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("pix2pix", "tatarchenko", "worrall")]


@pytest.mark.parametrize("name", ["deepvoxels", *SLOW])
def test_resume_in_the_middle_of_an_epoch_is_exact(method: Method, tmp_path: Path, name: str) -> None:
    settings = (f"method={name}", "steps=20", "checkpoint_every=20", "preview_every=0")
    method.assert_exact_resume(tmp_path, 10, 20, *settings)


VALUES = [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)]


@pytest.mark.parametrize("value", VALUES)
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


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_while_saving(method: Method, tmp_path: Path, kills: int) -> None:
    assert method.assert_survives_kills(tmp_path / "run", kills) >= kills // 5


def test_full_disk(method: Method, tmp_path: Path, capsys) -> None:
    method.assert_full_disk_is_harmless(tmp_path / "run", 3, capsys)


def test_locked_folders(method: Method, tmp_path: Path, capsys) -> None:
    method.assert_locked_folders_are_refused(tmp_path, capsys)


def test_foreign_checkpoints(method: Method, tmp_path: Path, capsys) -> None:
    method.assert_foreign_checkpoints_are_refused(tmp_path / "run", capsys)


@pytest.mark.slow
def test_one_seed_gives_one_run(method: Method, tmp_path: Path) -> None:
    method.assert_same_seed_same_losses(tmp_path, "steps=50", "preview_every=0")
