"""The training loop: what it draws, what it minimises, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from deepvoxels import train
from deepvoxels.config import TrainConfig, VolumeConfig
from deepvoxels.datasets.views import load_views
from deepvoxels.losses import crop_border, discriminator_loss, generator_gan_loss
from deepvoxels.models.discriminator import Discriminator
from shared.errors import ConfigError, DataError, RunError
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
    discriminator = Discriminator()
    rendered = torch.rand(1, 3, 40, 40, requires_grad=True)
    terms = train.gan_losses(discriminator, rendered, torch.rand(1, 3, 40, 40))
    terms["gan"].backward()
    assert rendered.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    rendered.grad = None
    terms["discriminator"].backward()
    assert rendered.grad is None
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_crop_border_refuses_to_leave_nothing() -> None:
    assert crop_border(torch.rand(1, 3, 12, 11), 5).shape == (1, 3, 2, 1)
    with pytest.raises(ValueError, match="cannot crop 6 px"):
        crop_border(torch.rand(1, 3, 12, 12), 6)


def test_learning_rate_is_constant_then_falls_to_a_twentieth() -> None:
    config = TrainConfig(steps=100, decay_steps=40, learning_rate=1.0)
    rates = [train.learning_rate(step, config) for step in (1, 60, 80, 100)]
    assert rates == pytest.approx([1.0, 1.0, 0.525, 0.05])
    assert train.learning_rate(100, TrainConfig(steps=100)) == TrainConfig().learning_rate


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
    assert promised | {"checkpoints/last.pt", "previews/test_views_0000004.png"} <= names
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


class TestRefusals:
    def test_unknown_key_names_the_nearest(self, tiny_config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"did you mean model\.grid_side"):
            run(tiny_config_file, tmp_path / "run", "model.grid_sied=16")

    def test_sizes_that_do_not_fit_name_the_rule(self, tiny_config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="feature_side"):
            run(tiny_config_file, tmp_path / "run", "model.image_side=33")

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("data.sampling=every_2", "data.sampling must be all or skip_N"),
            ("data.scene=sofa", "data.scene must be one of the embedded cube, vase, pedestal, chair"),
            (
                "data.layout=nerf",
                "layout must be deepvoxels or auto, as embedded scenes are written, got nerf",
            ),
            ("data.embedded.test_views=0", "data.embedded.test_views must be from 1 to 100000, got 0"),
            ("volume.near=0", "volume.near must be from 1e-09 to"),
            ("volume.side_length=-1", "volume.side_length must be from 1e-09 to"),
            ("decay_steps=-1", "decay_steps must be from 0 to"),
            ("evaluate_views=-1", "evaluate_views must be from 0 to"),
            ("border_px=-1", "border_px must be from 0 to 4096, got -1"),
            ("learning_rate=0", "learning_rate must be from 1e-12 to 10, got 0"),
        ],
    )
    def test_values_that_make_no_sense(
        self, tiny_config_file: Path, tmp_path: Path, setting: str, message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            run(tiny_config_file, tmp_path / "run", setting)
        assert not (tmp_path / "run").exists()

    def test_nothing_to_learn_from(self, tiny_config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="nothing would be learned"):
            run(tiny_config_file, tmp_path / "run", "l1_weight=0", "gan_weight=0")

    def test_more_neighbours_than_views(self, tiny_config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="12 training views have no 12 neighbours each.*nearest_sources"):
            run(tiny_config_file, tmp_path / "run", "nearest_sources=12")

    def test_second_run_in_one_folder(self, tiny_config_file: Path, tmp_path: Path) -> None:
        run(tiny_config_file, tmp_path / "run", "steps=1")
        before = (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes()
        with pytest.raises(RunError, match="already holds a run"):
            run(tiny_config_file, tmp_path / "run", "steps=1")
        assert (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes() == before

    def test_resume_with_another_architecture(self, tiny_config_file: Path, tmp_path: Path) -> None:
        run(tiny_config_file, tmp_path / "run", "steps=1")
        with pytest.raises(RunError, match=r"model\.grid_features was 4 and is now 8"):
            run(tiny_config_file, tmp_path / "run", "steps=2", "model.grid_features=8", resume=True)

    def test_scene_folder_that_is_not_there(self, tiny_config_file: Path, tmp_path: Path) -> None:
        settings = ("data.embedded=null", f"data.root={tmp_path / 'nowhere'}")
        with pytest.raises(DataError, match="does not exist"):
            run(tiny_config_file, tmp_path / "run", *settings)
