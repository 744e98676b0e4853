"""RESULTS.md and the READMEs have the figures of the committed runs, and say how each was made."""

import json
import re
from pathlib import Path

import pytest

from shared.errors import DataError
from showcase.figures import fill
from showcase.results import PAPERS, ROOT, pages, results_page

FILES = sorted(path for paper in PAPERS for path in (ROOT / "results" / paper).rglob("*.json"))


def test_the_committed_pages_have_the_figures_of_the_runs() -> None:
    for path, text in pages(ROOT / "results").items():
        assert path.read_text() == text, f"{path}: run make results"


def test_a_block_of_unknown_figures_is_refused() -> None:
    assert fill("a <!-- figures:x -->0<!-- end -->.", {"x": "1"}, Path("a.md")) == (
        "a <!-- figures:x -->1<!-- end -->."
    )
    with pytest.raises(DataError, match=r"a\.md"):
        fill("<!-- figures:y --><!-- end -->", {"x": "1"}, Path("a.md"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "results")))
def test_every_file_is_on_the_page_and_names_no_place(path: Path) -> None:
    text = path.read_text()
    content = json.loads(text)
    assert content["paper"] == path.relative_to(ROOT / "results").parts[0]
    page = (ROOT / "RESULTS.md").read_text()
    linked = [path, path.parent] if path.parent.name not in PAPERS else [path]
    assert any(f"({place.relative_to(ROOT)})" in page for place in linked)
    assert not re.search(r'["= ]/\w+/', text)
    if "run" in content:
        assert (ROOT / content["run"]["config"]).exists()


def test_a_row_that_the_table_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deepvoxels" / "table").mkdir(parents=True)
    text = (ROOT / "results" / "deepvoxels" / "table" / "deepvoxels.json").read_text()
    (tmp_path / "deepvoxels" / "table" / "nerf.json").write_text(text)
    with pytest.raises(DataError, match="is no row of the table"):
        results_page(tmp_path)


def test_rows_of_several_seeds_are_joined(tmp_path: Path) -> None:
    (tmp_path / "nvs_depth" / "ablation").mkdir(parents=True)
    results = json.loads((ROOT / "results" / "nvs_depth" / "quick.json").read_text())
    for seed, l1 in ((0, 0.1), (1, 0.3)):
        results["images"]["method"]["l1"] = l1
        (tmp_path / "nvs_depth" / "ablation" / f"full-{seed}.json").write_text(json.dumps(results))
    page = results_page(tmp_path)
    assert "0.2000 ± 0.1414" in page
    assert page.count("| full |") == 2
