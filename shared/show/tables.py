"""Tables of results: the paper's figures and a run's side by side, as terminal text, Markdown and HTML.

A figure says nothing without its data set and the definition of its metric; no column of figures lacks them.
"""

import argparse
import dataclasses
import html
import itertools
import json
import math
import numbers
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from shared.errors import RunError
from shared.files.disk import write_bytes
from shared.runs.command import add_device_argument
from shared.runs.folder import named_overrides

__all__ = [
    "Column",
    "ResultsTable",
    "parse_table_args",
    "show_tables",
    "trained_row",
]


MISSING = "–"
ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: words (the name of a method, a note) or, with all of the fields below `label`, a metric.

    `source` says whose figures they are ("paper", "this run"), `dataset` on what they were measured,
    `definition` how ("Gaussian window 11, sigma 1.5, RGB mean, full frame"). The best entry is marked if
    `better` is given.
    """

    key: str
    label: str
    source: str = ""
    dataset: str = ""
    definition: str = ""
    better: Literal["higher", "lower"] | None = None
    digits: int = 2

    def __post_init__(self) -> None:
        given = [bool(self.source), bool(self.dataset), bool(self.definition)]
        if any(given) != all(given) or (self.better and not all(given)):
            raise ValueError(f"column {self.key!r}: give source, dataset and definition, or none of them")

    @property
    def group(self) -> str:
        """Heading over the columns that share source and data set."""
        return f"{self.source}: {self.dataset}" if self.source else ""

    @property
    def heading(self) -> str:
        return self.label + ARROWS[self.better]

    def format(self, value: Any) -> str:
        """Numbers with the column's digits, None and NaN as a dash, words as they are."""
        if value is None or (isinstance(value, numbers.Real) and math.isnan(value)):
            return MISSING
        if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
            return f"{value:.{self.digits}f}"
        return str(value)


@dataclasses.dataclass(frozen=True)
class ResultsTable:
    """Rows of results under labelled columns; a row is a dict by column key, absent keys show as a dash.

    `oracles` are the indices of rows that were shown the truth: they are never marked as best.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    oracles: Collection[int] = ()

    def __post_init__(self) -> None:
        known = {column.key for column in self.columns}
        if len(known) != len(self.columns):
            raise ValueError("two columns of the table have the same key")
        for row in self.rows:
            if unknown := sorted(set(row) - known):
                raise ValueError(f"the table has no column {unknown[0]!r}; it has {', '.join(sorted(known))}")

    def text(self) -> str:
        """The table for a terminal, with the definitions of its metrics below."""
        headings = [column.heading for column in self.columns]
        cells = [headings, *self._cells()]
        widths = [max(len(line[i]) for line in cells) for i in range(len(self.columns))]
        groups = self._groups()
        for label, members in groups:  # a long heading widens its last column
            room = sum(widths[i] for i in members) + 3 * (len(members) - 1)
            widths[members[-1]] += max(0, len(label) - room)
        spans = [sum(widths[i] for i in members) + 3 * (len(members) - 1) for _, members in groups]
        lines = [self.title] if self.title else []
        if any(label for label, _ in groups):
            padded = [label.ljust(span) for (label, _), span in zip(groups, spans, strict=True)]
            lines.append(" | ".join(padded))
        lines.append(" | ".join(self._align(headings, widths)))
        lines.append("-+-".join("-" * width for width in widths))
        lines += [" | ".join(self._align(line, widths)) for line in cells[1:]]
        return "\n".join(line.rstrip() for line in [*lines, *self._notes()]) + "\n"

    def markdown(self) -> str:
        """The table as GitHub shows it; the best entry of a column is bold."""
        headings = [f"{c.group}<br>{c.heading}" if c.group else c.heading for c in self.columns]
        rules = ["---:" if c.source else "---" for c in self.columns]
        best = self._best()
        lines = [f"**{self.title}**", ""] if self.title else []
        lines.append(f"| {' | '.join(_pipe_safe(text) for text in headings)} |")
        lines.append(f"| {' | '.join(rules)} |")
        for r, row in enumerate(self._cells()):
            marked = [f"**{_pipe_safe(t)}**" if (r, c) in best else _pipe_safe(t) for c, t in enumerate(row)]
            lines.append(f"| {' | '.join(marked)} |")
        notes = self._notes()
        return "\n".join([*lines, "", *[f"{line}  " for line in notes]]).rstrip() + "\n"

    def html(self) -> str:
        """The table as an HTML fragment (classes `results`, `number`, `best`), all text escaped."""
        out = ['<div class="scroll" tabindex="0"><table class="results">']
        if self.title:
            out.append(f"<caption>{html.escape(self.title)}</caption>")
        out.append("<thead>")
        groups = self._groups()
        if any(label for label, _ in groups):
            spans = [f'<th colspan="{len(members)}">{html.escape(label)}</th>' for label, members in groups]
            out.append(f'<tr class="groups">{"".join(spans)}</tr>')
        # A no-break space keeps the arrow beside the last word of a heading that is broken into lines.
        arrows = {name: arrow.replace(" ", "\u00a0") for name, arrow in ARROWS.items()}
        cells = [f"<th{_css(c)}>{html.escape(c.label)}{arrows[c.better]}</th>" for c in self.columns]
        out.append(f"<tr>{''.join(cells)}</tr></thead><tbody>")
        best = self._best()
        for r, row in enumerate(self._cells()):
            cells = [
                f"<td{_css(column, (r, c) in best)}>{html.escape(text)}</td>"
                for c, (column, text) in enumerate(zip(self.columns, row, strict=True))
            ]
            out.append(f"<tr>{''.join(cells)}</tr>")
        out.append("</tbody></table></div>")
        out += [f'<p class="note">{html.escape(line)}</p>' for line in self._notes()]
        return "\n".join(out)

    def _cells(self) -> list[list[str]]:
        return [[column.format(row.get(column.key)) for column in self.columns] for row in self.rows]

    def _groups(self) -> list[tuple[str, list[int]]]:
        """Neighbouring columns of the same source and data set."""
        indices = itertools.groupby(range(len(self.columns)), key=lambda i: self.columns[i].group)
        return [(label, list(members)) for label, members in indices]

    def _best(self) -> set[tuple[int, int]]:
        """(row, column) of the best figures, as printed; a column of a single figure has none."""
        best = set()
        for c, column in enumerate(self.columns):
            shown = {}
            for r, row in enumerate(self.rows):
                value = row.get(column.key)
                comparable = column.better and r not in self.oracles
                if comparable and isinstance(value, numbers.Real) and math.isfinite(value):
                    shown[r] = float(column.format(value))
            if len(shown) > 1:
                top = (max if column.better == "higher" else min)(shown.values())
                best |= {(r, c) for r, value in shown.items() if value == top}
        return best

    def _align(self, texts: Sequence[str], widths: Sequence[int]) -> list[str]:
        triples = zip(self.columns, texts, widths, strict=True)
        return [text.rjust(width) if column.source else text.ljust(width) for column, text, width in triples]

    def _notes(self) -> list[str]:
        """The definitions, one line for each with the metrics it holds for, then the note."""
        everywhere = len({column.source for column in self.columns if column.source})
        used_by: dict[tuple[str, str], dict[str, None]] = {}
        for column in self.columns:
            if column.definition:
                used_by.setdefault((column.label, column.definition), {})[column.source] = None
        labels: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for (label, definition), sources in used_by.items():
            labels.setdefault((definition, tuple(sources)), []).append(label)
        lines = [
            f"{', '.join(names)}: {definition}"
            + ("" if len(sources) == everywhere else f" ({', '.join(sources)})")
            for (definition, sources), names in labels.items()
        ]
        return [*lines, self.note] if self.note else lines


def _pipe_safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _css(column: Column, best: bool = False) -> str:
    names = ["number"] * bool(column.source) + ["best"] * best
    return f' class="{" ".join(names)}"' if names else ""


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
