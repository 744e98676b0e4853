"""Pictures: the right pixels and colours, legends, contact sheets, and what is no image is refused."""

import math

import cv2
import numpy as np
import pytest
import torch

from shared.files.images import to_uint8
from shared.results import DepthMap
from shared.show.pictures import (
    colorize_depth,
    contact_sheet,
    depth_legend,
    depth_picture,
    depth_range,
    evenly,
)

RED, GREEN = np.array([[[255, 0, 0]]], np.uint8), np.array([[[0, 255, 0]]], np.uint8)


# ---- images ------------------------------------------------------------------------------------------------


def test_convention_torch_is_chw_and_numpy_is_hwc():
    chw = torch.rand(3, 5, 7)
    expected = np.rint(chw.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    assert np.array_equal(to_uint8(chw), expected)
    assert np.array_equal(to_uint8(chw.permute(1, 2, 0).numpy()), expected)
    assert np.array_equal(to_uint8(expected), expected)
    assert np.array_equal(to_uint8(torch.from_numpy(expected).permute(2, 0, 1)), expected)
    grey = to_uint8(chw[0])
    assert grey.shape == (5, 7, 3)
    assert np.array_equal(grey, to_uint8(chw[:1]))
    assert (grey == grey[..., :1]).all()
    assert to_uint8(chw.double().requires_grad_()).dtype == np.uint8


def test_values_outside_the_range_are_clipped():
    image = torch.tensor([[-1.0, 0.0, 0.5, 1.0, 7.0, math.nan, math.inf, -math.inf]])
    assert to_uint8(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0, 255, 0]


@pytest.mark.parametrize(
    "image", [torch.rand(1, 3, 4, 5), torch.rand(4, 5, 6), np.zeros((2, 2), np.int64), torch.rand(3, 0, 4)]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match="expected"):
        to_uint8(image)


# ---- depth -------------------------------------------------------------------------------------------------


def colour_of(level: int, colormap: int = cv2.COLORMAP_TURBO) -> list[int]:
    bgr = cv2.applyColorMap(np.array([[level]], np.uint8), colormap)[0, 0]
    return bgr[::-1].tolist()


def test_depth_colours_run_from_vmin_to_vmax_and_invalid_is_grey():
    depth = torch.tensor([[1.0, 2.0, 3.0, 0.0, 9.0, math.nan, math.inf, 2.0]])
    mask = torch.tensor([[True, True, True, True, True, True, True, False]])
    colours = colorize_depth(depth, mask, vmin=1.0, vmax=3.0)[0].tolist()
    low, middle, high, grey = colour_of(0), colour_of(128), colour_of(255), [128] * 3
    assert colours == [low, middle, high, low, high, grey, grey, grey]
    magma = colorize_depth(depth, mask, 1.0, 3.0, colormap="magma")[0, 2].tolist()
    assert magma == colour_of(255, cv2.COLORMAP_MAGMA) != high


def test_masked_values_do_not_move_the_range():
    depth = np.linspace(2.0, 4.0, 35).reshape(5, 7)
    mask = np.ones((5, 7), bool)
    mask[2, 3] = False
    spoiled = depth.copy()
    spoiled[2, 3] = 1e30
    assert depth_range(spoiled, mask) == depth_range(np.where(mask, depth, np.nan))
    assert np.array_equal(colorize_depth(spoiled, mask), colorize_depth(depth, mask))
    low, high = depth_range(depth, mask)
    assert 2.0 <= low < 2.1
    assert 3.9 < high <= 4.0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((torch.rand(3, 4), torch.ones(4, 3)), "must have the shape of the depth"),
        ((torch.rand(2, 3, 4),), "expected one depth map"),
        ((torch.rand(3, 4), None, 2.0, 1.0), "must be finite and ascending"),
    ],
)
def test_bad_depth_arguments_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        colorize_depth(*arguments)


def test_depth_picture_is_the_enlarged_map_over_its_legend():
    depth = np.arange(15.0).reshape(3, 5)
    picture = depth_picture(depth, depth > 0, unit="m", status="metric", vmin=0, vmax=14, min_width=16)
    coloured = colorize_depth(depth, depth > 0, 0, 14)
    assert np.array_equal(picture[: 3 * 4], coloured.repeat(4, 0).repeat(4, 1))
    bar = picture[12]
    assert bar[0].tolist() == colour_of(0)
    assert bar[-1].tolist() == colour_of(255)


def test_a_depth_map_brings_its_unit_status_and_mask():
    values = torch.arange(1.0, 16.0).reshape(3, 5)
    depth = DepthMap(values, "z_depth", "m", "metric", valid=values > 2)
    expected = depth_picture(values, values > 2, unit="m", status="z-depth: metric")
    assert np.array_equal(depth_picture(depth), expected)
    assert depth_range(depth) == depth_range(values, values > 2)
    with pytest.raises(ValueError, match="unit"):
        depth_picture(values)


def test_the_legend_prints_range_unit_and_status():
    """What is printed cannot be read back here, but different words must give different pictures."""
    base = depth_legend(320, 1.0, 3.0, "m", "metric")
    others = [
        depth_legend(320, 1.5, 3.0, "m", "metric"),
        depth_legend(320, 1.0, 3.5, "m", "metric"),
        depth_legend(320, 1.0, 3.0, "units", "metric"),
        depth_legend(320, 1.0, 3.0, "m", "up to scale"),
    ]
    assert all(other.shape == base.shape and (other != base).any() for other in others)
    taller = depth_legend(120, 1.0, 3.0, "m", "a status of the scale that needs a second and a third line")
    assert taller.shape[0] > depth_legend(120, 1.0, 3.0, "m", "metric").shape[0]
    for width in (1, 2, 17):
        assert depth_legend(width, 0.0, 0.0, "m").shape[1] == width


# ---- contact sheets ----------------------------------------------------------------------------------------


def test_contact_sheet_places_every_image_whole():
    red, green = RED.repeat(4, 0).repeat(6, 1), GREEN.repeat(2, 0).repeat(6, 1)
    sheet = contact_sheet([[red, green], [None, red]], cell_width=12)
    assert sheet.shape == (8 + 8 + 8 + 8 + 8, 8 + 12 + 8 + 12 + 8, 3)
    is_red, is_green = (sheet == RED[0, 0]).all(-1), (sheet == GREEN[0, 0]).all(-1)
    assert is_red[8:16, 8:20].all()
    assert is_red[24:32, 28:40].all()
    assert is_green[8:12, 28:40].all()
    assert (is_red.sum(), is_green.sum()) == (2 * 8 * 12, 4 * 12)
    assert (sheet[~is_red & ~is_green] == 255).all()


def test_captions_stand_beside_the_images():
    image = np.full((20, 30, 3), 200, np.uint8)
    plain = contact_sheet([[image]], cell_width=60)
    captioned = contact_sheet([[image]], ["Error × 5 → äöü °"], ["view 3"], cell_width=60)
    assert captioned.shape[0] > plain.shape[0]
    assert captioned.shape[1] > plain.shape[1]
    ink = (captioned < 120).all(-1)
    assert ink[:30, -68:].any()
    assert ink[30:, :50].any()
    assert (captioned == 200).all(-1).sum() == 40 * 60


def test_a_legend_is_put_below_the_cells_as_it_is():
    image, legend = np.full((20, 30, 3), 200, np.uint8), np.full((11, 50, 3), 77, np.uint8)
    plain = contact_sheet([[image]], (), ["view 3"], cell_width=60)
    sheet = contact_sheet([[image]], (), ["view 3"], cell_width=60, legend=legend)
    assert sheet.shape == (plain.shape[0] + 8 + 11, plain.shape[1], 3)
    rows, columns = np.nonzero((sheet == 77).all(-1))
    cell = np.nonzero((plain == 200).all(-1))[1].min()
    assert (rows.min(), columns.min(), len(rows)) == (plain.shape[0], cell, 11 * 50)


def test_evenly_takes_the_ends():
    assert evenly(3, 6) == [0, 1, 2]
    assert evenly(11, 3) == [0, 5, 10]
