"""Run every data set at hand and print the paper's tables next to the results.

    python table.py                      the embedded light field and the embedded multi-view scene
    python table.py --hci DIR            and each HCI scene below DIR (sideboard, dino, cotton, boxes, ...)

Each data set is an ordinary run folder below --out. What is finished is not run again and what was
interrupted goes on, so the command can be repeated until the tables are complete. Writes table.md.
"""

from diffdiffdepth import arguments
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.table, __doc__)  # --help is answered before PyTorch is loaded

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffdiffdepth import train
from diffdiffdepth.datasets.hci import is_hci_folder
from diffdiffdepth.report import paper_tables, run_tables
from shared.errors import DataError
from shared.show.tables import ResultsTable, show_tables, trained_row

__all__ = ["main", "tables"]

CONFIGS = Path(__file__).parent / "configs"


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.table(__doc__, argv)
    configs = {"light_field": args.config, "multi_view": CONFIGS / "quick_mvs.yaml"}
    runs = [(row, configs[row], []) for row in args.rows]
    runs += [(scene.name, CONFIGS / "hci.yaml", [f"data.root={scene}"]) for scene in _hci_scenes(args.hci)]
    results = {
        name: trained_row(train.main, args.out / name, config, [*args.set, *data], args.device)
        for name, config, data in runs
    }
    show_tables(args.out, [*tables(results), *paper_tables()])


def tables(results: Mapping[str, Mapping[str, Any]]) -> list[ResultsTable]:
    """One table for each data set, given by its eval.json."""
    return [table for result in results.values() for table in run_tables(result)]


def _hci_scenes(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    scenes = sorted(path for path in folder.glob("*") if path.is_dir() and is_hci_folder(path))
    if not scenes:
        raise DataError(folder, "holds no HCI scene folders", "Unpack e.g. dino/ and boxes/ there")
    return scenes


if __name__ == "__main__":
    command_line(main)
