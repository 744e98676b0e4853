"""Loaders: what they read is what lies there, in place and with the right sign; bad folders are named."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdiffdepth.datasets import (
    ColmapScenes,
    data_kind,
    load_crosshair,
    load_hci,
    load_light_field,
    load_stanford,
    make_embedded_light_field,
    make_embedded_multi_view,
    read_hci_parameters,
)
from diffdiffdepth.datasets.signs import find_offset_signs
from diffdiffdepth.datasets.stanford import SIGNS_FILE
from diffdiffdepth.points import load_points, perturb_points, save_points
from diffdiffdepth.scene import LightField, SparsePoints
from shared.camera import project, transform_points, unproject
from shared.colmap import ColmapCamera, ColmapModel, read_colmap_model, write_colmap_model
from shared.files import DataError, read_pfm, write_image, write_pfm
from shared.warp import sample_pixels

real_data = pytest.mark.skipif("REAL_DATA" not in os.environ, reason="REAL_DATA is not set: no real data")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Small embedded scenes, written once; tests copy what they change."""
    folder = tmp_path_factory.mktemp("embedded")
    make_embedded_light_field(folder / "field", size=(56, 72), side=5, antialias=1)
    make_embedded_multi_view(folder / "views", size=(60, 80), views=4, points=150, antialias=1)
    return folder


@pytest.fixture
def field(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "field", tmp_path / "field"))


@pytest.fixture
def views(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "views", tmp_path / "views"))


def warp_errors(light_field: LightField, disparity: torch.Tensor) -> torch.Tensor:
    """Median absolute error of each view sampled where the disparity says, [m]."""
    height, width = disparity.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y], -1) + disparity[..., None] * light_field.offsets[:, None, None, :]
    error = (sample_pixels(light_field.views, grid) - light_field.centre).abs().mean(1)
    return error.flatten(1).median(1).values


# ---- light fields ------------------------------------------------------------------------------------------


def test_embedded_light_field_agrees_with_its_truth(made):
    light_field = load_light_field(made / "field")
    assert light_field.views.shape == (24, 3, 56, 72)
    assert light_field.truth.min() < -0.3
    assert light_field.truth.max() > 0.3
    right = warp_errors(light_field, light_field.truth)
    assert right.max() < 0.03
    for wrong in (-light_field.truth, light_field.truth.flip(1), torch.zeros_like(light_field.truth)):
        assert warp_errors(light_field, wrong).mean() > 1.5 * right.mean()


def test_embedded_depth_and_disparity_are_one(made):
    parameters = read_hci_parameters(made / "field")
    disparity = read_pfm(made / "field" / "gt_disp_lowres.pfm")
    depth = read_pfm(made / "field" / "gt_depth_lowres.pfm")
    torch.testing.assert_close(parameters.depth_from_disparity(disparity), depth, rtol=1e-5, atol=0)
    torch.testing.assert_close(parameters.disparity_from_depth(depth), disparity, rtol=0, atol=1e-5)
    assert parameters.depth_from_disparity(torch.tensor(-1e3)).isinf()


def test_disparity_formula_of_the_published_scenes():
    # Cotton: fB = 25 mm * 100 / 35 * 512; disparity 0 at the focus distance of 4.25 m
    from diffdiffdepth.datasets import HciParameters

    cotton = HciParameters(512, 512, 100.0, 35.0, 9, 9, 25.0, 4.25)
    depth = torch.tensor([4.25, 3.0, 6.0], dtype=torch.float64)
    expected = 25 * (100 / 35 * 512) * (1 / (1000 * depth) - 1 / 4250)
    torch.testing.assert_close(cotton.disparity_from_depth(depth), expected)


def test_cross_is_part_of_the_grid_and_depth_replaces_disparity(field):
    full, cross = load_hci(field), load_hci(field, views="cross")
    assert len(cross.views) == 8
    for view, offset in zip(cross.views, cross.offsets, strict=True):
        index = (full.offsets == offset).all(1).nonzero().item()
        torch.testing.assert_close(full.views[index], view, rtol=0, atol=0)
    (field / "gt_disp_lowres.pfm").unlink()
    torch.testing.assert_close(load_hci(field).truth, full.truth, atol=1e-5, rtol=0)
    (field / "gt_depth_lowres.pfm").unlink()
    (field / "parameters.cfg").unlink()
    assert read_hci_parameters(field) is None
    assert load_hci(field).truth is None


def test_invalid_truth_becomes_a_mask(field):
    truth = read_pfm(field / "gt_disp_lowres.pfm")
    truth[3:5, 7] = torch.nan
    write_pfm(field / "gt_disp_lowres.pfm", truth, big_endian=True)
    light_field = load_hci(field)
    assert int((~light_field.valid).sum()) == 2
    assert light_field.truth.isfinite().all()


def test_embedded_scene_is_made_once_and_never_half(made, tmp_path):
    target = made / "field" / "input_Cam000.png"
    before = target.stat().st_mtime_ns
    make_embedded_light_field(made / "field", size=(56, 72), side=5, antialias=1)
    assert target.stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(DataError, match="other files"):
        make_embedded_light_field(tmp_path / "mine", size=(8, 8), side=3)
    assert (tmp_path / "mine" / "notes.txt").exists()
    with pytest.raises(ValueError, match="odd"):
        make_embedded_light_field(tmp_path / "even", side=4)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def remove_view(folder):
    (folder / "input_Cam007.png").unlink()


def remove_last_view(folder):
    (folder / "parameters.cfg").unlink()
    (folder / "input_Cam024.png").unlink()


def rectangular_grid(folder):
    text = (folder / "parameters.cfg").read_text().replace("num_cams_y = 5", "num_cams_y = 3")
    (folder / "parameters.cfg").write_text(text)


def even_grid(folder):
    (folder / "parameters.cfg").unlink()
    for index in range(16, 25):
        (folder / f"input_Cam{index:03d}.png").unlink()


def other_size(folder):
    write_image(folder / "input_Cam011.png", torch.zeros(3, 56, 71))


def truncated_truth(folder):
    path = folder / "gt_disp_lowres.pfm"
    path.write_bytes(path.read_bytes()[:-40])


def wrong_truth_size(folder):
    write_pfm(folder / "gt_disp_lowres.pfm", torch.zeros(72, 56))


def unusable_truth(folder):
    write_pfm(folder / "gt_disp_lowres.pfm", torch.full((56, 72), torch.nan))


def missing_key(folder):
    text = (folder / "parameters.cfg").read_text()
    (folder / "parameters.cfg").write_text(text.replace("baseline_mm", "base_mm"))


def senseless_value(folder):
    text = (folder / "parameters.cfg").read_text()
    (folder / "parameters.cfg").write_text(text.replace("sensor_size_mm = 35", "sensor_size_mm = nan"))


def not_a_cfg(folder):
    (folder / "parameters.cfg").write_text("focal length is 100")


def other_resolution(folder):
    text = (folder / "parameters.cfg").read_text()
    (folder / "parameters.cfg").write_text(text.replace("x_px = 72", "x_px = 80"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_view, "input_Cam007"),
        (remove_last_view, "square grid"),
        (rectangular_grid, "not square"),
        (even_grid, "no centre view"),
        (other_size, "input_Cam011.*71 x 56"),
        (truncated_truth, "gt_disp_lowres.*bytes"),
        (wrong_truth_size, "gt_disp_lowres.*72 x 56"),
        (unusable_truth, "no finite value"),
        (missing_key, "baseline_mm"),
        (senseless_value, "sensor_size_mm"),
        (not_a_cfg, "INI"),
        (other_resolution, "parameters.cfg says"),
    ],
)
def test_damaged_light_fields_are_named(field, damage, message):
    damage(field)
    with pytest.raises(DataError, match=message):
        load_hci(field)


def as_crosshair(field: Path, out: Path, first: int = 1) -> Path:
    out.mkdir()
    for row in range(5):
        for column in range(5):
            if 2 in (row, column):
                name = f"shot_{row + first:02d}_{column + first:02d}.png"
                shutil.copy(field / f"input_Cam{5 * row + column:03d}.png", out / name)
    return out


@pytest.mark.parametrize("first", [0, 1])
def test_crosshair_folder_is_the_same_light_field(made, tmp_path, first):
    folder = as_crosshair(made / "field", tmp_path / "cross", first)
    assert data_kind(folder) == "crosshair"
    cross, expected = load_light_field(folder), load_hci(made / "field", views="cross")
    torch.testing.assert_close(cross.centre, expected.centre, rtol=0, atol=0)
    torch.testing.assert_close(cross.offsets, expected.offsets)
    torch.testing.assert_close(cross.views, expected.views, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["shot_03_03"], "centre view, row 3 and column 3"),
        (["shot_03_02"], "row 3 has no view 2"),
        (["shot_01_03", "shot_02_03"], "end of its column"),
        (["shot_01_03", "shot_02_03", "shot_04_03", "shot_05_03", "shot_03_05"], "fewer than a cross"),
    ],
)
def test_incomplete_crosses_are_named(made, tmp_path, remove, message):
    folder = as_crosshair(made / "field", tmp_path / "cross")
    for stem in remove:
        (folder / f"{stem}.png").unlink()
    with pytest.raises(DataError, match=message):
        load_crosshair(folder)


def test_two_names_for_one_view_are_refused(made, tmp_path):
    folder = as_crosshair(made / "field", tmp_path / "cross")
    shutil.copy(folder / "shot_03_03.png", folder / "other_03_03.png")
    with pytest.raises(DataError, match="both the view in row 3, column 3"):
        load_crosshair(folder)


@pytest.fixture(scope="module")
def layers(tmp_path_factory) -> Path:
    """A textured square 1.6 px before and a wall 1.1 px behind the plane of focus, in the HCI layout."""
    folder = tmp_path_factory.mktemp("layers")
    y, x = np.mgrid[:90, :120].astype(float)
    waves = np.random.default_rng(0).uniform(-0.8, 0.8, (2, 40, 2))
    phases = np.random.default_rng(1).uniform(0, 6.28, (2, 40))

    def texture(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        wave = waves[kind, :, :, None, None]
        return 0.5 + 0.06 * np.cos(wave[:, 0] * x + wave[:, 1] * y + phases[kind, :, None, None]).sum(0)

    for row in range(5):
        for column in range(5):
            du, dv = 2 - column, 2 - row
            near = (x - 1.6 * du, y - 1.6 * dv)
            inside = (abs(near[0] - 60) < 25) & (abs(near[1] - 45) < 20)
            grey = np.where(inside, texture(0, *near), texture(1, x + 1.1 * du, y + 1.1 * dv))
            image = torch.tensor(grey).clamp(0, 1).expand(3, -1, -1)
            write_image(folder / f"input_Cam{5 * row + column:03d}.png", image)
    return folder


def as_stanford(field: Path, out: Path, sign_x: int, sign_y: int) -> Path:
    """The grid under the archive's names, with positions that run as the signs say."""
    out.mkdir()
    rng = np.random.default_rng(0)
    for row in range(5):
        for column in range(5):
            x, y = 500 + 8 * sign_x * column + rng.uniform(-0.2, 0.2), 300 + 8 * sign_y * row
            name = f"out_{row:02d}_{column:02d}_{y:.6f}_{x:.6f}{'_' if row % 2 else ''}.png"
            shutil.copy(field / f"input_Cam{5 * row + column:03d}.png", out / name)
    return out


@pytest.mark.parametrize(("sign_x", "sign_y"), [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_stanford_positions_get_their_signs_from_the_pictures(layers, tmp_path, sign_x, sign_y):
    folder = as_stanford(layers, tmp_path / "archive", sign_x, sign_y)
    assert data_kind(folder) == "stanford"
    light_field = load_stanford(folder, views="all", downsample=1)
    expected = load_hci(layers)
    assert 1e-3 < (light_field.offsets - expected.offsets).abs().max() < 0.05  # measured, not counted
    torch.testing.assert_close(light_field.views, expected.views, rtol=0, atol=0)
    stored = (folder / SIGNS_FILE).read_text()
    assert f'"x": {sign_x}' in stored
    assert f'"y": {sign_y}' in stored


def test_stanford_options_and_errors(layers, made, tmp_path):
    folder = as_stanford(layers, tmp_path / "archive", 1, 1)
    (folder / SIGNS_FILE).write_text('{"x": 1, "y": 1}')
    small = load_stanford(folder, downsample=2, grid=3)
    assert small.views.shape == (4, 3, 45, 60)
    assert load_stanford(folder, signs=(1, -1)).offsets[0, 1] == -load_stanford(folder).offsets[0, 1]
    (folder / SIGNS_FILE).write_text('{"x": 2}')
    with pytest.raises(DataError, match="offset_signs"):
        load_stanford(folder)
    next(folder.glob("out_01_03_*")).unlink()
    with pytest.raises(DataError, match="row 1, column 3"):
        load_stanford(folder)
    with pytest.raises(DataError, match="no views named"):
        load_stanford(made / "field")


def test_signs_of_a_cross_and_of_too_little_occlusion(layers, caplog):
    cross = load_hci(layers, views="cross")
    turned = LightField(cross.centre, cross.views, -cross.offsets)
    assert find_offset_signs(cross) == (1, 1)
    assert find_offset_signs(turned) == (-1, -1)
    flat = LightField(cross.centre, cross.centre.expand_as(cross.views), cross.offsets)
    caplog.clear()
    assert find_offset_signs(flat)[0] == 1
    assert "too little occlusion" in caplog.text


# ---- multi-view scenes -------------------------------------------------------------------------------------


def test_embedded_views_agree_with_their_truth(made):
    scenes = ColmapScenes(made / "views")
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


def test_points_lie_on_the_surface_except_for_wrong_matches(made):
    scene = ColmapScenes(made / "views")["view_02.png"]
    x, y = scene.points.positions_px.round().long().clamp(min=0).unbind(1)
    relative = (scene.points.labels / scene.truth[y.clamp(max=59), x.clamp(max=79)] - 1).abs()
    assert scene.points.kind == "depth"
    assert len(scene.points) > 60
    assert relative.median() < 0.04
    assert 0 < (relative > 0.1).float().mean() < 0.2


def test_neighbours_are_ranked_and_counted(made):
    scenes = ColmapScenes(made / "views", neighbours=2)
    assert len(scenes[0].views) == 2
    assert len(ColmapScenes(made / "views", max_points=20)[1].points) == 20
    assert scenes["view_01.png"].name == "view_01"
    with pytest.raises(DataError, match="no pose for 'nobody.png'"):
        scenes["nobody.png"]
    with pytest.raises(IndexError):
        scenes[4]


def test_smaller_images_keep_the_geometry(made):
    large, small = ColmapScenes(made / "views")[0], ColmapScenes(made / "views", max_side=40)[0]
    assert small.centre.shape == (3, 30, 40)
    assert small.truth.shape == (30, 40)
    torch.testing.assert_close(small.points.labels, large.points.labels)
    torch.testing.assert_close(
        (small.points.positions_px + 0.5) * 2 - 0.5, large.points.positions_px, atol=1e-3, rtol=0
    )


def test_distorted_cameras_are_undone(views):
    model = read_colmap_model(views / "sparse" / "0")
    camera = model.cameras[1]
    radial = ColmapCamera("RADIAL", camera.width, camera.height, (*camera.params, 0.05, 0.0))
    write_colmap_model(views / "sparse" / "0", ColmapModel({1: radial}, model.images, model.points))
    straight = ColmapScenes(views)[0]
    plain = ColmapScenes(views.parent / "views", neighbours=3)  # the same folder
    torch.testing.assert_close(straight.centre_K, plain[0].centre_K)
    torch.testing.assert_close(straight.points.positions_px, plain[0].points.positions_px)
    middle, corner = straight.centre[:, 28:32, 38:42], straight.centre[:, :3, :3]
    original = ColmapScenes(views)._photo(0)
    assert original.image.shape == straight.centre.shape
    assert middle.isfinite().all()
    assert corner.isfinite().all()


def test_image_size_must_be_the_cameras(views):
    write_image(views / "images" / "view_01.png", torch.zeros(3, 60, 81))
    with pytest.raises(DataError, match="view_01.*81 x 60"):
        ColmapScenes(views)[0]


def test_mixed_sizes_are_named(views):
    model = read_colmap_model(views / "sparse" / "0")
    first = model.cameras[1]
    model.cameras[2] = ColmapCamera(first.model, 70, 60, first.params)
    name = "view_03.png"
    model.images.update(
        {
            i: type(im)(im.name, 2, im.world_from_cam, im.keypoints_px, im.point_ids)
            for i, im in model.images.items()
            if im.name == name
        }
    )
    write_colmap_model(views / "sparse" / "0", model, binary=False)
    write_image(views / "images" / name, torch.zeros(3, 60, 70))
    with pytest.raises(DataError, match="70 x 60 pixels, not 80 x 60"):
        ColmapScenes(views)[0]


def test_scenes_without_usable_points_are_named(views):
    with pytest.raises(DataError, match="no point that view_00.png sees"):
        ColmapScenes(views, max_error_px=1e-9)[0]
    model = read_colmap_model(views / "sparse" / "0")
    model.points.xyz[:, 1] -= 1000  # behind every camera
    write_colmap_model(views / "sparse" / "0", model, binary=False)
    with pytest.raises(DataError, match="outside the image or behind"):
        ColmapScenes(views)[0]


def test_missing_images_and_models_are_named(views, tmp_path):
    (views / "images" / "view_02.png").unlink()
    with pytest.raises(DataError, match="view_02.png"):
        ColmapScenes(views)[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no COLMAP model"):
        ColmapScenes(tmp_path / "empty")
    with pytest.raises(DataError, match="no light field"):
        data_kind(tmp_path / "empty")
    with pytest.raises(DataError, match="not a folder"):
        data_kind(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a light field"):
        load_light_field(views)


# ---- points on disk ----------------------------------------------------------------------------------------


def test_points_survive_the_disk(tmp_path):
    points = SparsePoints(torch.rand(7, 2), torch.rand(7) + 1, "depth", torch.rand(7) / 2 + 0.5)
    save_points(tmp_path / "points.npz", points)
    loaded = load_points(tmp_path / "points.npz", size=(2, 2))
    assert loaded.kind == "depth"
    for name in ("positions_px", "labels", "weights"):
        torch.testing.assert_close(getattr(loaded, name), getattr(points, name), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1.0], "y": [1.0], "label": [1.0]}, "kind"),
        ({"x": [], "y": [], "label": [], "kind": "depth"}, "empty"),
        ({"x": [np.nan], "y": [1.0], "label": [1.0], "kind": "disparity"}, "NaN"),
        ({"x": [1.0], "y": [1.0], "label": [-1.0], "kind": "depth"}, "positive"),
        ({"x": [1.0, 2.0], "y": [1.0], "label": [1.0], "kind": "depth"}, "does not hold points"),
        ({"x": [90.0], "y": [1.0], "label": [1.0], "kind": "depth"}, "outside the 50 x 40"),
        ({"x": [1.0], "y": [1.0], "label": [1.0], "kind": "guess"}, "kind must be"),
    ],
)
def test_bad_point_files_are_named(tmp_path, columns, message):
    np.savez(tmp_path / "points.npz", **columns)
    with pytest.raises(DataError, match=message):
        load_points(tmp_path / "points.npz", size=(40, 50))


def test_other_files_are_no_points(tmp_path):
    (tmp_path / "points.npz").write_bytes(b"PK but not quite")
    with pytest.raises(DataError, match="NPZ"):
        load_points(tmp_path / "points.npz")


def test_perturbation_is_seeded_and_as_large_as_asked():
    points = SparsePoints(torch.rand(4000, 2) * 50, torch.linspace(-1, 1, 4000), "disparity")
    noisy, again = (
        perturb_points(points, torch.Generator().manual_seed(3), label_noise=0.1, position_noise_px=0.5)
        for _ in range(2)
    )
    torch.testing.assert_close(noisy.labels, again.labels)
    assert (noisy.labels - points.labels).std() == pytest.approx(0.1, rel=0.05)
    assert (noisy.positions_px - points.positions_px).std() == pytest.approx(0.5, rel=0.05)
    wrong = (
        perturb_points(points, torch.Generator().manual_seed(3), outlier_share=0.25).labels != points.labels
    )
    assert wrong.float().mean() == pytest.approx(0.25, abs=0.03)


# ---- real data ---------------------------------------------------------------------------------------------


@real_data
def test_benchmark_scene_confirms_the_sign_of_the_offsets():
    light_field = load_hci(Path(os.environ["REAL_DATA"]) / "hci_antinous", views="cross")
    assert light_field.views.shape == (16, 3, 512, 512)
    right = warp_errors(light_field, light_field.truth)
    assert right.max() < 0.01
    assert warp_errors(light_field, -light_field.truth).mean() > 2 * right.mean()


@real_data
def test_real_crosshair_capture():
    light_field = load_light_field(Path(os.environ["REAL_DATA"]) / "lytro_2067")
    assert light_field.views.shape == (16, 3, 383, 552)
    assert sorted(set(light_field.offsets.flatten().tolist())) == [float(k) for k in range(-4, 5)]
    estimate = read_pfm(Path(os.environ["REAL_DATA"]) / "lytro_2067" / "epinet_disp_estimate.pfm")
    disparity = torch.nn.functional.pad(estimate[None, None], (11, 11, 11, 11), mode="replicate")[0, 0]
    right = warp_errors(light_field, disparity)
    assert warp_errors(light_field, -disparity).mean() > 1.5 * right.mean()
