"""The commands around a run as they are used: eval, predict, prepare, table."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdiffdepth import eval as evaluation_script
from diffdiffdepth import predict, prepare, table
from diffdiffdepth.api import DiffusedDepth
from diffdiffdepth.config import TrainConfig
from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.inputs import load_light_field
from diffdiffdepth.losses import agreement, confidence
from diffdiffdepth.points.epi import epi_points
from diffdiffdepth.points.store import load_points
from diffdiffdepth.predict import export_map
from diffdiffdepth.published import ROW_NAMES
from diffdiffdepth.scene import LightField
from shared.errors import DataError, RunError
from shared.files.images import write_image
from shared.files.maps import read_pfm


def test_eval_reproduces_its_own_file(small_run, capsys):
    evaluation_script.main(["--run", str(small_run), "--device", "cpu"])
    first = (small_run / "eval.json").read_bytes()
    printed = capsys.readouterr().out
    assert "Table 2 of the paper" in printed
    results = json.loads(first)
    assert list(results["rows"]) == list(ROW_NAMES)
    assert results["rows"]["ours"]["mse_x100"] < 10
    (small_run / "eval.json").write_text(json.dumps({"run": results["run"]}))
    evaluation_script.main(["--run", str(small_run), "--device", "cpu"])
    assert (small_run / "eval.json").read_bytes() == first
    assert (small_run / "maps.png").stat().st_size > 1000
    report = (small_run / "report.html").read_text()
    assert "Table 2" in report
    assert "In the more trusted half MSE x 100 is" in report


def test_predict_writes_a_light_field_in_metres(small_scenes, few_steps, small_run, tmp_path, capsys):
    source, out = small_scenes / "still_life", tmp_path / "out"
    arguments = [str(source), "--out", str(out), "--config", str(few_steps), "--device", "cpu"]
    predict.main(arguments)
    disparity, depth = read_pfm(out / "still_life_disparity.pfm"), read_pfm(out / "still_life_depth.pfm")
    np.testing.assert_array_equal(np.load(out / "still_life_disparity.npy"), disparity)
    np.testing.assert_array_equal(np.load(small_run / "disparity.npy"), disparity)  # train's own, to the bit
    assert depth.median() == pytest.approx(5.4, abs=0.6)  # metres
    record = json.loads((out / "still_life.json").read_text())
    assert (record["depth"]["kind"], record["depth"]["unit"]) == ("z_depth", "m")
    assert record["depth"]["scale"].startswith("metric")
    assert record["valid_share"] > 0.9
    assert (out / "still_life.ply").read_bytes().startswith(b"ply")
    assert (out / "still_life_valid.png").exists()
    before = (out / "runs" / "still_life" / "disparity.npy").stat().st_mtime_ns
    predict.main(arguments)  # finished: only exported again
    assert (out / "runs" / "still_life" / "disparity.npy").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="one centre view"):
        predict.main([str(source), "--out", str(out), "--image", "a.png"])


def test_predict_takes_no_map_of_something_else_for_finished(small_scenes, few_steps, small_run, tmp_path):
    """A second folder of the same name, or other settings, into the same --out."""
    source, out = small_scenes / "still_life", tmp_path / "out"
    shutil.copytree(small_run, out / "runs" / "still_life")
    command = ["--config", str(few_steps), "--device", "cpu", "--out", str(out)]
    predict.main([str(source), *command])
    before = (out / "still_life_disparity.npy").read_bytes()
    with pytest.raises(RunError, match="made with views_per_step 2, not 3; choose another --out"):
        predict.main([str(source), *command, "--set", "views_per_step=3"])
    elsewhere = Path(shutil.copytree(source, tmp_path / "elsewhere" / "still_life"))
    with pytest.raises(RunError, match="made with data.root .*not .*elsewhere"):
        predict.main([str(elsewhere), *command])
    assert (out / "still_life_disparity.npy").read_bytes() == before


def test_predict_starts_again_after_a_kill_before_the_first_checkpoint(small_scenes, few_steps, tmp_path):
    killed = tmp_path / "out" / "runs" / "still_life"
    killed.mkdir(parents=True)
    (killed / "metrics.jsonl").write_text('{"step": 1, "total": 1.0}\n')
    command = ["--config", str(few_steps), "--device", "cpu", "--out", str(tmp_path / "out")]
    predict.main([str(small_scenes / "still_life"), *command])
    assert (tmp_path / "out" / "still_life_disparity.npy").exists()
    assert not json.loads((killed / "eval.json").read_text())["run"]["resumed"]


def test_predict_leaves_the_embedded_scene_of_a_config_out(small_scenes, few_steps, tmp_path):
    config = tmp_path / "embedded.yaml"
    config.write_text(few_steps.read_text().replace("data: {", "data: {embedded: {kind: light_field}, "))
    out = tmp_path / "out"
    source = Path(shutil.copytree(small_scenes / "still_life", tmp_path / "mine"))
    (source / "made.json").unlink()
    predict.main([str(source), "--out", str(out), "--config", str(config), "--device", "cpu"])
    assert read_pfm(out / "mine_disparity.pfm").shape == load_light_field(source).centre.shape[1:]


def test_names_alone_do_not_make_a_light_field(tmp_path, monkeypatch, capsys):
    photos, asked = tmp_path / "three_days", []
    generator = torch.Generator().manual_seed(0)
    for n in range(15):
        name = f"walk_{17 + n // 5}_{n % 5 + 1:02d}.png"
        write_image(photos / name, torch.rand(3, 40, 60, generator=generator))
    monkeypatch.setattr(predict, "find_cameras", lambda search, source, out: asked.append(source))
    assert predict._scene_folder(photos, tmp_path / "out", None) == tmp_path / "out" / "scene"
    assert "--kind light-field" in capsys.readouterr().err
    assert predict._scene_folder(photos, tmp_path / "out", "photos") == tmp_path / "out" / "scene"
    assert asked == [photos, photos]
    assert predict._scene_folder(photos, tmp_path / "out", "light-field") == photos


def test_predict_covers_all_images_of_a_scene(small_scenes, few_steps, tmp_path):
    out = tmp_path / "out"
    source = small_scenes / "views"
    predict.main([str(source), "--out", str(out), "--config", str(few_steps), "--device", "cpu"])
    scenes = ColmapScenes(source)
    for name in scenes.names:
        stem = Path(name).stem
        depth, truth = np.load(out / f"{stem}_depth.npy"), scenes[name].truth.numpy()
        assert np.median(np.abs(depth / truth - 1)) < 0.15
        assert json.loads((out / f"{stem}.json").read_text())["depth"]["unit"] == "scene units"
    options = ["--image", "view_00.png", "--max-side", "40", "--preview", "--full-size", "--device", "cpu"]
    predict.main([str(source), "--out", str(tmp_path / "full"), "--config", str(few_steps), *options])
    full, small = (read_pfm(tmp_path / "full" / f"view_00{name}_depth.pfm") for name in ("_full", ""))
    assert (full.shape, small.shape) == ((60, 80), (30, 40))
    assert (full / scenes[0].truth - 1).abs().median() < 0.15
    count = int((out / "cloud.ply").read_bytes()[:200].split(b"vertex ")[1].split()[0])
    assert 0.8 * 4 * 60 * 80 < count <= 4 * 60 * 80
    with pytest.raises(DataError, match="no pose for 'view_09.png'"):
        predict.main([str(source), "--out", str(out), "--image", "view_09.png"])


def result_of(scene, dense):
    seen, points = torch.ones_like(dense, dtype=torch.bool), vars(scene.points)
    return DiffusedDepth.of(TrainConfig(), scene, {"map": dense, "seen": seen, "points": points})


def test_cloud_of_a_scene_is_the_scene(small_scenes, tmp_path):
    scenes = ColmapScenes(small_scenes / "views")
    first, second = (export_map(tmp_path, s.name, result_of(s, s.truth))[0] for s in (scenes[0], scenes[1]))
    distance = torch.cdist(first[::7], second).min(1).values
    assert distance.median() < 0.03  # two views' true surfaces are one


def test_light_field_without_camera_claims_no_depth_and_names_with_dots_stay_whole(small_scenes, tmp_path):
    scene = load_light_field(small_scenes / "still_life")
    scene = replace(scene, camera=None, points=epi_points(scene))
    for name in ("scene.v1", "scene.v2"):
        export_map(tmp_path, name, result_of(scene, scene.truth))
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    maps = ("_disparity.pfm", "_disparity.npy", "_valid.png", "_confidence.png")  # and no _depth
    endings = (*maps, ".png", ".ply", ".json")
    assert files == {f"scene.{version}{ending}" for version in ("v1", "v2") for ending in endings}
    record = json.loads((tmp_path / "scene.v1.json").read_text())
    assert record["depth"].startswith("unknown")
    assert record["cloud"].startswith("relief")
    assert not (tmp_path / "scene.v1" / "cameras.json").exists()


def test_confidence_falls_with_views_colours_and_points():
    centre = torch.rand(3, 20, 30)
    views = torch.stack([centre.roll(4 * (n + 1), 2) for n in range(2)])
    scene = LightField(centre, views, torch.tensor([[1.0, 0], [2.0, 0]]))
    right = torch.full((20, 30), 4.0)
    count, error = agreement(scene, right)
    assert (count[:, :22] == 2).all()
    assert (count[:, 22:26] == 1).all()
    assert (count[:, 26:] == 0).all()
    assert error.max() < 1e-5
    trust = confidence(scene, right, torch.tensor([[3.0, 10.0]]))
    assert trust[10, 3] == pytest.approx(1)
    assert trust[10, 19] == pytest.approx(np.exp(-1), rel=1e-4)  # 16 px from the only point
    assert (trust[:, 26:] == 0).all()
    wrong = confidence(scene, right - 1, torch.tensor([[3.0, 10.0]]))
    assert wrong[:, :20].mean() < 0.1 * trust[:, :20].mean()


def test_check_reports_every_kind_of_data(small_scenes, tmp_path, capsys):
    prepare.main(["check", str(small_scenes / "still_life")])
    text = capsys.readouterr().out
    assert "layout hci" in text
    assert "depth in metres" in text
    prepare.main(["check", str(small_scenes / "views")])
    text = capsys.readouterr().out
    assert "4 with poses" in text
    assert "depth of 4 images" in text
    prepare.main(["check", str(small_scenes)])
    lines = [line.split(maxsplit=3)[:3] for line in capsys.readouterr().out.splitlines()]
    assert ["still_life", "good:", "hci,"] in lines
    assert ["views", "good:", "colmap,"] in lines
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="prepare colmap PHOTOS"):
        prepare.main(["check", str(tmp_path)])


def test_check_goes_on_after_an_unusable_scene(small_scenes, tmp_path, capsys):
    shutil.copytree(small_scenes / "still_life", tmp_path / "broken")
    (tmp_path / "broken" / "input_Cam003.png").unlink()
    shutil.copytree(small_scenes / "views", tmp_path / "whole")
    prepare.main(["check", str(tmp_path)])
    text = capsys.readouterr().out
    assert re.search(r"broken +UNUSABLE: .*1 of 25 views are missing, first input_Cam003.png", text)
    assert re.search(r"whole +good: colmap", text)


def test_points_are_found_once_and_used_again(small_scenes, tmp_path, capsys):
    out = tmp_path / "points.npz"
    prepare.main(["points", str(small_scenes / "still_life"), "--out", str(out)])
    light_field = load_light_field(small_scenes / "still_life")
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


def test_table_runs_what_is_missing_and_prints_it(few_steps, small_run, tmp_path, capsys, monkeypatch):
    shutil.copytree(small_run, tmp_path / "light_field", ignore=shutil.ignore_patterns("eval.json"))
    command = ["--out", str(tmp_path), "--device", "cpu", "--rows", "light_field"]
    table.main([*command, "--config", str(small_run / "config.yaml")])
    printed = capsys.readouterr().out
    assert printed.count("Table 2 of the paper, and this run") == 1
    assert (tmp_path / "light_field" / "eval.json").exists()
    assert "| Method |" in (tmp_path / "table.md").read_text()
    monkeypatch.delenv("REAL_DATA", raising=False)
    table.main([*command[:-1], "ablation", "--config", str(few_steps)])
    printed = capsys.readouterr().out
    assert all(row in printed for row in ("diffusion", *table.ABLATION, "+ median"))
    with pytest.raises(DataError, match="no HCI scene"):
        table.main(["--hci", str(tmp_path), "--out", str(tmp_path)])
