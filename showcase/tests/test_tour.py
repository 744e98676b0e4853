"""The notebook docs/tour.ipynb: it was run as it is, it is small, and it runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from showcase.results import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def pictures(cell: dict[str, Any]) -> list[str]:
    data = [output.get("data", {}) for output in cell["outputs"]]
    return [each["image/png"] for each in data if "image/png" in each]


def test_it_was_run_from_top_to_bottom_and_holds_its_pictures() -> None:
    assert TOUR.stat().st_size < 1_500_000
    cells = code_cells(json.loads(TOUR.read_text()))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert "stderr" not in {output.get("name") for output in outputs}
    assert all(pictures(cell) for cell in cells[1:])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own: nothing in it depends on where it is."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(TOUR, as_version=4)
    before = [len(pictures(cell)) for cell in code_cells(notebook)]
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [len(pictures(cell)) for cell in code_cells(notebook)] == before
