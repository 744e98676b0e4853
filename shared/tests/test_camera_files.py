"""transforms.json, intrinsics.txt and pose files: conventions, flavours, and what must be refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shared.files.cameras import (
    DeepVoxelsIntrinsics,
    read_deepvoxels_intrinsics,
    read_nerf_scene,
    read_nerf_transforms,
    read_pose,
    read_poses,
    write_deepvoxels_intrinsics,
    write_pose,
)
from shared.files.images import write_image
from shared.geometry.camera import look_at, project
from shared.geometry.trajectories import orbit_trajectory
from shared.tests.broken import refused
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused

HEIGHT, WIDTH = 6, 8
POSE = look_at(torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64))
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


# ---- NeRF --------------------------------------------------------------------------------------------------


def nerf_meta(**changes):
    matrix = (POSE @ OPENGL).tolist()
    frames = [{"file_path": f"images/{index}.png", "transform_matrix": matrix} for index in range(3)]
    meta = {"fl_x": 10.0, "fl_y": 11.0, "cx": 4.5, "cy": 2.5, "w": WIDTH, "h": HEIGHT, "frames": frames}
    return {key: value for key, value in (meta | changes).items() if value is not None}


@pytest.fixture
def nerf(tmp_path):
    for index in range(3):
        write_image(tmp_path / "images" / f"{index}.png", torch.zeros(3, HEIGHT, WIDTH))

    def write(meta):
        path = tmp_path / "transforms.json"
        path.write_text(meta if isinstance(meta, str) else json.dumps(meta))
        return path

    return write


def test_convention_opengl_axes_and_corner_pixels(nerf):
    scene = read_nerf_transforms(nerf(nerf_meta(k1=0.1, p2=-0.01)))
    assert [frame.image_path.name for frame in scene.frames] == ["0.png", "1.png", "2.png"]
    assert scene.missing == []
    frame = scene.frames[0]
    assert torch.allclose(frame.world_from_cam, POSE, atol=1e-12)
    assert frame.K.tolist() == [[10, 0, 4.0], [0, 11, 2.0], [0, 0, 1]]
    assert frame.distortion.tolist() == [0.1, 0, 0, -0.01]
    assert (frame.height, frame.width) == (HEIGHT, WIDTH)


def test_an_angle_of_view_reaches_from_border_to_border(nerf):
    meta = nerf_meta(fl_x=None, fl_y=None, cx=None, cy=None, w=None, h=None, camera_angle_x=0.9)
    K = read_nerf_transforms(nerf(meta)).frames[0].K
    edge = torch.tensor([[math.tan(0.45), 0.0, 1.0], [-math.tan(0.45), 0.0, 1.0]], dtype=torch.float64)
    pixels, _ = project(edge, K)
    assert torch.allclose(pixels[:, 0], torch.tensor([WIDTH - 0.5, -0.5], dtype=torch.float64))
    assert K[0, 0] == K[1, 1]
    K = read_nerf_transforms(nerf(meta | {"camera_angle_y": 0.5})).frames[0].K
    assert K[1, 1] == pytest.approx(HEIGHT / 2 / math.tan(0.25))


def test_per_frame_intrinsics_override_and_extensions_are_found(nerf):
    meta = nerf_meta()
    meta["frames"][1] |= {"fl_x": 20.0, "k2": 0.5, "file_path": "./images/1"}
    frames = read_nerf_transforms(nerf(meta)).frames
    assert [frame.K[0, 0].item() for frame in frames] == [10, 20, 10]
    assert [frame.distortion[1].item() for frame in frames] == [0, 0.5, 0]
    assert frames[1].image_path.is_file()


def test_missing_images_are_listed_and_all_missing_is_an_error(nerf):
    meta = nerf_meta()
    meta["frames"][1]["file_path"] = "images/none.png"
    scene = read_nerf_transforms(nerf(meta))
    assert scene.missing == ["images/none.png"]
    assert len(scene.frames) == 2
    for index, frame in enumerate(meta["frames"]):
        frame["file_path"] = f"elsewhere/{index}"
    refused(read_nerf_transforms, nerf(meta), "none of its 3 images")


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"frames": []}, "no list of frames"),
        ({"frames": [{}]}, "frame 0 has no file_path"),
        ({"k1": 10**400}, "k1 is 1000"),
        ({"w": 800}, "w x h is 800 x 6, the image is 8 x 6"),
        ({"fl_x": 0.2, "fl_y": 0.3}, "tiny"),
        ({"fl_x": None, "camera_angle_x": 170.0}, "between 0 and pi"),
        ({"k3": 0.1}, "beyond k1 k2 p1 p2"),
        ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
        ({"camera_model": ["OPENCV"]}, "undistort"),
        ({"is_fisheye": True}, "FISHEYE"),
        ({"test_filenames": "images/0.png"}, "no list of names"),
        ({"test_filenames": [f"images/{i}.png" for i in range(3)]}, "left for training"),
    ],
)
def test_bad_transforms_are_refused(nerf, changes, pattern):
    refused(read_nerf_transforms, nerf(nerf_meta(**changes)), pattern)


@pytest.mark.parametrize("rows", [None, [[1, 2], [3]], {"a": 1}, [10**400], (2 * POSE).tolist()])
def test_what_is_no_pose_is_refused(nerf, rows):
    meta = nerf_meta()
    meta["frames"][2]["transform_matrix"] = rows
    assert "images/2.png" in refused(read_nerf_transforms, nerf(meta), "2.png").reason


@pytest.mark.parametrize("model", ["PINHOLE", "SIMPLE_RADIAL", "PERSPECTIVE", "FULL_OPENCV"])
def test_pinhole_models_are_read_by_whatever_name(nerf, model):
    assert len(read_nerf_transforms(nerf(nerf_meta(camera_model=model, k3=0, k4=0.0))).frames) == 3


@pytest.mark.parametrize(
    ("lists", "kept", "held", "note"),
    [
        ({"train": "0 1", "test": "2"}, "012", "2", ""),
        ({"train": "0", "val": "1", "test": "2"}, "02", "2", "1 frames for validation are not used"),
        ({"train": "0 1 2", "val": "1 2"}, "012", "", "2 frames for validation are among"),
        ({"val": "1"}, "012", "1", "stand in"),
        ({"train": "0", "test": "1"}, "01", "1", "in no split"),
        (None, "012", "", ""),
    ],
)
@pytest.mark.parametrize("kind", ["names in one file", "files"])
def test_named_splits_are_followed_or_noted(nerf, tmp_path, lists, kept, held, note, kind):
    lists = {split: [f"images/{i}.png" for i in text.split()] for split, text in (lists or {}).items()}
    if kind == "files" and "train" in lists:
        frames = {frame["file_path"]: frame for frame in nerf_meta()["frames"]}
        for split, names in lists.items():
            text = json.dumps(nerf_meta(frames=[frames[name] for name in names]))
            (tmp_path / f"transforms_{split}.json").write_text(text)
        if note == "in no split":
            note = ""
    else:
        nerf(nerf_meta(**{f"{split}_filenames": names for split, names in lists.items()}))
    scene = read_nerf_scene(tmp_path)
    assert [frame.name for frame in scene.frames] == [f"images/{i}.png" for i in kept]
    assert scene.held_out == {f"images/{i}.png" for i in held}
    assert note in " ".join(scene.notes)
    assert bool(scene.notes) == bool(note)


@pytest.mark.parametrize("name", ["../{}/images/0", "{}/images/0", "images/../../{}/images/0", "C:/0.png"])
def test_images_outside_of_the_folder_are_read_only_when_told_so(nerf, tmp_path, name):
    meta = nerf_meta()
    meta["frames"][0]["file_path"] = name.format(tmp_path if name.startswith("{") else tmp_path.name)
    refused(read_nerf_scene, nerf(meta), "outside")
    scene = read_nerf_scene(tmp_path, images_outside=True)
    assert len(scene.frames) == 3 - name.startswith("C:")


def test_fields_that_are_not_used_are_noted(nerf):
    meta = nerf_meta(rolling_shutter=[0, 0, 0.1, 0])
    meta["frames"][1]["mask_path"] = "masks/1.png"
    notes = read_nerf_transforms(nerf(meta)).notes
    assert [note.split(" of ")[0] for note in notes] == ["masks", "rolling shutter"]


def test_doubled_frames_and_broken_json_are_refused(nerf):
    meta = nerf_meta()
    meta["frames"][1]["file_path"] = meta["frames"][0]["file_path"]
    refused(read_nerf_transforms, nerf(meta), "comes twice")
    for text in ("{", "[1, 2]", "{" * 5000, "[" * 100_000):
        refused(read_nerf_transforms, nerf(text), "JSON")


# ---- DeepVoxels --------------------------------------------------------------------------------------------

CUBE = DeepVoxelsIntrinsics(525.0, 319.5, 239.5, (0.0, 0.1, -0.2), 0.8, 1.5, 480, 640)


def test_intrinsics_round_trip(tmp_path):
    path = tmp_path / "intrinsics.txt"
    write_deepvoxels_intrinsics(path, CUBE)
    assert read_deepvoxels_intrinsics(path) == CUBE
    write_deepvoxels_intrinsics(path, replace(CUBE, near=None))
    assert read_deepvoxels_intrinsics(path) == replace(CUBE, near=0.0)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("525 319.5 239.5 0\n0 0.1 -0.2\n0.8\n1.5\n480 640\n", 0.8),
        ("525.0 319.5 239.5\r\n0 0.1 -0.2\r\n0\r\n1.5\r\n480 640\r\n1\r\n", 0.0),
        ("525 319.5 239.5 0.\n0. 0.1 -0.2\n1.5\n480 640\n1\n", None),  # SRN
        ("525 319.5 239.5 0.\n0. 0.1 -0.2\n1.5\n480 640\nSIMPLE_RADIAL", None),  # the COLMAP wrapper
        ("\n525 319.5 239.5\n\n0 0.1 -0.2\n1.5\n480. 640.\n", None),
    ],
)
def test_both_variants_of_intrinsics(tmp_path, text, near):
    path = tmp_path / "intrinsics.txt"
    path.write_bytes(text.encode())
    assert read_deepvoxels_intrinsics(path) == replace(CUBE, near=near)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("525 319.5 239.5\n0 0 0\n0.8\n1\n", "lines hold"),
        ("525 319.5 239.5\n0 nan 0\n0.8\n1\n480 640\n", "line 2"),
        ("0 319.5 239.5\n0 0 0\n1\n1\n480 640\n", "focal length"),
        ("0.8 0.5 0.5\n0 0 0\n1\n1\n480 640\n", "tiny"),
    ],
)
def test_bad_intrinsics_are_refused(tmp_path, text, pattern):
    path = tmp_path / "intrinsics.txt"
    path.write_text(text)
    refused(read_deepvoxels_intrinsics, path, pattern)


def test_pose_round_trip_and_refusals(tmp_path):
    path = tmp_path / "pose" / "000001.txt"
    write_pose(path, POSE)
    assert torch.equal(read_pose(path), POSE)
    assert len(path.read_text().splitlines()) == 1
    path.write_text(" ".join(map(repr, POSE[:3].flatten().tolist())))
    assert torch.equal(read_pose(path), POSE)
    path.write_text("1 0 0 0 0 1 0 0 0 0 1")
    refused(read_pose, path, "11 numbers")
    with pytest.raises(ValueError, match="orthonormal"):
        write_pose(path, POSE * 2 - torch.diag(torch.tensor([0, 0, 0, 1.0])))


POSES = orbit_trajectory(3, 2.0, dtype=torch.float64)


def test_a_folder_and_a_file_of_poses_say_the_same(tmp_path: Path) -> None:
    for index, pose in enumerate(POSES):
        write_pose(tmp_path / "poses" / f"{7 * index}.{'txt' if index else 'TXT'}", pose)
    (tmp_path / "poses" / "._0.txt").write_bytes(bytes(120))
    lines = [" ".join(str(value) for value in pose.flatten().tolist()) for pose in POSES]
    (tmp_path / "poses.txt").write_text("\n\n".join(lines))
    assert torch.allclose(read_poses(tmp_path / "poses"), POSES)
    assert torch.equal(read_poses(tmp_path / "poses.txt"), POSES)


# ---- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", ["transforms.json", "intrinsics.txt", "pose.txt", "poses.txt"])
def test_damage_ends_in_data_error(nerf, tmp_path, name, examples):
    path = tmp_path / name
    nerf(nerf_meta())
    write_deepvoxels_intrinsics(tmp_path / "intrinsics.txt", CUBE)
    write_pose(tmp_path / "pose.txt", POSE)
    write_pose(tmp_path / "poses.txt", POSE)
    readers = {
        "transforms.json": read_nerf_transforms,
        "intrinsics.txt": read_deepvoxels_intrinsics,
        "pose.txt": read_pose,
        "poses.txt": read_poses,
    }
    assert_damage_is_refused(path, readers[name], examples)
