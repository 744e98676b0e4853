"""Pictures: the right pixels and colours, legends, contact sheets, and what is no image is refused."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from shared.files.images import to_uint8
from shared.results import DepthMap
from shared.show.pictures import (
    colorize_depth,
    contact_sheet,
    depth_picture,
    depth_range,
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
    low, grey, high = colour_of(0), [128] * 3, colour_of(255)
    middle = colour_of(127)
    assert colours == [high, middle, low, high, low, grey, grey, grey]  # red is near
    assert colorize_depth(depth, mask, 1.0, 3.0, near_is_large=True)[0].tolist()[:3:2] == [low, high]
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


def test_constant_and_entirely_invalid_depth():
    assert (colorize_depth(np.full((3, 4), 2.5)) == np.array(colour_of(127))).all()
    assert (colorize_depth(np.full((3, 4), np.nan)) == 128).all()


def test_depth_picture_is_the_enlarged_map_over_its_legend():
    depth = np.arange(15.0).reshape(3, 5)
    picture = depth_picture(depth, depth > 0, unit="m", status="metric", vmin=0, vmax=14, min_width=16)
    coloured = colorize_depth(depth, depth > 0, 0, 14)
    assert np.array_equal(picture[: 3 * 4], coloured.repeat(4, 0).repeat(4, 1))
    bar = picture[12]
    assert bar[0].tolist() == colour_of(255)
    assert bar[-1].tolist() == colour_of(0)


def test_a_depth_map_brings_its_unit_status_and_mask():
    values = torch.arange(1.0, 16.0).reshape(3, 5)
    depth = DepthMap(values, "z_depth", "m", "metric", valid=values > 2)
    expected = depth_picture(values, values > 2, unit="m", status="z-depth: metric")
    assert np.array_equal(depth_picture(depth), expected)
    assert depth_range(depth) == depth_range(values, values > 2)
    for kind in ("disparity_px", "order", "inv_depth"):  # larger is nearer
        near = colorize_depth(replace(depth, kind=kind))[2, 4]
        assert np.array_equal(near, colorize_depth(depth)[0, 2])
    with pytest.raises(ValueError, match="unit"):
        depth_picture(values)


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
