"""Light fields, embedded and real: views in place, offsets of the right sign, and bad folders are named."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdiffdepth.datasets.embedded import make_embedded_light_field, make_embedded_multi_view
from diffdiffdepth.datasets.hci import load_hci
from diffdiffdepth.inputs import load_light_field
from diffdiffdepth.scene import GridCamera, LightField
from shared.files.maps import read_pfm, write_pfm
from shared.geometry.warp import sample_pixels

real_data = pytest.mark.skipif("REAL_DATA" not in os.environ, reason="REAL_DATA is not set: no real data")


@pytest.fixture
def field(small_scenes, tmp_path) -> Path:
    return Path(shutil.copytree(small_scenes / "still_life", tmp_path / "field"))


def warp_errors(light_field: LightField, disparity: torch.Tensor) -> torch.Tensor:
    """Median absolute error of each view sampled where the disparity says, [m]."""
    height, width = disparity.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y], -1) + disparity[..., None] * light_field.offsets[:, None, None, :]
    error = (sample_pixels(light_field.views, grid) - light_field.centre).abs().mean(1)
    return error.flatten(1).median(1).values


# ---- what is read ------------------------------------------------------------------------------------------


def test_embedded_light_field_agrees_with_its_truth(small_scenes):
    light_field = load_light_field(small_scenes / "still_life")
    assert light_field.views.shape == (24, 3, 56, 72)
    assert light_field.truth.min() < -0.3
    assert light_field.truth.max() > 0.3
    right = warp_errors(light_field, light_field.truth)
    assert right.max() < 0.03
    for wrong in (-light_field.truth, light_field.truth.flip(1), torch.zeros_like(light_field.truth)):
        assert warp_errors(light_field, wrong).mean() > 1.5 * right.mean()


def test_embedded_depth_and_disparity_are_one(small_scenes):
    parameters = load_hci(small_scenes / "still_life").camera
    disparity = read_pfm(small_scenes / "still_life" / "gt_disp_lowres.pfm")
    depth = read_pfm(small_scenes / "still_life" / "gt_depth_lowres.pfm")
    torch.testing.assert_close(parameters.depth_from_disparity(disparity), depth, rtol=1e-5, atol=0)
    torch.testing.assert_close(parameters.disparity_from_depth(depth), disparity, rtol=0, atol=1e-5)
    assert parameters.depth_from_disparity(torch.tensor(-1e3)).isinf()


def test_disparity_formula_of_the_published_scenes():
    # Cotton: fB = 25 mm * 100 / 35 * 512; disparity 0 at the focus distance of 4.25 m
    cotton = GridCamera(512, 512, 100.0, 35.0, 9, 9, 25.0, 4.25)
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
    bare = load_hci(field)
    assert bare.camera is bare.truth is None


def test_invalid_truth_becomes_a_mask(field):
    truth = read_pfm(field / "gt_disp_lowres.pfm")
    truth[3:5, 7] = torch.nan
    write_pfm(field / "gt_disp_lowres.pfm", truth)
    light_field = load_hci(field)
    assert int((~light_field.valid).sum()) == 2
    assert light_field.truth.isfinite().all()


def test_embedded_scenes_are_made_once_for_each_set_of_options(tmp_path):
    said = []
    state = torch.get_rng_state()
    for make in (make_embedded_light_field, make_embedded_multi_view):
        folder = make(tmp_path / "data", size=(24, 32), antialias=1, say=said.append)
        assert make(tmp_path / "data", size=(24, 32), antialias=1, say=said.append) == folder
        assert make(tmp_path / "data", size=(24, 36), antialias=1, say=said.append) != folder
    assert len(said) == len(list(tmp_path.iterdir())) == 4
    assert torch.equal(torch.get_rng_state(), state)  # a run does not depend on whether data were there


def test_the_tabletop_is_in_focus_between_its_near_and_far_things(tmp_path):
    folder = make_embedded_light_field(tmp_path / "data", (30, 40), side=3, antialias=1, scene="tabletop")
    light_field = load_hci(folder)
    assert light_field.truth.min() < -0.2
    assert light_field.truth.max() > 0.2
    assert (
        warp_errors(light_field, light_field.truth).mean()
        < warp_errors(light_field, 0 * light_field.truth).mean()
    )


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


@pytest.mark.parametrize("disparity", [-1.4, 0.6])
def test_other_ways_to_light_field_depth_are_used_as_they_should_be(disparity):
    """Signs, units and ranges: a wall whose views are moved by a known shift comes out at that shift."""
    y, x = np.mgrid[:40, :90].astype(float)

    def view(u: float, v: float) -> np.ndarray:
        a, b = x + disparity * u, y + disparity * v  # what is near moves against the camera
        waves = [np.sin(k * a + 2 * k) + np.sin(1.3 * k * b + k) for k in (0.13, 0.37, 0.71, 0.97)]
        return np.stack([0.5 + 0.06 * sum(waves)] * 3)

    grid = [[view(u, v) for u in range(-4, 5)] for v in range(-4, 5)]
    light_field = LightField.from_grid(torch.tensor(np.array(grid), dtype=torch.float32))
    cases = pytest.importorskip("benchmarks.light_field_cases")
    for method in (cases.semi_global, cases.structure_tensor):
        inner = method(light_field, 2.0)[10:-10, 20:-20]
        assert (inner - disparity).abs().median() < 0.06, method.__name__
