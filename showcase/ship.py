"""Make a finished run's network part of the project: <paper>/weights/NAME.pt, with a card, NAME.md.

    python -m showcase.ship runs/nvs_depth-evening chairs --about "embedded chairs at 64 px"

Only the network is kept, what its object needs, and the config; large weights at half precision. `load(NAME)`
and `--run NAME` then find it, also after `pip install .`.
"""

if __name__ == "__main__":
    from shared.runs.command import begin

    begin()

import argparse
import importlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from shared.errors import DataError
from shared.files.disk import read_json, write_bytes
from shared.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from shared.runs.command import command_line
from shared.runs.folder import find_checkpoint

__all__ = ["card", "main", "ship"]

ROOT = Path(__file__).parent.parent
HALVED = 4096  # values from which a tensor is stored at half precision; norms and biases have fewer


def main(argv: Sequence[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("run", type=Path, help="a finished run folder, with eval.json")
    parser.add_argument("name", help="by which it is loaded")
    parser.add_argument("--about", required=True, help="what it was trained on, in a few words")
    args = parser.parse_args(argv)
    for path in ship(args.run, args.name, args.about, ROOT):
        print(path)  # noqa: T201


def ship(run: Path, name: str, about: str, root: Path) -> tuple[Path, Path]:
    """Write weights and card of a run below `root`; DataError unless the run is finished."""
    if not (run / "eval.json").is_file():
        raise DataError(run, "it has no eval.json", "Let the run finish, or measure it with eval.py")
    saved = load_checkpoint(find_checkpoint(run, "best"))
    results = read_json(run / "eval.json")
    weights = root / saved.paper / "weights" / f"{name}.pt"
    weights.parent.mkdir(exist_ok=True)
    state = {"model": SimpleNamespace(state_dict=lambda: halved(saved.state["model"]))}
    config = without_places(saved.config)
    save_checkpoint(weights, state, paper=saved.paper, step=saved.step, config=config, facts=saved.facts)
    text = card(saved, results, name, about, weights.stat().st_size)
    write_bytes(weights.with_suffix(".md"), text.encode())
    return weights, weights.with_suffix(".md")


def halved(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with its large float32 tensors as float16."""

    def half(value: Any) -> Any:
        large = isinstance(value, Tensor) and value.dtype == torch.float32 and value.numel() >= HALVED
        return value.half() if large else value

    return {key: half(value) for key, value in state.items()}


def without_places(config: Any) -> Any:
    """The config without the folders of the machine that trained it: paths begin at their last `data`."""
    if isinstance(config, Mapping):
        return {key: without_places(value) for key, value in config.items()}
    if isinstance(config, str) and Path(config).is_absolute():
        _, found, inside = config.rpartition("/data/")
        return f"data/{inside}" if found else Path(config).name
    return config


def card(saved: Checkpoint, results: Mapping[str, Any], name: str, about: str, size: int) -> str:
    """What these weights are, in Markdown; the first paragraph is what `predict` says of them."""
    run = results.get("run", {})
    summary = importlib.import_module(f"{saved.paper}.eval").summary(results)
    config = f"`{Path(run.get('config', '?')).name}`"
    changes = [text for text in run.get("set", ()) if "/" not in text]
    rows = {
        "figures": summary,
        "data": results.get("data", about),
        "config": config + (f" with `--set {' '.join(changes)}`" if changes else ""),
        "seed, steps": f"{saved.config.get('seed')}, {saved.step}",
        "trained on": f"{run.get('machine', '?')}, PyTorch {run.get('torch', '?').split('+')[0]}",
        "commit": f"`{commit()}`",
        "file": f"{size / 1e6:.1f} MB, large weights at half precision",
        "licence": "MIT, as the code: trained on scenes that this repository renders",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"# `{name}`\n\n{about}\n\n| | |\n|---|---|\n{table}\n"


def commit() -> str:
    """The commit that is checked out, in short."""
    git = shutil.which("git")
    if git is None:
        return "?"
    command = [git, "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "?"


if __name__ == "__main__":
    command_line(main)
