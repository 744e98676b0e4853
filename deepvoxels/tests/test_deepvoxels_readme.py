"""The README says what the committed runs say, digit by digit."""

import json
import re
from pathlib import Path

import pytest

from deepvoxels.published import ABLATION, METHOD_NAMES, TABLE_1

FOLDER = Path(__file__).parents[1]
RESULTS = FOLDER.parent / "results" / "deepvoxels"
TEXT = " ".join((FOLDER / "README.md").read_text().split())
pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason="the folder was copied without the results")


def results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("row", list(METHOD_NAMES))
def test_the_table_has_the_paper_s_figures_and_those_of_the_runs(row: str) -> None:
    line = re.search(rf"^\| \**{METHOD_NAMES[row]}\** \|(.*)\|$", (FOLDER / "README.md").read_text(), re.M)
    cells = [cell.strip(" *") for cell in line[1].split("|")]
    psnr, ssim = TABLE_1[row]["cube"] if row in TABLE_1 else (ABLATION["cube"], None)
    mean = results(f"table/{row}")["mean"]
    paper = [f"{psnr:.2f}", "–" if ssim is None else f"{ssim:.2f}"]
    assert cells == [*paper, f"{mean['psnr']:.2f}", f"{mean['ssim']:.3f}"]


def test_figures_in_sentences() -> None:
    quick, fox = results("quick"), results("photos_fox")
    minutes, seconds = divmod(round(quick["run"]["seconds"]), 60)
    gain = quick["mean"]["psnr"] - quick["nearest_neighbour"]["psnr"]
    assert f"{minutes} min {seconds} s after set-up" in TEXT
    assert f"{quick['mean']['psnr']:.1f} dB on held-out views, {gain:.1f} dB above the nearest" in TEXT
    assert f"depth off by {100 * quick['depth']['abs_rel']:.1f} %" in TEXT
    above = fox["mean"]["psnr"] - fox["nearest_neighbour"]["psnr"]
    assert f"reached {fox['mean']['psnr']:.1f} dB" in TEXT
    assert f"{above:.1f} dB above the nearest training photo" in TEXT
    for name in ("base", "coordinates", "mean", "dropout"):
        assert f"{results(f'300_steps_{name}')['mean']['psnr']:.1f} dB" in TEXT, name


def test_figures_of_what_was_found() -> None:
    losses = results("training_l1")["figures"]
    baselines = [losses[name] for name in ("pix2pix", "tatarchenko", "worrall")]
    assert f"L1 {min(baselines):.3f} to {max(baselines):.3f} against {losses['deepvoxels']:.3f}" in TEXT
    views = results("training_views")["figures"]
    true, rendered = (
        ", ".join(f"{float(v):.2f}" for v in views[f"purple, {kind} RGB on test views"].split())
        for kind in ("true", "rendered")
    )
    assert f"Its true colour is ({true}) and it is rendered as ({rendered})" in TEXT
    assert f"cost {100 * (views['time with 24 grid features, ratio'] - 1):.0f} % more time" in TEXT
    seed_1 = results("seed_1")
    error = 100 * seed_1["depth"]["abs_rel"]
    assert f"ends at {seed_1['mean']['psnr']:.1f} dB, depth off by {error:.1f} %" in TEXT
    gate = results("update_gate")["figures"]
    assert f"starts at {gate['step 1']} and falls to {gate['step 60']} within 60 steps" in TEXT
    cameras = results("fox_cameras")["figures"]
    assert f"within {100 * cameras['largest error']:.2f} % of their extent" in TEXT
