"""The method is seen to learn: a fixed batch in seconds; the quick configurations in minutes (slow)."""

import json
from pathlib import Path

import pytest
import torch

from nvs_depth import train
from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import PairBatch
from nvs_depth.losses import LossWeights
from nvs_depth.models.options import ModelOptions
from nvs_depth.models.synthesis import SynthesisNetwork
from shared.geometry.camera import intrinsics_matrix, invert_pose
from shared.geometry.warp import backward_warp

CONFIGS = Path(train.__file__).parent / "configs"


def fronto_parallel_pairs(count=4, side=64):
    """Pairs that show a textured plane at depth 2; the target is made by a warp with that depth."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, 3, 8, 8, generator=generator)
    source = torch.nn.functional.interpolate(noise, (side, side), mode="bicubic", align_corners=False).clamp(
        0.02, 1
    )
    K = intrinsics_matrix(80, 80, 31.5, 31.5).expand(count, 3, 3)
    pose = torch.eye(4).repeat(count, 1, 1)
    pose[:, 0, 3] = torch.linspace(-0.2, 0.2, count)
    depth = torch.full((count, 1, side, side), 2.0)
    target, _ = backward_warp(source, depth, K, K, invert_pose(pose))
    valid = torch.ones_like(depth, dtype=torch.bool)
    return PairBatch(source, target, depth, depth, valid, valid, K, K, pose, torch.zeros(count, 2))


def test_a_fixed_batch_is_learned():
    torch.manual_seed(0)
    options = ModelOptions(image_side=64, width=0.125, encoder_init="default", depth_range="object_narrow")
    config = TrainConfig(model=options, weights=LossWeights(perceptual=0, smoothness=10))
    network, batch = SynthesisNetwork(options), fronto_parallel_pairs()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, betas=(0.5, 0.999))
    history = []
    for _ in range(40):
        terms = train.step_terms(network, batch, config, None)
        loss = sum(getattr(config.weights, name) * term for name, term in terms.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({name: term.item() for name, term in terms.items()})
    assert history[-1]["reconstruction"] < 0.5 * history[0]["reconstruction"]
    assert history[-1]["photometric"] < history[0]["photometric"]


def test_half_precision_convolutions_change_little():
    torch.manual_seed(0)
    options = ModelOptions(image_side=64, width=0.125, encoder_init="default", depth_range="object_narrow")
    network, batch = SynthesisNetwork(options), fronto_parallel_pairs()
    found = {}
    for precision in ("float32", "bfloat16"):
        config = TrainConfig(model=options, weights=LossWeights(perceptual=0), precision=precision)
        found[precision] = train.step_terms(network, batch, config, None)
    for name, term in found["bfloat16"].items():
        assert term.dtype == torch.float32
        assert term.item() == pytest.approx(found["float32"][name].item(), rel=0.1), name
    sum(found["bfloat16"].values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def trained(name, folder, *changes):
    config = CONFIGS / f"{name}.yaml"
    data = folder / "data"
    command = ["--config", str(config), "--out", str(folder / "run"), "--device", "cpu"]
    train.main([*command, "--set", f"data.root={data}", *changes])
    return json.loads((folder / "run" / "eval.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("name", ["quick", "quick_street"])
def test_quick_configuration_beats_the_trivial_answers(name, tmp_path):
    results = trained(name, tmp_path)
    images, depth = results["images"], results["depth"]
    assert images["method"]["l1"] <= 0.7 * images["identity"]["l1"]
    assert images["method"]["l1"] < images["direct_warp"]["l1"]
    assert depth["depth_new_none"]["abs_rel"] < depth["constant_none"]["abs_rel"]
