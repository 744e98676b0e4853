"""Tables of results: the same figures as text and Markdown, and whose, where and how is always said."""

import pytest

from shared.show.tables import Column, ResultsTable
from shared.tests.report_parts import COLUMNS, ROWS, TABLE


def test_table_as_text():
    rows = [dict(ROWS[0]), dict(ROWS[1]), {"method": "Pix2Pix", "error": float("nan")}]
    assert ResultsTable("Table 1", COLUMNS, rows, TABLE.note).text() == (
        "Table 1\n"
        "                    | paper: Cube, 512 px | this run: embedded cube\n"
        "Method              |         PSNR [dB] ↑ | PSNR [dB] ↑ | RMSE [m] ↓\n"
        "--------------------+---------------------+-------------+-----------\n"
        "Nearest | neighbour |               18.32 |       17.00 |      0.500\n"
        "DeepVoxels          |               28.42 |       24.31 |      0.250\n"
        "Pix2Pix             |                   – |           – |          –\n"
        "PSNR [dB]: mean over views\n"
        "RMSE [m]: valid pixels (this run)\n"
        "Other data: compare the order.\n"
    )


def test_table_as_markdown():
    lines = TABLE.markdown().splitlines()
    assert lines[2] == (
        "| Method | paper: Cube, 512 px<br>PSNR [dB] ↑ | this run: embedded cube<br>PSNR [dB] ↑ "
        "| this run: embedded cube<br>RMSE [m] ↓ |"
    )
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    assert lines[4] == "| Nearest \\| neighbour | 18.32 | 17.00 | 0.500 |"
    assert lines[5] == "| DeepVoxels | **28.42** | **24.31** | **0.250** |"
    assert "RMSE [m]: valid pixels (this run)" in TABLE.markdown()


def test_a_row_that_saw_the_truth_is_never_best():
    columns = [Column("error", "error", "run", "data", "definition", "lower", digits=1)]
    rows = [{"error": 0.0}, {"error": 1.0}, {"error": 2.0}]
    lines = ResultsTable("", columns, rows, oracles=[0]).markdown().splitlines()
    assert lines[2:5] == ["| 0.0 |", "| **1.0** |", "| 2.0 |"]


def test_ties_as_printed_are_both_best_and_a_single_figure_is_not():
    column = Column("x", "X", "a", "b", "c", "higher")
    both = ResultsTable("", [column], [{"x": 1.001}, {"x": 1.002}, {"x": 0.5}]).markdown()
    assert both.count("**1.00**") == 2
    assert "**" not in ResultsTable("", [column], [{"x": 1.0}, {}]).markdown()


def test_a_column_of_figures_must_say_whose_where_and_how():
    for given_fields in ({"source": "paper"}, {"dataset": "x", "definition": "y"}, {"better": "lower"}):
        with pytest.raises(ValueError, match="give source, dataset and definition"):
            Column("x", "X", **given_fields)
    with pytest.raises(ValueError, match="no column 'y'"):
        ResultsTable("", [Column("x", "X")], [{"y": 1}])
    with pytest.raises(ValueError, match="same key"):
        ResultsTable("", [Column("x", "X"), Column("x", "Y")], [])
