"""Light fields, embedded and real: views in place, offsets of the right sign, and bad folders are named."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from diffdiffdepth.datasets import load_hci, load_light_field, make_embedded_light_field, read_hci_parameters
from diffdiffdepth.scene import LightField
from shared.errors import DataError
from shared.files.images import read_pfm, write_image, write_pfm
from shared.geometry.warp import sample_pixels

real_data = pytest.mark.skipif("REAL_DATA" not in os.environ, reason="REAL_DATA is not set: no real data")


@pytest.fixture
def field(embedded, tmp_path) -> Path:
    return Path(shutil.copytree(embedded / "field", tmp_path / "field"))


def warp_errors(light_field: LightField, disparity: torch.Tensor) -> torch.Tensor:
    """Median absolute error of each view sampled where the disparity says, [m]."""
    height, width = disparity.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y], -1) + disparity[..., None] * light_field.offsets[:, None, None, :]
    error = (sample_pixels(light_field.views, grid) - light_field.centre).abs().mean(1)
    return error.flatten(1).median(1).values


# ---- what is read ------------------------------------------------------------------------------------------


def test_embedded_light_field_agrees_with_its_truth(embedded):
    light_field = load_light_field(embedded / "field")
    assert light_field.views.shape == (24, 3, 56, 72)
    assert light_field.truth.min() < -0.3
    assert light_field.truth.max() > 0.3
    right = warp_errors(light_field, light_field.truth)
    assert right.max() < 0.03
    for wrong in (-light_field.truth, light_field.truth.flip(1), torch.zeros_like(light_field.truth)):
        assert warp_errors(light_field, wrong).mean() > 1.5 * right.mean()


def test_embedded_depth_and_disparity_are_one(embedded):
    parameters = read_hci_parameters(embedded / "field")
    disparity = read_pfm(embedded / "field" / "gt_disp_lowres.pfm")
    depth = read_pfm(embedded / "field" / "gt_depth_lowres.pfm")
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


def test_embedded_scene_is_made_once_and_never_half(embedded, tmp_path):
    target = embedded / "field" / "input_Cam000.png"
    before = target.stat().st_mtime_ns
    make_embedded_light_field(embedded / "field", size=(56, 72), side=5, antialias=1)
    assert target.stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(DataError, match="other files"):
        make_embedded_light_field(tmp_path / "mine", size=(8, 8), side=3)
    assert (tmp_path / "mine" / "notes.txt").exists()
    with pytest.raises(ValueError, match="odd"):
        make_embedded_light_field(tmp_path / "even", side=4)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


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


# ---- what is refused ---------------------------------------------------------------------------------------


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
