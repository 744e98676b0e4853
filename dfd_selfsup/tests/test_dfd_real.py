"""Real and measured stacks, found through REAL_DATA; the slow ones train."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from dfd_selfsup import predict, prepare
from dfd_selfsup.datasets.folder import load_stack
from dfd_selfsup.datasets.mobile_depth import load_mobile_depth
from dfd_selfsup.datasets.nyuv2 import rgbd_stack
from dfd_selfsup.datasets.stack import fit_to_size
from dfd_selfsup.measures import best_slice, mean_gradient, measure_stack, rank_correlation
from dfd_selfsup.models.focus_measure import depth_from_focus
from dfd_selfsup.models.options import PsfOptions
from dfd_selfsup.models.plane_sweep import plane_sweep
from shared.files.images import read_image
from shared.files.maps import read_depth_png, read_pfm
from shared.quality.metrics import psnr

REAL = os.environ.get("REAL_DATA")
pytestmark = pytest.mark.skipif(REAL is None, reason="REAL_DATA is not set")
STD_OF_SQUARE = 8 / 12**0.5  # the aperture is 9 x 9 views, 8 px of blur per disparity: std per axis


def antinous(folder: Path) -> Path:
    """The light field's stack with its lens described; sigma is twice the standard deviation."""
    source = Path(REAL) / "hci_antinous_focalstack"
    folder.mkdir()
    for path in [*source.glob("stack_*.png"), source / "all_in_focus.png"]:
        shutil.copy(path, folder / path.name)
        (folder / path.name).chmod(0o644)
    rows = (source / "focus_disparity.txt").read_text().splitlines()[1:]
    info = {
        "focus_disparity_px": [float(row.split()[1]) for row in rows if row.strip()],
        "blur_px_per_disparity": 2 * STD_OF_SQUARE,
    }
    (folder / "stack.yaml").write_text(yaml.safe_dump(info))
    return folder


def antinous_truth() -> torch.Tensor:
    return read_pfm(Path(REAL) / "hci_antinous_focalstack" / "gt_disp_lowres.pfm")


def test_focus_measure_orders_a_rendered_light_field_stack(tmp_path):
    stack = load_stack(antinous(tmp_path / "antinous"))
    assert stack.images.shape == (9, 3, 512, 512)
    q, aif, _ = depth_from_focus(stack.images, stack.defocus)
    assert rank_correlation(q, antinous_truth()) > 0.6
    sharp = psnr(aif[None], stack.aif[None])
    assert sharp > psnr(best_slice(stack)[None], stack.aif[None]) + 3


def test_phone_stack_loads_and_its_composite_is_sharper_than_any_slice():
    stack = fit_to_size(load_mobile_depth(Path(REAL) / "mobile_depth" / "keyboard"), 320, 32)
    assert len(stack.images) == 32
    composite = depth_from_focus(stack.images, stack.defocus).aif
    assert mean_gradient(composite[None]) > mean_gradient(stack.images).max()


def test_stacks_from_measured_depth(tmp_path):
    """An NYUv2 frame through the paper's generation: depth comes back from the stack alone."""
    folder = Path(REAL) / "nyuv2_pair"
    image = read_image(folder / "rgb_0045.png")
    depth, valid = read_depth_png(folder / "depth_0045.png", unit_m=1e-4)
    stack = rgbd_stack(image, depth, valid, "nyu")
    q, _ = plane_sweep(stack.images, stack.defocus, (0.3, 1.5), PsfOptions(), hypotheses=24, rounds=1)
    inside = stack.valid
    error = ((1 / q - stack.depth).abs() / stack.depth)[inside].mean()
    assert error < 0.15


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fitting_orders_a_light_field_stack_better_than_the_focus_measure(tmp_path):
    folder, out = antinous(tmp_path / "antinous"), tmp_path / "out"
    flags = ["--fit", "15", "--max-side", "160", "--device", "cpu"]
    predict.main([str(folder), "--out", str(out), *flags])
    q = read_pfm(out / "depth.pfm")
    truth = F.interpolate(antinous_truth()[None, None], q.shape, mode="area")[0, 0]
    fitted = rank_correlation(q, truth)
    result = json.loads((out / "depth.json").read_text())["against_truth"]
    small = [row["psnr"] for row in result.values()]
    stack = fit_to_size(load_stack(folder), 160, 12)
    focus = rank_correlation(depth_from_focus(stack.images, stack.defocus)[0], truth)
    assert fitted >= 0.85
    assert fitted > focus
    assert min(small) > 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fitting_finds_measured_depth_better_than_a_focus_measure(tmp_path):
    """Better than SML by far, and in depth and picture than what it started from."""
    pair, out = Path(REAL) / "nyuv2_pair", tmp_path / "out"
    frame = [str(pair / "rgb_0045.png"), str(pair / "depth_0045.png"), "--unit-m", "1e-4"]
    prepare.main(["rgbd", *frame, "--out", str(tmp_path / "stack")])
    flags = ["--fit", "15", "--max-side", "320", "--psf-window", "7", "--device", "cpu"]
    predict.main([str(tmp_path / "stack"), "--out", str(out), *flags])
    rows = json.loads((out / "depth.json").read_text())["against_truth"]
    fitted, start = rows["predicted"], rows["depth_from_focus"]
    stack = load_stack(tmp_path / "stack")
    sml = stack.estimate(*depth_from_focus(stack.images, stack.defocus, "sml"))
    focus = measure_stack(stack, sml, (1e-3, 1e3))
    assert fitted["abs_rel"] < 0.7 * focus["abs_rel"]
    assert fitted["rmse"] < 0.5 * focus["rmse"]
    assert fitted["rank_correlation"] > rank_correlation(sml.q, 1 / stack.depth.clamp(min=1e-6), stack.valid)
    for name, better in (("abs_rel", min), ("psnr", max)):
        assert better(fitted[name], start[name]) == fitted[name], name
