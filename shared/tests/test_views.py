import json
from pathlib import Path

import pytest
import torch

from shared.errors import DataError
from shared.files.cameras import read_poses, write_pose, write_views
from shared.files.images import read_image, read_pfm
from shared.geometry.trajectories import orbit_trajectory

POSES = orbit_trajectory(3, 2.0, dtype=torch.float64)


def test_a_folder_and_a_file_of_poses_say_the_same(tmp_path: Path) -> None:
    for index, pose in enumerate(POSES):
        write_pose(tmp_path / "poses" / f"{index}.txt", pose)
    lines = [" ".join(str(value) for value in pose.flatten().tolist()) for pose in POSES]
    (tmp_path / "poses.txt").write_text("\n\n".join(lines))
    assert torch.allclose(read_poses(tmp_path / "poses"), POSES)
    assert torch.equal(read_poses(tmp_path / "poses.txt"), POSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n", "holds no poses"),
        ("1 2 3", "line 1: 3 numbers"),
        ("\n" + "nan " * 16, "line 2"),
        ("2 0 0 0  0 2 0 0  0 0 2 0  0 0 0 1", "line 1"),
        ("one " * 16, "line 1"),
    ],
)
def test_bad_poses_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "poses.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_poses(tmp_path / "poses.txt")


def test_an_empty_folder_or_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no poses"):
        read_poses(tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        read_poses(tmp_path / "nowhere.txt")


def test_views_and_depths_are_numbered_and_depth_is_explained(tmp_path: Path) -> None:
    image, depth = torch.rand(3, 4, 6), torch.rand(2, 3)
    write_views(tmp_path / "out", [(image, depth), (image, depth + 1)], {"unit": "m"})
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["depth.json", "depth_0000.pfm", "depth_0001.pfm", "view_0000.png", "view_0001.png"]
    assert torch.equal(read_pfm(tmp_path / "out" / "depth_0001.pfm"), depth + 1)
    assert (read_image(tmp_path / "out" / "view_0000.png") - image).abs().max() < 0.5 / 255 + 1e-6
    assert json.loads((tmp_path / "out" / "depth.json").read_text()) == {"unit": "m"}


def test_without_depth_nothing_is_said_of_it(tmp_path: Path) -> None:
    write_views(tmp_path, [(torch.rand(3, 4, 6), None)], {"unit": "m"})
    assert [path.name for path in tmp_path.iterdir()] == ["view_0000.png"]
