"""COLMAP models against pycolmap, both ways, and damage that may only end in DataError."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from shared.files.colmap import (
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    ColmapPoints,
    find_colmap_model,
    read_colmap_model,
    write_colmap_model,
)
from shared.geometry.camera import invert_pose, look_at, project, transform_points
from shared.tests.broken import change, refused
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused

CAMERAS = {
    1: ColmapCamera("SIMPLE_PINHOLE", 640, 480, (525.0, 320.0, 240.0)),
    2: ColmapCamera("PINHOLE", 641, 359, (500.0, 510.0, 321.25, 180.5)),
    3: ColmapCamera("SIMPLE_RADIAL", 64, 48, (50.0, 32.0, 24.0, -0.1)),
    4: ColmapCamera("RADIAL", 64, 48, (50.0, 32.0, 24.0, -0.1, 0.02)),
    7: ColmapCamera("OPENCV", 64, 48, (50.0, 51.0, 32.0, 24.0, -0.1, 0.02, 1e-3, -2e-3)),
}
NAMES = ["a.png", "with space.png", "sub/folder/b c.png", "ümlaut.jpg", "e.png"]


def small_model(seed=0, points=6):
    """Five cameras round a few points, each of which is observed by two to five of them."""
    generator = torch.Generator().manual_seed(seed)
    images = {}
    for index, (camera_id, name) in enumerate(zip(CAMERAS, NAMES, strict=True)):
        angle = index * 0.7
        position = torch.tensor([4 * math.cos(angle), 4 * math.sin(angle), 1.5], dtype=torch.float64)
        world_from_cam = look_at(position)
        count = 0 if index == 4 else points  # an image without keypoints is a legal image
        xy = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 40
        ids = torch.arange(count) * 10 + 3
        if count:
            ids[0] = -1
        images[index + 11] = ColmapImage(name, camera_id, world_from_cam, xy, ids)
    tracks = [[(11 + view, index) for view in range(4)] for index in range(1, points)]
    return ColmapModel(
        cameras=dict(CAMERAS),
        images=images,
        points=ColmapPoints(
            ids=torch.arange(1, points) * 10 + 3,
            xyz=torch.randn(points - 1, 3, generator=generator, dtype=torch.float64),
            rgb=torch.randint(0, 256, (points - 1, 3), generator=generator, dtype=torch.uint8),
            error_px=torch.rand(points - 1, generator=generator, dtype=torch.float64),
            track_starts=torch.arange(points) * 4,
            tracks=torch.tensor(tracks).reshape(-1, 2),
        ),
    )


def assert_same_model(ours, theirs):
    assert ours.cameras == theirs.cameras
    assert ours.images.keys() == theirs.images.keys()
    for image_id, image in ours.images.items():
        other = theirs.images[image_id]
        assert (image.name, image.camera_id) == (other.name, other.camera_id)
        assert torch.allclose(image.world_from_cam, other.world_from_cam, atol=1e-12, rtol=0)
        assert torch.allclose(image.keypoints_px, other.keypoints_px, atol=1e-12, rtol=0)
        assert torch.equal(image.point_ids, other.point_ids)
    for name in ("ids", "xyz", "rgb", "error_px", "track_starts", "tracks"):
        assert torch.equal(getattr(ours.points, name), getattr(theirs.points, name)), name


def write_binary(folder, model):
    """The same model as COLMAP writes it."""
    pycolmap = pytest.importorskip("pycolmap", reason="the extra `colmap` is not installed")
    write_colmap_model(folder, model)
    pycolmap.Reconstruction(folder).write(folder)
    for path in folder.glob("*.txt"):
        path.unlink()


def test_write_then_read_returns_the_model(tmp_path):
    model = small_model()
    write_colmap_model(tmp_path, model)
    assert_same_model(read_colmap_model(tmp_path), model)


def test_binary_is_preferred_and_missing_points_are_no_points(tmp_path):
    write_binary(tmp_path, small_model(seed=2))
    write_colmap_model(tmp_path, small_model(seed=1))
    ids, xyz = (getattr(small_model(seed=2).points, name) for name in ("ids", "xyz"))
    read = read_colmap_model(tmp_path).points
    assert torch.equal(read.xyz[read.ids.argsort()], xyz[ids.argsort()])
    (tmp_path / "points3D.bin").unlink()
    assert read_colmap_model(tmp_path).points.xyz.shape == (0, 3)


def test_the_model_is_found_at_the_usual_places(tmp_path):
    assert find_colmap_model(tmp_path) is None
    write_colmap_model(tmp_path / "sparse" / "0", small_model())
    assert find_colmap_model(tmp_path) == tmp_path / "sparse" / "0"
    assert find_colmap_model(tmp_path / "sparse" / "0") == tmp_path / "sparse" / "0"


@pytest.mark.parametrize("place", ["sparse", "colmap/sparse"])
def test_of_several_models_the_largest_is_taken_and_the_others_are_named(tmp_path, place):
    whole = small_model()
    for number, count in ((0, 1), (1, 3), (10, 2), (2, 3)):
        folder = tmp_path / place / str(number)
        write_colmap_model(folder, replace(whole, images=dict(list(whole.images.items())[:count])))
        (folder / "points3D.txt").unlink()
    (tmp_path / place / "._1").write_bytes(b"x")
    found = find_colmap_model(tmp_path)
    assert found == tmp_path / place / "1"
    assert "not 0 with 1, 2 with 3, 10 with 2" in read_colmap_model(found).notes[0]
    write_binary(tmp_path / place / "3", whole)
    assert find_colmap_model(tmp_path).name == "3"


def test_full_opencv_is_read_where_it_is_opencv(tmp_path):
    params = (50.0, 51.0, 32.0, 24.0, -0.1, 0.02, 1e-3, -2e-3)
    for rest, fits in (((0.0,) * 4, True), ((0.0, 0.0, 1e-5, 0.0), False)):
        cameras = CAMERAS | {7: ColmapCamera("FULL_OPENCV", 64, 48, params + rest)}
        write_colmap_model(tmp_path, replace(small_model(), cameras=cameras))
        if fits:
            assert read_colmap_model(tmp_path).cameras == CAMERAS
        else:
            refused(read_colmap_model, tmp_path, "k3 to k6")


def test_convention_colmap_counts_pixels_from_the_corner():
    centred = ColmapCamera("SIMPLE_PINHOLE", 4, 2, (10.0, 2.0, 1.0))  # the middle of 4 x 2 pixels
    assert centred.intrinsics().tolist() == [[10, 0, 1.5], [0, 10, 0.5], [0, 0, 1]]


# ---- pycolmap as the oracle --------------------------------------------------------------------------------


def synthetic(pycolmap, model="PINHOLE", params=(1280.0, 1250.0, 500.0, 380.0)):
    options = pycolmap.SyntheticDatasetOptions()
    options.num_points3D = 30
    options.camera_model_id = getattr(pycolmap.CameraModelId, model)
    options.camera_params = list(params)
    pycolmap.set_random_seed(3)
    return pycolmap.synthesize_dataset(options)


@pytest.mark.parametrize("binary", [True, False])
def test_we_read_what_pycolmap_writes(tmp_path, binary):
    pycolmap = pytest.importorskip("pycolmap")
    theirs = synthetic(pycolmap)
    theirs.write(tmp_path) if binary else theirs.write_text(tmp_path)
    ours = read_colmap_model(tmp_path)
    assert set(ours.images) == set(theirs.images)
    assert set(ours.points.ids.tolist()) == set(theirs.points3D)
    for image_id, image in ours.images.items():
        other = theirs.images[image_id]
        assert image.name == other.name
        cam_from_world = other.cam_from_world().matrix()
        assert np.allclose(invert_pose(image.world_from_cam)[:3].numpy(), cam_from_world, atol=1e-12)
        keypoints = [point.xy for point in other.points2D]
        assert np.allclose(image.keypoints_px.numpy() + 0.5, keypoints, atol=1e-9)
        # the synthetic keypoints have no noise, so our projection must hit them
        seen = image.point_ids >= 0
        row = torch.searchsorted(ours.points.ids.sort().values, image.point_ids[seen])
        xyz = ours.points.xyz[ours.points.ids.argsort()[row]]
        points_cam = transform_points(invert_pose(image.world_from_cam), xyz)
        pixels, _ = project(points_cam, ours.cameras[image.camera_id].intrinsics())
        assert (pixels - image.keypoints_px[seen]).abs().max() < 1e-6
    for index, point_id in enumerate(ours.points.ids.tolist()):
        other = theirs.points3D[point_id]
        assert np.array_equal(ours.points.xyz[index].numpy(), other.xyz)
        assert np.array_equal(ours.points.rgb[index].numpy(), other.color)
        start, stop = ours.points.track_starts[index : index + 2].tolist()
        track = [(e.image_id, e.point2D_idx) for e in other.track.elements]
        assert [tuple(pair) for pair in ours.points.tracks[start:stop].tolist()] == track


def test_pycolmap_reads_what_we_write(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    model = small_model()
    write_colmap_model(tmp_path, model)
    theirs = pycolmap.Reconstruction(tmp_path)
    assert {i: (c.model.name, c.width, c.height, tuple(c.params)) for i, c in theirs.cameras.items()} == {
        i: (c.model, c.width, c.height, c.params) for i, c in model.cameras.items()
    }
    for image_id, image in model.images.items():
        other = theirs.images[image_id]
        assert other.name == (image.name.split()[0])  # theirs stops at the space
        assert np.allclose(
            other.cam_from_world().inverse().matrix(), image.world_from_cam[:3].numpy(), atol=1e-12
        )
        assert [point.has_point3D() for point in other.points2D] == (image.point_ids >= 0).tolist()
    assert {i: p.xyz.tolist() for i, p in theirs.points3D.items()} == dict(
        zip(model.points.ids.tolist(), model.points.xyz.tolist(), strict=True)
    )


@pytest.mark.parametrize("camera_id", sorted(CAMERAS))
def test_intrinsics_and_distortion_project_as_pycolmap_does(camera_id):
    pycolmap = pytest.importorskip("pycolmap")
    ours = CAMERAS[camera_id]
    theirs = pycolmap.Camera(model=ours.model, width=ours.width, height=ours.height, params=list(ours.params))
    rays = np.random.default_rng(0).uniform(-0.4, 0.4, (20, 2))
    k1, k2, p1, p2 = ours.distortion().tolist()
    x, y = rays.T
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    distorted_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    distorted_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    pixels = (ours.intrinsics().numpy() @ np.stack([distorted_x, distorted_y, np.ones(20)]))[:2].T
    oracle = np.array([theirs.img_from_cam(np.array([*ray, 1.0])) for ray in rays])
    assert np.allclose(pixels + 0.5, oracle, atol=1e-9)


# ---- damage ------------------------------------------------------------------------------------------------


@pytest.fixture
def text_model(tmp_path):
    write_colmap_model(tmp_path, small_model())
    return tmp_path


def test_a_folder_without_a_model(tmp_path):
    refused(read_colmap_model, tmp_path, "no COLMAP model")
    refused(read_colmap_model, tmp_path / "none", "no COLMAP model")


@pytest.mark.parametrize("model", ["OPENCV_FISHEYE", "NONSENSE"])
def test_other_camera_models_are_refused_by_name(text_model, model):
    change("cameras.txt", "PINHOLE 641", f"{model} 641")(text_model)
    refused(read_colmap_model, text_model, f"line 3: the camera model {model}.*Undistort")


@pytest.mark.parametrize(
    ("file", "old", "new", "pattern"),
    [
        ("cameras", "500.0", "nan", "camera 2: NaN"),
        ("cameras", "3 SIMPLE", "2 SIMPLE", "camera id 2 comes twice"),
        ("images", "a.png", "../a.png", "leads out"),
        ("images", "a.png", "C:\\\\a.png", "leads out"),
        ("points3D", "\n13 ", "\n23 ", "point id 23 comes twice"),
    ],
)
def test_damaged_text_is_named_by_line(text_model, file, old, new, pattern):
    change(f"{file}.txt", old, new)(text_model)
    refused(read_colmap_model, text_model, pattern)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("extension", ["txt", "bin"])
@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_damage_ends_in_data_error(tmp_path, name, extension, examples):
    (write_binary if extension == "bin" else write_colmap_model)(tmp_path, small_model(points=3))

    def read(path):
        model = read_colmap_model(path.parent)
        assert all(torch.isfinite(image.world_from_cam).all() for image in model.images.values())
        assert torch.isfinite(model.points.xyz).all()

    assert_damage_is_refused(tmp_path / f"{name}.{extension}", read, examples)
