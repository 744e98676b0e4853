"""The optimisation routine: every group helps, scale and interruptions do not matter, the script runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from diffdiffdepth import routine, train
from diffdiffdepth.config import RateConfig, ScheduleConfig, TrainConfig
from diffdiffdepth.losses import LossWeights, ReprojectionLoss
from diffdiffdepth.models import point_depth
from diffdiffdepth.models.point_depth import GROUPS, DepthOptions, LabelScale, PointDepth
from diffdiffdepth.points.store import load_points
from diffdiffdepth.routine import GroupAdam, Optimisation, turns
from diffdiffdepth.scene import LightField, SparsePoints
from diffdiffdepth.tests import toy
from shared.errors import NonFiniteError, RunError
from shared.runs.checkpoint import load_checkpoint
from shared.runs.folder import read_metrics

GRID = [(u, v) for v in (-1, 0, 1) for u in (-1, 0, 1) if u or v]


def with_points(scene, count, noise):
    """The scene with labels of its truth at random places, with noise."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    positions = unit * torch.tensor([scene.centre.shape[2] - 1.0, scene.centre.shape[1] - 1.0])
    x, y = positions.round().long().unbind(1)
    factors = 1 + noise * torch.randn(count, generator=generator, dtype=torch.float64)
    kind = "disparity" if isinstance(scene, LightField) else "depth"
    return replace(scene, points=SparsePoints(positions, scene.truth[y, x] * factors, kind))


def light_field(count=150):
    return with_points(toy.light_field(GRID, torch.float64), count, 0.25)


def multi_view(scale=1.0):
    return with_points(toy.multi_view(scale, torch.float64), 80, 0.06)


def model_of(scene, **options):
    return PointDepth(scene.points, scene.centre, DepthOptions(**options), LabelScale.of(scene.points))


def descend(adam, loss):
    adam.zero_grad()
    loss.backward()
    adam.step()


def run_turns(scene, model, schedule, weights):
    loss = ReprojectionLoss(scene, weights, unit=model.scale.unit)
    adam = GroupAdam(model)
    for turn in turns(schedule):
        adam.start(turn.group, turn.rate)
        for _ in range(turn.first, turn.last + 1):
            descend(adam, loss(model.dense())["total"])
    model.choose(None)
    return model.dense()


@pytest.mark.parametrize("make", [light_field, multi_view])
def test_each_group_alone_lowers_the_loss(make):
    scene, weights = make(), LossWeights(edge=0.01, smoothness=0.003)
    loss = ReprojectionLoss(scene, weights)
    rates = {"smoothness": RateConfig(0.1, 1), "weights": RateConfig(0.2, 1)}
    for group in GROUPS:
        model = model_of(scene, supersampling=1)
        before = loss(model.dense())["total"]
        untouched = {name: values.clone() for name, values in model.groups.items() if name != group}
        after = loss(run_turns(scene, model, ScheduleConfig(10, 1, (group,), **rates), weights))["total"]
        assert after < 0.98 * before, group
        for name, values in untouched.items():
            assert torch.equal(model.groups[name], values), f"{name} moved in a turn of {group}"


@pytest.mark.parametrize("make", [light_field, multi_view])
def test_optimisation_halves_the_squared_error(make):
    scene = make()
    model = model_of(scene, supersampling=1)
    plain = (model.dense() - scene.truth).square().mean()
    weights = LossWeights(edge=0.01, smoothness=0.003)
    final = run_turns(scene, model, ScheduleConfig(10, 3), weights)
    assert (final - scene.truth).square().mean() < 0.5 * plain


def test_result_scales_with_the_scene():
    maps = []
    for scale in (1.0, 8.0):
        scene = multi_view(scale)
        maps.append(run_turns(scene, model_of(scene), ScheduleConfig(2, 1), LossWeights(0.01, 0.01, 0.05)))
    torch.testing.assert_close(maps[1], 8 * maps[0], rtol=1e-6, atol=0)


def test_schedule_of_the_paper():
    plan = turns(ScheduleConfig())
    assert [turn.group for turn in plan[:5]] == ["smoothness", "labels", "weights", "positions", "smoothness"]
    assert plan[-1].last == TrainConfig().steps == 260
    assert all(a.last + 1 == b.first for a, b in zip(plan, plan[1:], strict=False))
    last = {turn.group: turn.rate for turn in plan[-4:]}
    expected = {"smoothness": 0.015 * 0.9**4, "labels": 0.015 * 0.9**4}
    expected |= {"weights": 0.015 * 0.8**4, "positions": 0.1 * 0.75**4}
    assert last == pytest.approx(expected)
    damped = turns(ScheduleConfig(labels=RateConfig(0.01, 0.5, damping=5.0), damping=1.0))
    assert [turn.damping for turn in damped[:4]] == [1, 5, 1, 1]
    wide = ScheduleConfig(iterations=25, preliminary=50, densify=4)
    first = turns(wide)[0]
    assert (first.group, first.first, first.last, first.densify) == ("smoothness", 1, 50, 4)
    assert turns(wide)[-1].last == TrainConfig(schedule=wide).steps == 550


def test_points_are_splatted_once_while_only_smoothness_moves(monkeypatch):
    calls = []
    scene = light_field(60)
    model = model_of(scene, supersampling=1)
    real = model._splat
    monkeypatch.setattr(model, "_splat", lambda *args, **kw: calls.append(1) or real(*args, **kw))
    loss = ReprojectionLoss(scene, LossWeights())
    adam = GroupAdam(model)
    counts = {"smoothness": 1, "labels": 0, "weights": 0, "positions": 3}  # frozen for labels and weights
    for group, expected in counts.items():
        calls.clear()
        adam.start(group, 0.01)
        for _ in range(3):
            descend(adam, loss(model.dense())["total"])
        assert len(calls) == expected, group


@pytest.mark.parametrize("make", [light_field, multi_view])
def test_plain_and_fast_model_agree_in_map_and_gradients(make):
    scene = with_points(make(), 25, 0.1)
    small = scene.centre[:, :16, :18]
    loss_weights = torch.rand(16, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options, scale = DepthOptions(supersampling=1, tolerance=1e-10), LabelScale.of(scene.points)
    for group in GROUPS:
        results = []
        for plain in (False, True):
            model = PointDepth(scene.points, small, options, scale, plain=plain)
            values = model.choose(group)
            dense = model.dense()
            results.append((dense, *torch.autograd.grad((dense * loss_weights).sum(), values)))
        for fast, slow in zip(*results, strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)


def test_state_survives_added_points():
    scene = light_field(60)
    model = model_of(scene)
    dense = model.dense()
    model.groups["weights"] = model.groups["weights"] + 0.3
    model.add_points(torch.tensor([[3.0, 4.0], [10.0, 2.0]]), dense)
    assert len(model.points()) == 62
    torch.testing.assert_close(model.points().labels[60], dense[4, 3])
    assert (model.groups["weights"] == 0).all()
    other = model_of(scene)
    other.load_state_dict(model.state_dict())
    assert len(other.points()) == 62
    torch.testing.assert_close(other.dense(), model.dense(), rtol=0, atol=1e-3)
    cropped = PointDepth(scene.points, scene.centre[:, 1:], DepthOptions(), model.scale)
    with pytest.raises(ValueError, match="pixels"):
        cropped.load_state_dict(model.state_dict())


def test_label_scale():
    depths = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    points = SparsePoints(torch.zeros(5, 2), depths, "depth")
    scale = LabelScale.of(points)
    labels = scale.encode(depths)
    torch.testing.assert_close(scale.decode(labels), depths)
    assert 3.5 < (labels.quantile(0.95) - labels.quantile(0.05)) < 4.5
    assert (scale.decode(torch.tensor([-1.0, 0.0])) > 0).all()
    flat = LabelScale.of(SparsePoints(torch.zeros(2, 2), torch.tensor([3.0, 3.0]), "depth"))
    assert flat.unit > 0
    assert LabelScale.of(points, unit=0.5).unit == 0.5


def test_gradient_and_edges_of_the_image():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 12, 17, generator=generator)
    grey = (image * torch.tensor([0.2125, 0.7154, 0.0721])[:, None, None]).sum(0).numpy()
    slopes = [ndimage.sobel(grey, axis, mode="reflect") / 4 for axis in (0, 1)]
    expected = np.sqrt((slopes[0] ** 2 + slopes[1] ** 2) / 2)
    np.testing.assert_allclose(point_depth.sobel_magnitude(image).numpy(), expected, atol=1e-5)
    smoothness = point_depth.initial_smoothness(image, DepthOptions(smoothness_gain=3.0))
    np.testing.assert_allclose(smoothness.numpy(), 3 * expected, atol=1e-5)
    step = torch.zeros(3, 20, 30)
    step[0, :, 15:] = 1
    step[1, 5:] = 1  # green does not count
    x, y = point_depth.image_edges(step).unbind(1)
    assert set(x.tolist()) <= {14.0, 15.0}
    assert len(set(y.tolist())) >= 16


def test_barrier_stands_on_faint_edges_and_nowhere_else():
    image = torch.full((3, 24, 40), 0.3)
    image[:, :, 20:] = 0.34  # a step of ten grey levels
    options = [DepthOptions(initial_smoothness=kind) for kind in ("barrier", "gradient")]
    faint, gradient = (point_depth.initial_smoothness(image, chosen) for chosen in options)
    assert (faint[:, 17:23] > 2).all()
    assert (gradient < 0.2).all()
    assert (faint[:, [*range(14), *range(26, 40)]].abs() < 1e-4).all()
    image[:, :, 20:] = 1.0
    strong = point_depth.initial_smoothness(image, options[0])
    assert strong.max() == 10
    assert (strong[:, :14].abs() < 1e-4).all()


def test_a_part_without_points_behind_a_barrier_still_has_depth_and_gradient():
    """Warnings are errors here: both solves must converge."""
    y, x = torch.meshgrid(torch.arange(160), torch.arange(200), indexing="ij")
    inside = (x - 110).abs().maximum((y - 80).abs()) < 50
    image = torch.where(inside, 0.9, 0.1).expand(3, -1, -1).clone()
    edge = torch.stack([x[~inside], y[~inside]], 1)[::37].float()
    points = SparsePoints(edge, 1 + edge[:, 0] / 200, "disparity")
    options = DepthOptions(initial_smoothness="barrier")
    model = PointDepth(points, image, options, LabelScale("disparity", 1.0))
    model.groups["smoothness"] = 3 * model.groups["smoothness"]  # as after many steps: exp(-30)
    smoothness = model.choose("smoothness")
    dense = model.dense()
    (dense[inside] - 1.2).square().mean().backward()
    assert 1 < dense[inside].mean() < 2
    assert smoothness.grad.isfinite().all()


def test_next_to_nothing_leaks_through_a_barrier():
    points = SparsePoints(torch.tensor([[3.0, 6.0], [16.0, 6.0]]), torch.tensor([0.0, 1.0]), "disparity")
    options = DepthOptions(supersampling=1, tolerance=1e-8)
    model = PointDepth(points, torch.zeros(3, 12, 20), options, LabelScale("disparity", 1.0))
    model.groups["smoothness"][:, 9:11] = 30.0
    dense = model.dense()
    leaks = torch.stack([dense[:, :9], 1 - dense[:, 11:]]).abs().amax((1, 2))
    assert ((leaks > 1e-5) & (leaks < 2e-4)).all()


def test_damping_leaves_alone_what_has_hardly_any_gradient():
    """Plain Adam moves every entry by the rate, whatever its gradient."""
    moved = {}
    for damping in (0.0, 1.0):
        model = model_of(light_field(50), supersampling=1)
        adam = GroupAdam(model)
        adam.start("labels", 0.01, damping)
        before = model.groups["labels"].detach().clone()
        pull = torch.full_like(before, 1e-6)
        pull[0] = 1.0
        descend(adam, (model.groups["labels"] * pull).sum())
        moved[damping] = (before - model.groups["labels"].detach()).abs()
    torch.testing.assert_close(moved[0.0], torch.full_like(moved[0.0], 0.01), rtol=0.02, atol=0)
    assert moved[1.0][0] > 0.008
    assert (moved[1.0][1:] < 1e-6).all()


def test_views_of_a_step():
    scene = light_field(20)
    work = Optimisation(TrainConfig(views_per_step=3), scene)
    drawn = [work.draw_views(step) for step in range(1, 40)]
    assert all(len(set(views.tolist())) == 3 for views in drawn)
    assert torch.equal(drawn[4], work.draw_views(5))
    assert len(set(torch.cat(drawn).tolist())) == 8


CONFIG = """
data: {root: ROOT, embedded: {kind: multi_view, height: 40, width: 56, points: 60}}
depth: {supersampling: 1}
schedule: {iterations: 2, passes: 1, preliminary: 3, densify: 3, damping: 0.5}
loss: {edge: 0.01, smoothness: 0.0075, ssim: 0.05}
preview_every: 5
checkpoint_every: 3
"""


class PowerCut(Exception):
    pass


def test_script_runs_and_resumes_exactly(tmp_path, monkeypatch, updates):
    """As a user would run it: embedded data, a power cut at two places, and no trace of it in the result."""
    (tmp_path / "c.yaml").write_text(CONFIG.replace("ROOT", str(tmp_path / "data")))
    arguments = ["--config", str(tmp_path / "c.yaml"), "--device", "cpu", "--out"]
    train.main([*arguments, str(tmp_path / "whole")])
    plan = turns(ScheduleConfig(2, 1, preliminary=3))
    assert [rate for rate, *_ in updates] == [t.rate for t in plan for _ in range(t.first, t.last + 1)]
    for _, loss, terms in updates:
        weighted = 0.01 * terms["edge"] + 0.0075 * terms["smoothness"] + 0.05 * terms["ssim"]
        torch.testing.assert_close(loss, terms["data"] + weighted)
    real, counter = GroupAdam.step, [0]

    def step(self):
        counter[0] += 1
        if counter[0] in (5, 10):  # a step after the checkpoints of steps 3 and 6
            raise PowerCut
        real(self)

    monkeypatch.setattr(GroupAdam, "step", step)
    with pytest.raises(PowerCut):
        train.main([*arguments, str(tmp_path / "cut")])
    with pytest.raises(PowerCut):
        train.main([*arguments, str(tmp_path / "cut"), "--resume"])
    for _ in range(2):  # the second time it is finished
        train.main(["--resume", "--device", "cpu", "--out", str(tmp_path / "cut")])

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    np.testing.assert_array_equal(np.load(cut / "depth.npy"), np.load(whole / "depth.npy"))
    one, other = (load_checkpoint(run / "checkpoints" / "last.pt") for run in (whole, cut))
    for group in GROUPS:
        assert torch.equal(one.state["model"][group], other.state["model"][group]), group
    moments = [c.state["adam"]["adam"]["state"][0]["exp_avg"] for c in (one, other)]
    assert torch.equal(*moments)
    assert torch.equal(one.rng[0]["torch"], other.rng[0]["torch"])
    rows = [read_metrics(run / "metrics.jsonl") for run in (whole, cut)]
    assert rows[0] == [row | {"time_s": first["time_s"]} for first, row in zip(*rows, strict=True)]
    assert [row["step"] for row in rows[0]] == list(range(1, 12))
    assert {"total", "data", "edge", "smoothness", "ssim", "solve_steps"} <= set(rows[0][0])
    assert len(load_points(whole / "points.npz")) == 3 * len(load_points(whole / "points_initial.npz"))
    assert len(list((whole / "previews").glob("progress_*.png"))) == 3


def test_densification_takes_all_edges_if_there_are_too_few(tmp_path):
    scene = multi_view()
    model = model_of(scene, supersampling=1)
    routine.densify(model, scene.centre, 10**6, seed=0)
    assert len(model.points()) == len(scene.points) + len(point_depth.image_edges(scene.centre))


def test_points_that_have_all_left_the_image_end_the_run_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(CONFIG.replace("ROOT", str(tmp_path / "data")))
    real = GroupAdam.step

    def step(self):
        real(self)
        self.model.groups["positions"].data.add_(1000)

    monkeypatch.setattr(GroupAdam, "step", step)
    arguments = ["--config", str(tmp_path / "c.yaml"), "--device", "cpu", "--out", str(tmp_path / "run")]
    with pytest.raises(RunError, match=r"outside the image\?; lower the rates of the schedule"):
        train.main([*arguments, "--set", "schedule.densify=1"])


@pytest.mark.filterwarnings("ignore:adjoint of the diffusion")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_ends_the_run_before_anything_moves(tmp_path, monkeypatch, value):
    (tmp_path / "c.yaml").write_text(CONFIG.replace("ROOT", str(tmp_path / "data")))
    arguments = ["--config", str(tmp_path / "c.yaml"), "--device", "cpu", "--out"]
    real = ReprojectionLoss.__call__
    for name in ("ssim", "total"):

        def spoilt(loss, *maps, name=name):
            terms = real(loss, *maps)
            return terms | {name: terms[name] + value}

        monkeypatch.setattr(ReprojectionLoss, "__call__", spoilt)
        with pytest.raises(NonFiniteError, match=f"step 1: .*{name} is {value}|step 1: loss is {value}"):
            train.main([*arguments, str(tmp_path / name)])
        assert not (tmp_path / name / "checkpoints" / "last.pt").exists()
    monkeypatch.setattr(ReprojectionLoss, "__call__", real)

    def kink(loss, dense, views):  # finite, but its gradient is not
        return {"total": (dense - dense.detach()).abs().sqrt().sum()}

    monkeypatch.setattr(ReprojectionLoss, "__call__", kink)
    with pytest.raises(NonFiniteError, match="step 1: the gradient of smoothness"):
        train.main([*arguments, str(tmp_path / "gradient")])
