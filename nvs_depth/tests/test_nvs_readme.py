"""The README says what the committed runs say, digit by digit."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvs_depth.table import _spread

FOLDER = Path(__file__).parents[1]
RESULTS = FOLDER.parent / "results" / "nvs_depth"
README = (FOLDER / "README.md").read_text()
TEXT = " ".join(README.split())
ROWS = {
    "method": "method",
    "its source splatted by D_s": "direct_warp",
    "splatted by D_s": "direct_warp",
    "its source fetched by D_t": "inverse_warp",
    "fetched by D_t": "inverse_warp",
    "source shown as target": "identity",
    "source shown": "identity",
}
COLUMNS = {"L1": ("l1", 4), "SSIM": ("ssim", 3), "PSNR": ("psnr", 2)}
pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason="the folder was copied without the results")


def results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def tables(first: str) -> Iterator[list[list[str]]]:
    """The cells of the tables whose headings begin so."""
    for table in re.finditer(rf"^\| {re.escape(first)}.*\n(?:^\|.*\n)+", README, re.M):
        lines = [line.strip("|").split("|") for line in table[0].splitlines()]
        yield [[cell.strip(" *") for cell in line] for line in (lines[0], *lines[2:])]


def test_tables_of_the_quick_runs() -> None:
    found = [table for table in tables("| L1 | SSIM") if table[0][-1] == "D_b abs_rel"]
    for (headings, *rows), name in zip(found, ("quick", "quick_street"), strict=True):
        images, depth = results(name)["images"], results(name)["depth"]
        digits = 4 if name == "quick" else 3
        for label, *cells in rows:
            if label in ROWS:
                for heading, cell in zip(headings[1:4], cells, strict=False):
                    key, places = COLUMNS[heading]
                    assert cell == f"{images[ROWS[label]][key]:.{places}f}", (name, label, heading)
            kinds = {"method": ("depth_new", "depth_read")}.get(label, ("constant", "constant"))
            if label == "method" or label.startswith("constant"):
                expected = [f"{depth[f'{kind}_none']['abs_rel']:.{digits}f}" for kind in kinds]
                assert cells[3:] == expected, (name, label)


def test_the_table_of_halves_is_mean_and_deviation_of_its_runs() -> None:
    ((_, *rows),) = tables("| L1 | PSNR | D_t")
    runs = {"jointly": "full", "views alone (no depth losses)": "views_only",
            "depth alone (no image losses)": "depth_only"}  # fmt: skip
    assert [row[0] for row in rows] == list(runs)
    for label, l1, psnr, new, read in rows:
        seeds = [results(f"table/{runs[label]}-{seed}") for seed in range(3)]
        for kind, cell in (("depth_new", new), ("depth_read", read)):
            assert cell == _spread([run["depth"][f"{kind}_none"]["abs_rel"] for run in seeds], 3), label
        if runs[label] != "depth_only":
            assert l1 == _spread([run["images"]["method"]["l1"] for run in seeds], 4)
            assert psnr == _spread([run["images"]["method"]["psnr"] for run in seeds], 2)


def test_the_table_of_real_pictures() -> None:
    ((_, *rows),) = tables("data, what is held out")
    for index, (_, label, *cells) in enumerate(rows):
        images = results(("real_two_chairs", "real_kitti_sequence")[index // 4])["images"]
        expected = [f"{images[ROWS[label]][key]:.{places}f}" for key, places in COLUMNS.values()]
        assert cells == expected, (index, label)


def test_figures_in_sentences() -> None:
    for name in ("quick", "quick_street"):
        images = results(name)["images"]
        assert (
            f"L1 is at {images['method']['l1'] / images['identity']['l1']:.2f} of showing the source" in TEXT
        )
    bounds = results("bounds")["figures"]
    splatted = bounds["chairs, source splatted with the true depth"]
    fetched = bounds["chairs, source fetched with the true depth, black outside the true outline"]
    assert f"splatting the source gives {splatted:.3f}" in TEXT
    assert f"(black outside the true outline) {fetched:.3f}" in TEXT
    assert f"costs {bounds['drives, true target halved and enlarged again']:.3f}" in TEXT
    rates = results("rates_and_weights")["figures"]
    assert f"gives L1 {rates['as configured, L1']} and D_t {rates['as configured, D_t abs_rel']:.3f}" in TEXT
    both = results("chairs_together_or_alone")["figures"]
    assert f"L1 {both['jointly, L1']} jointly and {both['views alone, L1']} alone" in TEXT
    for part, low, high in (("decoder", 0.21, 0.32), ("encoder", 0.04, 0.08)):
        key = "depth decoder" if part == "decoder" else part
        figures = results("gradients")["figures"][f"drives, {key}, cosine (seeds 0, 1, 2)"].split()
        assert (round(min(map(float, figures)), 2), round(max(map(float, figures)), 2)) == (low, high)
        assert f"{low} to {high}" in TEXT
