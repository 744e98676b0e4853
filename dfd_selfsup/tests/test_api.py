"""The object `DepthFromDefocus`: loaded without its data from anywhere, asked with every kind of input."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dfd_selfsup import DepthFromDefocus, Lens, predict
from dfd_selfsup import eval as evaluation
from dfd_selfsup.datasets.folder import load_stack
from dfd_selfsup.datasets.stack import focal_stack
from dfd_selfsup.tests.test_dfd_scripts import FOCUS_M, data, run_folder, run_train  # noqa: F401
from dfd_selfsup.viewer import scene_of
from shared.errors import DataError, RunError
from shared.files.maps import read_pfm
from shared.geometry.camera import project
from shared.results import DepthMap


@pytest.fixture(scope="module")
def moved(data, tmp_path_factory):  # noqa: F811
    """A run, moved after its training, and its data, of which one test stack is left."""
    root = tmp_path_factory.mktemp("moved")
    shutil.copytree(data, root / "data")
    run_train(root / "data", root / "run", f"data.root={root / 'data'}", "compare_slow=false", "steps=2")
    shutil.copytree(root / "data" / "test" / "s0", root / "stack")
    shutil.move(root / "run", root / "elsewhere")
    shutil.move(root / "data", root / "other_data")
    return root


def test_a_moved_run_predicts_without_its_data_as_the_commands_do(moved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    estimate = DepthFromDefocus.load(moved / "elsewhere", device="cpu").predict(moved / "stack")
    assert (estimate.depth.kind, estimate.depth.unit) == ("z_depth", "m")
    assert estimate.depth.K[0, 0].item() == pytest.approx(100e-3 / 400e-6)
    flags = ["--run", str(moved / "elsewhere"), "--device", "cpu"]
    predict.main([str(moved / "stack"), *flags, "--out", str(tmp_path / "out")])
    assert torch.equal(read_pfm(tmp_path / "out" / "depth.pfm"), estimate.depth.values)
    saved = DepthMap.load(tmp_path / "out" / "depth.pfm")
    assert saved.facts["against_truth"]["predicted"]["abs_rel"] > 0
    with pytest.raises(DataError, match="by --data DIR"):
        evaluation.main(flags)
    evaluation.main([*flags, "--data", str(moved / "other_data")])
    rows = json.loads((moved / "elsewhere" / "eval.json").read_text())["per_stack"]["selfsup"]
    assert rows[0]["abs_rel"] == pytest.approx(saved.facts["against_truth"]["predicted"]["abs_rel"], rel=1e-5)


def test_tensors_arrays_and_paths_give_the_same(moved):
    method = DepthFromDefocus.load(moved / "elsewhere" / "checkpoints" / "last.pt", "cpu")
    paths = [moved / "stack" / f"slice_{index}.png" for index in range(3)]
    images = load_stack(moved / "stack").images
    lens = Lens(100, 2, 400)
    expected = method.predict(moved / "stack").depth.values
    arrays = [(image.permute(1, 2, 0) * 255).round().byte().numpy() for image in images]
    for stack in (images, list(images), arrays, paths, [str(path) for path in paths]):
        assert torch.equal(method.predict(stack, FOCUS_M, lens).depth.values, expected)
    mixed = method.predict([paths[2], arrays[0], images[1]], [FOCUS_M[2], FOCUS_M[0], FOCUS_M[1]], lens)
    assert torch.equal(mixed.depth.values, expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": torch.rand(1, 3, 8, 8)}, "images"),
        ({"images": [torch.rand(3, 8, 8), torch.rand(3, 8, 9)]}, "images"),
        ({"images": [torch.rand(3, 8, 8), 300 * torch.rand(3, 8, 8)]}, r"images\[1\]"),
        ({"images": np.zeros((2, 8, 8))}, r"images\[0\]"),
        ({"focus_m": [1, 2, 3]}, "focus_m"),
        ({"focus_m": [1, 0]}, "positive"),
    ],
)
def test_wrong_input_is_refused_by_name(change, named):
    good = {"images": torch.rand(2, 3, 8, 8), "focus_m": [1, 2], "lens": Lens(50, 8, 12)}
    assert focal_stack(**good).is_metric
    with pytest.raises(ValueError, match=named):
        focal_stack(**good | change)


def test_a_stack_without_a_lens_is_ordered_and_needs_heads_that_need_no_metres(moved):
    method = DepthFromDefocus.load(moved / "elsewhere", "cpu")
    estimate = method.predict(torch.rand(4, 3, 16, 24))
    assert estimate.depth.kind == "order"
    assert -0.5 < estimate.q.min() <= estimate.q.max() < 3.5
    assert method.model.q_range == pytest.approx((1 / 6, 1 / 0.7)), "the trained range stays"
    method.model.heads = replace(method.config.heads, focus_input="metres")
    with pytest.raises(RunError, match="lens"):
        method.predict(torch.rand(4, 3, 16, 24))
    assert DepthFromDefocus(device="cpu").predict(torch.rand(4, 3, 16, 24)).confidence.shape == (16, 24)


def test_fitting_leaves_the_loaded_network_and_the_random_generator_alone(moved):
    state = torch.get_rng_state()
    method = DepthFromDefocus.load(moved / "elsewhere", "cpu")
    before = {name: value.clone() for name, value in method.model.state_dict().items()}
    fitted = [method.fit(moved / "stack", steps=2).q for _ in range(2)]
    assert torch.equal(*fitted)
    assert not torch.equal(fitted[0], method.predict(moved / "stack").q)
    assert all(torch.equal(value, before[name]) for name, value in method.model.state_dict().items())
    alone = [DepthFromDefocus(device="cpu").fit(moved / "stack", steps=1, seed=s).q for s in (1, 1, 2)]
    assert torch.equal(alone[0], alone[1])
    assert not torch.equal(alone[0], alone[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_training_on_stacks_without_a_lens_keeps_their_range(data, tmp_path):  # noqa: F811
    shutil.copytree(data, tmp_path / "data")
    for path in (tmp_path / "data").rglob("stack.yaml"):
        path.write_text("order: near_to_far")
    settings = [f"data.root={tmp_path / 'data'}", "compare_slow=false", "steps=1"]
    results = run_train(tmp_path / "data", tmp_path / "run", *settings)
    assert "abs_rel" not in results["mean"]["selfsup"], "places in a stack are no metres"
    method = DepthFromDefocus.load(tmp_path / "run", "cpu")
    assert (method.kind, method.model.q_range) == ("order", (-0.5, 2.5))
    scene = scene_of(tmp_path / "run", "last", torch.device("cpu"))
    assert scene.unit == "slices"
    assert "relief" in scene.notes[-1]
    (cloud,) = scene.parts[0].clouds
    nearer = cloud.values > cloud.values.median()
    assert cloud.points[nearer, 2].max() <= cloud.points[~nearer, 2].min()


def test_the_viewer_gets_metric_points_where_the_lens_is_known(data, run_folder):  # noqa: F811
    scene = scene_of(run_folder, "best", torch.device("cpu"))
    part = scene.parts[0]
    assert scene.unit == "m"
    assert [cloud.name for cloud in part.clouds] == ["predicted", "true depth"]
    stack = load_stack(data / "test" / "s0")
    predicted, true = part.clouds
    pixels, depth = project(true.points, part.cameras[0].K)
    column, row = pixels.round().long().unbind(1)
    assert (pixels - pixels.round()).abs().max() < 1e-3
    torch.testing.assert_close(depth, stack.depth[row, column])
    estimate = DepthFromDefocus.load(run_folder, "cpu").predict(stack)
    torch.testing.assert_close(predicted.points, estimate.depth.points())
