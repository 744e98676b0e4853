"""Measures, tables and commands around a run: figures against plain sums, scripts as they are used."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdiffdepth import eval as evaluation_script
from diffdiffdepth import predict, prepare, table, train
from diffdiffdepth.datasets import (
    ColmapScenes,
    load_light_field,
    make_embedded_light_field,
    make_embedded_multi_view,
)
from diffdiffdepth.evaluation import (
    DEFINITIONS,
    corner_views,
    lab_error,
    label_errors,
    measure,
    result_map,
    scaled_errors,
)
from diffdiffdepth.export import export_map, seen_pixels
from diffdiffdepth.points import epi_points, load_points, nearest_fill, weighted_median
from diffdiffdepth.published import METHODS, ROW_NAMES, TABLE_1, TABLE_2, paper_scene
from diffdiffdepth.report import comparison_table, paper_tables, summary
from diffdiffdepth.scene import LightField, SparsePoints
from shared.files import DataError, read_pfm
from shared.run import RunError

FEW_STEPS = ["schedule.iterations=1", "schedule.passes=1", "depth.supersampling=1", "views_per_step=2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_embedded_light_field(folder / "still_life", size=(48, 64), side=5, antialias=1)
    make_embedded_multi_view(folder / "views", size=(45, 60), views=3, points=120, antialias=1)
    return folder


@pytest.fixture(scope="module")
def config(made) -> Path:
    path = made / "few.yaml"
    path.write_text(f"data:\n  root: {made / 'still_life'}\nschedule:\n  iterations: 1\n  passes: 1\n")
    return path


@pytest.fixture(scope="module")
def run(made, config) -> Path:
    """A finished run of four steps on the light field."""
    train.main(["--config", str(config), "--out", str(made / "run"), "--device", "cpu", "--set", *FEW_STEPS])
    return made / "run"


# ---- measures ----------------------------------------------------------------------------------------------


def test_nearest_fill_is_nearest():
    rng = np.random.default_rng(0)
    positions = rng.uniform(-1, 15, (23, 2))
    points = SparsePoints(torch.tensor(positions), torch.arange(23.0), "disparity")
    filled = nearest_fill(points, (11, 14))
    for y in range(11):
        for x in range(14):
            assert filled[y, x] == np.argmin(((positions - [x, y]) ** 2).sum(1))


def test_weighted_median_matches_a_plain_loop():
    rng = np.random.default_rng(1)
    values, guide = torch.tensor(rng.uniform(0, 1, (7, 9))), torch.tensor(rng.uniform(0, 0.3, (3, 7, 9)))
    got = weighted_median(values, guide, radius=2, sigma_colour=0.2)
    for y in range(7):
        for x in range(9):
            entries = []
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    v, u = min(max(y + dy, 0), 6), min(max(x + dx, 0), 8)
                    colour = float(((guide[:, v, u] - guide[:, y, x]) ** 2).sum())
                    weight = np.exp(-colour / 0.08 - (dx * dx + dy * dy) / 8)
                    entries.append((float(values[v, u]), weight))
            entries.sort()
            running = np.cumsum([weight for _, weight in entries])
            expected = entries[int(np.searchsorted(running, running[-1] / 2))][0]
            assert got[y, x].item() == pytest.approx(expected)


def test_weighted_median_keeps_guided_edges_and_drops_specks():
    guide = torch.zeros(3, 20, 30)
    guide[:, :, 15:] = 1.0
    values = guide[0].clone()
    values[7, 5], values[12, 22] = 9.0, -9.0
    torch.testing.assert_close(weighted_median(values, guide), guide[0])


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


def test_light_field_measures_are_the_papers(made):
    scene = load_light_field(made / "still_life")
    error = torch.zeros_like(scene.truth)
    error[:24] = 0.05  # half of the pixels
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
    assert {tuple(offset) for offset in grid[corner_views(grid)].tolist()} == {
        (-2, -1),
        (-2, 1),
        (2, -1),
        (2, 1),
    }
    cross = torch.tensor([[-2.0, 0], [-1, 0], [1, 0], [2, 0], [0, -2], [0, -1], [0, 1], [0, 2]])
    assert {tuple(offset) for offset in cross[corner_views(cross)].tolist()} == {
        (-2, 0),
        (2, 0),
        (0, -2),
        (0, 2),
    }


def test_colour_error_is_least_at_the_truth(made):
    scene = load_light_field(made / "still_life")
    right = lab_error(scene, scene.truth)
    assert right < 0.6 * lab_error(scene, torch.zeros_like(scene.truth))
    assert right < lab_error(scene, scene.truth + 0.3)
    views = ColmapScenes(made / "views")[0]
    assert lab_error(views, views.truth) < 0.8 * lab_error(views, views.truth.mean().expand_as(views.truth))


def test_colour_error_of_identical_views_is_zero():
    centre = torch.rand(3, 12, 17, generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor([[1.0, 1], [-1, 1], [1, -1], [-1, -1]])
    scene = LightField(centre, centre.expand(4, -1, -1, -1), offsets)
    assert lab_error(scene, torch.zeros(12, 17)) < 1e-3


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


def results_of(kind: str, name: str, has_truth: bool = True) -> dict:
    measures = {
        "mse_x100": 1.0,
        "bp_0.01": 20.0,
        "bp_0.03": 10.0,
        "bp_0.07": 5.0,
        "bp_0.1": 4.0,
        "bp_0.3": 3.0,
    }
    measures |= {"bp_0.7": 2.0, "q25_x100": 0.5, "mse": 0.0012, "scale": 1.0, "lab": 1.5}
    rows = {row: measures if has_truth else {"lab": 1.5} for row in ROW_NAMES}
    return {
        "data": name,
        "kind": kind,
        "size": [48, 64],
        "has_truth": has_truth,
        "initial_points": 7,
        "features": "rgb",
        "rows": rows,
        "definitions": DEFINITIONS,
    }


def test_paper_and_run_stand_under_their_own_data_sets():
    text = comparison_table(results_of("light field", "dino")).text()
    assert "paper: Dino" in text
    assert "this run: dino, 64 x 48 px" in text
    assert "0.86" in text
    mean = comparison_table(results_of("light field", "antinous")).text()
    assert "mean of Sideboard, Dino, Cotton, Boxes" in mean
    own = comparison_table(results_of("light field", "piano")).text()
    assert "BP(0.3)" in own
    assert "BP(0.03)" not in own
    views = comparison_table(results_of("multi-view", "view_00")).text()
    assert "Living Room-MVS" in views
    assert "0.0012" in views
    blind = comparison_table(results_of("light field", "lytro", has_truth=False)).text()
    assert "LAB error" in blind
    assert "paper" not in blind  # there is nothing that it could stand beside
    assert "before optimisation" in summary(results_of("multi-view", "view_00"))


def test_full_published_table_prints():
    (published,) = paper_tables()
    text = published.text()
    assert "paper: Living Room" in text
    assert "BP(0.3)" in text


# ---- scripts -----------------------------------------------------------------------------------------------


def test_eval_reproduces_its_own_file(run, capsys):
    evaluation_script.main(["--run", str(run), "--device", "cpu"])
    first = (run / "eval.json").read_bytes()
    printed = capsys.readouterr().out
    assert "Table 2 of the paper" in printed
    results = json.loads(first)
    assert list(results["rows"]) == list(ROW_NAMES)
    assert results["rows"]["ours"]["mse_x100"] < 10
    (run / "eval.json").write_text(json.dumps({"run": results["run"]}))
    evaluation_script.main(["--run", str(run), "--device", "cpu"])
    assert (run / "eval.json").read_bytes() == first
    assert (run / "maps.png").stat().st_size > 1000
    assert "Table 2" in (run / "report.html").read_text()


def test_unfinished_and_damaged_runs_are_named(run, tmp_path):
    with pytest.raises(RunError, match="no run here"):
        evaluation_script.main(["--run", str(tmp_path)])
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    config, scene = evaluation_script.load_run(copy)
    np.save(copy / "disparity.npy", np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"map of \(3, 3\)"):
        result_map(scene, copy)
    (copy / "disparity.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no array in NumPy's format"):
        result_map(scene, copy)
    (copy / "disparity.npy").unlink()
    with pytest.raises(DataError, match="not finished"):
        evaluation_script.evaluate(config, scene, copy)
    (copy / "points_initial.npz").unlink()
    with pytest.raises(RunError, match="not finished"):
        evaluation_script.load_run(copy)


def test_predict_writes_a_light_field_in_metres(made, config, tmp_path, capsys):
    source, out = made / "still_life", tmp_path / "out"
    arguments = [
        str(source),
        "--out",
        str(out),
        "--config",
        str(config),
        "--device",
        "cpu",
        "--set",
        *FEW_STEPS,
    ]
    predict.main(arguments)
    disparity, depth = read_pfm(out / "still_life_disparity.pfm"), read_pfm(out / "still_life_depth.pfm")
    np.testing.assert_array_equal(np.load(out / "still_life_disparity.npy"), disparity)
    assert depth.median() == pytest.approx(5.4, abs=0.6)  # metres
    record = json.loads((out / "still_life.json").read_text())
    assert record["depth"] == {"unit": "m", "status": "z-depth, metric"}
    assert record["valid_share"] > 0.9
    assert (out / "still_life.ply").read_bytes().startswith(b"ply")
    assert (out / "still_life_valid.png").exists()
    before = (out / "runs" / "still_life" / "disparity.npy").stat().st_mtime_ns
    predict.main(arguments)  # finished: only exported again
    assert (out / "runs" / "still_life" / "disparity.npy").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="one centre view"):
        predict.main([str(source), "--out", str(out), "--image", "a.png"])


def test_predict_never_takes_the_map_of_something_else_for_finished(made, config, run, tmp_path):
    """A second folder of the same name, or other settings, into the same --out."""
    source, out = made / "still_life", tmp_path / "out"
    shutil.copytree(run, out / "runs" / "still_life")
    command = ["--config", str(config), "--device", "cpu", "--out", str(out), "--set", *FEW_STEPS]
    predict.main([str(source), *command])
    before = (out / "still_life_disparity.npy").read_bytes()
    with pytest.raises(RunError, match="made with views_per_step 2, not 3; choose another --out"):
        predict.main([str(source), *command, "views_per_step=3"])
    elsewhere = Path(shutil.copytree(source, tmp_path / "elsewhere" / "still_life"))
    with pytest.raises(RunError, match="made with data.root .*not .*elsewhere"):
        predict.main([str(elsewhere), *command])
    assert (out / "still_life_disparity.npy").read_bytes() == before


def test_predict_starts_again_where_a_run_was_killed_before_its_first_checkpoint(made, config, tmp_path):
    killed = tmp_path / "out" / "runs" / "still_life"
    killed.mkdir(parents=True)
    (killed / "metrics.jsonl").write_text('{"step": 1, "total": 1.0}\n')
    command = ["--config", str(config), "--device", "cpu", "--out", str(tmp_path / "out")]
    predict.main([str(made / "still_life"), *command, "--set", *FEW_STEPS])
    assert (tmp_path / "out" / "still_life_disparity.npy").exists()
    assert not json.loads((killed / "eval.json").read_text())["run"]["resumed"]


def test_images_of_one_stem_keep_their_maps_apart():
    stems = predict._stems(["a.jpg", "a.png", "left/b.jpg", "2024.01.02.jpg"])
    assert list(stems.values()) == ["a.jpg", "a.png", "left_b", "2024.01.02"]


def test_predict_covers_all_images_of_a_scene(made, tmp_path):
    few = tmp_path / "mvs.yaml"
    few.write_text("schedule:\n  iterations: 1\n  passes: 1\n")
    out = tmp_path / "out"
    source = made / "views"
    predict.main(
        [str(source), "--out", str(out), "--config", str(few), "--device", "cpu", "--set", *FEW_STEPS]
    )
    scenes = ColmapScenes(source)
    for name in scenes.names:
        stem = Path(name).stem
        depth, truth = np.load(out / f"{stem}_depth.npy"), scenes[name].truth.numpy()
        assert np.median(np.abs(depth / truth - 1)) < 0.15
        assert json.loads((out / f"{stem}.json").read_text())["depth"]["unit"] == "scene units"
    count = int((out / "cloud.ply").read_bytes()[:200].split(b"vertex ")[1].split()[0])
    assert 0.8 * 3 * 45 * 60 < count <= 3 * 45 * 60
    with pytest.raises(DataError, match="no pose for 'view_09.png'"):
        predict.main([str(source), "--out", str(out), "--image", "view_09.png"])


def test_cloud_of_a_scene_is_the_scene(made, tmp_path):
    scenes = ColmapScenes(made / "views")
    clouds = [
        export_map(
            tmp_path, Path(name).stem, scenes[name], scenes[name].truth, None, scenes.world_from_centre(name)
        )[0]
        for name in scenes.names[:2]
    ]
    distance = torch.cdist(clouds[0][::7], clouds[1]).min(1).values
    assert distance.median() < 0.03  # two views' true surfaces are one


def test_light_field_without_camera_claims_no_depth(made, tmp_path):
    scene = load_light_field(made / "still_life")
    export_map(tmp_path, "relief", scene, scene.truth)
    assert not (tmp_path / "relief_depth.pfm").exists()
    record = json.loads((tmp_path / "relief.json").read_text())
    assert record["depth"].startswith("unknown")
    assert record["cloud"].startswith("relief")


def test_names_with_dots_stay_whole(made, tmp_path):
    scene = load_light_field(made / "still_life")
    export_map(tmp_path, "scene.v1", scene, scene.truth)
    export_map(tmp_path, "scene.v2", scene, scene.truth)
    files = {path.name for path in tmp_path.iterdir()}
    endings = ("_disparity.pfm", "_disparity.npy", "_valid.png", ".png", ".ply", ".json")
    assert files == {f"scene.{version}{ending}" for version in ("v1", "v2") for ending in endings}


def test_seen_pixels_leave_out_what_no_view_shows():
    centre = torch.rand(3, 20, 30)
    scene = LightField(centre, centre.expand(2, -1, -1, -1), torch.tensor([[1.0, 0], [2.0, 0]]))
    seen = seen_pixels(scene, torch.full((20, 30), 4.0))
    assert seen[:, :25].all()
    assert not seen[:, 27:].any()


def test_check_reports_every_kind_of_data(made, tmp_path, capsys):
    prepare.main(["check", str(made / "still_life")])
    text = capsys.readouterr().out
    assert "layout hci" in text
    assert "depth in metres" in text
    prepare.main(["check", str(made / "views")])
    text = capsys.readouterr().out
    assert "3 with poses" in text
    assert "depth of 3 images" in text
    prepare.main(["check", str(made)])
    lines = [line.split(maxsplit=3)[:3] for line in capsys.readouterr().out.splitlines()]
    assert ["still_life", "good:", "hci,"] in lines
    assert ["views", "good:", "colmap,"] in lines
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="lightfield-analysis"):
        prepare.main(["check", str(tmp_path)])


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--seed", "-1"), ("--max-image-side", "0"), ("--threads", "-7")],
)
def test_numbers_that_colmap_cannot_use_are_refused_before_the_search(tmp_path, flag, value):
    with pytest.raises(RunError, match=f"colmap: (num_)?{flag.strip('-').replace('-', '_')} must be from"):
        prepare.main(["colmap", str(tmp_path), "--out", str(tmp_path / "out"), flag, value])


def test_check_goes_on_after_an_unusable_scene(made, tmp_path, capsys):
    shutil.copytree(made / "still_life", tmp_path / "broken")
    (tmp_path / "broken" / "input_Cam003.png").unlink()
    shutil.copytree(made / "views", tmp_path / "whole")
    prepare.main(["check", str(tmp_path)])
    text = capsys.readouterr().out
    assert re.search(r"broken +UNUSABLE: .*1 of 25 views are missing, first input_Cam003.png", text)
    assert re.search(r"whole +good: colmap", text)


def test_points_are_found_once_and_used_again(made, tmp_path, capsys):
    out = tmp_path / "points.npz"
    prepare.main(["points", str(made / "still_life"), "--out", str(out)])
    light_field = load_light_field(made / "still_life")
    stored, found = load_points(out), epi_points(light_field)
    errors = [
        abs(label - float(light_field.truth[round(y), round(x)]))
        for (x, y), label in zip(stored.positions_px.tolist(), stored.labels.tolist(), strict=True)
    ]
    says = (
        f"median error {np.sort(errors)[(len(errors) - 1) // 2]:.3g} px, {np.mean(np.less(errors, 0.1)):.1%}"
    )
    assert f"{len(stored)} points, disparity" in (text := capsys.readouterr().out)
    assert says in text
    assert len(stored) > 200
    torch.testing.assert_close(stored.labels, found.labels, rtol=0, atol=0)  # those that training would find
    torch.testing.assert_close(stored.positions_px, found.positions_px, rtol=0, atol=0)


def test_table_runs_what_is_missing_and_prints_it(made, config, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "light_field", ignore=shutil.ignore_patterns("eval.json"))
    command = ["--out", str(tmp_path), "--device", "cpu", "--rows", "light_field"]
    table.main([*command, "--config", str(run / "config.yaml")])
    printed = capsys.readouterr().out
    assert printed.count("Table 2 of the paper, and this run") == 1
    assert (tmp_path / "light_field" / "eval.json").exists()
    assert "| Method |" in (tmp_path / "table.md").read_text()
    with pytest.raises(DataError, match="no HCI scene"):
        table.main(["--hci", str(tmp_path), "--out", str(tmp_path)])


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="REAL_DATA is not set: no real data")
def test_truth_of_a_benchmark_scene_has_the_least_colour_error():
    scene = load_light_field(Path(os.environ["REAL_DATA"]) / "hci_antinous")
    right = measure(scene, scene.truth)
    assert right["mse_x100"] == 0
    assert right["lab"] < 0.8 * lab_error(scene, scene.truth + 0.2)
