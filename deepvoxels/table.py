"""Train every row of the paper's table 1 on one scene and print them next to the paper's figures.

    python table.py
    python table.py --config configs/official.yaml --set data.scene=vase --rows pix2pix deepvoxels

Each row is an ordinary run folder below --out. A row that is finished is not trained again and an interrupted
one goes on where it stopped, so the command can be repeated until the table is complete.
"""

from deepvoxels import arguments
from deepvoxels.arguments import ROWS
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.table, __doc__)  # --help is answered before PyTorch is loaded

from collections.abc import Mapping, Sequence
from typing import Any

from deepvoxels import train
from deepvoxels.published import METHOD_NAMES
from deepvoxels.report import table_of_methods
from shared.errors import RunError
from shared.show.tables import ResultsTable, show_tables, trained_row

__all__ = ["tables"]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.table(__doc__, argv)
    results = {
        row: trained_row(train.main, args.out / row, args.config, [*args.set, *ROWS[row]], args.device)
        for row in args.rows
    }
    show_tables(args.out, tables(results))


def tables(results: Mapping[str, Mapping[str, Any]]) -> list[ResultsTable]:
    """The table of rows given by their eval.json; raises RunError if they are not of one data set."""
    data = {(result["data"], result["image_side"], result["test_views"]) for result in results.values()}
    if len(data) > 1:
        raise RunError(f"the rows were measured on different data ({data}); choose another --out")
    return [table_of_methods({row: results[row] for row in METHOD_NAMES if row in results})]


if __name__ == "__main__":
    command_line(main)
