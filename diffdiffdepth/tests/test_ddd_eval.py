"""Measures against plain sums, the tables that hold them, and point files."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdiffdepth import evaluation
from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.evaluation import corner_views, lab_error, label_errors, measure, scaled_errors
from diffdiffdepth.inputs import load_light_field
from diffdiffdepth.models.edges import median_at_edges, onto_their_sides
from diffdiffdepth.points.store import load_points, perturb_points, save_points
from diffdiffdepth.published import METHODS, ROW_NAMES, TABLE_1, TABLE_2, paper_scene
from diffdiffdepth.report import run_tables, summary
from diffdiffdepth.scene import SparsePoints


def test_nearest_fill_is_nearest():
    rng = np.random.default_rng(0)
    positions = rng.uniform(-1, 15, (23, 2))
    points = SparsePoints(torch.tensor(positions), torch.arange(23.0), "disparity")
    filled = evaluation.nearest_fill(points, (11, 14))
    for y in range(11):
        for x in range(14):
            assert filled[y, x] == np.argmin(((positions - [x, y]) ** 2).sum(1))


def test_median_at_edges_matches_a_plain_loop():
    rng = np.random.default_rng(1)
    values, guide = torch.tensor(rng.uniform(0, 0.01, (9, 17))), torch.tensor(rng.uniform(0, 0.1, (3, 9, 17)))
    values[:, 12:] += 1.0
    got = median_at_edges(values, guide, 2.0, radius=2, sigma_colour=0.2)
    assert torch.equal(got[:, :9], values[:, :9])  # three pixels and more from the jump

    def around(y, x, reach):
        steps = range(-reach, reach + 1)
        pairs = [(dy, dx) for dy in steps for dx in steps]
        return [(min(max(y + dy, 0), 8), min(max(x + dx, 0), 16), dy * dy + dx * dx) for dy, dx in pairs]

    def spread(y, x):
        near = [float(values[v, u]) for v, u, _ in around(y, x, 1)]
        return max(near) - min(near)

    for y in range(9):
        for x in range(10, 15):
            entries = []
            for v, u, squared in around(y, x, 2):
                colour = float(((guide[:, v, u] - guide[:, y, x]) ** 2).sum())
                weight = np.exp(-colour / 0.08 - squared / 2 - min(spread(v, u) / 0.26, 2))
                entries.append((float(values[v, u]), weight))
            entries.sort()
            running = np.cumsum([weight for _, weight in entries])
            expected = entries[int(np.searchsorted(running, running[-1] / 2))][0]
            assert got[y, x].item() == pytest.approx(expected)


def test_points_at_an_edge_move_onto_the_surface_that_they_label():
    image = torch.zeros(3, 20, 30)
    image[:, :, 15:] = 0.8  # the near surface; its outline is at x = 14.5
    dense = torch.where(torch.arange(30) < 17, 0.0, 2.0).expand(20, 30)  # too thin, as before any step
    positions = torch.tensor([[14.5, 8.0], [14.5, 9.0], [14.5, 10.0], [4.0, 8.0]])
    labels = torch.tensor([2.0, 0.1, 1.0, 0.0])  # near, far, neither, not at an edge
    moved = onto_their_sides(positions, labels, image, dense, 0.75)
    torch.testing.assert_close(moved - positions, torch.tensor([[0.75, 0], [-0.75, 0], [0, 0], [0, 0]]))


def test_ten_fits_take_the_smallest():
    generator = torch.Generator().manual_seed(0)
    truth = 2 + torch.rand(40, 50, generator=generator)
    depth = 0.5 * truth + 0.02 * torch.randn(40, 50, generator=generator)
    valid = torch.rand(40, 50, generator=generator) > 0.3
    got = scaled_errors(torch.where(valid, depth, torch.nan), truth, valid, seed=4)
    p, t = depth[valid].double().numpy(), truth[valid].double().numpy()
    best = ((p * (p @ t / (p @ p)) - t) ** 2).mean()  # of all pixels: a lower bound
    assert best <= got["mse"] < 1.01 * best
    assert got["scale"] == pytest.approx(2, rel=0.01)
    assert got["mse_unscaled"] > 100 * got["mse"]
    error = np.abs(p * got["scale"] - t)
    assert got["q25_x100"] <= 100 * np.quantile(error, 0.25) * 1.001
    assert scaled_errors(3 * truth, truth, None)["mse"] < 1e-10


def test_light_field_measures_are_the_papers(small_scenes):
    scene = load_light_field(small_scenes / "still_life")
    error = torch.zeros_like(scene.truth)
    error[:28] = 0.05  # half of the pixels
    rows = measure(scene, scene.truth + error)
    assert rows["mse_x100"] == pytest.approx(100 * 0.05**2 / 2, rel=1e-3)
    for threshold, share in ((0.01, 50), (0.03, 50), (0.07, 0), (0.1, 0), (0.7, 0)):
        assert rows[f"bp_{threshold:g}"] == pytest.approx(share)
    assert rows["q25_x100"] == pytest.approx(0, abs=1e-4)


def test_label_errors_leave_out_what_is_outside_or_not_valid():
    truth = torch.arange(12.0).view(3, 4)
    positions = torch.tensor([[0.4, 0.0], [3.0, 1.6], [-0.6, 0.0], [1.0, 1.0]])
    points = SparsePoints(positions, torch.tensor([0.5, 9.0, 7.0, 5.0]), "disparity")
    assert label_errors(points, truth).tolist() == [0.5, 2.0, 0.0]
    assert label_errors(points, truth, truth != 11).tolist() == [0.5, 0.0]


def test_corners_of_grids_and_ends_of_crosses():
    grid = torch.tensor([[u, v] for u in (-2.0, -1, 0, 1, 2) for v in (-1.0, 0, 1) if (u, v) != (0, 0)])
    assert sorted(grid[corner_views(grid)].tolist()) == [[-2, -1], [-2, 1], [2, -1], [2, 1]]
    cross = torch.tensor([[-2.0, 0], [-1, 0], [1, 0], [2, 0], [0, -2], [0, -1], [0, 1], [0, 2]])
    assert sorted(cross[corner_views(cross)].tolist()) == [[-2, 0], [0, -2], [0, 2], [2, 0]]


def test_colour_error_is_least_at_the_truth(small_scenes):
    scene = load_light_field(small_scenes / "still_life")
    right = lab_error(scene, scene.truth)
    assert right < 0.6 * lab_error(scene, torch.zeros_like(scene.truth))
    assert right < lab_error(scene, scene.truth + 0.3)
    views = ColmapScenes(small_scenes / "views")[0]
    assert lab_error(views, views.truth) < 0.8 * lab_error(views, views.truth.mean().expand_as(views.truth))


# ---- points on disk, and made worse ------------------------------------------------------------------------


def test_points_survive_the_disk(tmp_path):
    points = SparsePoints(torch.rand(7, 2), torch.rand(7) + 1, "depth", torch.rand(7) / 2 + 0.5)
    save_points(tmp_path / "points.npz", points)
    loaded = load_points(tmp_path / "points.npz", size=(2, 2))
    assert loaded.kind == "depth"
    for name in ("positions_px", "labels", "weights"):
        torch.testing.assert_close(getattr(loaded, name), getattr(points, name), rtol=0, atol=0)


def test_perturbation_is_seeded_and_as_large_as_asked():
    points = SparsePoints(torch.rand(4000, 2) * 50, torch.linspace(-1, 1, 4000), "disparity")
    noisy, again = (perturb_points(points, torch.Generator().manual_seed(3), 0.1) for _ in range(2))
    torch.testing.assert_close(noisy.labels, again.labels)
    assert (noisy.labels - points.labels).std() == pytest.approx(0.1, rel=0.05)
    spoilt = perturb_points(points, torch.Generator().manual_seed(3), outlier_share=0.25)
    wrong = spoilt.labels != points.labels
    assert wrong.float().mean() == pytest.approx(0.25, abs=0.03)


# ---- tables ------------------------------------------------------------------------------------------------


def test_published_tables_have_the_papers_figures():
    assert TABLE_2["dino"]["ours"] == {"mse_x100": 0.86, "bp_0.01": 25.6, "bp_0.03": 7.69, "bp_0.07": 4.06}
    assert TABLE_2["piano"]["zhang2016"] == {"mse_x100": 26.7, "bp_0.1": 36.7, "bp_0.3": 25.0, "bp_0.7": 5.33}
    assert TABLE_2["boxes"]["khan2020"]["bp_0.07"] == 28.3
    assert all(set(scene) == set(METHODS) for scene in TABLE_2.values())
    for measured in ("mse", "q25_x100"):  # the printed average, to the last printed digit
        scenes = [TABLE_1[name]["ours"][measured] for name in ("living room-mvs", "piano-mvs")]
        assert sum(scenes) / 2 == pytest.approx(TABLE_1["average"]["ours"][measured], abs=0.006)
    assert paper_scene("training/Dino") == "dino"
    assert paper_scene("my_living_room_2") == "living room"
    assert paper_scene("antinous") is None
    assert paper_scene("dinosaurs") is None


@pytest.mark.parametrize(
    ("kind", "name", "shown"),
    [
        ("light field", "dino", ["paper: Dino", "this run: dino, 64 x 48 px", "0.86"]),
        ("light field", "antinous", ["mean of Sideboard, Dino, Cotton, Boxes"]),
        ("light field", "piano", ["BP(0.3)"]),
        ("multi-view", "view_00", ["Living Room-MVS", "0.0012"]),
    ],
)
def test_paper_and_run_are_shown_under_their_own_data_sets(kind, name, shown):
    measures = dict.fromkeys(("mse_x100", "q25_x100", "lab", *(f"bp_{t}" for t in (0.01, 0.03, 0.07))), 1.0)
    measures |= {"bp_0.1": 4.0, "bp_0.3": 3.0, "bp_0.7": 2.0, "mse": 0.0012}
    results = {"data": name, "kind": kind, "size": [48, 64], "has_truth": True, "initial_points": 7}
    results |= {"features": "rgb", "rows": dict.fromkeys(ROW_NAMES, measures)}
    results["definitions"] = evaluation.DEFINITIONS
    text = run_tables(results)[0].text()
    assert all(part in text for part in shown)
    blind = results | {"has_truth": False, "rows": dict.fromkeys(ROW_NAMES, {"lab": 1.5})}
    assert "paper" not in run_tables(blind)[0].text()
    assert "before optimisation" in summary(results)


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="REAL_DATA is not set: no real data")
def test_truth_of_a_benchmark_scene_has_the_least_colour_error():
    scene = load_light_field(Path(os.environ["REAL_DATA"]) / "hci_antinous")
    right = measure(scene, scene.truth)
    assert right["mse_x100"] == 0
    assert right["lab"] < 0.8 * lab_error(scene, scene.truth + 0.2)
