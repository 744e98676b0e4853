"""Train every row that can be trained in the same budget, and print them with the paper's tables.

    python table.py --config configs/quick.yaml [--set steps=200] [--rows selfsup supervised_depth]

Rows: DAIF-Net self-supervised, and the same network supervised by depth, by the all-in-focus image, and by
both; the methods without training come from the first run's evaluation. Finished rows are not trained
again.
"""

if __name__ == "__main__":
    import shared.interrupt  # noqa: F401 - Ctrl-C ends in one line during the imports, too

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dfd_selfsup import train
from dfd_selfsup.measures import METHOD_NAMES
from dfd_selfsup.report import paper_tables, run_tables
from shared.runs.command import command_line
from shared.show.tables import ResultsTable, parse_table_args, show_tables, trained_row

__all__ = ["ROWS", "main", "tables"]

ROWS = {
    "selfsup": ["method=selfsup"],
    "supervised_depth": ["method=supervised", "supervise=depth", "compare_slow=false"],
    "supervised_aif": ["method=supervised", "supervise=aif", "compare_slow=false"],
    "supervised_both": ["method=supervised", "supervise=both", "compare_slow=false"],
}
QUICK = Path(__file__).parent / "configs" / "quick.yaml"


def main(argv: Sequence[str] | None = None) -> None:
    out = Path("runs/dfd_selfsup-table")
    args = parse_table_args(__doc__, argv, config=QUICK, out=out, rows=ROWS)
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
