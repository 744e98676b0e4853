"""Tables of results: the paper's figures and a run's side by side, as text for a terminal and as Markdown.

A figure says nothing without its data set and the definition of its metric; no column of figures lacks them.
On the page of a report, report.html draws the table.
"""

import dataclasses
import itertools
import math
import numbers
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from shared.errors import RunError
from shared.files.disk import read_json, write_bytes
from shared.runs.command import say_done
from shared.runs.folder import named_overrides

__all__ = ["Column", "ResultsTable", "show_tables", "trained_row"]

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
        cells = [headings, *self.cells]
        widths = [max(len(line[i]) for line in cells) for i in range(len(self.columns))]
        over = []  # the headings of groups; a long one widens its last column
        for label, members in self.groups:
            room = sum(widths[i] for i in members) + 3 * (len(members) - 1)
            widths[members[-1]] += max(0, len(label) - room)
            over.append(label.ljust(room))
        lines = [self.title] if self.title else []
        lines += [" | ".join(over)] if any(over_group.strip() for over_group in over) else []
        lines.append(" | ".join(self._align(headings, widths)))
        lines.append("-+-".join("-" * width for width in widths))
        lines += [" | ".join(self._align(line, widths)) for line in cells[1:]]
        return "\n".join(line.rstrip() for line in [*lines, *self.notes]) + "\n"

    def markdown(self) -> str:
        """The table as GitHub shows it; the best entry of a column is bold."""
        headings = [f"{c.group}<br>{c.heading}" if c.group else c.heading for c in self.columns]
        rules = ["---:" if c.source else "---" for c in self.columns]
        lines = [f"**{self.title}**", ""] if self.title else []
        lines.append(f"| {' | '.join(_pipe_safe(text) for text in headings)} |")
        lines.append(f"| {' | '.join(rules)} |")
        best = self.best
        for r, row in enumerate(self.cells):
            marked = [f"**{_pipe_safe(t)}**" if (r, c) in best else _pipe_safe(t) for c, t in enumerate(row)]
            lines.append(f"| {' | '.join(marked)} |")
        return "\n".join([*lines, "", *[f"{line}  " for line in self.notes]]).rstrip() + "\n"

    @property
    def cells(self) -> list[list[str]]:
        return [[column.format(row.get(column.key)) for column in self.columns] for row in self.rows]

    @property
    def groups(self) -> list[tuple[str, list[int]]]:
        """Neighbouring columns of the same source and data set."""
        indices = itertools.groupby(range(len(self.columns)), key=lambda i: self.columns[i].group)
        return [(label, list(members)) for label, members in indices]

    @property
    def best(self) -> set[tuple[int, int]]:
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

    @property
    def notes(self) -> list[str]:
        """The definitions, one line for each with the metrics it holds for, then the note."""
        everywhere = len({column.source for column in self.columns if column.source})
        sources: dict[tuple[str, str], dict[str, None]] = {}  # of each metric, in order
        for column in self.columns:
            if column.definition:
                sources.setdefault((column.label, column.definition), {})[column.source] = None
        labels: dict[tuple[str, str], list[str]] = {}  # metrics that share a line
        for (label, definition), names in sources.items():
            where = "" if len(names) == everywhere else f" ({', '.join(names)})"
            labels.setdefault((definition, where), []).append(label)
        lines = [f"{', '.join(names)}: {text}{where}" for (text, where), names in labels.items()]
        return [*lines, self.note] if self.note else lines


def _pipe_safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


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
    results = read_json(path)
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
    say_done(folder / "table.md", f"each row is a run: open report.html in the folders of {folder}")
