"""Run every data set at hand and print the paper's tables beside the results.

    python table.py                      the embedded light field and the embedded multi-view scene
    python table.py --hci DIR            and each HCI scene below DIR (sideboard, dino, cotton, boxes, ...)

Each data set is an ordinary run folder below --out. What is finished is not run again and what was
interrupted goes on, so the command can be repeated until the tables are complete. Writes table.md.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from diffdiffdepth import train
from diffdiffdepth.datasets.hci import is_hci_folder
from diffdiffdepth.eval import evaluate, load_run
from diffdiffdepth.published import METHODS, TABLE_2, THRESHOLDS
from diffdiffdepth.report import comparison_table
from shared.files import DataError, write_bytes
from shared.report import Column, ResultsTable
from shared.run import command_line, write_json

__all__ = ["main", "published_table"]

CONFIGS = Path(__file__).parent / "configs"


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    runs = [
        ("light_field", args.config or CONFIGS / "quick.yaml", []),
        ("multi_view", CONFIGS / "quick_mvs.yaml", []),
    ]
    if args.hci is not None:
        scenes = sorted(path for path in args.hci.glob("*") if path.is_dir() and is_hci_folder(path))
        if not scenes:
            raise DataError(args.hci, "holds no HCI scene folders", "Unpack e.g. dino/ and boxes/ there")
        runs += [(scene.name, CONFIGS / "hci.yaml", [f"data.root={scene}"]) for scene in scenes]
    tables = [_finished(args, *run) for run in runs]
    tables.append(published_table())
    write_bytes(args.out / "table.md", "\n".join(table.markdown() for table in tables).encode())
    print("\n".join(table.text() for table in tables))  # noqa: T201


def published_table() -> ResultsTable:
    """Table 2 of the paper in full: MSE x 100 and the middle threshold of BP for every method and scene."""
    rows = [{"method": name} for name in METHODS.values()]
    columns = [Column("method", "Method")]
    for scene, figures in TABLE_2.items():
        middle = THRESHOLDS["own" if scene in ("living room", "piano") else "hci"][1]
        labels = {"source": "paper", "dataset": scene.title(), "definition": "all pixels", "better": "lower"}
        for measure, label in (("mse_x100", "MSE x 100"), (f"bp_{middle:g}", f"BP({middle:g})")):
            columns.append(Column(f"{scene} {measure}", label, **labels))
            for row, method in zip(rows, METHODS, strict=True):
                row[f"{scene} {measure}"] = figures[method][measure]
    return ResultsTable("Table 2 of the paper", columns, rows)


def _finished(args: argparse.Namespace, name: str, config: Path, overrides: list[str]) -> ResultsTable:
    """Train and measure one data set unless that is done; its table."""
    folder = args.out / name
    if not any((folder / f"{kind}.npy").exists() for kind in ("disparity", "depth")):
        command = ["--config", str(config), "--out", str(folder), "--device", args.device]
        command += ["--set", *overrides, *args.set] if overrides or args.set else []
        if (folder / "checkpoints" / "last.pt").exists():
            command.append("--resume")
        train.main(command)
    if not (folder / "eval.json").exists():
        write_json(folder / "eval.json", evaluate(*load_run(folder), folder))
    return comparison_table(json.loads((folder / "eval.json").read_text(encoding="utf-8")))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--config", type=Path, metavar="FILE", help="of the first run (default: quick.yaml)")
    parser.add_argument("--hci", type=Path, metavar="DIR", help="folder of HCI scene folders")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as in train.py"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/diffdiffdepth-table"), metavar="DIR")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line(main)
