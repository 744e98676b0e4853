"""Train every row that can be trained in the same budget, and print them with the paper's tables.

    python table.py --config configs/quick.yaml [--set steps=200] [--out runs/dfd_selfsup-table]

Rows: DAIF-Net self-supervised, and the same network supervised by depth, by the all-in-focus image, and by
both; the methods without training come from the first run's evaluation. Finished rows are not trained
again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from dfd_selfsup.methods import METHOD_NAMES
from dfd_selfsup.report import comparison_table, paper_table
from dfd_selfsup.train import main as train_main
from shared.files import write_bytes
from shared.run import command_line, write_json

__all__ = ["ROWS", "main"]

ROWS = {
    "selfsup": ["method=selfsup"],
    "supervised_depth": ["method=supervised", "supervise=depth"],
    "supervised_aif": ["method=supervised", "supervise=aif"],
    "supervised_both": ["method=supervised", "supervise=both"],
}
QUICK = Path(__file__).parent / "configs" / "quick.yaml"


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    folder = args.out or Path("runs") / f"dfd_selfsup-table-{args.config.stem}"
    merged: dict = {}
    for name in args.rows:
        run = folder / name
        if not (run / "eval.json").exists():
            resume = ["--resume"] if (run / "checkpoints" / "last.pt").exists() else []
            common = ["--config", str(args.config), "--out", str(run), "--device", args.device, *resume]
            train_main([*common, "--set", *ROWS[name], *args.set])
        results = json.loads((run / "eval.json").read_text(encoding="utf-8"))
        merged = merged or results
        merged["mean"][name] = results["mean"][name]
    merged["mean"] = {name: merged["mean"][name] for name in METHOD_NAMES if name in merged["mean"]}
    tables = [comparison_table(merged), paper_table(1), paper_table(2)]
    write_json(folder / "table.json", merged["mean"])
    write_bytes(folder / "table.md", "\n".join(table.markdown() for table in tables).encode())
    for table in tables:
        print(table.text())  # noqa: T201


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--config", type=Path, default=QUICK, metavar="FILE")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line(main)
