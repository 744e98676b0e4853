"""Broken posed scenes, one row each: every one ends in a `DataError` with file, reason and remedy within 2 s.

Loaders: the released layout, NeRF's transforms.json, COLMAP models, and checkpoints of the released code.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deepvoxels.datasets.scene import load_scene
from deepvoxels.models.generator import Generator
from deepvoxels.models.options import GeneratorOptions
from deepvoxels.models.released import load_released, save_released
from deepvoxels.tests.small import SMALL
from shared.files.cameras import DeepVoxelsIntrinsics, write_deepvoxels_intrinsics, write_pose
from shared.files.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints, write_colmap_model
from shared.files.images import write_depth_png
from shared.geometry.camera import look_at
from shared.tests.broken import Case, assert_refused, change, claim_size, cut, picture, remove, write
from shared.tests.hostile import Hostile

VIEWS = 5
INTRINSICS = DeepVoxelsIntrinsics(525.0, 319.5, 239.5, (0.0, 0.0, 0.0), 0.8, 1.0, 480, 640)


def pose(index: int) -> torch.Tensor:
    angle = 0.8 * index
    place = [1.7 * math.cos(angle), 1.7 * math.sin(angle), 0.6]
    return look_at(torch.tensor(place, dtype=torch.float64))


def released(folder: Path) -> Path:
    write_deepvoxels_intrinsics(folder / "intrinsics.txt", INTRINSICS)
    for index in range(VIEWS):
        picture(f"rgb/{index}.png", 24, 24)(folder)
        write_pose(folder / "pose" / f"{index}.txt", pose(index))
        depth = torch.full((24, 24), 1.5)
        write_depth_png(folder / "depth" / f"{index}.png", depth, depth > 0, unit_m=1e-4, invalid=10000)
    return folder


def posed(matrix: torch.Tensor) -> Callable[[Path], object]:
    return write("pose/1.txt", " ".join(map(str, matrix.flatten().tolist())))


def scaled(row: int, factor: float) -> torch.Tensor:
    matrix = pose(1)
    matrix[row, :3] *= factor
    return matrix


RELEASED = {
    "no folder": Case(lambda f: f.rename(f.with_name("gone")), "does not exist"),
    "nothing in it": Case(lambda f: [p.unlink() for p in f.rglob("*") if p.is_file()], "no posed scene"),
    "a pose missing": Case(remove("pose/2.txt"), "5 images and 4 poses .*1 without pose: 2"),
    "an image missing": Case(remove("rgb/3.png"), "1 without image: 3"),
    "a depth map missing": Case(remove("depth/3.png"), "1 without depth map: 3"),
    "an image empty": Case(write("rgb/3.png", b""), "empty", "3.png"),
    "an image cut short": Case(cut("rgb/3.png"), "cannot be decoded", "3.png"),
    "an image that is text": Case(write("rgb/3.png", "hello"), "not an image", "3.png"),
    "an image of absurd size": Case(claim_size("rgb/3.png"), "claims 8000", "3.png"),
    "an image of another size": Case(picture("rgb/3.png", 24, 26), "26 x 24 pixels", "3.png"),
    "two images of one name": Case(picture("rgb/3.jpg", 24, 24), "same name", "rgb"),
    "11 numbers": Case(write("pose/1.txt", "1 0 0 0 0 1 0 0 0 0 1"), "11 numbers", "1.txt"),
    "words in a pose": Case(change("pose/1.txt", "0.0", "zero"), "zero", "1.txt"),
    "NaN in a pose": Case(posed(scaled(0, math.nan)), "nan", "1.txt"),
    "a scaled rotation": Case(posed(scaled(0, 1.1)), "not orthonormal", "1.txt"),
    "a mirrored rotation": Case(posed(scaled(0, -1.0)), "left-handed", "1.txt"),
    "a last row of zeros": Case(
        posed(torch.cat([pose(1)[:3], torch.zeros(1, 4)])), "last row of the pose must be 0 0 0 1", "1.txt"
    ),
    "focal length 0": Case(change("intrinsics.txt", "525.0", "0"), "focal length 0 <= 0", "intrinsics.txt"),
    "focal length as a share": Case(change("intrinsics.txt", "525.0", "0.8"), "tiny", "intrinsics.txt"),
    "principal point outside": Case(change("intrinsics.txt", "319.5", "900"), "outside", "intrinsics.txt"),
    "NaN in intrinsics": Case(change("intrinsics.txt", "319.5", "nan"), "finite", "intrinsics.txt"),
    "a line missing": Case(
        write("intrinsics.txt", "525 319 239 0\n0 0 0\n"), "the lines hold", "intrinsics.txt"
    ),
    "grid of no size": Case(change("intrinsics.txt", "\n1.0\n", "\n0\n"), "scale 0", "intrinsics.txt"),
    "grid behind its near plane": Case(
        change("intrinsics.txt", "\n0.8\n", "\n80.0\n"), "Near must lie before"
    ),
    "grid far away": Case(change("intrinsics.txt", "0.0 0.0 0.0", "0.0 0.0 900.0"), "behind all cameras"),
    "grid above every view": Case(
        change("intrinsics.txt", "0.0 0.0 0.0", "0.0 0.0 3.0"), "the grid is outside all of the 5 views"
    ),
    "a picture as depth": Case(picture("depth/1.png", 24, 24), "8 bits", "1.png"),
    "depth of another size": Case(picture("depth/1.png", 12, 12, 1, 16), "12 x 12 pixels", "1.png"),
}


@pytest.mark.parametrize("case", RELEASED)
def test_released_layout(tmp_path: Path, case: str) -> None:
    load_scene(released(tmp_path / "scene"), image_side=16)
    assert_refused(RELEASED[case], tmp_path / "scene", lambda: load_scene(tmp_path / "scene", image_side=16))


def nerf(folder: Path) -> Path:
    opengl = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    frames = []
    for index in range(VIEWS):
        picture(f"images/{index}.png", 24, 32)(folder)
        frames.append(
            {"file_path": f"images/{index}.png", "transform_matrix": (pose(index) @ opengl).tolist()}
        )
    meta = {"fl_x": 30.0, "fl_y": 30.0, "cx": 16.0, "cy": 12.0, "w": 32, "h": 24, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def meta(**changes: object) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        held = json.loads((folder / "transforms.json").read_text())
        (folder / "transforms.json").write_text(json.dumps(held | changes))

    return act


def frame(**changes: object) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        held = json.loads((folder / "transforms.json").read_text())
        held["frames"][1] |= changes
        (folder / "transforms.json").write_text(json.dumps(held))

    return act


NERF = {
    "not JSON": Case(cut("transforms.json"), "not valid JSON"),
    "nested without end": Case(write("transforms.json", "[" * 100_000), "not valid JSON"),
    "a list": Case(write("transforms.json", "[1, 2]"), "no JSON object"),
    "no frames": Case(meta(frames=[]), "no list of frames"),
    "a frame without image": Case(frame(file_path=7), "frame 1 has no file_path"),
    "all images missing": Case(
        lambda f: [p.unlink() for p in (f / "images").iterdir()], "none of its 5 images"
    ),
    "a frame twice": Case(frame(file_path="images/0.png"), "comes twice"),
    "fisheye": Case(meta(camera_model="OPENCV_FISHEYE"), "fisheye"),
    "k3": Case(meta(k3=0.1), "distortion beyond"),
    "wild distortion": Case(meta(k1=-40.0), "no usable square"),
    "another size": Case(meta(w=640, h=480), "the image is 32 x 24"),
    "focal length as text": Case(meta(fl_x="30"), "not a number"),
    "focal length 0": Case(meta(fl_x=0, fl_y=0), "focal length 0 <= 0"),
    "infinite focal length": Case(meta(fl_x=math.inf), "not a number"),
    "angle of view in degrees": Case(
        lambda f: [change("transforms.json", '"fl_x"', '"f"')(f), meta(camera_angle_x=60)(f)], "radians"
    ),
    "3 x 4 pose": Case(frame(transform_matrix=torch.eye(4)[:3].tolist()), "must be 4x4, got 3x4"),
    "ragged pose": Case(frame(transform_matrix=[[1, 0], [0]]), "4 x 4"),
    "pose of zeros": Case(frame(transform_matrix=torch.zeros(4, 4).tolist()), "frame 'images/1.png'"),
    "pose with NaN": Case(frame(transform_matrix=[[math.nan] * 4] * 4), "NaN"),
}


@pytest.mark.parametrize("case", NERF)
def test_nerf_layout(tmp_path: Path, case: str) -> None:
    load_scene(nerf(tmp_path / "scene"), image_side=16)
    assert_refused(NERF[case], tmp_path / "scene", lambda: load_scene(tmp_path / "scene", image_side=16))


def colmap(folder: Path) -> Path:
    nothing = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    images = {i + 1: ColmapImage(f"{i}.png", 1, pose(i), *nothing) for i in range(VIEWS)}
    for index in range(VIEWS):
        picture(f"images/{index}.png", 24, 32)(folder)
    xyz = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    rgb, starts = torch.zeros(50, 3, dtype=torch.uint8), torch.zeros(51, dtype=torch.int64)
    tracks = torch.zeros(0, 2, dtype=torch.int64)
    points = ColmapPoints(torch.arange(50), xyz, rgb, torch.zeros(50).double(), starts, tracks)
    camera = ColmapCamera("PINHOLE", 32, 24, (30.0, 30.0, 16.0, 12.0))
    write_colmap_model(folder / "sparse" / "0", ColmapModel({1: camera}, images, points), binary=False)
    return folder


IMAGES, CAMERAS, POINTS = (f"sparse/0/{name}.txt" for name in ("images", "cameras", "points3D"))
COLMAP = {
    "no photos": Case(lambda f: (f / "images").rename(f / "photos"), "does not exist", "images"),
    "all photos missing": Case(
        lambda f: [p.unlink() for p in (f / "images").iterdir()], "holds none of the 5"
    ),
    "a photo of another size": Case(picture("images/2.png", 24, 33), "its camera 32 x 24", "2.png"),
    "a photo cut short": Case(cut("images/2.png"), "cannot be decoded", "2.png"),
    "an unknown camera": Case(
        change(CAMERAS, "1 PINHOLE", "9 PINHOLE"), "names camera 1, which is not there"
    ),
    "an unknown camera model": Case(
        change(CAMERAS, "PINHOLE", "SPHERE"), "SPHERE is not supported", "cameras"
    ),
    "an infinite focal length": Case(change(CAMERAS, "30.0", "inf"), "NaN or infinite parameters"),
    "an image without its line": Case(cut(IMAGES, 0.4), "line 4: 8 words are needed", "images"),
    "an image twice": Case(change(IMAGES, "\n2 ", "\n1 "), "image id 1 comes twice"),
    "no unit quaternion": Case(change(IMAGES, "\n2 ", "\n2 7"), "not a unit quaternion"),
    "an absolute name": Case(change(IMAGES, " 2.png", " /etc/2.png"), "leads out of the image folder"),
    "points without numbers": Case(change(POINTS, "0 0 0", "red green blue"), "whole numbers", "points3D"),
    "points at infinity": Case(write(POINTS, "1 inf 0 0 0 0 0 0.5\n"), "NaN or infinite"),
}


@pytest.mark.parametrize("case", COLMAP)
def test_colmap_layout(tmp_path: Path, case: str) -> None:
    load_scene(colmap(tmp_path / "scene"), image_side=16)
    assert_refused(COLMAP[case], tmp_path / "scene", lambda: load_scene(tmp_path / "scene", image_side=16))


def holding(content: Callable[[dict], object]) -> Callable[[Path], None]:
    """A checkpoint with this in the place of the released state."""

    def act(folder: Path) -> None:
        state = torch.load(folder / "model.pth", weights_only=True)["model"]
        torch.save(content(state), folder / "model.pth")

    return act


CHECKPOINTS = {
    "missing": Case(remove("model.pth"), "does not exist"),
    "empty": Case(write("model.pth", b""), "empty"),
    "text": Case(write("model.pth", "hello"), "not a readable file of plain tensors"),
    "cut short": Case(cut("model.pth"), "not a readable file of plain tensors"),
    "pickled code": Case(
        lambda f: torch.save({"model": Hostile(f / "pwned")}, f / "model.pth"), "plain tensors"
    ),
    "a list": Case(holding(lambda state: [1, 2]), "list"),
    "no state dict": Case(holding(lambda state: {"model": 3}), "has no 'model' state dict"),
    "a weight missing": Case(holding(lambda state: dict(list(state.items())[:-1])), "1 missing"),
    "a weight of another shape": Case(
        holding(lambda state: state | {"deepvoxels": torch.ones(2)}), "other shape"
    ),
    "NaN weights": Case(
        holding(lambda state: state | {"deepvoxels": state["deepvoxels"] * math.nan}),
        "deepvoxels of model holds NaN",
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_released_checkpoints(tmp_path: Path, case: str) -> None:
    generator = Generator(GeneratorOptions(**SMALL))
    save_released(tmp_path / "model.pth", generator)
    load_released(tmp_path / "model.pth", generator)
    before = generator.state.clone()
    assert_refused(CHECKPOINTS[case], tmp_path, lambda: load_released(tmp_path / "model.pth", generator))
    assert torch.equal(generator.state, before)
    assert not (tmp_path / "pwned").exists()
