"""Multi-view scenes from COLMAP models: views and points in place, and bad folders are named."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from diffdiffdepth import prepare
from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.inputs import load_light_field
from diffdiffdepth.losses import warp_to_centre
from shared.errors import DataError
from shared.files.colmap import ColmapCamera, ColmapModel, read_colmap_model, write_colmap_model
from shared.files.images import read_image, write_image
from shared.geometry.camera import project, transform_points, unproject
from shared.geometry.warp import sample_pixels


@pytest.fixture
def views(small_scenes, tmp_path) -> Path:
    return Path(shutil.copytree(small_scenes / "views", tmp_path / "views"))


def test_embedded_views_agree_with_their_truth(small_scenes):
    scenes = ColmapScenes(small_scenes / "views")
    assert len(scenes) == 4
    for scene in scenes:
        assert scene.views.shape == (3, 3, 60, 80)
        grid = torch.stack(torch.meshgrid(torch.arange(80.0), torch.arange(60.0), indexing="xy"), -1)
        points = unproject(grid, scene.truth, scene.centre_K)
        errors = []
        for view, K, pose in zip(scene.views, scene.view_K, scene.view_from_centre, strict=True):
            pixels, _ = project(transform_points(pose, points), K)
            inside = ((pixels > 0) & (pixels < pixels.new_tensor([79, 59]))).all(-1)
            error = (sample_pixels(view[None], pixels[None])[0] - scene.centre).abs().mean(0)
            errors.append(error[inside].median())
        assert max(errors) < 0.05


def test_points_lie_on_the_surface_except_for_wrong_matches(small_scenes):
    scene = ColmapScenes(small_scenes / "views")["view_02.png"]
    x, y = scene.points.positions_px.round().long().clamp(min=0).unbind(1)
    relative = (scene.points.labels / scene.truth[y.clamp(max=59), x.clamp(max=79)] - 1).abs()
    assert scene.points.kind == "depth"
    assert len(scene.points) > 60
    assert relative.median() < 0.04
    assert 0 < (relative > 0.1).float().mean() < 0.2


def test_neighbours_are_ranked_and_counted(small_scenes):
    scenes = ColmapScenes(small_scenes / "views", neighbours=2)
    assert len(scenes[0].views) == 2
    assert scenes["view_01.png"].name == "view_01"
    with pytest.raises(DataError, match="no pose for 'nobody.png'"):
        scenes["nobody.png"]
    with pytest.raises(IndexError):
        scenes[4]


def test_smaller_images_keep_the_geometry(small_scenes):
    large, small = (ColmapScenes(small_scenes / "views", max_side=side)[0] for side in (None, 40))
    assert small.centre.shape == (3, 30, 40)
    assert small.truth.shape == (30, 40)
    torch.testing.assert_close(small.points.labels, large.points.labels)
    torch.testing.assert_close(
        (small.points.positions_px + 0.5) * 2 - 0.5, large.points.positions_px, atol=1e-3, rtol=0
    )


def test_distorted_cameras_are_undone(views):
    straight = ColmapScenes(views)[0]
    model = read_colmap_model(views / "sparse" / "0")
    camera, K = model.cameras[1], model.cameras[1].intrinsics().numpy()
    bend = np.array([0.3, 0.0, 0.0, 0.0])
    pixels = np.stack(np.meshgrid(np.arange(80.0), np.arange(60.0), indexing="xy"), -1).reshape(-1, 2)
    # Where in the straight picture each pixel of the distorted one looks, by OpenCV.
    source = cv2.undistortPoints(pixels, K, bend, P=K).reshape(60, 80, 2).astype(np.float32)
    for path in (views / "images").iterdir():
        image = read_image(path).permute(1, 2, 0).numpy()
        bent = cv2.remap(image, source, None, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
        write_image(path, torch.from_numpy(bent).permute(2, 0, 1))
    radial = ColmapCamera("RADIAL", camera.width, camera.height, (*camera.params, 0.3, 0.0))
    write_colmap_model(views / "sparse" / "0", ColmapModel({1: radial}, model.images, model.points))
    undone = ColmapScenes(views)[0]
    torch.testing.assert_close(undone.centre_K, straight.centre_K)
    torch.testing.assert_close(undone.points.positions_px, straight.points.positions_px)

    bent = read_image(views / "images" / "view_00.png")
    theirs = torch.from_numpy(cv2.undistort(bent.permute(1, 2, 0).numpy(), K, bend)).permute(2, 0, 1)
    ours, untouched = (float((image - theirs)[:, 6:-6, 6:-6].abs().mean()) for image in (undone.centre, bent))
    assert ours < 0.002 < 0.01 < untouched


def test_a_photo_of_another_shape_is_cut_to_the_centre(views):
    """One photo is an upright part of itself: its middle, scaled, still shows what the truth says."""
    model = read_colmap_model(views / "sparse" / "0")
    first, name = model.cameras[1], "view_03.png"
    focal, cx, cy = first.params
    model.cameras[2] = ColmapCamera(first.model, 40, 60, (focal, cx - 20, cy))
    upright = next(i for i, image in model.images.items() if image.name == name)
    model.images[upright] = replace(model.images[upright], camera_id=2)
    write_colmap_model(views / "sparse" / "0", model)
    write_image(views / "images" / name, read_image(views / "images" / name)[:, :, 20:60])
    (views / "depth" / "view_03.pfm").unlink()
    scene = ColmapScenes(views)["view_00.png"]
    assert scene.views.shape == (3, 3, 60, 80)
    assert any("another size than the others (view_03.png)" in note for note in scene.notes)
    warped, seen = warp_to_centre(scene, scene.truth)
    errors = [(w - scene.centre).abs().mean(0)[s[0]].median() for w, s in zip(warped, seen, strict=True)]
    assert max(errors) < 0.05
    assert ColmapScenes(views)[name].views.shape == (3, 3, 60, 40)  # and it can be the centre


def tagged(path: Path, orientation: int, method: Image.Transpose | None = None) -> None:
    """Store a photo turned by `method`, with an EXIF orientation."""
    with Image.open(path) as image:
        image = image.transpose(method) if method is not None else image.copy()
    exif = Image.Exif()
    exif[0x112] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "stored", "says"),
    [
        (3, None, "not turned"),  # upside down by its tag, upright by its camera
        (6, None, "not turned"),
        (8, Image.Transpose.ROTATE_270, "were turned as EXIF says"),  # only turned it has the camera's shape
    ],
)
def test_the_cameras_decide_whether_exif_turns_a_photo(views, orientation, stored, says):
    plain = ColmapScenes(views)[0]
    for name in ("view_00.png", "view_01.png"):
        tagged(views / "images" / name, orientation, stored)
    scene = ColmapScenes(views)[0]
    torch.testing.assert_close(scene.centre, plain.centre, rtol=0, atol=0)
    torch.testing.assert_close(scene.views, plain.views, rtol=0, atol=0)
    (note,) = scene.notes
    assert says in note
    assert note in prepare.report_folder(views)


def test_missing_photos_other_models_and_transparency_are_named(views):
    shutil.copytree(views / "sparse" / "0", views / "sparse" / "1")
    (views / "images" / "view_03.png").unlink()
    image = read_image(views / "images" / "view_01.png")
    clear = torch.cat([image, torch.ones_like(image[:1])])
    clear[3, :, :3] = 0
    write_image(views / "images" / "view_01.png", clear)
    scenes = ColmapScenes(views)
    assert scenes.names == ["view_00.png", "view_01.png", "view_02.png"]
    assert len(scenes.notes) == 3
    for word in ("not 1 with 4", "not found, left out: view_03.png", "become white (view_01.png)"):
        assert any(word in note for note in scenes.notes)
    torch.testing.assert_close(scenes[1].centre[:, :, 3:], image[:, :, 3:], rtol=0, atol=0)
    assert bool((scenes[1].centre[:, :, :3] == 1).all())


def test_views_of_a_light_field_have_one_orientation(small_scenes, tmp_path):
    plain = load_light_field(small_scenes / "still_life")
    folder = Path(shutil.copytree(small_scenes / "still_life", tmp_path / "field"))
    tagged(folder / "input_Cam003.png", 6)
    field = load_light_field(folder)
    torch.testing.assert_close(field.views, plain.views, rtol=0, atol=0)
    assert any("input_Cam003.png" in note for note in field.notes)
