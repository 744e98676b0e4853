"""Train every row that can be trained in the same budget, and print them with the paper's tables.

    python table.py --config configs/quick.yaml [--set steps=200] [--rows selfsup supervised_depth]

Rows: DAIF-Net self-supervised, and the same network supervised by depth, by the all-in-focus image, and by
both; the methods without training come from the first run's evaluation. Finished rows are not trained
again.
"""

from dfd_selfsup import arguments
from dfd_selfsup.arguments import ROWS
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.table, __doc__)  # --help is answered before PyTorch is loaded

from collections.abc import Mapping, Sequence
from typing import Any

from dfd_selfsup import train
from dfd_selfsup.measures import METHOD_NAMES
from dfd_selfsup.report import paper_tables, run_tables
from shared.show.tables import ResultsTable, show_tables, trained_row

__all__ = ["main", "tables"]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.table(__doc__, argv)
    results = {
        row: trained_row(train.main, args.out / row, args.config, [*args.set, *ROWS[row]], args.device)
        for row in args.rows
    }
    show_tables(args.out, [*tables(results), *paper_tables()])


def tables(results: Mapping[str, Mapping[str, Any]]) -> list[ResultsTable]:
    """The table of rows given by their eval.json; the methods without training are taken from the first."""
    first = next(iter(results.values()))
    means = first["mean"] | {row: result["mean"][row] for row, result in results.items()}
    ordered = {name: means[name] for name in METHOD_NAMES if name in means}
    return run_tables({**first, "mean": ordered})


if __name__ == "__main__":
    command_line(main)
