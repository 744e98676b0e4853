"""Run every data set at hand and print the paper's tables next to the results.

    python table.py                      the embedded light field and the embedded multi-view scene
    python table.py --hci DIR            and each HCI scene below DIR (sideboard, dino, cotton, boxes, ...)
    python table.py --rows ablation      what each part of the method adds, on the embedded light field
                                         and, where REAL_DATA is set, on its hci_antinous

Each data set is an ordinary run folder below --out. What is finished is not run again and what was
interrupted goes on, so the command can be repeated until the tables are complete. Writes table.md.
"""

from diffdiffdepth import arguments
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.table, __doc__)  # --help is answered before PyTorch is loaded

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffdiffdepth import train
from diffdiffdepth.datasets.hci import is_hci_folder
from diffdiffdepth.report import paper_tables, run_tables
from shared.errors import DataError
from shared.show.tables import Column, ResultsTable, show_tables, trained_row

__all__ = ["main", "tables"]

CONFIGS = Path(__file__).parent / "configs"
ABLATION = {  # groups of numbers that are optimised, and how far points at depth edges move to their own side
    "+ smoothness": (["smoothness"], 0.0),
    "+ labels": (["smoothness", "labels"], 0.0),
    "+ weights": (["smoothness", "labels", "weights"], 0.0),
    "+ positions": (["smoothness", "labels", "weights", "positions"], 0.0),
    "+ points on their side of edges": (["smoothness", "labels", "weights", "positions"], 0.75),
}


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.table(__doc__, argv)
    configs = {"light_field": args.config, "multi_view": CONFIGS / "quick_mvs.yaml"}
    runs = [(row, configs[row], []) for row in args.rows if row in configs]
    runs += [(scene.name, CONFIGS / "hci.yaml", [f"data.root={scene}"]) for scene in _hci_scenes(args.hci)]
    results = {
        name: trained_row(train.main, args.out / name, config, [*args.set, *data], args.device)
        for name, config, data in runs
    }
    scenes = {"embedded": (args.config, [])}
    if "REAL_DATA" in os.environ:
        real = Path(os.environ["REAL_DATA"]) / "hci_antinous"
        scenes["antinous"] = (CONFIGS / "hci.yaml", [f"data.root={real}"])
    ablations = [_ablation(args, *scene) for scene in scenes.items()] if "ablation" in args.rows else []
    show_tables(args.out, [*tables(results), *ablations, *paper_tables()])


def _ablation(args: argparse.Namespace, name: str, scene: tuple[Path, list[str]]) -> ResultsTable:
    """From the points alone to the map that is exported, one part of the method after the other."""
    found: dict[str, Mapping[str, Any]] = {}
    for number, (row, (groups, side_px)) in enumerate(ABLATION.items()):
        settings = [f"schedule.groups=[{','.join(groups)}]", f"depth.side_px={side_px}"]
        settings = [*args.set, *scene[1], *settings]
        folder = args.out / f"ablation_{name}_{number}"
        run = trained_row(train.main, folder, scene[0], settings, args.device)
        if not found:
            found = {"points, nearest label": run["rows"]["nearest"], "diffusion": run["rows"]["diffusion"]}
        found[row] = run["rows"]["ours"]
    found["+ median at edges (exported)"] = run["rows"]["median"]
    data = run["data"]
    measures = {"mse_x100": "MSE x 100"} | {f"bp_{x}": f"BP({x})" for x in (0.01, 0.03, 0.07)}
    columns = [Column("method", "Method")]
    for key, label in measures.items():
        how = run["definitions"]["bp" if key.startswith("bp") else key]
        columns.append(Column(key, label, "this run", data, how, "lower", 2))
    rows = [{"method": row} | {key: figures[key] for key in measures} for row, figures in found.items()]
    return ResultsTable(f"What each part adds: {data}", columns, rows)


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
