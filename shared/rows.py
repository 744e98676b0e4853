"""The rows of a table as ordinary runs: each is trained once, an interrupted one goes on where it stopped."""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from shared.command import RunError, add_device_argument
from shared.files import write_bytes
from shared.provenance import named_overrides
from shared.tables import ResultsTable

__all__ = ["parse_table_args", "show_tables", "trained_row"]

SET_HELP = "override values of all rows, as in train.py"


def parse_table_args(
    doc: str | None,
    argv: Sequence[str] | None = None,
    *,
    config: Path,
    out: Path,
    rows: Collection[str],
    chosen: Collection[str] | None = None,
    seeds: Sequence[int] | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], Any] | None = None,
) -> argparse.Namespace:
    """Parse the arguments every `table.py` has; `chosen` and `seeds` are trained if none are named."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=Path, default=config, metavar="FILE", help="sizes and data of all rows"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=SET_HELP)
    parser.add_argument(
        "--out", type=Path, default=out, metavar="DIR", help=f"folder of the runs (default: {out})"
    )
    default = list(rows if chosen is None else chosen)
    help_rows = f"train only these of: {', '.join(rows)} (default: {', '.join(default)})"
    parser.add_argument(
        "--rows", nargs="+", choices=list(rows), default=default, metavar="ROW", help=help_rows
    )
    if seeds is not None:
        help_seeds = "train every row once with each"
        parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds), metavar="N", help=help_seeds)
    add_device_argument(parser)
    if add_arguments is not None:
        add_arguments(parser)
    return parser.parse_args(argv)


def trained_row(
    train: Callable[[Sequence[str]], Any], folder: Path, config: Path, overrides: Sequence[str], device: str
) -> dict[str, Any]:
    """The eval.json of a row, from the run in `folder`; `train`, a train.py's `main`, makes what is missing.

    Raises RunError if the folder holds a finished run of other overrides or another config.
    """
    path = folder / "eval.json"
    if not path.exists():
        command = ["--config", str(config), "--out", str(folder), "--device", device]
        command += ["--set", *overrides] if overrides else []
        train([*command, "--resume"] if folder.exists() else command)
    results = json.loads(path.read_text(encoding="utf-8"))
    origin = results.get("run")
    if origin is not None:
        was = (Path(origin["config"]).name, set(origin["set"]))
        if was != (config.name, set(named_overrides(overrides))):
            made = " ".join([was[0], *origin["set"]])
            raise RunError(f"{folder}: this row was made with {made}; choose another --out, or remove it")
    return results


def show_tables(folder: Path, tables: Sequence[ResultsTable]) -> None:
    """Print the tables, and write them to table.md in `folder`."""
    write_bytes(folder / "table.md", "\n".join(table.markdown() for table in tables).encode())
    sys.stdout.write("\n".join(table.text() for table in tables))
