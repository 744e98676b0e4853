"""Photos to poses: a rendered room corner with known cameras, and bad input."""

import argparse
import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from shared.errors import DataError, RunError
from shared.files.colmap import find_colmap_model
from shared.files.images import copy_upright, read_image, read_image_size
from shared.files.sfm import (
    SfmOptions,
    _take_frames,
    find_cameras,
    reconstruct,
    sfm_options,
)
from shared.geometry.camera import look_at
from shared.runs.command import add_colmap_command
from shared.show.video import write_video
from shared.tests.similarity import align_similarity

HEIGHT, WIDTH, FOCAL = 180, 240, 260.0
UPRIGHT = 3  # the number of the photo that was held upright


def in_own_process(function, *args, **options):
    """The function's result, or its exception, from a freshly started interpreter."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **options).result(timeout=200)


# ---- photos of a room corner -------------------------------------------------------------------------------


def corner_photo(world_from_cam, textures, size=(WIDTH, HEIGHT)):
    """Three textured squares of side 2 that meet at the origin, each drawn by its own homography."""
    K = np.array([[FOCAL, 0, (size[0] - 1) / 2], [0, FOCAL, (size[1] - 1) / 2], [0, 0, 1]])
    cam_from_world = torch.linalg.inv(world_from_cam).numpy()
    photo = np.full((*size[::-1], 3), 90, np.uint8)
    for axis, texture in enumerate(textures):
        u, v = [i for i in range(3) if i != axis]
        plane = np.stack([cam_from_world[:3, u], cam_from_world[:3, v], cam_from_world[:3, 3]], 1)
        pixels = K @ plane @ np.diag([2 / texture.shape[1], 2 / texture.shape[0], 1])
        drawn = cv2.warpPerspective(texture, pixels, size, flags=cv2.INTER_AREA)
        everywhere = np.ones(texture.shape[:2], np.uint8)
        inside = cv2.warpPerspective(everywhere, pixels, size, flags=cv2.INTER_NEAREST)
        photo = np.where(inside[..., None] > 0, drawn, photo)
    return photo


def write_corner_photos(folder, count=7):
    rng = np.random.default_rng(5)
    textures = []
    for _ in range(3):
        coarse, fine = (rng.uniform(0, 255, (side, side, 3)).astype(np.float32) for side in (25, 90))
        blend = sum(cv2.resize(t, (360, 360), interpolation=cv2.INTER_CUBIC) for t in (coarse, fine)) / 2
        textures.append(np.clip(2 * blend - 128, 0, 255).astype(np.uint8))
    poses = {}
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        angle = math.radians(15 + 60 * index / (count - 1))
        height = 1.8 + 0.5 * math.sin(3 * angle)
        position = torch.tensor([4 * math.cos(angle), 4 * math.sin(angle), height], dtype=torch.float64)
        poses[f"{index}.png"] = look_at(position, [0.5, 0.5, 0.6])
        size = (HEIGHT, WIDTH) if index == UPRIGHT else (WIDTH, HEIGHT)
        Image.fromarray(corner_photo(poses[f"{index}.png"], textures, size)).save(folder / f"{index}.png")
    return poses


@pytest.fixture(scope="module")
def corner(tmp_path_factory):
    """The photos, an unrelated photo among them, and their reconstruction."""
    pytest.importorskip("pycolmap")
    folder = tmp_path_factory.mktemp("corner")
    poses = write_corner_photos(folder / "photos")
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photos" / "stranger.png")
    turned = Image.open(folder / "photos" / "2.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me clockwise to see me upright"
    turned.save(folder / "photos" / "2.png", exif=exif)
    with Image.open(folder / "photos" / "4.png") as image:
        image.save(folder / "photos" / "4.webp", lossless=True)
    (folder / "photos" / "4.png").unlink()
    poses["4.webp.png"] = poses.pop("4.png")
    options = SfmOptions(camera_model="SIMPLE_PINHOLE", num_threads=1)
    return folder, poses, in_own_process(reconstruct, folder / "photos", folder / "out", options)


def test_cameras_of_the_corner_are_found(corner):
    folder, poses, scene = corner
    images = {image.name: image for image in scene.model.images.values()}
    assert sorted(images) == sorted(poses)
    assert scene.unregistered == ["stranger.png"]
    names = sorted(images)
    found = torch.stack([images[name].world_from_cam for name in names])
    truth = torch.stack([poses[name] for name in names])
    scale, turn, shift = align_similarity(found[:, :3, 3], truth[:, :3, 3])
    distances = (scale * found[:, :3, 3] @ turn.T + shift - truth[:, :3, 3]).norm(dim=1)
    extent = (truth[:, :3, 3].amax(0) - truth[:, :3, 3].amin(0)).norm()
    assert distances.max() < 0.02 * extent
    # all axes agree, not only the centres: the poses are camera to world with x right, y down, z forward
    cosines = ((turn @ found[:, :3, :3]) * truth[:, :3, :3]).sum(1)
    assert cosines.min() > math.cos(math.radians(1))
    shared = {images[name].camera_id for name in names if name != f"{UPRIGHT}.png"}
    assert len(shared) == 1
    assert len(scene.model.cameras) == 2
    assert scene.model.cameras[shared.pop()].params[0] == pytest.approx(FOCAL, rel=0.03)
    assert scene.model.cameras[images[f"{UPRIGHT}.png"].camera_id].width < HEIGHT + 3


def test_the_written_scene_is_complete_and_nothing_else_is_left(corner):
    folder, poses, scene = corner
    assert sorted(os.listdir(folder)) == ["out", "photos"]
    assert sorted(os.listdir(folder / "out")) == ["images", "sparse"]
    assert find_colmap_model(folder / "out") == scene.model_dir
    assert sorted(os.listdir(scene.image_dir)) == sorted(poses)
    for image in scene.model.images.values():
        camera = scene.model.cameras[image.camera_id]
        assert read_image_size(scene.image_dir / image.name) == (camera.height, camera.width)
    upright = read_image(folder / "photos" / "2.png")
    undistorted = read_image(scene.image_dir / "2.png")
    assert upright.shape == undistorted.shape == (3, HEIGHT, WIDTH)
    assert (upright - undistorted).abs().mean() < 0.02


@pytest.mark.parametrize(("every_s", "count"), [(0.5, 4), (0.25, 8), (2.0, None)])
def test_frames_are_taken_from_a_film(tmp_path, every_s, count):
    grey = [np.full((32, 48, 3), 8 * index, np.uint8) for index in range(20)]
    film = write_video(tmp_path / "clip.mp4", grey, fps=10)
    if film.suffix != ".mp4":
        pytest.skip("ffmpeg is not installed")
    if count is None:
        with pytest.raises(DataError, match="clip.mp4: gives 1 frames, one every 2 s.*--every"):
            _take_frames(film, tmp_path / "frames", every_s)
        return
    _take_frames(film, tmp_path / "frames", every_s)
    frames = [read_image(tmp_path / "frames" / name) for name in sorted(os.listdir(tmp_path / "frames"))]
    assert len(frames) == count
    steps = torch.stack([frame.mean() for frame in frames]).diff() * 255 / 8  # frames of the film
    assert steps.sub(every_s * 10).abs().max() < 1.2


@pytest.mark.parametrize("name", ["damaged.mp4", "pipe.mov", "empty.MP4", "missing.avi"])
def test_what_is_no_film_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.mov")
    (tmp_path / "damaged.mp4").write_bytes(bytes(1000))
    (tmp_path / "empty.MP4").touch()
    with pytest.raises(DataError, match=name):
        _take_frames(tmp_path / name, tmp_path / "frames", 0.5)


@pytest.mark.parametrize(
    ("every", "seconds"), [("0.5s", 0.5), ("2", 2.0), ("1.5 s", 1.5), ("5f", None), ("-1s", None)]
)
def test_the_command_takes_seconds_and_says_what_is_left_out(tmp_path, capsys, every, seconds):
    parser = argparse.ArgumentParser()
    add_colmap_command(parser.add_subparsers(), "poses")
    args = parser.parse_args(["colmap", str(tmp_path), "--out", str(tmp_path / "out"), f"--every={every}"])
    if seconds is None:
        with pytest.raises(RunError, match="colmap: --every: .*, got "):
            sfm_options(args)
        return
    for name in ("2.CR2", "._3.dng"):
        (tmp_path / name).write_bytes(b"x")
    Image.new("RGBA", (9, 7)).save(tmp_path / "0.webp", lossless=True)
    Image.new("RGB", (9, 7)).save(tmp_path / "1.jpg")
    find_cameras(lambda photos, out, options: ["1.jpg"], args.photos, args.out, sfm_options(args))
    said = capsys.readouterr().err
    assert "1 pictures of a kind that is not read, left out (convert them to JPEG): 2.CR2\n" in said
    assert "transparent pixels of 1 pictures become white (0.webp)" in said
    copy_upright(tmp_path / "0.webp", tmp_path / "0.png", 97)
    assert read_image(tmp_path / "0.png").min() == 1
    assert "WITHOUT POSE, left out: 1 photos: 1.jpg" in said
    assert sfm_options(args).every_s == seconds


def test_photos_that_do_not_fit_together_leave_nothing_behind(tmp_path):
    pytest.importorskip("pycolmap")
    (tmp_path / "photos").mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{index}.png")
    with pytest.raises(DataError, match="only 0 of 3 photos.*overlap"):
        in_own_process(reconstruct, tmp_path / "photos", tmp_path / "out", SfmOptions(num_threads=1))
    assert os.listdir(tmp_path) == ["photos"]


def test_a_damaged_photo_is_named_before_the_work_starts(tmp_path):
    pytest.importorskip("pycolmap")
    write_corner_photos(tmp_path / "photos", count=3)
    path = tmp_path / "photos" / "1.png"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="1.png"):
        in_own_process(reconstruct, tmp_path / "photos", tmp_path / "out")
    assert os.listdir(tmp_path) == ["photos"]
