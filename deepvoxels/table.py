"""Train every row of the paper's table 1 on one scene and print them beside the paper's figures.

    python table.py
    python table.py --config configs/official.yaml --set data.scene=vase --rows pix2pix deepvoxels

Each row is an ordinary run folder below --out. A row that is finished is not trained again and an interrupted
one goes on where it stopped, so the command can be repeated until the table is complete.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepvoxels import train
from deepvoxels.published import METHOD_NAMES
from deepvoxels.report import table_of_methods
from shared.files import write_bytes
from shared.run import RunError, command_line

__all__ = ["ROWS", "finished_results"]

ROWS = {
    "nearest_neighbour": ["method=nearest_neighbour"],
    "tatarchenko": ["method=tatarchenko"],
    "worrall": ["method=worrall"],
    "pix2pix": ["method=pix2pix"],
    "deepvoxels_no_occlusion": ["method=deepvoxels", "model.occlusion=false"],
    "deepvoxels": ["method=deepvoxels", "model.occlusion=true"],
}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    for row in args.rows:
        folder = args.out / row
        if (folder / "eval.json").exists():
            continue
        command = ["--config", str(args.config), "--out", str(folder), "--device", args.device]
        command += ["--set", *args.set, *ROWS[row]]
        if (folder / "checkpoints" / "last.pt").exists():
            command.append("--resume")
        train.main(command)
    table = table_of_methods(finished_results(args.out))
    write_bytes(args.out / "table.md", table.markdown().encode())
    print(table.text())  # noqa: T201


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    quick = Path(__file__).parent / "configs" / "quick.yaml"
    parser.add_argument(
        "--config", type=Path, default=quick, metavar="FILE", help="sizes and scene of all rows"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as in train.py"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the runs (default: runs/deepvoxels-table)"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="train only these")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    args.out = args.out or Path("runs/deepvoxels-table")
    return args


def finished_results(folder: Path) -> dict[str, Mapping[str, Any]]:
    """eval.json of every finished row, by row; raises RunError if they are not of one data set."""
    results = {}
    for row in METHOD_NAMES:
        path = folder / row / "eval.json"
        if path.exists():
            results[row] = json.loads(path.read_text())
    data = {(result["data"], result["image_side"], result["test_views"]) for result in results.values()}
    if len(data) > 1:
        raise RunError(f"{folder}: its rows were measured on different data ({data}); choose another --out")
    return results


if __name__ == "__main__":
    command_line(main)
