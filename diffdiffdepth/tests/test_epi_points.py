"""Edge points from epipolar plane images: every fast step against a plain twin, then whole light fields."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from diffdiffdepth.filters import lab_from_rgb
from diffdiffdepth.points import epi as detector
from diffdiffdepth.points.align import align_points
from diffdiffdepth.points.epi import disparity_range, epi_points
from diffdiffdepth.points.grid import refine_with_grid
from diffdiffdepth.points.lines import EpiLines, choose_lines, edge_response, line_candidates, slope_bank
from diffdiffdepth.points.smooth import trilateral_smooth
from diffdiffdepth.points.stacks import EpiStack, epi_stacks
from diffdiffdepth.scene import LightField
from shared.errors import DataError
from shared.files.images import read_image
from shared.files.maps import read_pfm

GRID = [(u, v) for v in range(-3, 4) for u in range(-3, 4) if (u, v) != (0, 0)]
CROSS = [(u, v) for u, v in GRID if u == 0 or v == 0]


def texture(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """A band-limited colour texture [3, H, W] in [0, 1], defined between the pixels as well."""
    rng = np.random.default_rng(seed)
    waves = rng.uniform(-0.7, 0.7, (30, 2))
    phases, tint = rng.uniform(0, 2 * np.pi, 30), rng.uniform(0.5, 1, (3, 30))
    values = np.cos(waves[:, 0, None, None] * x + waves[:, 1, None, None] * y + phases[:, None, None])
    return np.clip(0.5 + 0.06 * np.einsum("cw,whx->chx", tint, values), 0, 1)


def wallpaper(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Stripes [3, H, W], the same again after six pixels, with as much light and shade down as across."""
    waves = sum(np.cos(2 * np.pi * (k * x / 6 + seed)) + np.cos(2 * np.pi * k * y / 6) for k in (1, 2))
    return np.stack([0.7 + 0.05 * waves] * 3)


def layered(
    offsets: list[tuple[float, float]],
    size: tuple[int, int] = (61, 83),
    far: float = -1.3,
    near: float = 1.2,
    wall: Callable[[np.ndarray, np.ndarray, int], np.ndarray] = texture,
) -> tuple[LightField, torch.Tensor]:
    """A square at disparity `near` before a wall at `far`; truth [H, W]."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(float)
    square = (abs(x - width // 2) < width / 5) & (abs(y - height // 2) < height / 5)

    def view(du: float, dv: float) -> np.ndarray:
        xn, yn = x - near * du, y - near * dv  # where the near point seen here lies in the centre view
        inside = (abs(xn - width // 2) < width / 5) & (abs(yn - height // 2) < height / 5)
        return np.where(inside, texture(xn, yn, 1), wall(x - far * du, y - far * dv, 2) ** 2)

    images = [torch.tensor(view(*offset), dtype=torch.float32) for offset in [(0, 0), *offsets]]
    truth = torch.tensor(np.where(square, near, far), dtype=torch.float32)
    return LightField(images[0], torch.stack(images[1:]), torch.tensor(offsets, dtype=torch.float32)), truth


def random_stack(seed: int = 0) -> EpiStack:
    lab = torch.tensor(np.random.default_rng(seed).uniform(0, 50, (5, 3, 4, 23)), dtype=torch.float32)
    return EpiStack(lab, torch.tensor([-2.1, -1, 0, 1, 1.9]), vertical=False)


def errors(points, truth: torch.Tensor) -> torch.Tensor:
    x, y = points.positions_px.round().long().unbind(1)
    return (points.labels - truth[y.clamp(0, truth.shape[0] - 1), x.clamp(0, truth.shape[1] - 1)]).abs()


# ---- steps -------------------------------------------------------------------------------------------------


def test_lab_agrees_with_scikit_image():
    rgb = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rgb[:, 0, :3] = torch.tensor([[0.0, 1.0, 0.002]]).expand(3, 3)
    expected = torch.tensor(rgb2lab(rgb.permute(1, 2, 0).numpy())).permute(2, 0, 1)
    torch.testing.assert_close(lab_from_rgb(rgb), expected, atol=0.01, rtol=0)


def test_stacks_follow_offsets_and_name_their_axes():
    light_field, _ = layered(CROSS)
    horizontal, vertical = epi_stacks(light_field, blur_sigma_px=0)
    assert horizontal.lab.shape == (7, 3, 61, 83)
    assert vertical.lab.shape == (7, 3, 83, 61)
    torch.testing.assert_close(horizontal.offsets, torch.arange(-3.0, 4))
    torch.testing.assert_close(
        vertical.lab[3], lab_from_rgb(light_field.centre).transpose(1, 2), atol=1e-4, rtol=0
    )
    below = lab_from_rgb(light_field.views[CROSS.index((0, 2))]).transpose(1, 2)
    torch.testing.assert_close(vertical.lab[5], below, atol=1e-4, rtol=0)
    where = torch.tensor([[10.25, 20.0], [3.0, 4.5]])
    torch.testing.assert_close(horizontal.positions(*horizontal.line(where))[0], where[0])
    torch.testing.assert_close(vertical.positions(*vertical.line(where))[1], where[1])


def test_edge_response_is_the_line_filter():
    stack, slopes = random_stack(), torch.tensor([-1.7, -0.4, 0.0, 0.35, 2.0])
    expected = torch.zeros(5, 4, 23)
    columns = np.arange(23.0)
    for index, slope in enumerate(slopes.tolist()):
        for epi in range(4):
            total = np.zeros((3, 23))
            for view, offset in enumerate(stack.offsets.tolist()):
                for channel in range(3):
                    row = stack.lab[view, channel, epi].double().numpy()
                    edge = np.zeros(23)
                    edge[1:-1] = row[2:] - row[:-2]
                    at = columns + slope * offset
                    total[channel] += np.interp(at, np.arange(-1, 24), np.pad(edge, 1), left=0, right=0)
            expected[index, epi] = torch.tensor(np.abs(total).max(0) / 5)
    torch.testing.assert_close(edge_response(stack, slopes), expected, atol=1e-3, rtol=1e-4)


def test_candidates_find_a_step_edge_between_slopes_and_pixels():
    offsets = torch.arange(-4.0, 5)
    position = 30.3 + 0.37 * offsets[:, None]
    light = 50 * torch.sigmoid((torch.arange(64.0) - position) / 0.7)
    stack = EpiStack(light[:, None, None].expand(9, 3, 2, 64).contiguous(), offsets, vertical=False)
    lines = line_candidates(stack, slope_bank(-2, 2, 4), min_strength=1)
    best = lines.strength.argmax()
    assert lines.x[best] == pytest.approx(30.3, abs=0.05)
    assert lines.disparity[best] == pytest.approx(0.37, abs=0.03)
    sparse = line_candidates(stack, slope_bank(-2, 2, 4), min_strength=1, every=2)
    assert set(sparse.epi.tolist()) == {0}


def test_chosen_lines_match_a_plain_loop():
    stack, rng = random_stack(), np.random.default_rng(3)
    count = 60
    lines = EpiLines(
        torch.tensor(rng.integers(0, 4, count)),
        torch.tensor(rng.uniform(0, 22, count), dtype=torch.float32),
        torch.tensor(rng.uniform(-2, 2, count), dtype=torch.float32),
        torch.tensor(rng.uniform(1, 9, count), dtype=torch.float32),
    )
    occupied, expected = set(), [False] * count
    for index in sorted(range(count), key=lambda i: -lines.strength[i].item()):
        track = (lines.x[index] + lines.disparity[index] * stack.offsets).tolist()
        epi = lines.epi[index].item()
        cells = [(epi, view, round(x)) for view, x in enumerate(track)]
        inside = [cell for cell in cells if 0 <= cell[2] < 23]
        free = [cell for cell in inside if cell not in occupied]
        if cells[2] in free and len(free) >= len(inside) / 2:
            expected[index] = True
            occupied |= {(epi, v, p) for v, x in enumerate(track) for p in range(23) if abs(p - x) < 1}
    assert choose_lines(stack, lines).tolist() == expected
    assert 5 < sum(expected) < count - 5


def plain_wall(
    offsets: list[tuple[float, float]],
    slope: tuple[float, float] = (0, 0),
    noise: float = 0.0,
    glow: float = 0.0,
) -> tuple[LightField, torch.Tensor]:
    """Textured plane of disparity 1.2 + slope . (x - 32, y - 30); with `glow` the views grow brighter."""
    generator = torch.Generator().manual_seed(1)
    y, x = np.mgrid[:60, :64].astype(float)
    a, b = slope
    images = []
    for du, dv in [(0, 0), *offsets]:
        scale = 1 + a * du + b * dv  # solves x = x_c + d(x_c, y_c) du and y = y_c + d(x_c, y_c) dv
        level = (1.2 + a * (x - 32) + b * (y - 30)) / scale
        image = torch.tensor(texture(x - level * du, y - level * dv, 1), dtype=torch.float32) + glow * du
        images.append(image + noise * torch.randn(image.shape, generator=generator))
    stack = torch.stack(images)
    rng = np.random.default_rng(0)
    positions = torch.tensor(
        rng.integers(12, 48, (200, 2)) + rng.uniform(-0.5, 0.5, (200, 2)), dtype=torch.float32
    )
    return LightField(stack[0], stack[1:], torch.tensor(offsets, dtype=torch.float32)), positions


def perturbed(
    positions: torch.Tensor, slope: tuple[float, float] = (0, 0)
) -> tuple[torch.Tensor, torch.Tensor]:
    """True disparity at the points of `plain_wall`, and a start within 0.08 px of it."""
    truth = 1.2 + slope[0] * (positions[:, 0] - 32) + slope[1] * (positions[:, 1] - 30)
    return truth, truth + torch.tensor(np.random.default_rng(1).uniform(-0.08, 0.08, len(truth))).float()


def test_alignment_reaches_hundredths_of_a_pixel_and_knows_its_error():
    light_field, positions = plain_wall(CROSS)
    truth, start = perturbed(positions)
    clean = align_points(epi_stacks(light_field, 0), positions, start, occlusion_px=None)
    assert (clean.disparity - truth).abs().max() < 2e-3
    light_field, _ = plain_wall(CROSS, noise=0.005)
    noisy = align_points(epi_stacks(light_field, 0), positions, start, occlusion_px=None)
    assert (noisy.disparity - truth).abs().max() < 0.03
    z = (noisy.disparity - truth) / noisy.sigma_px
    assert 0.8 < z.square().mean().sqrt() < 1.25
    assert noisy.sigma_px.median() > 5 * clean.sigma_px.median()


def test_alignment_ignores_the_brightness_of_the_views():
    light_field, positions = plain_wall(CROSS, glow=0.01)
    truth, start = perturbed(positions)
    aligned = align_points(epi_stacks(light_field, 0), positions, start, radius=3, occlusion_px=None)
    assert (aligned.disparity - truth).abs().quantile(0.95) < 5e-3


@pytest.mark.parametrize("slope", [(0.04, 0.0), (0.0, -0.05), (-0.03, 0.03)])
def test_alignment_follows_slanted_surfaces(slope):
    light_field, positions = plain_wall(CROSS, slope)
    truth, start = perturbed(positions, slope)
    aligned = align_points(epi_stacks(light_field, 0), positions, start, radius=3, occlusion_px=None)
    assert (aligned.disparity - truth).abs().quantile(0.95) < 0.015
    assert (aligned.plane[:, 1:] - torch.tensor(slope)).abs().quantile(0.95) < 0.02
    turned = align_points(epi_stacks(light_field, 0)[::-1], positions, start, radius=3, occlusion_px=None)
    torch.testing.assert_close(turned.disparity, aligned.disparity, atol=2e-3, rtol=0)


def test_all_views_are_more_accurate_than_the_arms():
    light_field, positions = plain_wall(GRID, noise=0.02)
    truth, start = perturbed(positions)
    arms = align_points(epi_stacks(light_field), positions, start, radius=3, occlusion_px=None)
    options = {"radius": 3, "max_change": 0.1, "occlusion_px": 2.0, "noise": 1.0}
    disparity, sigma = refine_with_grid(light_field, positions, arms, **options)
    assert (disparity - truth).std() < 0.6 * (arms.disparity - truth).std()  # 49 views instead of 13
    assert sigma.median() < 0.6 * arms.sigma_px.median()


def test_hidden_views_are_found():
    light_field, _ = layered(CROSS, size=(61, 83), far=-1.3, near=1.2)
    horizontal = epi_stacks(light_field, 0)[:1]
    # A wall point 4 px left of the square: it moves 2.5 px per view against the square, which covers it on
    # one side.
    left_edge = 41 - 83 / 5
    at = torch.tensor([[left_edge - 4.0, 30.0]])
    seen = align_points(horizontal, at, torch.tensor([-1.3]), radius=2).visible[0]
    assert seen[3:].tolist() == [True] * 4 or seen[:4].tolist() == [True] * 4
    assert 3 <= int(seen.sum()) <= 5
    far_away = align_points(horizontal, torch.tensor([[8.0, 30.0]]), torch.tensor([-1.3])).visible[0]
    assert far_away.all()


def test_trilateral_smoothing_matches_a_plain_loop():
    rng = np.random.default_rng(5)
    count, width, height = 90, 31, 27
    cells = rng.permutation(width * height)[:count]
    at = np.stack([cells % width, cells // width], 1) + rng.uniform(-0.4, 0.4, (count, 2))
    positions = torch.tensor(at)
    disparity = torch.tensor(rng.choice([0.0, 0.5], count) + rng.normal(0, 0.05, count))
    sigma = torch.tensor(rng.uniform(0.005, 0.03, count))
    image = torch.tensor(rng.uniform(0, 1, (3, height, width)))
    got, supported = trilateral_smooth(positions, disparity, sigma, image, radius_px=6, min_neighbours=4)
    pixel = positions.round().long()
    for i in range(count):
        rows, values, weights = [], [], []
        support = -1
        for j in range(count):
            distance = ((pixel[i] - pixel[j]) ** 2).sum().item()
            step = (disparity[j] - disparity[i]).item()
            colour = image[:, pixel[j, 1], pixel[j, 0]] - image[:, pixel[i, 1], pixel[i, 0]]
            if distance > 36:
                continue
            exponent = distance / 100 + step**2 / 0.01 + colour.square().sum().item() / 0.25
            weights.append(math.exp(-exponent / 2) / sigma[j].item() ** 2)
            rows.append([1.0, *(at[j] - at[i])])
            values.append(disparity[j].item())
            support += abs(step) <= 0.2
        # as if each point were there four times, one pixel to each side of its place, at half the weight
        x, w = np.array(rows), np.array(weights)
        normal = x.T @ (w[:, None] * x) + w.sum() * np.diag([0, 1, 1])
        expected = np.linalg.solve(normal, x.T @ (w * np.array(values)))[0]
        centred = np.linalg.solve(normal, x.T @ (w * (np.array(values) - disparity[i].item())))[0]
        assert got[i].item() == pytest.approx(disparity[i].item() + centred, abs=1e-8)
        assert got[i].item() == pytest.approx(expected, abs=0.05)  # level neighbours, not zero ones, hold it
        assert supported[i].item() == (support >= 4)
    assert 0 < int(supported.sum()) < count


def test_smoothing_keeps_a_slant_and_reduces_noise():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    positions = torch.stack([x, y], -1).reshape(-1, 2)[::3]
    truth = 0.02 * positions[:, 0] - 0.03 * positions[:, 1]
    noise = 0.01 * torch.randn(len(truth), generator=torch.Generator().manual_seed(0))
    image, sigma = torch.zeros(3, 40, 50), torch.full_like(truth, 0.01)
    smooth, supported = trilateral_smooth(positions, truth + noise, sigma, image)
    assert supported.all()
    assert (smooth - truth).std() < 0.6 * noise.std()  # at the border a plane sees one side only
    exact, _ = trilateral_smooth(positions, truth, sigma, image)
    inside = ((positions > 10) & (positions < positions.new_tensor([39.0, 29.0]))).all(1)
    assert (exact - truth)[inside].abs().max() < 1e-3


# ---- whole light fields ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layers() -> tuple[LightField, torch.Tensor]:
    return layered(GRID)


def test_points_of_a_layered_scene_are_right(layers):
    light_field, truth = layers
    points = epi_points(light_field)
    error = errors(points, truth)
    assert points.kind == "disparity"
    assert len(points) > 300
    assert error.median() < 0.03
    assert (error < 0.1).float().mean() > 0.9
    for level in (-1.3, 1.2):  # both layers are found
        assert ((points.labels - level).abs() < 0.1).sum() > 60


def test_a_cross_gives_the_points_of_the_full_grid(layers, monkeypatch):
    light_field, _ = layers
    members = [GRID.index(offset) for offset in CROSS]
    cross = LightField(light_field.centre, light_field.views[members], light_field.offsets[members])
    monkeypatch.setattr(detector, "ON_AXIS", 100.0)  # no view is off both axes
    full, less = epi_points(light_field), epi_points(cross)
    torch.testing.assert_close(full.positions_px, less.positions_px)
    torch.testing.assert_close(full.labels, less.labels)


def test_range_is_found_and_signs_follow_the_offsets(layers, monkeypatch):
    light_field, _ = layers
    low, high = disparity_range(epi_stacks(light_field))
    assert -2.2 < low < -1.3
    assert 1.2 < high < 2.1
    flipped = LightField(light_field.centre, light_field.views, -light_field.offsets)
    monkeypatch.setattr(detector, "disparity_range", lambda stacks, name: (-2, 2))
    points, mirrored = epi_points(light_field), epi_points(flipped)
    assert abs(len(points) - len(mirrored)) < 0.05 * len(points)
    assert mirrored.labels.median() == pytest.approx(-points.labels.median().item(), abs=0.02)


def test_a_pattern_that_repeats_is_not_taken_for_something_near():
    """Moved by a period, 6 px, the wall fits all views as well; only what does not repeat tells the range."""
    light_field, truth = layered(GRID, wall=wallpaper)
    low, high = disparity_range(epi_stacks(light_field))
    assert -2.2 < low < -1.3
    assert 1.2 < high < 2.1
    assert (errors(epi_points(light_field), truth) < 0.1).float().mean() > 0.9


def test_transposed_light_field_gives_transposed_points(layers):
    light_field, _ = layers
    turned = LightField(
        light_field.centre.transpose(1, 2), light_field.views.transpose(2, 3), light_field.offsets.flip(1)
    )
    points, other = epi_points(light_field), epi_points(turned)
    assert len(points) == len(other)
    first, second = points.positions_px, other.positions_px.flip(1)
    first, second = (p[np.lexsort(p.round(decimals=3).T.numpy())] for p in (first, second))
    torch.testing.assert_close(first, second, atol=2e-3, rtol=0)


def test_one_arm_is_enough():
    light_field, truth = layered([(u, 0) for u in (-3, -2, -1, 1, 2, 3)])
    assert (errors(epi_points(light_field), truth) < 0.1).float().mean() > 0.85


def test_impossible_light_fields_are_refused():
    grey = LightField(
        torch.full((3, 40, 40), 0.5),
        torch.full((8, 3, 40, 40), 0.5),
        torch.tensor([[u, v] for u in (-1.0, 0, 1) for v in (-1.0, 0, 1) if (u, v) != (0, 0)]),
    )
    with pytest.raises(DataError, match="no edge"):
        epi_points(grey)
    corners = LightField(grey.centre, grey.views[:2], torch.tensor([[-1.0, -1], [1, 1]]))
    with pytest.raises(DataError, match="fewer than 3 views are in the row or the column"):
        epi_points(corners)


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="REAL_DATA is not set: no real light field")
def test_points_of_a_benchmark_scene():
    folder = Path(os.environ["REAL_DATA"]) / "hci_antinous"
    rows = slice(130, 250)  # a band with hair, face and wall: the full image takes 20 s of one core
    members = [(column, row) for row in range(9) for column in range(9) if 4 in (row, column)]
    images = {m: read_image(folder / f"input_Cam{9 * m[1] + m[0]:03d}.png")[:, rows] for m in members}
    members.remove((4, 4))
    offsets = torch.tensor([[4.0 - column, 4.0 - row] for column, row in members])
    light_field = LightField(images[4, 4], torch.stack([images[m] for m in members]), offsets)
    truth = read_pfm(folder / "gt_disp_lowres.pfm").squeeze()[rows]
    points = epi_points(light_field)
    error = errors(points, truth)
    assert len(points) > 10_000  # of the two arms; 93 thousand in the full image
    assert error.median() < 0.015
    assert (error < 0.1).float().mean() > 0.93
