"""prepare.py: reports on scenes, and photos to a scene with the reconstruction replaced by known cameras."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import deepvoxels.datasets.photos as photos
from deepvoxels.datasets.scene import load_scene
from deepvoxels.prepare import main
from shared.errors import DataError, RunError
from shared.files.cameras import DeepVoxelsIntrinsics, read_deepvoxels_intrinsics, write_pose
from shared.files.cameras import write_deepvoxels_intrinsics as write_intrinsics
from shared.files.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints
from shared.files.images import write_image
from shared.files.sfm import SfmScene
from shared.geometry.camera import invert_pose, look_at, project, transform_points
from shared.tests.similarity import align_similarity

TARGET = torch.tensor([0.1, 0.2, -0.1], dtype=torch.float64)


def cameras(count=6):
    angles = torch.arange(count, dtype=torch.float64)
    return look_at(torch.stack([3 * angles.cos(), 3 * angles.sin(), 0.5 + 0.2 * angles], 1))


def write_scene(folder, count=6):
    intrinsics = DeepVoxelsIntrinsics(20.0, 7.5, 7.5, (0.0, 0.0, 0.0), 1.5, 1.0, 16, 16)
    write_intrinsics(folder / "intrinsics.txt", intrinsics)
    for index, pose in enumerate(cameras(count)):
        write_pose(folder / "pose" / f"{index:06d}.txt", pose)
        write_image(folder / "rgb" / f"{index:06d}.png", torch.zeros(3, 16, 16))
    return folder


# ---- check -------------------------------------------------------------------------------------------------


def test_check_reports_one_scene(tmp_path, capsys):
    main(["check", str(write_scene(tmp_path))])
    report = capsys.readouterr().out
    for part in ("layout deepvoxels", "views        6", "16 x 16", "fx fy 20.00 20.00", "near 1.5", "side 1",
                 "no distortion", "depth maps   none", "voxels seen"):  # fmt: skip
        assert part in report


def test_check_reports_the_released_data(tmp_path, capsys):
    write_scene(tmp_path / "train" / "cube")
    write_scene(tmp_path / "test" / "vase")
    (tmp_path / "test" / "vase" / "pose" / "000001.txt").unlink()
    main(["check", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert any("train/cube" in line and "6 views (the released scene has 479)" in line for line in lines)
    assert any("test/vase" in line and "UNUSABLE" in line and "000001" in line for line in lines)
    assert any(line.startswith("  not there: train/armchair, train/greek") for line in lines)
    assert "prepare fetch scenes" in lines[-1]


def test_check_reports_embedded_scenes_and_nerf_with_folders_named_like_splits(tmp_path, capsys, tiny_scene):
    main(["check", str(tiny_scene.train.parents[2])])
    report = capsys.readouterr().out
    assert "train/cube" in report
    assert "12 views," in report
    assert "prepare fetch" not in report
    (tmp_path / "train").mkdir()
    (tmp_path / "transforms_train.json").write_text("{}")
    with pytest.raises(DataError, match="transforms_train.json"):
        main(["check", str(tmp_path)])


def test_check_names_views_without_a_voxel(tmp_path, capsys):
    write_scene(tmp_path)
    turned = cameras()[3] @ torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
    write_pose(tmp_path / "pose" / "000003.txt", turned)
    main(["check", str(tmp_path)])
    assert "NO VOXEL     in 1 views: 000003" in capsys.readouterr().out


def test_check_of_nothing_says_where_to_get_the_data(tmp_path):
    with pytest.raises(DataError, match="empty.*prepare fetch scenes"):
        main(["check", str(tmp_path)])
    write_image(tmp_path / "mine.jpg", torch.zeros(3, 8, 8))
    with pytest.raises(DataError, match="prepare colmap IMAGES --out DIR$"):
        main(["check", str(tmp_path)])


# ---- colmap ------------------------------------------------------------------------------------------------


def pretend(monkeypatch, sizes=((48, 36),), focals=(60.0,), names=None):
    """Replace the reconstruction by known cameras (width, height) and photos with a spot at TARGET."""
    count = 6
    names = names or [f"{index}.jpg" for index in range(count)]

    def reconstruct(photo_dir, out_dir, options=None):
        models = {
            i + 1: ColmapCamera("SIMPLE_PINHOLE", width, height, (focals[i], width / 2, height / 2))
            for i, (width, height) in enumerate(sizes)
        }
        images = {}
        for index, pose in enumerate(cameras(count)):
            camera_id = index % len(sizes) + 1
            camera = models[camera_id]
            pixel, _ = project(transform_points(invert_pose(pose), TARGET), camera.intrinsics())
            rows, columns = np.mgrid[: camera.height, : camera.width]
            spot = np.exp(-((columns - float(pixel[0])) ** 2 + (rows - float(pixel[1])) ** 2) / 18)
            path = Path(out_dir) / "images" / Path(names[index]).with_suffix(".png")
            write_image(path, torch.from_numpy(spot).float()[None])
            nothing = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
            name = path.relative_to(Path(out_dir) / "images").as_posix()
            images[index + 1] = ColmapImage(name, camera_id, pose, *nothing)
        generator = torch.Generator().manual_seed(0)
        xyz = torch.rand(300, 3, generator=generator, dtype=torch.float64) - 0.5
        rest = torch.zeros(300, 3, dtype=torch.uint8), torch.zeros(300, dtype=torch.float64)
        tracks = torch.zeros(301, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)
        model = ColmapModel(models, images, ColmapPoints(torch.arange(300), xyz, *rest, *tracks))
        return SfmScene(Path(out_dir) / "images", Path(out_dir) / "sparse", model, ["blurred.jpg"])

    monkeypatch.setattr(photos, "reconstruct", reconstruct)


@pytest.mark.parametrize(
    ("sizes", "focals"),
    [(((48, 36),), (60.0,)), (((35, 48),), (60.0,)), (((96, 72), (48, 36)), (120.0, 66.0))],
)
def test_photos_become_a_scene_whose_cameras_fit(tmp_path, monkeypatch, capsys, sizes, focals):
    pretend(monkeypatch, sizes, focals)
    main(["colmap", str(tmp_path / "photos"), "--out", str(tmp_path / "scene")])
    assert "WITHOUT POSE, left out: 1 photos: blurred.jpg" in capsys.readouterr().err
    written = sorted(os.listdir(tmp_path / "scene"))
    assert written == ["intrinsics.txt", "photos.json", "pose", "rgb", "sparse.ply"]
    assert json.loads((tmp_path / "scene" / "photos.json").read_text())["unregistered"] == ["blurred.jpg"]
    scene = load_scene(tmp_path / "scene", image_side=24)
    points_cam = transform_points(invert_pose(scene.world_from_cam), TARGET.float().expand(6, 1, 3))
    expected, _ = project(points_cam, scene.K)
    weight, steps = scene.images[:, 0].double(), torch.arange(24.0, dtype=torch.float64)
    moments = torch.stack([(weight.sum(1) * steps).sum(1), (weight.sum(2) * steps).sum(1)], 1)
    assert (moments / weight.sum((1, 2))[:, None] - expected[:, 0]).abs().max() < 0.1
    # the released rule must agree with ours on the file that we write, up to its missing half pixel
    released = load_scene(tmp_path / "scene", image_side=24, intrinsics_rule="released").K
    assert (released - scene.K)[:, :2, :2].abs().max() < 1e-4
    assert (released - scene.K).abs().max() < 0.5
    intrinsics = read_deepvoxels_intrinsics(tmp_path / "scene" / "intrinsics.txt")
    assert np.allclose(intrinsics.grid_origin, 0, atol=0.05)
    assert intrinsics.grid_side_length == pytest.approx(1.0, abs=0.06)
    assert 1.5 < intrinsics.near < 3


def test_photos_of_the_same_name_in_sub_folders_keep_apart(tmp_path, monkeypatch):
    pretend(monkeypatch, names=[f"{folder}/{index}.jpg" for folder in "ab" for index in range(3)])
    photos.prepare_photos(tmp_path / "photos", tmp_path / "scene")
    names = sorted(os.listdir(tmp_path / "scene" / "rgb"))
    assert names == [f"{folder}_{index}.png" for folder in "ab" for index in range(3)]
    record = json.loads((tmp_path / "scene" / "photos.json").read_text())
    assert record["photos"]["b_0"] == "b/0.png"


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    pretend(monkeypatch)

    def fail(*args):
        raise DataError("x", "the disk is full", "Make room")

    monkeypatch.setattr(photos, "write_pose", fail)
    with pytest.raises(DataError, match="the disk is full"):
        main(["colmap", str(tmp_path / "photos"), "--out", str(tmp_path / "scene")])
    assert os.listdir(tmp_path) == []


def test_a_used_output_folder_and_an_empty_input_are_refused(tmp_path):
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "mine.txt").write_text("keep me")
    with pytest.raises(DataError, match="not an empty folder"):
        main(["colmap", str(tmp_path), "--out", str(tmp_path / "scene")])
    assert os.listdir(tmp_path / "scene") == ["mine.txt"]
    pytest.importorskip("pycolmap")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="holds no photos"):
        main(["colmap", str(tmp_path / "photos"), "--out", str(tmp_path / "new")])
    assert sorted(os.listdir(tmp_path)) == ["photos", "scene"]


def test_without_pycolmap_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(RunError, match=r"\[colmap\]"):
        main(["colmap", str(tmp_path), "--out", str(tmp_path / "scene")])


@pytest.mark.slow  # about a minute on two cores
@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="the environment variable REAL_DATA is not set")
def test_the_fox_photos_become_a_scene(tmp_path):
    pytest.importorskip("pycolmap")
    fox = Path(os.environ["REAL_DATA"]) / "fox"
    main(["colmap", str(fox / "images"), "--out", str(tmp_path / "scene")])
    ours, truth = load_scene(tmp_path / "scene", image_side=64), load_scene(fox, image_side=64)
    by_name = {Path(name).stem: pose for name, pose in zip(truth.names, truth.world_from_cam, strict=True)}
    target = torch.stack([by_name[name][:3, 3] for name in ours.names]).double()
    source = ours.world_from_cam[:, :3, 3].double()
    scale, turn, shift = align_similarity(source, target)
    distances = (scale * source @ turn.T + shift - target).norm(dim=1)
    assert len(ours) >= 48
    assert distances.max() < 0.02 * (target.amax(0) - target.amin(0)).norm()
    assert math.isclose(float(scale) * ours.grid_side_length, truth.grid_side_length, rel_tol=0.5)
