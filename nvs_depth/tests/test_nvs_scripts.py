"""Scripts and the Python object as a user runs them, on two tiny embedded objects; KITTI; paths."""

import json
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nvs_depth import ViewSynthesizer, predict, prepare, table, train
from nvs_depth import eval as evaluation
from nvs_depth.config import TrainConfig
from nvs_depth.datasets.kitti_convert import convert_drive, oxts_poses, project_lidar
from nvs_depth.datasets.pairs import load_pairs
from nvs_depth.models.encoder import Encoder
from nvs_depth.models.synthesis import SynthesisNetwork
from nvs_depth.paths import relative_path
from nvs_depth.train import learning_rate
from shared.errors import CheckpointError, DataError, RunError
from shared.files.images import read_image, read_image_size, write_image
from shared.files.maps import read_depth_png, read_pfm
from shared.geometry.camera import check_pose, invert_pose, transform_points
from shared.runs.checkpoint import save_checkpoint
from shared.runs.config import config_to_dict

CONFIGS = sorted((Path(train.__file__).parent / "configs").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def short_videos():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nvs_depth.report.VIDEO_FRAMES", 3)
        yield


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of three steps of a tiny network on one chair, evaluated."""
    root = tmp_path_factory.mktemp("nvs_run")
    config = root / "tiny.yaml"
    config.write_text(f"""
data:
  layout: shapenet_flat
  root: {root / "data"}
  embedded: {{kind: chairs, train_groups: 1, test_groups: 1, image_side: 24, antialias: 1}}
  pairs: {{redraw: true}}
model: {{image_side: 64, width: 0.125, encoder_init: default, depth_range: object_narrow}}
weights: {{perceptual: 0}}
steps: 3
batch_size: 2
checkpoint_every: 2
preview_every: 3
log_every: 1
evaluate_pairs: 4
""")
    train.main(["--config", str(config), "--out", str(root / "run"), "--device", "cpu"])
    return root / "run"


def test_a_run_leaves_what_it_should(run_folder):
    results = json.loads((run_folder / "eval.json").read_text())
    assert results["test_pairs"] == len(results["per_pair"]) == 4
    assert set(results["images"]) == {"method", "inverse_warp", "direct_warp", "identity"}
    assert {"depth_new_none", "depth_new_median", "depth_read_none", "constant_none"} <= set(results["depth"])
    mean = sum(row["method"]["l1"] for row in results["per_pair"]) / 4
    assert results["images"]["method"]["l1"] == pytest.approx(mean)
    report = (run_folder / "report.html").read_text()
    assert "not the paper" in report  # figures from elsewhere are labelled
    assert (run_folder / "previews" / "test_pairs_0000003.png").exists()
    assert any(run_folder.glob("moving_camera.*"))


def test_evaluation_is_reproduced(run_folder, capsys):
    before = json.loads((run_folder / "eval.json").read_text())
    evaluation.main(["--run", str(run_folder), "--device", "cpu"])
    after = json.loads((run_folder / "eval.json").read_text())
    assert after["images"] == before["images"]
    assert after["depth"] == before["depth"]
    printed = capsys.readouterr().out
    assert "Source shown as target" in printed
    assert "images in [-1, 1]" in printed


def test_predict_makes_views_without_a_target(run_folder, tmp_path, capsys):
    picture = torch.zeros(4, 50, 70)
    picture[:, 10:40, 20:50] = 0.8
    write_image(tmp_path / "thing.png", picture)
    poses = relative_path("orbit", 3, 20.0)
    lines = [" ".join(map(str, pose.flatten().tolist())) for pose in invert_pose(poses)]
    (tmp_path / "poses.txt").write_text("\n".join(lines))
    common = ["--run", str(run_folder), "--device", "cpu", str(tmp_path / "thing.png")]
    predict.main(
        [*common, "--path", "orbit", "--amount", "20", "--frames", "3", "--out", str(tmp_path / "a")]
    )
    predict.main([*common, "--poses", str(tmp_path / "poses.txt"), "--out", str(tmp_path / "b")])
    for name in ("view_0002.png", "depth_0002.pfm", "source/depth_0000.pfm", "depth.json", "cameras.json"):
        assert (tmp_path / "a" / name).exists()
    one, other = (read_pfm(tmp_path / n / "depth_0002.pfm") for n in "ab")
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert "only the square in the middle of 70 x 50" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "depth.json").read_text())["unit"] == "scene units"
    (tmp_path / "poses.txt").write_text("1 2 3")
    with pytest.raises(DataError, match=r"poses.txt: line 1"):
        predict.main([*common, "--poses", str(tmp_path / "poses.txt"), "--out", str(tmp_path / "c")])
    assert not (tmp_path / "c").exists()


def test_predict_encodes_once(run_folder, tmp_path, monkeypatch):
    write_image(tmp_path / "thing.png", torch.rand(3, 64, 64))
    calls = []
    forward = Encoder.forward
    monkeypatch.setattr(
        Encoder, "forward", lambda self, image: calls.append(len(image)) or forward(self, image)
    )
    command = ["--run", str(run_folder), "--device", "cpu", str(tmp_path / "thing.png"), "--frames", "9"]
    predict.main([*command, "--out", str(tmp_path / "out")])
    assert calls == [1]


# ---- in Python ---------------------------------------------------------------------------------------------


@pytest.fixture
def without_data(run_folder):
    """The data set is gone, and nothing makes it again."""
    (data,) = run_folder.parent.glob("data-*")
    hidden = data.rename(data.with_name("hidden"))
    yield
    assert not data.exists()
    hidden.rename(data)


@pytest.mark.usefixtures("without_data")
def test_a_moved_run_without_its_data_is_used_in_three_lines(run_folder, tmp_path, monkeypatch):
    shutil.copytree(run_folder, tmp_path / "moved")
    picture = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "thing.png", picture)
    monkeypatch.chdir(tmp_path)
    arguments = ["--run", "moved", "thing.png", "--device", "cpu", "--focal-px", "80", "--frames", "10"]
    predict.main([*arguments, "--out", "out"])

    poses = relative_path("swing", 10, 30.0)
    synthesizer = ViewSynthesizer.load("moved", device="cpu")
    K = np.array([[80, 0, 34.5], [0, 80, 24.5], [0, 0, 1]])
    views = synthesizer.views("thing.png", K, poses)
    for index in (0, 9):
        assert torch.equal(views.depth.values[index], read_pfm(f"out/depth_{index:04d}.pfm"))
        written = read_image(f"out/view_{index:04d}.png")
        torch.testing.assert_close(views.images[index], written, rtol=0, atol=0.6 / 255)
    depth = synthesizer.depth("thing.png", K)
    assert torch.equal(depth.values, read_pfm("out/source/depth_0000.pfm"))
    record = json.loads(Path("out/depth.json").read_text())
    assert record["kind"] == "z_depth"
    assert record["unit"] == "scene units"
    assert record["K"] == views.depth.K.tolist() == depth.K.tolist()
    # the same picture as a tensor and as an array
    pixels = read_image("thing.png")
    assert torch.equal(synthesizer.depth(pixels, K).values, depth.values)
    assert torch.equal(synthesizer.depth(pixels.permute(1, 2, 0).numpy(), K).values, depth.values)


def test_views_are_those_of_the_evaluation(run_folder):
    synthesizer = ViewSynthesizer.load(run_folder / "checkpoints" / "last.pt", "cpu")
    split = evaluation.load_test_pairs(synthesizer.config)
    batch = load_pairs(split.test.views, split.test_pairs)
    evaluated = synthesizer.predict_pairs(batch)
    views = synthesizer.views(batch.image_source[1], batch.K_source[1], batch.target_from_source[1:2])
    torch.testing.assert_close(views.images[0], evaluated.image[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(views.depth.values[0], evaluated.depth_new[1, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(synthesizer.K, batch.K_source[0])


def test_metres_are_training_units_times_their_length(run_folder, tmp_path):
    synthesizer = ViewSynthesizer.load(run_folder, "cpu")
    split, poses = evaluation.load_test_pairs(synthesizer.config), relative_path("swing", 2, 10.0)
    picture, before = split.test.views.load(0).image, json.loads((run_folder / "eval.json").read_text())
    plain = synthesizer.views(picture, None, poses)
    synthesizer.unit_m = split.test.views.unit_m = 10.0
    poses[:, :3, 3] *= 10
    metric = synthesizer.views(picture, None, poses)
    assert (plain.depth.unit, metric.depth.unit) == ("scene units", "m")
    torch.testing.assert_close(metric.depth.values, 10 * plain.depth.values)
    torch.testing.assert_close(metric.images, plain.images)
    after = evaluation.evaluate(synthesizer, split, tmp_path)
    assert after["constant_depth"] == pytest.approx(10 * before["constant_depth"])
    for name, factor in (("abs_rel", 1), ("rmse", 10)):
        expected = factor * before["depth"]["constant_none"][name]
        assert after["depth"]["constant_none"][name] == pytest.approx(expected, rel=1e-4)


def test_wrong_arguments_are_named(run_folder, tmp_path):
    synthesizer = ViewSynthesizer.load(run_folder, "cpu")
    image, poses = torch.rand(3, 64, 64), relative_path("swing", 2, 10.0)
    for wrong in (torch.rand(1, 64, 64), torch.rand(3, 64, 64) * 255, None):
        with pytest.raises(ValueError, match="image must"):
            synthesizer.depth(wrong)
    for wrong in (torch.eye(4), torch.zeros(3, 3), torch.full((3, 3), torch.nan)):
        with pytest.raises(ValueError, match="K must"):
            synthesizer.views(image, wrong, poses)
    for wrong in (torch.eye(3), poses[:, :3], 2 * poses, poses[:0]):
        with pytest.raises(ValueError, match="target_from_source"):
            synthesizer.views(image, None, wrong)
    with pytest.raises(RunError, match="nothing_here"):
        ViewSynthesizer.load("nothing_here")
    old = tmp_path / "old.pt"
    network = SynthesisNetwork(synthesizer.config.model)
    config = config_to_dict(synthesizer.config)
    save_checkpoint(old, {"model": network}, paper="nvs_depth", step=1, config=config)
    with pytest.raises(CheckpointError, match="old.pt.*--resume"):
        ViewSynthesizer.load(old)


def test_the_package_is_imported_without_torch():
    code = "import sys, nvs_depth; assert 'torch' not in sys.modules; assert nvs_depth.ViewSynthesizer"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- tables and paths --------------------------------------------------------------------------------------


def test_table_collects_rows_and_seeds(run_folder):
    text = (run_folder / "eval.json").read_text()
    results = {"full": [json.loads(text), json.loads(text)], "views_only": [json.loads(text)]}
    for result, l1 in zip([*results["full"], *results["views_only"]], (0.1, 0.3, 0.5), strict=True):
        result["images"]["method"]["l1"] = l1
    (ablation,) = table.tables(results)
    assert "0.2000 ± 0.1414" in ablation.text()
    assert "0.5000" in ablation.text()
    assert "Source shown as the target" in ablation.text()
    alone = table.tables({"full": results["full"], "depth_only": results["views_only"]})[0].text()
    assert "0.5000" not in alone  # it paints no pictures
    results["views_only"][0]["data"] = "another"
    with pytest.raises(RunError, match="differ in data"):
        table.tables(results)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--frames", "0"), "--frames 0"),
        (("--fps", "nan"), "--fps nan"),
        (("--amount", "nan"), "--amount nan"),
        (("--distance", "inf"), "--distance inf"),
        (("--focal-px", "-1"), "--focal-px -1"),
    ],
)
def test_predict_refuses_a_path_that_is_none(run_folder, wrong, message):
    with pytest.raises(RunError, match=message):
        predict.main(["--run", str(run_folder), "thing.png", *wrong])


def test_published_learning_rate():
    config = TrainConfig()
    rate = [learning_rate(1 + epoch * 100, 100, config) / 6e-5 for epoch in range(25)]
    assert rate[:10] == [1.0] * 10
    assert rate[10] == pytest.approx(1 - 1 / 31)
    assert learning_rate(1000, 100, config) == 6e-5  # the last step of the tenth epoch
    assert rate[24] == pytest.approx(1 - 15 / 31)  # stops at 0.516, not at 0
    config.decay_steps, config.steps = 10, 20
    assert learning_rate(10, 100, config) == 6e-5
    assert learning_rate(20, 100, config) == pytest.approx(0.05 * 6e-5)


@pytest.mark.parametrize("kind", ["orbit", "swing", "forward", "sway"])
def test_paths_are_rigid(kind):
    check_pose(relative_path(kind, 7, 0.5), kind)
    assert len(relative_path(kind, 1, 0.5)) == 1
    with pytest.raises(ValueError, match="at least one frame"):
        relative_path(kind, 0, 1.0)


def test_an_orbit_keeps_its_point_in_the_middle():
    poses = relative_path("orbit", 5, 30.0, distance=2.0)
    point = torch.tensor([0.0, 0.0, 2.0])
    torch.testing.assert_close(
        transform_points(poses, point.expand(5, 3)), point.expand(5, 3), rtol=0, atol=1e-6
    )
    centres = invert_pose(poses)[:, :3, 3]
    assert math.degrees(math.atan2(centres[0, 0], 2 - centres[0, 2])) == pytest.approx(30, abs=1e-3)
    torch.testing.assert_close(poses[2], torch.eye(4))


def test_forward_moves_the_scene_towards_the_camera():
    poses = relative_path("forward", 3, 0.5)
    moved = transform_points(poses[-1], torch.tensor([0.0, 0.0, 2.0]))
    torch.testing.assert_close(moved, torch.tensor([0.0, 0.0, 1.5]))


# ---- prepare ----------------------------------------------------------------------------------------------


def test_check_proves_the_geometry_of_embedded_objects(run_folder, capsys):
    (data,) = run_folder.parent.glob("data-*")
    prepare.main(["check", str(data)])
    text = capsys.readouterr().out
    parts = ["layout shapenet_flat", "108 in 2 groups", "24 x 24 pixels", "depth maps   108 of 108"]
    parts += ["18 azimuths, elevations 0, 10, 20", "geometry     good"]
    for part in parts:
        assert part in text


def test_check_says_where_to_get_data(tmp_path):
    with pytest.raises(DataError, match="none of the known layouts.*prepare fetch"):
        prepare.main(["check", str(tmp_path)])


def make_raw(root, frames=2):
    """A raw drive of two frames, 1.2 m apart, before one wall of LiDAR points 10 m ahead."""
    date = root / "2011_09_26"
    drive = date / "2011_09_26_drive_0001_sync"
    for name in ("image_02/data", "oxts/data", "velodyne_points/data"):
        (drive / name).mkdir(parents=True)
    date.joinpath("calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012\nR_rect_00: 1 0 0 0 1 0 0 0 1\n"
        "P_rect_02: 700 0 600 42 0 700 170 0 0 0 1 0\nP_rect_03: 700 0 600 -350 0 700 170 0 0 0 1 0\n"
    )
    date.joinpath("calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 -0.25\n")
    date.joinpath("calib_imu_to_velo.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n")
    step = 1.2 / 6378137.0 / math.cos(math.radians(49.0))  # radians of longitude
    for frame in range(frames):
        write_image(
            drive / "image_02" / "data" / f"{frame:010d}.{('png', 'jpg')[frame % 2]}",
            torch.full((3, 375, 1242), 0.5),
        )
        longitude = 8.0 + math.degrees(step) * frame
        (drive / "oxts" / "data" / f"{frame:010d}.txt").write_text(f"49.0 {longitude:.12f} 110 0 0 0 1 2 3")
        beams = [struct.pack("<4f", 10.25, y / 4, z / 4, 0.5) for y in range(-8, 9) for z in range(-4, 3)]
        (drive / "velodyne_points" / "data" / f"{frame:010d}.bin").write_bytes(b"".join(beams))
    return date, drive.name


def test_raw_drives_become_prepared_ones(tmp_path, capsys):
    date, drive = make_raw(tmp_path / "raw")
    prepare.main(["kitti", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--cameras", "02"])
    folder = tmp_path / "out" / f"{drive}_02"
    rows = [[float(w) for w in line.split()] for line in (folder / "poses.txt").read_text().splitlines()]
    centre = torch.tensor(rows[1][1:]).reshape(4, 4)[:3, 3] - torch.tensor(rows[0][1:]).reshape(4, 4)[:3, 3]
    east = torch.tensor([1.2, 0.0, 0.0])  # in the IMU's world
    torch.testing.assert_close(centre, east, rtol=0, atol=1e-3)
    assert read_image_size(folder / "0000000000.png") == (375, 1242)
    depth, valid = read_depth_png(folder / "0000000000_depth.png", unit_m=1 / 256)
    assert valid.sum() == 17 * 7
    assert depth[valid].unique().tolist() == [10.0]
    prepare.main(["kitti", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--cameras", "02"])
    assert "there already" in capsys.readouterr().out
    (date / "calib_imu_to_velo.txt").unlink()
    with pytest.raises(DataError, match="calib_imu_to_velo.txt"):
        convert_drive(date, drive, "02", tmp_path / "again")
    assert not (tmp_path / "again" / f"{drive}_02").exists()


def test_gps_packets_to_poses():
    degree = math.degrees(1 / 6378137.0)  # a metre of latitude
    poses = oxts_poses([[49, 8, 100, 0, 0, 0.1], [49 + 3 * degree, 8, 101, 0, 0, 0.1]])
    torch.testing.assert_close(poses[0], torch.eye(4, dtype=torch.float64))
    # 3 m to the north and 1 m up, in the frame of a car whose nose is 0.1 rad north of east
    expected = torch.tensor([3 * math.sin(0.1), 3 * math.cos(0.1), 1.0], dtype=torch.float64)
    torch.testing.assert_close(poses[1, :3, 3], expected, rtol=0, atol=1e-4)


def test_lidar_projection_against_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(400, 3, generator=generator, dtype=torch.float64) * torch.tensor(
        [30.0, 20, 6]
    ) - torch.tensor([5.0, 10, 3])
    cam_from_velo = torch.tensor([[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, 0.3], [0, 0, 0, 1]]).double()
    K = torch.tensor([[30.0, 0, 20], [0, 30, 11], [0, 0, 1]])
    depth, valid = project_lidar(points, cam_from_velo, K, 23, 41)
    expected = torch.zeros(23, 41)
    for x, y, z in points.tolist():
        cx, cy, cz = -y + 0.1, -z - 0.2, x + 0.3
        if cz <= 0.5:
            continue
        column, row = round(30 * cx / cz + 20), round(30 * cy / cz + 11)
        if 0 <= column < 41 and 0 <= row < 23 and (expected[row, column] == 0 or cz < expected[row, column]):
            expected[row, column] = cz
    torch.testing.assert_close(depth, expected)
    assert torch.equal(valid, expected > 0)
