"""What a dfd_selfsup run promises, attacked.

Proven: a run stopped after 10 of 20 steps, in the middle of an epoch, and resumed equals one that never
stopped, to the bit (parameters, buffers, AdamW's moments, random generators, losses), self-supervised and
supervised; 50 SIGKILLs while saving leave a complete checkpoint; NaN and infinity end the run at their step;
a full disk, a locked folder and a second run are refused in one line; two gloo processes have the gradients
of one with the whole batch.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dfd_selfsup import train
from dfd_selfsup.datasets.stack import StackBatch
from dfd_selfsup.models.psf import PsfOptions, render_stack
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.files.images import write_image, write_pfm
from shared.runs.checkpoint import load_checkpoint
from shared.tests.trust import NOT_FINITE, Attack, AttacksOnRuns, Method, spoil, spoil_gradient

FOCUS_M = [1.0, 2.0, 4.0]
TERMS = ("recon", "aif", "aif_blur", "coarse_blur", "smooth", "guide")
HEADS = {"depth": "inverse", "aif": "composite", "focus_input": "inverse", "near_m": 0.7, "far_m": 6.0}


def write_stack(folder: Path, seed: int) -> None:
    """Three slices of a random texture on a slanted surface, with truth."""
    generator = torch.Generator().manual_seed(seed)
    aif = torch.rand(1, 3, 32, 40, generator=generator)
    depth = torch.linspace(1.0, 3.0, 40).expand(1, 1, 32, 40)
    sigma = Defocus.thin_lens(Lens(100, 2, 400), FOCUS_M).sigma_at_depth_px(depth)
    for index, image in enumerate(render_stack(aif, sigma, PsfOptions(11, threshold_px=0.2))[0]):
        write_image(folder / f"slice_{index}.png", image)
    lens = {"focal_length_mm": 100, "f_number": 2, "pixel_pitch_um": 400}
    (folder / "stack.yaml").write_text(yaml.safe_dump({"focus_m": FOCUS_M, **lens}))
    write_image(folder / "aif.png", aif[0])
    write_pfm(folder / "depth.pfm", depth[0, 0].contiguous())


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dfd")
    for split, count in (("train", 3), ("validation", 1), ("test", 1)):
        for index in range(count):
            write_stack(root / split / f"s{index}", 10 * count + index)
    config = {
        "data": {"kind": "folders", "root": str(root)},
        "network": {"base_width": 4, "levels": 2},
        "heads": HEADS,
        "psf": {"window": 7, "threshold_px": 0.2},
        "loss": {"soft_coarse_px": 0.5},
        "steps": 4,
        "batch_size": 2,
        "crop": 24,
        "flip": True,
        "noise_std": 0.01,
        "guide_steps": 12,
        "log_every": 1,
        "validate_every": 0,
        "checkpoint_every": 50,
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root / "config.yaml"


@pytest.fixture
def method(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Method:
    return Method(train, config_file, monkeypatch)


@pytest.mark.parametrize("kind", ["selfsup", pytest.param("supervised", marks=pytest.mark.slow)])
def test_resume_in_the_middle_of_an_epoch_is_exact(method: Method, tmp_path: Path, kind: str) -> None:
    """An epoch is three crops, so the stop after 20 crops lies inside one; the best score survives too."""
    method.assert_exact_resume(tmp_path, 10, 20, "steps=20", f"method={kind}", "validate_every=4")


def test_a_reseeded_network_is_resumed_as_it_was(method: Method, tmp_path: Path) -> None:
    """The search for dead heads draws random numbers at step 0 and must not do so again."""
    heads = ("heads.depth=norm", "heads.aif=clip", "dead_heads=reseed", "loss.sharp=10")
    method.assert_exact_resume(tmp_path, 3, 6, "steps=6", *heads)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_nan_ends_the_run_at_its_step(method: Method, tmp_path: Path, capsys, value: float) -> None:
    """In the slices and the focus distances, in each loss term, in a gradient and in a weight."""

    def spoiled_slices(patch: pytest.MonkeyPatch, state: dict) -> None:
        original = StackBatch.to

        def moved(batch: StackBatch, device: torch.device) -> StackBatch:
            images = batch.images.clone()
            images[0, 1, 2, 3, 4] = value
            return original(dataclasses.replace(batch, images=images), device)

        patch.setattr(StackBatch, "to", moved)

    def spoiled_focus(patch: pytest.MonkeyPatch, state: dict) -> None:
        original = StackBatch.to

        def moved(batch: StackBatch, device: torch.device) -> StackBatch:
            focus_q = torch.full_like(batch.defocus.focus_q, value)
            defocus = dataclasses.replace(batch.defocus, focus_q=focus_q)
            return original(dataclasses.replace(batch, defocus=defocus), device)

        patch.setattr(StackBatch, "to", moved)

    def spoiled_term(name: str) -> Attack:
        def attack(patch: pytest.MonkeyPatch, state: dict) -> None:
            original = train.training_losses

            def losses(*values: object) -> dict[str, torch.Tensor]:
                found = original(*values)
                return found | {name: found[name] + value}

            patch.setattr(train, "training_losses", losses)

        return attack

    attacks = [
        ("images is not finite", spoiled_slices),
        ("focus is not finite", spoiled_focus),
        *((f"{name} is {value}", spoiled_term(name)) for name in TERMS),
        ("the gradient of", lambda patch, state: spoil_gradient(next(state["model"].parameters()), value)),
        ("of model is not finite", lambda patch, state: spoil(list(state["model"].parameters())[-1], value)),
    ]
    method.assert_stops_on_nonfinite(tmp_path / "run", attacks, capsys)


class TestAttacksOnRuns(AttacksOnRuns):
    """Kills, a full disk, locked folders, foreign checkpoints, one seed."""


UNMEASURED = """
from dfd_selfsup import train
train.evaluate, train.summary = (lambda *_: {}), (lambda _: "not measured")
train.main()
"""


def first_gradients(config_file: Path, folder: Path, processes: int, batch_size: int) -> torch.Tensor:
    """AdamW's first moments after one step are a tenth of the gradients, whoever computed them."""
    out = folder / f"{processes}x{batch_size}"
    (folder / "script.py").write_text(UNMEASURED)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    flags = [
        "--config",
        str(config_file),
        "--device",
        "cpu",
        "--out",
        str(out),
        "--set",
        f"batch_size={batch_size}",
    ]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), str(folder / "script.py"), *flags, "steps=1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    state = load_checkpoint(out / "checkpoints" / "last.pt").state["optimizer"]["state"]
    return torch.cat([moments["exp_avg"].flatten() for moments in state.values()])


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_the_whole_batch(config_file: Path, tmp_path: Path) -> None:
    whole = first_gradients(config_file, tmp_path, 1, 4)
    halves = first_gradients(config_file, tmp_path, 2, 4)
    half = first_gradients(config_file, tmp_path, 1, 2)
    assert whole.norm() > 0
    assert (halves - whole).norm() < 1e-4 * whole.norm()
    assert (half - whole).norm() > 0.1 * whole.norm()  # the second process's share counts
