"""The method must be seen to learn: a small stack in seconds, the quick config in minutes."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dfd_selfsup import train
from dfd_selfsup.config import LossOptions, TrainConfig
from dfd_selfsup.datasets.stack import FocalStack, collate
from dfd_selfsup.losses import mix
from dfd_selfsup.measures import rank_correlation
from dfd_selfsup.models.heads import StackModel
from dfd_selfsup.models.options import HeadOptions, NetworkOptions, PsfOptions
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.thin_lens import Defocus, Lens

PSF = PsfOptions(window=11, threshold_px=0.2)


def noise_stack(seed: int) -> FocalStack:
    """Coloured noise on a smooth surface between 1 and 3.3 m, blurred by the training's own PSF."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 24, 32, generator=generator)
    aif = F.interpolate(coarse, (48, 64), mode="bicubic", align_corners=False).clamp(0, 1)
    q = 0.3 + 0.7 * torch.randint(0, 2, (1, 1, 2, 2), generator=generator)
    q = F.interpolate(q, (48, 64), mode="bilinear", align_corners=True)
    defocus = Defocus.thin_lens(Lens(100, 1.2, 400), [1.0, 1.3, 1.7, 2.4, 3.3])
    images = render_stack(aif, defocus.sigma_px(q), PSF)[0]
    return FocalStack(f"noise{seed}", images, defocus, aif=aif[0], depth=1 / q[0, 0])


def test_depth_is_learned_from_the_stacks_alone():
    torch.manual_seed(0)
    loss = LossOptions(aif=0, aif_blur=0, coarse_blur=0, smooth_on="inverse", border_fix=True)
    heads = HeadOptions("inverse", "composite", near_m=0.8, far_m=4, focus_input="sharpest")
    config = TrainConfig(
        heads=heads, psf=PSF, loss=loss, network=NetworkOptions(base_width=8, levels=2), guide_steps=60
    )
    model = StackModel(config.network, config.heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    training = [noise_stack(seed) for seed in range(6)]
    for step in range(120):
        batch = collate([training[(2 * step + place) % 6] for place in range(2)])
        optimizer.zero_grad()
        prediction = model(batch.images, batch.defocus)
        sum(train.loss_terms(step + 1, config, prediction, batch).values()).backward()
        optimizer.step()
    unseen = [noise_stack(seed) for seed in (100, 101)]
    batch = collate(unseen)
    with torch.no_grad():
        found = model(batch.images, batch.defocus)
        rendered = render_stack(found.aif, found.sigma_px, PSF)
    assert mix(rendered.flatten(0, 1), batch.images.flatten(0, 1)) < 0.06
    order = [rank_correlation(found.q[i, 0], 1 / stack.depth) for i, stack in enumerate(unseen)]
    assert sum(order) / 2 > 0.7
    assert min(order) > 0.6


def assert_better_than_the_focus_measures(mean: dict) -> None:
    """One pass of the network in depth and image; followed by descent of its losses, in all by far."""
    own, polished = mean["selfsup"], mean["selfsup_descent"]
    for baseline in (mean["focus_sml"], mean["focus_ring"]):
        for name in ("abs_rel", "rmse"):
            assert own[name] < baseline[name], name
            assert polished[name] < 0.8 * baseline[name], name
        assert own["delta1"] > baseline["delta1"]
        assert polished["delta1"] > baseline["delta1"] + 0.02
        assert own["psnr"] > baseline["psnr"]
        assert polished["psnr"] > baseline["psnr"] + 0.4
    assert own["abs_rel"] < 0.5 * mean["constant"]["abs_rel"]
    assert own["psnr"] > mean["best_slice"]["psnr"] + 3
    assert own["abs_rel"] < 0.12
    assert own["delta1"] > 0.88


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_quick_config_beats_both_focus_measures_on_stacks_never_seen(tmp_path):
    config = Path(train.__file__).parent / "configs" / "quick.yaml"
    flags = ["--config", str(config), "--out", str(tmp_path / "run"), "--device", "cpu"]
    train.main([*flags, "--set", f"data.root={tmp_path / 'data'}"])
    assert_better_than_the_focus_measures(json.loads((tmp_path / "run" / "eval.json").read_text())["mean"])
