"""Write RESULTS.md, every figure of the committed runs, and the figures in the READMEs.

    python -m showcase.results

Reads results/<paper>/<run>.json, each the eval.json of one run (or {paper, what, figures}, a few plain
numbers), results/<paper>/tried/, the same of side experiments, and results/<paper>/<table>/<row>.json, the
rows of one table (`<row>-<seed>.json` where a row was trained with several seeds). The tables are those that
the papers' own scripts print, so a figure has one definition wherever it is shown.
"""

if __name__ == "__main__":
    from shared.runs.command import begin

    begin()

import argparse
import importlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import DataError
from shared.files.disk import write_bytes
from shared.runs.command import command_line
from shared.show.tables import Column, ResultsTable
from showcase.figures import blocks, fill, minutes

__all__ = ["PAPERS", "pages", "results_page"]

ROOT = Path(__file__).parent.parent
PAPERS = {
    "deepvoxels": "DeepVoxels (CVPR 2019)",
    "diffdiffdepth": "Differentiable diffusion (CVPR 2021)",
    "dfd_selfsup": "Self-supervised depth from defocus (CVPR 2023)",
    "nvs_depth": "Single image novel view synthesis (IROS 2023)",
}
INTRODUCTION = """\
# Results

Written by `make results` from the files below [`results/`](results), the `eval.json` of runs. Do not edit.

* Columns headed *paper* hold published figures, on the paper's data; columns headed *this run* hold ours, on
  the data named there.
* Data called *embedded* are scenes that this repository renders itself. Figures on them show that a method
  works and in which order its rows come; they are never to be compared with the paper's.
* Times are wall times of the whole command, rendering of the data and evaluation included, unless said
  otherwise.
"""

ESTIMATES = """
## What a full run would cost: an estimate

Nothing of this was run on a GPU. One training step of each full-size configuration was carried out on random
data on a CPU and counted (`python -m benchmarks.estimates`, [figures](results/estimates.json)): operations
of its convolutions and matrix products, bytes that all its operations read and write one by one, and what
is held for the backward pass, with weights, gradients and Adam's moments. The lower figure takes 40 % of the
card's peak or 80 % of its bandwidth, whichever takes longer; the upper one 20 % and then 50 %, and 10
microseconds to start each operation. Reading data, validation and the evaluation at the end are not in it.
Memory: CUDA and work space come on top, one or two GB; of the released DeepVoxels 7.5 GB in all are known.
Data: what its publisher says, or its pixels without compression.
"""


def main(argv: Sequence[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR")
    args = parser.parse_args(argv)
    for path, text in pages(args.results).items():
        if text != path.read_text(encoding="utf-8"):
            write_bytes(path, text.encode())
            print(f"{path.relative_to(ROOT)} is new")  # noqa: T201


def pages(folder: Path) -> dict[Path, str]:
    """RESULTS.md and the READMEs as they should be."""
    texts = {ROOT / "RESULTS.md": results_page(folder)}
    for paper, figures in blocks(folder).items():
        path = ROOT / paper / "README.md"
        texts[path] = fill(path.read_text(encoding="utf-8"), figures, path)
    return texts


def results_page(folder: Path) -> str:
    """The page as Markdown; raises DataError for a file that is not the eval.json of a known paper."""
    parts = [INTRODUCTION, "## Quick runs\n\nThe `make train-...` commands, in one line each.\n"]
    parts += [
        _summary(paper, path) for paper in PAPERS for path in sorted((folder / paper).glob("quick*.json"))
    ]
    for paper, title in PAPERS.items():
        parts.append(f"\n## {title}\n")
        report = importlib.import_module(f"{paper}.report")
        parts += _markdown(report.paper_tables() if hasattr(report, "paper_tables") else [])
        for path in sorted((folder / paper).glob("*.json"), key=_shortest_first):
            parts.append(_run_section(paper, path, path.relative_to(folder)))
        for table in sorted(path for path in (folder / paper).glob("*") if path.is_dir()):
            section = _tried if table.name == "tried" else _table_section
            parts.append(section(paper, table, table.relative_to(folder)))
    if (folder / "estimates.json").exists():
        parts.append(_estimates(folder))
    return "\n".join(parts)


def _estimates(folder: Path) -> str:
    """What full-size runs on the published data would cost, from results/estimates.json."""
    estimates = json.loads((folder / "estimates.json").read_text(encoding="utf-8"))
    antinous = _read("diffdiffdepth", folder / "diffdiffdepth" / "antinous.json")
    rows = []
    for name, row in estimates["rows"].items():
        fast, slow = row["hours"]
        step = f"{row['tera_operations_per_step']:.2g} T, {row['gigabytes_moved_per_step']:.3g} GB"
        steps = f"{row['steps']:,}" if row["runs"] == 1 else f"{row['runs']} x {row['steps']:,}"
        cells = [name, f"[config]({row['config']})", steps, row["precision"], step]
        cells += [f"**{fast:.2g} to {slow:.2g}**", f"{row['gigabytes_held']:.2g} GB", row["data"]]
        rows.append(f"| {' | '.join(cells)} |")
    heads = ["", "", "steps", "precision", "one step", f"hours on an {estimates['card']}", "memory", "data"]
    lines = [ESTIMATES, f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *rows]
    measured = f"diffdiffdepth needs no estimate: a published light field took {_circumstances(antinous)}."
    return "\n".join([*lines, f"\n{measured}\n"])


def _summary(paper: str, path: Path) -> str:
    results = _read(paper, path)
    line = importlib.import_module(f"{paper}.eval").summary(results)
    return f"* `{_command(results)}`, {_circumstances(results)}: {line}."


def _shortest_first(path: Path) -> tuple[int, str]:
    """Quick runs, evening runs, then those on real data."""
    lengths = ("quick", "evening")
    return next((i for i, name in enumerate(lengths) if path.stem.startswith(name)), len(lengths)), path.stem


def _run_section(paper: str, path: Path, shown: Path) -> str:
    results = _read(paper, path)
    if "figures" in results:
        return _note_section(results, path, shown)
    tables = importlib.import_module(f"{paper}.report").run_tables(results)
    made = f"`{_command(results)}`: {_circumstances(results)}. [Figures](results/{shown})"
    return "\n".join([f"### {_words(path.stem)}\n", f"{made}\n", *_markdown(tables)])


def _note_section(note: Mapping[str, Any], path: Path, shown: Path) -> str:
    """Figures that are not an evaluation (a training loss, say): what they are, and the plain numbers."""
    figures = [f"* {name}: {value}" for name, value in note["figures"].items()]
    return "\n".join(
        [f"### {_words(path.stem)}\n", f"{note['what']}. [Figures](results/{shown})\n", *figures, ""]
    )


def _tried(paper: str, folder: Path, shown: Path) -> str:
    """Side experiments, a row each: what was done and what came of it."""
    summary = importlib.import_module(f"{paper}.eval").summary
    rows = []
    for path in sorted(folder.glob("*.json")):
        results = _read(paper, path)
        if "figures" in results:
            done, came = results["what"], "; ".join(f"{k}: {v}" for k, v in results["figures"].items())
        else:
            done, came = f"`{_command(results)}`", summary(results)
        texts = (f"[{_words(path.stem)}](results/{shown / path.name})", done, came)
        rows.append(" | ".join(text.replace("|", "\\|") for text in texts))
    table = "\n".join(f"| {row} |" for row in rows)
    return f"### What was tried\n\n| | what was done | what came of it |\n| --- | --- | --- |\n{table}\n"


def _table_section(paper: str, folder: Path, shown: Path) -> str:
    """A table whose rows are runs: what each row was made with, then the table."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        found.setdefault(re.sub(r"-\d+$", "", path.stem), []).append(_read(paper, path))
    module = importlib.import_module(f"{paper}.table")
    known = {row: found[row] for row in module.ROWS if row in found}
    if unknown := sorted(set(found) - set(known)):
        rows = f"Its rows are {', '.join(module.ROWS)}"
        raise DataError(folder / f"{unknown[0]}.json", "is no row of the table", rows)
    has_seeds = any(re.search(r"-\d+$", path.stem) for path in folder.glob("*.json"))
    tables = module.tables(known if has_seeds else {row: runs[0] for row, runs in known.items()})
    columns = [Column("row", "Row"), Column("command", "Made by"), Column("how", "Time and machine")]
    made = [
        {"row": row, "command": f"`{_command(run)}`", "how": _circumstances(run)}
        for row, runs in known.items()
        for run in runs
    ]
    heading = f"### {_words(folder.name)}\n\n[Figures](results/{shown})\n"
    return "\n".join([heading, *_markdown(tables), ResultsTable("", columns, made).markdown()])


def _read(paper: str, path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(path, f"is not JSON ({error})", "Copy the eval.json of a run there again") from None
    if not isinstance(results, dict) or results.get("paper") != paper:
        raise DataError(path, f"is not the eval.json of a {paper} run", "Only such files belong there")
    if "run" not in results and not {"what", "figures"} <= set(results):
        reason = "does not say how the run was made (key run)"
        raise DataError(path, reason, "Evaluate or train again with today's scripts")
    return results


def _command(results: Mapping[str, Any]) -> str:
    origin = results["run"]
    words = ["train.py", "--config", origin["config"]]
    return shlex.join([*words, "--set", *origin["set"]] if origin["set"] else words)


def _circumstances(results: Mapping[str, Any]) -> str:
    """Time, threads and machine, as far as they were recorded."""
    origin = results["run"]
    parts = []
    if origin.get("seconds"):
        parts.append(minutes(origin["seconds"]) + (" after a resume" if origin.get("resumed") else ""))
    elif origin.get("training_seconds"):
        parts.append(f"{minutes(origin['training_seconds'])} of training")
    if origin.get("cpu_seconds"):
        parts.append(f"{minutes(origin['cpu_seconds'])} of CPU time")
    if origin.get("threads"):
        parts.append(f"{origin['threads']} thread{'s' * (origin['threads'] != 1)}")
    return ", ".join([*parts, origin["machine"], f"PyTorch {origin['torch'].split('+')[0]}"])


def _markdown(tables: Sequence[ResultsTable]) -> list[str]:
    return [table.markdown() for table in tables]


def _words(stem: str) -> str:
    return stem.replace("_", " ").capitalize()


if __name__ == "__main__":
    command_line(main)
