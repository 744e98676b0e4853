"""KITTI layouts: units, crops, sparse depth, published lists and their overlaps; errors name the file."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nvs_depth.datasets.kitti import CROP_256, RAW_HW, euler_pose, load_kitti_raw
from nvs_depth.datasets.options import DataConfig
from nvs_depth.datasets.select import load_split, load_views
from nvs_depth.datasets.views import Framing
from shared.errors import DataError
from shared.files.images import read_image, write_image
from shared.files.maps import write_depth_png


def make_drive(root, frames=3, hw=(48, 64)):
    """A prepared drive of noise; returns the names of its frames."""
    folder = root / "drive_0001_02"
    folder.mkdir(parents=True)
    (folder / "cam.txt").write_text("60 0 30\n0 60 20\n0 0 1\n")
    lines = []
    for frame in range(frames):
        pose = torch.eye(4)
        pose[2, 3] = 1.5 * frame
        lines.append(f"{frame} " + " ".join(map(str, pose.flatten().tolist())))
        write_image(
            folder / f"{frame:010d}.png", torch.rand(3, *hw, generator=torch.Generator().manual_seed(frame))
        )
        depth = torch.zeros(hw)
        depth[10, 20] = 12.5
        write_depth_png(folder / f"{frame:010d}_depth.png", depth, depth > 0, unit_m=1 / 256)
    (folder / "poses.txt").write_text("\n".join(lines) + "\n")
    return [f"drive_0001_02/{frame:010d}.png" for frame in range(frames)]


def test_kitti_units_crop_and_sparse_depth(tmp_path):
    make_drive(tmp_path)
    first = tmp_path / "drive_0001_02" / "0000000001.png"
    write_image(first.with_suffix(".JPG"), read_image(first))
    with pytest.raises(DataError, match="has the number of"):
        load_kitti_raw(tmp_path, Framing(16))
    first.unlink()
    views = load_kitti_raw(tmp_path, Framing(16, crop=(8, 16, 32)))
    assert views.names[1] == "drive_0001_02/0000000001.png"
    assert views.world_from_cam[1, 2, 3] == pytest.approx(1.5 / 50)
    torch.testing.assert_close(
        views.K[0], torch.tensor([[30, 0, 14 / 2 - 0.25], [0, 30, 12 / 2 - 0.25], [0, 0, 1]])
    )
    sample = views.load(0)
    assert sample.valid.nonzero().tolist() == [[0, 1, 2]]
    assert sample.depth[0, 1, 2] == pytest.approx(12.5 / 50)


def test_kitti_crop_of_the_released_loader():
    framing = Framing(256, resize_hw=RAW_HW, crop=CROP_256)
    K = torch.tensor([[721.54, 0, 609.56], [0, 721.54, 172.85], [0, 0, 1]])
    cropped = framing.K(K, RAW_HW)
    assert cropped[0, 2] == pytest.approx(116.56, abs=0.01)  # not 128
    assert cropped[1, 2] == pytest.approx(113.85, abs=0.01)


def test_a_crop_outside_the_image_is_refused(tmp_path):
    make_drive(tmp_path)
    with pytest.raises(DataError, match="leaves 48 x 64 px"):
        load_kitti_raw(tmp_path, Framing(16, crop=(20, 20, 40)))


@pytest.mark.parametrize("extension", ["png", "jpg", "JPEG"])
def test_odometry_benchmark_layout(tmp_path, extension):
    folder = tmp_path / "00"
    (folder / "image_2").mkdir(parents=True)
    for frame in range(3):
        write_image(folder / "image_2" / f"{frame:06d}.{extension}", torch.rand(3, 20, 40))
    (folder / "image_2" / f"._000000.{extension}").write_bytes(bytes(120))
    baseline = 0.06
    projection = np.array([[70, 0, 19, 70 * baseline], [0, 70, 9, 0], [0, 0, 1, 0]])
    (folder / "calib.txt").write_text("P2: " + " ".join(map(str, projection.flatten())) + "\n")
    pose = np.eye(4)[:3]
    lines = []
    for frame in range(3):
        pose[2, 3] = frame
        lines.append(" ".join(map(str, pose.flatten())))
    (folder / "poses.txt").write_text("\n".join(lines))
    views = load_views(DataConfig(layout="kitti_odometry", root=str(tmp_path)), 20)
    torch.testing.assert_close(views.world_from_cam[2, :3, 3] * 50,
                               torch.tensor([-baseline, 0, 2], dtype=torch.float64))  # fmt: skip
    assert views.names[2] == "00/000002.png"
    assert views.coordinates.tolist() == [[0, 0], [1, 0], [2, 0]]
    assert not views.has_depth


def test_predecessors_odometry_layout(tmp_path):
    angles = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    expected = Rotation.from_euler("xyz", angles.numpy()).as_matrix()
    pose = euler_pose(angles, torch.tensor([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(pose[:3, :3].numpy(), expected, atol=1e-12)
    for name in ("00_000001", "00_000004"):
        write_image(
            tmp_path / "images" / f"{name}.{'jpg' if name[-1] == '4' else 'PNG'}", torch.rand(3, 32, 32)
        )
    (tmp_path / "poses.txt").write_text("00_000001 0.1 -0.2 0.3 1 2 3\n00_000004 0 0 0 0 0 10\n")
    views = load_views(DataConfig(layout="kitti_odometry_flat", root=str(tmp_path)), 32)
    torch.testing.assert_close(views.world_from_cam[0, :3, :3], pose[:3, :3])
    assert views.K[0, 0, 0] == pytest.approx(718.9 / 8)
    assert (views.groups, views.coordinates[:, 0].tolist()) == (["00", "00"], [1, 4])
    torch.testing.assert_close(views.world_from_cam[1, :3, 3] * 50, torch.tensor([0.0, 0, 10]).double())


# ---- published lists ---------------------------------------------------------------------------------------


def test_lists_split_and_overlaps_are_named(tmp_path):
    frames = make_drive(tmp_path, frames=6)
    (tmp_path / "train.txt").write_text("\n".join(frames[:5]))
    (tmp_path / "val.txt").write_text(frames[2] + "\n")
    (tmp_path / "pairs.txt").write_text(f"{frames[4]} {frames[5]}\n")
    lists = {"train_list": "train.txt", "validation_list": "val.txt", "test_pairs": "pairs.txt"}
    config = DataConfig(layout="kitti_raw", root=str(tmp_path), **lists)
    split = load_split(config, 32)
    assert any("1 of its frames that are in the validation list" in note for note in split.notes)
    assert any("1 views of the test were also in the training list" in note for note in split.notes)
    used = {split.train.views.names[i] for i in split.train.all_pairs().flatten().tolist()}
    assert used == {frames[0], frames[1], frames[3]}
    assert split.test_pairs.tolist() == [[4, 5]]
    (tmp_path / "pairs.txt").write_text("drive_0001_02/0000000000.png drive_0001_02/0000000099.png\n")
    with pytest.raises(DataError, match="no view named 'drive_0001_02/0000000099.png'"):
        load_split(config, 32)
