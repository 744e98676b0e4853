"""The training loop: what it draws, what it minimises, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

from deepvoxels import train
from deepvoxels.config import GeneratorOptions, TrainConfig, VolumeConfig
from deepvoxels.datasets.scene import PosedScene, load_views
from deepvoxels.losses import crop_border, discriminator_loss, generator_gan_loss, head_loss, loss_terms
from deepvoxels.models.networks import Discriminator, Renderer
from deepvoxels.tests.conftest import SMALL
from shared.errors import ConfigError, DataError, NonFiniteError
from shared.runs.checkpoint import load_checkpoint


def run(config: Path, out: Path, *settings: str, resume: bool = False) -> None:
    arguments = ["--config", str(config), "--out", str(out), "--device", "cpu"]
    arguments += ["--set", *settings] if settings else []
    train.main([*arguments, "--resume"] if resume else arguments)


def test_draw_views_visits_every_view_once_per_epoch_and_repeats_for_a_seed() -> None:
    neighbours = torch.arange(5)[None].expand(7, 5).clone()
    config = TrainConfig(targets=3, seed=4)
    draws = [train.draw_views(step, config, neighbours) for step in range(1, 15)]
    first_targets = [targets[0] for _, targets in draws]
    assert sorted(first_targets[:7]) == list(range(7))
    assert sorted(first_targets[7:]) == list(range(7))
    assert first_targets[:7] != first_targets[7:]
    assert all(len(targets) == 3 and 0 <= source < 5 for source, targets in draws)
    assert draws == [train.draw_views(step, config, neighbours) for step in range(1, 15)]
    other_seed = TrainConfig(targets=3, seed=5)
    assert draws != [train.draw_views(step, other_seed, neighbours) for step in range(1, 15)]


def test_source_is_one_of_the_nearest_neighbours_of_the_first_target() -> None:
    neighbours = torch.stack([(torch.arange(4) + view + 1) % 9 for view in range(9)])
    for step in range(1, 40):
        source, targets = train.draw_views(step, TrainConfig(), neighbours)
        assert source in neighbours[targets[0]].tolist()


def test_gan_losses_equal_cross_entropy_of_the_sigmoid() -> None:
    real, fake = torch.randn(2, 1, 5, 5, dtype=torch.float64), torch.randn(2, 1, 5, 5, dtype=torch.float64)
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    expected = 0.5 * (
        F.binary_cross_entropy(real.sigmoid(), ones) + F.binary_cross_entropy(fake.sigmoid(), zeros)
    )
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_gan_loss(fake), F.binary_cross_entropy(fake.sigmoid(), ones))
    assert torch.isfinite(generator_gan_loss(torch.tensor([-1e4])))


def test_generator_term_leaves_no_gradient_in_the_discriminator() -> None:
    discriminator = Discriminator().eval()
    rendered, truth = torch.rand(1, 3, 40, 40, requires_grad=True), torch.rand(1, 3, 40, 40)
    terms = loss_terms(rendered, truth, discriminator)
    terms["gan"].backward()
    assert rendered.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    rendered.grad = None
    terms["discriminator"].backward()
    torch.testing.assert_close(
        terms["discriminator"], discriminator_loss(discriminator(truth), discriminator(rendered))
    )
    assert rendered.grad is None
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_the_border_is_cut_from_every_side() -> None:
    image = torch.rand(3, 12, 11)
    assert torch.equal(crop_border(image, 5), image[:, 5:7, 5:6])
    assert torch.equal(crop_border(image, 0), image)


def test_the_colour_head_is_paid_for_what_single_features_say() -> None:
    """Its loss reaches the features past all other layers, and its colours are where the picture starts."""
    torch.manual_seed(0)
    renderer = Renderer(GeneratorOptions(**SMALL, colour_head=True))
    features, truth = torch.rand(2, 4, 8, 8, requires_grad=True), torch.rand(2, 3, 32, 32)
    _, coarse = renderer(features)
    loss = head_loss(coarse + 0.5, truth)
    blocks = truth.unflatten(2, (8, 4)).unflatten(4, (8, 4)).mean((3, 5))
    torch.testing.assert_close(loss, (coarse + 0.5 - blocks).abs().mean())
    loss.backward()
    got = {name for name, weight in renderer.named_parameters() if weight.grad is not None}
    assert got == {"head.weight", "head.bias"}
    assert features.grad.flatten(2).any(dim=2).all()
    with torch.no_grad():
        for parameter in renderer.colour.parameters():
            parameter.zero_()
        image, coarse = renderer(features)
    logits = F.interpolate((2 * coarse).atanh(), scale_factor=4, mode="bilinear", align_corners=False)
    blurred = logits.tanh() / 2
    torch.testing.assert_close(image, blurred)
    groups = train.adam(nn.ModuleDict({"renderer": renderer})).param_groups
    assert [(len(group["params"]), group["times"]) for group in groups][1:] == [(2, 10.0)]


def test_learning_rate_is_constant_then_falls_to_a_twentieth() -> None:
    config = TrainConfig(steps=100, decay_steps=40, learning_rate=1.0)
    rates = [train.learning_rate(step, config) for step in (1, 60, 80, 100)]
    assert rates == pytest.approx([1.0, 1.0, 0.525, 0.05])
    assert train.learning_rate(100, TrainConfig(steps=100)) == TrainConfig().learning_rate


def test_a_step_minimises_the_weighted_sum_and_moves_both_networks_at_one_rate(
    tiny_config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: list
) -> None:
    monkeypatch.setattr(train, "evaluate", lambda *_: {})
    monkeypatch.setattr(train, "summary", lambda _: "not measured")
    settings = "l1_weight=30", "gan_weight=7", "learning_rate=0.001", "decay_steps=2", "steps=2"
    run(tiny_config_file, tmp_path / "run", *settings, "preview_every=0", "checkpoint_every=0")
    (_, loss, terms), (_, loss_d, _), *_ = updates
    torch.testing.assert_close(loss, 30 * terms["l1"] + 7 * terms["gan"])
    assert loss_d == terms["discriminator"]
    middle, last = 0.001 * (0.05 + 0.95 / 2), 0.001 * 0.05
    assert [rate for rate, *_ in updates] == pytest.approx([middle, middle, last, last])


def test_state_buffer_moves_in_training_and_rests_in_evaluation(
    tiny_config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "evaluate", lambda *_: {})
    monkeypatch.setattr(train, "summary", lambda _: "not measured")
    run(tiny_config_file, tmp_path / "run", "steps=2", "checkpoint_every=1", "preview_every=1")
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt").state["model"]["state"]
    assert state.abs().sum() > 0
    without_previews = tmp_path / "quiet"
    run(tiny_config_file, without_previews, "steps=2", "checkpoint_every=1", "preview_every=0")
    quiet = load_checkpoint(without_previews / "checkpoints" / "last.pt").state["model"]["state"]
    assert torch.equal(state, quiet)


def test_run_folder_holds_what_the_readme_promises(tiny_config_file: Path, tmp_path: Path) -> None:
    run(tiny_config_file, tmp_path / "run")
    names = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*")}
    promised = {"config.yaml", "metrics.jsonl", "eval.json", "report.html", "test_views.png"}
    promised |= {"moving_camera.mp4"}
    assert promised | {"checkpoints/last.pt", "previews/views_0000004.png"} <= names
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shown = [row for row in log if "preview_psnr" in row]
    assert [row["step"] for row in shown] == [2, 4]
    assert all(1 <= row["planes_per_ray"] <= 8 for row in shown)  # of 8
    results = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert len(results["per_view"]) == results["test_views"] == 4
    mean = sum(row["psnr"] for row in results["per_view"]) / 4
    assert results["mean"]["psnr"] == pytest.approx(mean)
    assert results["depth"]["record"]["pixels"] > 0


def test_a_few_test_views_can_be_measured(tiny_config_file: Path, tmp_path: Path) -> None:
    run(tiny_config_file, tmp_path / "run", "method=nearest_neighbour", "evaluate_views=2")
    results = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert results["test_views"] == 2
    assert [row["view"] for row in results["per_view"]] == ["000000", "000003"]  # spread over all four


def test_a_moved_grid_has_its_own_far_end(tiny_config: TrainConfig) -> None:
    plain = replace(tiny_config, volume=VolumeConfig())
    (file, _), (moved, test) = (
        load_views(replace(plain, volume=VolumeConfig(side_length=side))) for side in (None, 1.5)
    )
    corners = torch.cartesian_prod(*[torch.tensor([-0.75, 0.75])] * 3)
    depths = (corners - moved.world_from_cam[:, None, :3, 3]) @ moved.world_from_cam[:, :3, :3]
    assert moved.far == test.far == pytest.approx(depths[..., 2].max().item(), abs=1e-5)
    assert moved.far > file.far
    assert moved.near == file.near  # null keeps the file's


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("pix2pix", "tatarchenko", "worrall")]


@pytest.mark.parametrize("method", ["deepvoxels", *SLOW])
def test_resume_in_the_middle_of_an_epoch_is_exact(
    tiny_config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Stopped after 7 of 15 steps, with 12 views: both networks, the grid, Adam's moments and the losses."""
    monkeypatch.setattr(train, "evaluate", lambda *_: {})
    monkeypatch.setattr(train, "summary", lambda _: "not measured")
    settings = f"method={method}", "model.colour_head=true", "decay_steps=0", "preview_every=7"
    settings += ("checkpoint_every=7",)
    run(tiny_config_file, tmp_path / "whole", "steps=15", *settings)
    run(tiny_config_file, tmp_path / "parts", "steps=7", *settings)
    run(tiny_config_file, tmp_path / "parts", "steps=15", *settings, resume=True)
    whole, parts = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "parts")
    )
    assert whole.step == parts.step == 15
    for a, b in zip(tree_leaves(whole.state), tree_leaves(parts.state), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    rows = [[json.loads(line) | {"time_s": 0} for line in log] for log in logs]
    assert rows[0] == rows[1]


def test_nan_in_a_photo_ends_the_run_before_it_spoils_the_network(
    tiny_config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PosedScene.batch
    monkeypatch.setattr(PosedScene, "batch", lambda scene, index: original(scene, index) * float("nan"))
    with pytest.raises(NonFiniteError, match="step 1"):
        run(tiny_config_file, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("*.pt"))


class TestRefusals:
    def test_unknown_key_names_the_nearest(self, tiny_config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"did you mean model\.grid_side"):
            run(tiny_config_file, tmp_path / "run", "model.grid_sied=16")

    @pytest.mark.parametrize(
        "setting",
        [
            "data.sampling=every_2",
            "data.scene=sofa",
            "data.layout=nerf",
            "data.embedded.test_views=0",
            "volume.origin=[0, .inf, 0]",
            "model.image_side=33",
            "model.renderer_up_widths=[32, 32]",
            "model.extractor_levels=6",
            "model.inpainting_widths=[1]",
            "model.occlusion_levels=6",
            "model.lattice=corner",
            "model.renderer_dropout=1",
            "baseline.widths=[4]",
            "border_px=16",
            "learning_rate=0",
        ],
    )
    def test_values_that_make_no_sense(self, tiny_config_file: Path, tmp_path: Path, setting: str) -> None:
        with pytest.raises(ConfigError, match=setting.partition("=")[0].replace(".", r"\.")):
            run(tiny_config_file, tmp_path / "run", setting)
        assert not (tmp_path / "run").exists()

    def test_a_baseline_of_another_side(self, tiny_config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="must agree"):
            run(tiny_config_file, tmp_path / "run", "method=pix2pix", "baseline.image_side=64")

    def test_nothing_to_learn_from(self, tiny_config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="nothing would be learned"):
            run(tiny_config_file, tmp_path / "run", "l1_weight=0", "gan_weight=0")

    def test_more_neighbours_than_views(self, tiny_config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="12 training views have no 12 neighbours each.*nearest_sources"):
            run(tiny_config_file, tmp_path / "run", "nearest_sources=12")

    def test_scene_folder_that_is_not_there(self, tiny_config_file: Path, tmp_path: Path) -> None:
        settings = ("data.embedded=null", f"data.root={tmp_path / 'nowhere'}")
        with pytest.raises(DataError, match="does not exist"):
            run(tiny_config_file, tmp_path / "run", *settings)
