"""Captured light fields, crosshairs and Stanford's archive: the same views, signs from the pictures."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdiffdepth.datasets.hci import load_hci
from diffdiffdepth.datasets.signs import NO_LIGHT_FIELD, find_offset_signs, view_faults
from diffdiffdepth.datasets.stanford import SIGNS_FILE, load_stanford
from diffdiffdepth.inputs import data_kind, load_light_field
from diffdiffdepth.scene import LightField
from shared.errors import DataError
from shared.files.images import write_image

# ---- crosshairs --------------------------------------------------------------------------------------------


def as_crosshair(field: Path, out: Path, first: int = 1) -> Path:
    out.mkdir()
    for row in range(5):
        for column in range(5):
            if 2 in (row, column):
                name = f"shot_{row + first:02d}_{column + first:02d}.png"
                shutil.copy(field / f"input_Cam{5 * row + column:03d}.png", out / name)
    return out


@pytest.mark.parametrize("first", [0, 101])
def test_crosshair_folder_is_the_same_light_field(small_scenes, tmp_path, first):
    folder = as_crosshair(small_scenes / "still_life", tmp_path / "cross", first)
    assert data_kind(folder) == "crosshair"
    cross, expected = load_light_field(folder), load_hci(small_scenes / "still_life", views="cross")
    torch.testing.assert_close(cross.centre, expected.centre, rtol=0, atol=0)
    torch.testing.assert_close(cross.offsets, expected.offsets)
    torch.testing.assert_close(cross.views, expected.views, rtol=0, atol=0)


# ---- the Stanford archive ----------------------------------------------------------------------------------


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
            more = "_" if row % 2 else ""  # of some scenes of the archive
            name = f"out_{row:02d}_{column:02d}_{more}{y:.6f}_{x:.6f}{more}.png"
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


def test_stanford_options_and_errors(layers, small_scenes, tmp_path):
    folder = as_stanford(layers, tmp_path / "archive", 1, 1)
    (folder / SIGNS_FILE).write_text('{"x": 1, "y": 1}')
    small = load_stanford(folder)
    assert small.views.shape == (8, 3, 45, 60)
    (folder / SIGNS_FILE).write_text('{"x": 1, "y": -1}')
    assert load_stanford(folder).offsets[0, 1] == -small.offsets[0, 1]
    next(folder.glob("out_01_03_*")).unlink()
    with pytest.raises(DataError, match="row 1, column 3"):
        load_stanford(folder)
    with pytest.raises(DataError, match="no views named"):
        load_stanford(small_scenes / "still_life")


def test_signs_of_a_cross_and_of_too_little_occlusion(layers, caplog):
    cross = load_hci(layers, views="cross")
    turned = LightField(cross.centre, cross.views, -cross.offsets)
    assert find_offset_signs(cross) == (1, 1)
    assert find_offset_signs(turned) == (-1, -1)
    flat = LightField(cross.centre, cross.centre.expand_as(cross.views), cross.offsets)
    caplog.clear()
    assert find_offset_signs(flat)[0] == 1
    assert "too little occlusion" in caplog.text


def test_views_that_do_not_fit_are_named(layers):
    field = load_light_field(layers)
    assert field.notes == ()

    def changed(index: int, view: torch.Tensor) -> LightField:
        views = field.views.clone()
        views[index] = view
        return replace(field, views=views)

    (mirrored,) = view_faults(changed(3, field.views[3].flip(-1)))  # row 0, column 3
    assert "column +1, row -2 from the centre does not agree" in mirrored
    (darker,) = view_faults(changed(4, 0.6 * field.views[4]))
    assert "column +2, row -2 from the centre is 0.6 times as bright" in darker
    (swapped,) = view_faults(replace(field, offsets=field.offsets.flip(1)))
    assert "rows and columns" in swapped
    noise = torch.rand(field.views.shape, generator=torch.Generator().manual_seed(0))
    assert view_faults(replace(field, views=noise)) == (NO_LIGHT_FIELD,)
