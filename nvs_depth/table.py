"""Train the method, its ablations and its predecessor on one data set, with seeds, and print them together.

    python table.py
    python table.py --config configs/shapenet_chairs.yaml --rows full predecessor --seeds 0

Each row and seed is an ordinary run folder below --out. One that is finished is not trained again and an
interrupted one goes on where it stopped, so the command can be repeated until the table is complete. The
paper's own tables are not at hand; the reports show related figures from elsewhere, with their origin.
"""

from nvs_depth import arguments
from nvs_depth.arguments import ROWS
from shared.runs.command import begin, command_line

if __name__ == "__main__":
    begin(arguments.table, __doc__)  # --help is answered before PyTorch is loaded

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from nvs_depth import train
from shared.errors import RunError
from shared.show.tables import Column, ResultsTable, show_tables, trained_row

__all__ = ["ablation_table", "main", "tables"]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments.table(__doc__, argv)
    results: dict[str, list[Mapping[str, Any]]] = {}
    for row in args.rows:
        label, changes = ROWS[row]
        for seed in args.seeds:
            overrides = [*args.set, *changes, f"seed={seed}", f"label={label}"]
            folder = args.out / f"{row}-{seed}"
            result = trained_row(train.main, folder, args.config, overrides, args.device)
            results.setdefault(row, []).append(result)
    show_tables(args.out, tables(results))


def tables(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[ResultsTable]:
    """The table of rows given by the eval.json of each seed; RunError if they are of several data sets."""
    everything = [result for found in results.values() for result in found]
    kinds = {(r["data"], r["image_side"], r["test_pairs"], r["steps"]) for r in everything}
    if len(kinds) > 1:
        raise RunError(f"the rows differ in data or steps ({kinds}); choose another --out")
    return [ablation_table(results)]


def ablation_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> ResultsTable:
    """Mean and deviation over the seeds; below, the rows that need no training, from the first full run."""
    first = next(iter(results.values()))[0]
    seeds = max(len(found) for found in results.values())
    place = f"{first['data']}, {first['image_side']} px, {first['steps']} steps, {seeds} seed(s)"
    d = first["definitions"]
    depth = f"{d['depth']}, no scaling"
    columns = [Column("row", "Row")]
    for key, label, definition in (
        ("l1", "L1 (lower)", d["l1"]),
        ("ssim_narrow", "SSIM narrow (higher)", d["ssim_narrow"]),
        ("psnr", "PSNR (higher)", d["psnr"]),
        ("depth_new", "D_t abs_rel (lower)", depth),
        ("depth_read", "D_b abs_rel (lower)", depth),
    ):
        columns.append(Column(key, label, source="this program", dataset=place, definition=definition))
    rows = [_row(ROWS[row][0], found, "method") for row, found in results.items()]
    rows.append(_row("Source fetched by D_t (first row's)", [first], "inverse_warp"))
    rows.append(_row("Source splatted by D_s (first row's)", [first], "direct_warp"))
    rows.append(_row("Source shown as the target", [first], "identity"))
    if "constant_none" in first["depth"]:
        constant = f"{first['depth']['constant_none']['abs_rel']:.4f}"
        rows.append({"row": "Constant depth", "depth_new": constant, "depth_read": constant})
    return ResultsTable(
        "Method, ablations and predecessor", columns, rows, note="Mean ± deviation over seeds."
    )


def _row(label: str, found: Sequence[Mapping[str, Any]], key: str) -> dict[str, str]:
    row = {"row": label}
    if label != ROWS["depth_only"][0]:  # nothing trains its view decoder
        for name, digits in (("l1", 4), ("ssim_narrow", 3), ("psnr", 2)):
            row[name] = spread([result["images"][key][name] for result in found], digits)
    if key == "method" and found[0]["depth"]:
        for name in ("depth_new", "depth_read"):
            row[name] = spread([result["depth"][f"{name}_none"]["abs_rel"] for result in found], 4)
    return row


def spread(values: Sequence[float], digits: int) -> str:
    """Mean, and the sample's standard deviation where there are several."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    command_line(main)
