"""Posed scenes from three layouts: pictures and cameras must agree, and bad data end in one clear error."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from deepvoxels.datasets.layouts import list_views, split_views
from deepvoxels.datasets.scene import DEFAULT_NEAR, load_scene, nearest_views
from shared.errors import DataError
from shared.files.cameras import DeepVoxelsIntrinsics, write_deepvoxels_intrinsics, write_pose
from shared.files.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints, write_colmap_model
from shared.files.images import write_image
from shared.files.maps import write_depth_png
from shared.geometry.camera import invert_pose, look_at, project, transform_points

VIEWS = 9
TARGET = torch.tensor([[0.11, -0.07, 0.16]], dtype=torch.float64)  # the one bright spot of the world
RELEASED = DeepVoxelsIntrinsics(525.0, 319.5, 239.5, (0.0, 0.0, 0.0), 0.834, 1.0, 480, 640)
DISTORTION = (0.08, -0.05, 0.002, -0.003)


def poses():
    found = []
    for index in range(VIEWS):
        angle, height = 0.7 * index, 0.4 + 0.1 * (index % 5)
        found.append([1.7 * math.cos(angle) * math.cos(height), 1.7 * math.sin(angle) * math.cos(height),
                      1.7 * math.sin(height)])  # fmt: skip
    return look_at(torch.tensor(found, dtype=torch.float64))


def spot_picture(K, distortion, world_from_cam, height, width):
    """A smooth spot where OpenCV projects the target: green on black, float32 [3, H, W]."""
    cam_from_world = invert_pose(world_from_cam).numpy()
    rotation = cv2.Rodrigues(cam_from_world[:3, :3])[0]
    coefficients = np.array(distortion, dtype=np.float64)
    pixel, _ = cv2.projectPoints(TARGET.numpy(), rotation, cam_from_world[:3, 3], K.numpy(), coefficients)
    x, y = pixel.ravel()
    rows, columns = np.mgrid[:height, :width]
    spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2))
    return torch.from_numpy(np.stack([0 * spot, spot, 0 * spot])).float()


def write_deepvoxels(folder, height=96, width=96, intrinsics=RELEASED, depth=False):
    write_deepvoxels_intrinsics(folder / "intrinsics.txt", intrinsics)
    scale_x, scale_y = width / intrinsics.sensor_width, height / intrinsics.sensor_height
    focal = intrinsics.focal_px * scale_y
    cx, cy = (intrinsics.cx_px + 0.5) * scale_x - 0.5, (intrinsics.cy_px + 0.5) * scale_y - 0.5
    K = torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=torch.float64)
    for index, pose in enumerate(poses()):
        write_pose(folder / "pose" / f"{index:06d}.txt", pose)
        picture = spot_picture(K, (0, 0, 0, 0), pose, height, width)
        write_image(folder / "rgb" / f"{index:06d}.png", picture)
        if depth:
            values = torch.linspace(1.1, 2.2, height * width).reshape(height, width)
            path = folder / "depth" / f"{index:06d}.png"
            write_depth_png(path, values, values < 2, unit_m=1e-4, invalid=10000)
    return folder


def write_nerf(folder, height=90, width=120, name="transforms.json", first=0):
    K = torch.tensor([[110.0, 0, 61.0], [0, 112.0, 43.0], [0, 0, 1]], dtype=torch.float64)
    opengl = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    frames = []
    for index, pose in enumerate(poses()[first:], start=first):
        write_image(folder / "images" / f"{index}.png", spot_picture(K, DISTORTION, pose, height, width))
        frames.append({"file_path": f"images/{index}", "transform_matrix": (pose @ opengl).tolist()})
    meta = {"fl_x": 110.0, "fl_y": 112.0, "cx": 61.5, "cy": 43.5, "w": width, "h": height, "frames": frames}
    meta |= dict(zip(("k1", "k2", "p1", "p2"), DISTORTION, strict=True))
    (folder / name).write_text(json.dumps(meta))
    return folder


def write_colmap(folder, height=120, width=90):
    camera = ColmapCamera("OPENCV", width, height, (108.0, 109.0, 44.0, 62.0, *DISTORTION))
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(200, 3, generator=generator, dtype=torch.float64) - 0.5
    images = {}
    for index, pose in enumerate(poses()):
        name = f"a view/{index}.png"
        picture = spot_picture(camera.intrinsics(), DISTORTION, pose, height, width)
        write_image(folder / "images" / name, picture)
        nothing = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
        images[index + 1] = ColmapImage(name, 1, pose, *nothing)
    zeros = torch.zeros(200, 3, dtype=torch.uint8), torch.zeros(200, dtype=torch.float64)
    tracks = torch.zeros(201, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)
    points = ColmapPoints(torch.arange(200), xyz, *zeros, *tracks)
    write_colmap_model(folder / "sparse" / "0", ColmapModel({1: camera}, images, points))
    return folder


WRITERS = {"deepvoxels": write_deepvoxels, "nerf": write_nerf, "colmap": write_colmap}


# ---- pictures and cameras agree ----------------------------------------------------------------------------


@pytest.mark.parametrize("image_side", [30, 48, 90])
@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_the_spot_is_where_the_loaded_cameras_project_it(tmp_path, layout, image_side):
    scene = load_scene(WRITERS[layout](tmp_path), image_side=image_side)
    assert scene.layout == layout
    assert len(scene) == VIEWS
    assert scene.image_side == image_side
    assert scene.images.dtype == torch.uint8
    assert scene.images.shape == (VIEWS, 3, image_side, image_side)
    assert scene.K.dtype == scene.world_from_cam.dtype == torch.float32
    points_cam = transform_points(invert_pose(scene.world_from_cam), TARGET.float().expand(VIEWS, 1, 3))
    expected, _ = project(points_cam, scene.K)
    weight = scene.images[:, 1].double()
    assert scene.images[:, [0, 2]].max() == 0
    steps = torch.arange(image_side, dtype=torch.float64)
    total = weight.sum((1, 2))
    moments = torch.stack([(weight.sum(1) * steps).sum(1), (weight.sum(2) * steps).sum(1)], 1)
    centroid = moments / total[:, None]
    assert (centroid - expected[:, 0]).abs().max() < 0.08
    assert (scene.world_from_cam - poses().float()).abs().max() < 1e-6
    assert scene.blind_views == ()


@pytest.mark.parametrize("tag", [3, 6, "6, turned"])
@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_an_exif_orientation_turns_only_photos_that_fit_their_cameras_turned(tmp_path, layout, tag):
    size = {"height": 90, "width": 120} if tag == "6, turned" else {}
    scene = load_scene(WRITERS[layout](tmp_path, **size), image_side=16)
    exif = Image.Exif()
    exif[0x0112] = 3 if tag == 3 else 6
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as image:
            stored = image.transpose(Image.Transpose.ROTATE_90) if tag == "6, turned" else image.copy()
        stored.save(path, exif=exif)
    tagged = load_scene(tmp_path, image_side=16)
    assert torch.equal(tagged.images, scene.images)
    assert len(tagged.notes) == len(scene.notes) + 1


def test_an_image_in_the_shape_of_its_sensor_is_cut_to_the_square(tmp_path):
    sensor = replace(RELEASED, sensor_height=480, sensor_width=640, cx_px=300.0)
    scene = load_scene(write_deepvoxels(tmp_path, height=90, width=120, intrinsics=sensor), image_side=45)
    # f and c of a 90 x 120 image: half of them minus the cut, half a pixel minded
    assert scene.K[0, 0, 0] == pytest.approx(525 * 45 / 480)
    assert scene.K[0, 0, 2] == pytest.approx(((300.5 * 120 / 640 - 0.5) - 15 + 0.5) / 2 - 0.5, abs=1e-4)


def test_both_intrinsics_rules(tmp_path):
    write_deepvoxels(tmp_path, height=64, width=64)
    half_pixel = load_scene(tmp_path, image_side=64).K[0]
    assert torch.allclose(half_pixel, torch.tensor([[70.0, 0, 31.5], [0, 70.0, 31.5], [0, 0, 1]]))
    released = load_scene(tmp_path, image_side=64, intrinsics_rule="released").K
    assert torch.allclose(released[0], torch.tensor([[70.0, 0, 31.95], [0, 70.0, 31.933333], [0, 0, 1]]))
    assert released.shape == (VIEWS, 3, 3)
    write_nerf(tmp_path / "nerf")
    with pytest.raises(DataError, match="deepvoxels only, this is nerf"):
        load_scene(tmp_path / "nerf", image_side=64, intrinsics_rule="released")


def test_images_shrink_by_area_average(tmp_path):
    write_deepvoxels(tmp_path)
    picture = torch.rand(3, 96, 96)
    write_image(tmp_path / "rgb" / "000000.png", picture)
    loaded = load_scene(tmp_path, image_side=32).image(0)
    stored = (picture * 255).round() / 255
    assert (loaded - torch.nn.functional.avg_pool2d(stored, 3)).abs().max() <= 0.51 / 255


def test_undistorted_images_have_no_made_up_border(tmp_path):
    write_nerf(tmp_path)
    for path in (tmp_path / "images").iterdir():
        write_image(path, torch.full((3, 90, 120), 0.5))
    assert load_scene(tmp_path, image_side=90).images.unique().tolist() == [128]
    side = torch.tensor([0.0, 89.0, 44.5])  # corners and edge middles of the square, seen through the lens
    corners = torch.cartesian_prod(side, side)
    K = load_scene(tmp_path, image_side=90).K[0]
    rays = torch.cat([(corners - K[:2, 2]) / K.diag()[:2], torch.ones(9, 1)], 1).double().numpy()
    original = np.array([[110.0, 0, 61.0], [0, 112.0, 43.0], [0, 0, 1]])
    pixels, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), original, np.array(DISTORTION))
    assert pixels[..., 0].min() >= -0.5
    assert pixels[..., 0].max() <= 119.5
    assert pixels[..., 1].min() >= -0.5
    assert pixels[..., 1].max() <= 89.5


def test_transparency_becomes_white(tmp_path):
    write_deepvoxels(tmp_path)
    for path in (tmp_path / "rgb").iterdir():
        write_image(path, torch.zeros(4, 96, 96))
    assert load_scene(tmp_path, image_side=16).images.unique().tolist() == [255]


def test_depth_comes_with_its_mask(tmp_path):
    scene = load_scene(write_deepvoxels(tmp_path, depth=True), image_side=32)
    values = torch.linspace(1.1, 2.2, 96 * 96).reshape(96, 96)[1::3, 1::3]  # the middles of 3 x 3 blocks
    assert torch.equal(scene.depth_valid, (values < 2).expand(VIEWS, -1, -1))
    assert (scene.depth - values)[scene.depth_valid].abs().max() < 1e-4
    assert load_scene(write_nerf(tmp_path / "nerf"), image_side=32).depth is None


# ---- splits, sampling, grid --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_every_eighth_view_is_held_out_and_the_grid_stays(tmp_path, layout):
    WRITERS[layout](tmp_path)
    everything, train, test = (load_scene(tmp_path, image_side=16, split=s) for s in ("all", "train", "test"))
    assert test.names == everything.names[::8]
    assert sorted(train.names + test.names) == sorted(everything.names)
    for scene in (train, test):
        assert scene.grid_origin == everything.grid_origin
        assert (scene.near, scene.far, scene.grid_side_length) == (
            everything.near, everything.far, everything.grid_side_length)  # fmt: skip


def test_blender_files_bring_their_own_split(tmp_path):
    write_nerf(tmp_path, name="transforms_train.json")
    for path in (tmp_path / "images").iterdir():
        path.rename(path.with_name(f"t{path.name}"))
    meta = (tmp_path / "transforms_train.json").read_text().replace("images/", "images/t")
    (tmp_path / "transforms_train.json").write_text(meta)
    write_nerf(tmp_path, name="transforms_test.json", first=6)
    listing = list_views(tmp_path)
    assert [view.name for view in split_views(listing, "test")] == ["images/6", "images/7", "images/8"]
    assert len(split_views(listing, "train")) == VIEWS
    (tmp_path / "transforms_test.json").write_text(meta)
    with pytest.raises(DataError, match="training and a test view"):
        list_views(tmp_path)


@pytest.mark.parametrize("file", ["transforms.json", "transforms_train.json"])
def test_frames_without_test_are_held_out_with_a_note_and_may_not_be_elsewhere(tmp_path, file):
    write_nerf(tmp_path / "scene", name=file)
    listing = list_views(tmp_path / "scene")
    assert len(split_views(listing, "test")) == 2
    assert "every 8th" in listing.notes[0]
    (tmp_path / "scene" / "images").rename(tmp_path / "images")
    text = (tmp_path / "scene" / file).read_text().replace("images/", "../images/")
    (tmp_path / "scene" / file).write_text(text)
    refused(tmp_path / "scene", "outside of the folder.*images_outside")
    assert len(load_scene(tmp_path / "scene", image_side=16, images_outside=True)) == VIEWS


def test_sampling_patterns(tmp_path):
    write_deepvoxels(tmp_path)
    names = [f"{index:06d}" for index in range(VIEWS)]
    assert load_scene(tmp_path, image_side=16, sampling="skip_1").names == names[::2]
    assert load_scene(tmp_path, image_side=16, sampling="skip_2").names == names[::3]
    assert load_scene(tmp_path, image_side=16, sampling="skip_0").names == names


def test_the_near_plane_of_the_file_its_default_and_its_absence(tmp_path):
    assert load_scene(write_deepvoxels(tmp_path / "a"), image_side=16).near == 0.834
    write_deepvoxels(tmp_path / "b", intrinsics=replace(RELEASED, near=0.0))
    scene = load_scene(tmp_path / "b", image_side=16)
    assert scene.near == DEFAULT_NEAR == pytest.approx(math.sqrt(3) / 2)
    assert "near is 0" in scene.notes[0]
    (tmp_path / "b" / "intrinsics.txt").write_text("525 319.5 239.5\n0 0 0\n1\n480 640\n")
    scene = load_scene(tmp_path / "b", image_side=16)
    assert 1.7 - math.sqrt(3) / 2 <= scene.near < 1.7 - 0.5
    assert "no near plane" in scene.notes[0]


def test_fitted_grids_hold_what_the_cameras_look_at(tmp_path):
    colmap = load_scene(write_colmap(tmp_path / "colmap"), image_side=32)
    assert np.allclose(colmap.grid_origin, 0, atol=0.03)
    assert colmap.grid_side_length == pytest.approx(1.0, abs=0.06)
    nerf = load_scene(write_nerf(tmp_path / "nerf"), image_side=32)
    assert np.allclose(nerf.grid_origin, 0, atol=1e-6)
    assert 0 < nerf.near < 1.7 < nerf.far


# ---- neighbours --------------------------------------------------------------------------------------------


def test_nearest_views_agree_with_a_plain_loop():
    cameras = poses()
    found = nearest_views(cameras, 4)
    assert found.shape == (VIEWS, 4)
    for i in range(VIEWS):
        others = [j for j in range(VIEWS) if j != i]
        cosines = {j: float(cameras[i, :3, 2] @ cameras[j, :3, 2]) for j in others}
        assert found[i].tolist() == sorted(others, key=lambda j: -cosines[j])[:4]


def test_convention_neighbours_look_the_same_way_wherever_they_stand():
    eye = torch.eye(4)
    far_away, turned = eye.clone(), eye.clone()
    far_away[:3, 3] = 100.0
    turned[:3, :3] = look_at([0.0, 0.0, 0.0], [0.1, 0.0, 1.0], up=[0.0, -1.0, 0.0])[:3, :3]
    assert nearest_views(torch.stack([eye, turned, far_away]), 1)[0].item() == 2


# ---- bad data; the readers of single files have their own tests ----


def refused(path, pattern, **options):
    with pytest.raises(DataError, match=pattern) as info:
        load_scene(path, image_side=16, **options)
    assert info.value.remedy
    assert len(str(info.value).splitlines()) == 1


@pytest.fixture
def scene_dir(tmp_path):
    return write_deepvoxels(tmp_path / "scene", height=24, width=24)


BROKEN = {
    "an image of another size": (lambda f: picture(f / "rgb/000003.png", 24, 26), "26 x 24 pixels"),
    "two images of one name": (lambda f: picture(f / "rgb/000003.jpg", 24, 24), "same name"),
    "near beyond the grid": (lambda f: change(f, "\n0.834\n", "\n80.0\n"), "Near must be before"),
    "grid far away": (lambda f: change(f, "0.0 0.0 0.0", "0.0 0.0 900.0"), "behind all cameras"),
    "grid above every view": (
        lambda f: change(f, "0.0 0.0 0.0", "0.0 0.0 3.5"),
        "outside all of the 9",
    ),
    "a picture as depth": (lambda f: picture(f / "depth/000001.png", 24, 24), "8 bits"),
    "a depth map missing": (lambda f: (f / "depth/000001.png").unlink(), "1 without depth map: 000001"),
    "depth of another size": (lambda f: shutil.copy(f / "other.png", f / "depth/000001.png"), "12 x 12"),
}


def picture(path, height, width):
    write_image(path, torch.zeros(3, height, width))


def change(folder, old, new):
    text = (folder / "intrinsics.txt").read_text()
    assert old in text
    (folder / "intrinsics.txt").write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("case", BROKEN)
def test_broken_scenes_are_refused(tmp_path, case):
    write_deepvoxels(tmp_path, height=24, width=24, depth=True)
    write_depth_png(tmp_path / "other.png", torch.ones(12, 12), torch.ones(12, 12).bool(), unit_m=1e-4)
    spoil, says = BROKEN[case]
    spoil(tmp_path)
    refused(tmp_path, says)


def test_distortion_that_leaves_no_square_and_photos_of_another_size(tmp_path):
    write_nerf(tmp_path / "nerf")
    meta = json.loads((tmp_path / "nerf" / "transforms.json").read_text())
    (tmp_path / "nerf" / "transforms.json").write_text(json.dumps(meta | {"k1": -40.0}))
    refused(tmp_path / "nerf", "no usable square")
    write_colmap(tmp_path / "colmap")
    picture(tmp_path / "colmap" / "images" / "a view" / "2.png", 24, 33)
    refused(tmp_path / "colmap", "2.png.*its camera 90 x 120")


def test_pairs_are_made_by_name_where_the_order_would_not_notice(scene_dir):
    (scene_dir / "rgb" / "000002.png").unlink()
    (scene_dir / "pose" / "000003.txt").unlink()
    refused(scene_dir, "8 images and 8 poses.*1 without pose: 000003; 1 without image: 000002")


def test_a_sensor_of_another_shape_is_refused(tmp_path):
    write_deepvoxels(tmp_path, height=24, width=36)
    refused(tmp_path, "the sensor is 640 x 480, the images are 36 x 24")


def test_folders_without_a_scene(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "the folder is empty")
    refused(tmp_path / "none", "does not exist")
    (tmp_path / "empty" / "notes.txt").write_text("x")
    refused(tmp_path / "empty", "no posed scene.*prepare colmap")


def test_parts_of_a_scene_that_are_missing(scene_dir):
    (scene_dir / "rgb").rename(scene_dir / "images")
    refused(scene_dir, "rgb: the folder does not exist")
    (scene_dir / "rgb").mkdir()
    refused(scene_dir, "rgb: holds no")
    (scene_dir / "intrinsics.txt").unlink()
    refused(scene_dir, "intrinsics.txt: the file does not exist", layout="deepvoxels")


def test_colmap_images_without_photo_are_noted(tmp_path):
    write_colmap(tmp_path)
    (tmp_path / "images" / "a view" / "3.png").unlink()
    scene = load_scene(tmp_path, image_side=16)
    assert len(scene) == VIEWS - 1
    assert "1 posed images not found" in scene.notes[0]


def test_nerf_frames_without_image_are_noted(tmp_path):
    write_nerf(tmp_path)
    (tmp_path / "images" / "3.png").unlink()
    scene = load_scene(tmp_path, image_side=16)
    assert len(scene) == VIEWS - 1
    assert "1 frames without image left out: images/3" in scene.notes[0]


def test_cameras_that_look_apart_have_no_grid(tmp_path):
    write_nerf(tmp_path)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["transform_matrix"] = torch.eye(4).tolist()
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    refused(tmp_path, "parallel")


# ---- real data ---------------------------------------------------------------------------------------------


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="the environment variable REAL_DATA is not set")
def test_the_fox_is_loaded(tmp_path):
    scene = load_scene(Path(os.environ["REAL_DATA"]) / "fox", image_side=64, split="train")
    assert len(scene) == 43
    assert scene.blind_views == ()
    assert scene.near < 5 < scene.far
