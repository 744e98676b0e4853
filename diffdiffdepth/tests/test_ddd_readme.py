"""The tables of the README say what the committed runs say, digit by digit."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
RESULTS = FOLDER.parent / "results" / "diffdiffdepth"
ROWS = {
    "nearest label": "nearest",
    "diffusion of the same points, not optimised": "diffusion",
    "optimised": "ours",
    "optimised, weighted median after it": "median",
}
pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason="the folder was copied without the results")


def tables() -> Iterator[tuple[str, list[list[str]]]]:
    """The results file named last before each table of results, and the cells of the table."""
    text = (FOLDER / "README.md").read_text()
    for table in re.finditer(r"(?:^\| \|.*\n)(?:^\|.*\n)+", text, re.M):
        name = re.findall(r"results/diffdiffdepth/(\w+)\.json", text[: table.start()])[-1]
        lines = [line.strip("|").split("|") for line in table[0].splitlines()]
        yield name, [[cell.strip(" *") for cell in line] for line in (lines[0], *lines[2:])]


def column(heading: str) -> str:
    names = {"MSE x 100": "mse_x100", "MSE": "mse", "Q25 x 100": "q25_x100"}
    return names.get(heading) or f"bp_{re.fullmatch(r'BP.([0-9.]+).', heading)[1]}"


def test_every_figure_of_the_tables_is_that_of_its_file():
    names = []
    for name, (headings, *rows) in tables():
        figures = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
        assert [row[0] for row in rows] == list(ROWS)
        for label, *cells in rows:
            for heading, cell in zip(headings[1:], cells, strict=True):
                digits = len(cell.partition(".")[2])
                assert cell == f"{figures[ROWS[label]][column(heading)]:.{digits}f}", (name, label, heading)
        names.append(name)
    assert names == ["quick", "antinous", "quick_mvs"]


def test_points_and_times_beside_the_tables_are_those_of_the_files():
    text = " ".join((FOLDER / "README.md").read_text().split())
    for name in ("quick", "antinous", "quick_mvs", "lytro", "photos_fox"):
        results = json.loads((RESULTS / f"{name}.json").read_text())
        assert f"{results['initial_points']:,} points" in text, name
        minutes, seconds = divmod(round(results["run"]["cpu_seconds"]), 60)
        assert (f"{minutes} min {seconds} s" if minutes else f"{seconds} s") + " of one core" in text, name
