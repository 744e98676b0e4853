"""List the keys of a paper's configuration, with type, default and remark, and the measures of a run.

python -m shared.runs.keys deepvoxels
python -m shared.runs.keys nvs_depth --run runs/nvs_depth-quick     # measures, and how they are defined
"""

if __name__ == "__main__":
    from shared.runs.command import begin

    begin()

import argparse
import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from shared.errors import RunError
from shared.files.disk import read_json
from shared.runs.command import command_line, make_parser

__all__ = ["config_keys", "main", "measures"]


def main(argv: Sequence[str] | None = None) -> None:
    parser: argparse.ArgumentParser = make_parser(__doc__)
    parser.add_argument("paper", metavar="PAPER", help="deepvoxels, diffdiffdepth, dfd_selfsup or nvs_depth")
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished run, to list its measures")
    args = parser.parse_args(argv)
    if args.run is not None:
        lines = [f"{name:<44}{text}" for name, text in measures(args.run).items()]
    else:
        if importlib.util.find_spec(f"{args.paper}.config") is None:
            raise RunError(f"{args.paper}: there is no such paper; see --help")
        config = importlib.import_module(f"{args.paper}.config").TrainConfig
        lines = [f"{key:<36}{value:<28}{text}".rstrip() for key, value, text in config_keys(config)]
    sys.stdout.write("\n".join(lines) + "\n")


def config_keys(config: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted key, default and remark (the comment next to the field) of every value of a config class."""
    remarks = _remarks(config)
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        kinds = [hints[field.name], *get_args(hints[field.name])]
        inner = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if inner is not None:
            if not dataclasses.is_dataclass(made):
                yield f"{prefix}{field.name}", _shown(made), remarks.get(field.name, "")
            yield from config_keys(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", _shown(made), remarks.get(field.name, "")


def _shown(value: Any) -> str:
    return "(needed)" if value is dataclasses.MISSING else json.dumps(value, default=str)


def _remarks(config: type) -> dict[str, str]:
    """The comment at the end of each field's last line."""
    lines = inspect.getsource(config).splitlines()
    body = ast.parse(inspect.cleandoc("\n".join(lines))).body[0].body
    fields = [node for node in body if isinstance(node, ast.AnnAssign)]
    ends = {node.target.id: lines[node.end_lineno - 1][node.end_col_offset :] for node in fields}
    return {name: text.partition("#")[2].strip() for name, text in ends.items()}


def measures(run: Path) -> dict[str, str]:
    """Dotted names of the numbers in a run's eval.json, each with its definition where there is one."""
    results = read_json(run / "eval.json")
    definitions = results.get("definitions", {})
    found: dict[str, str] = {}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, Mapping):
            for key, item in node.items():
                if key not in ("run", "definitions"):
                    walk(item, f"{name}.{key}" if name else key)
        elif isinstance(node, float):
            last = name.rpartition(".")[2]
            near = [key for key in (*name.split("."), *last.split("_")) if key in definitions]
            found[name] = definitions[near[-1]] if near else ""

    walk(results, "")
    return found


if __name__ == "__main__":
    command_line(main)
