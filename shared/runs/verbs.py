"""The commands `deepvoxels`, `diffdiffdepth`, `dfd_selfsup` and `nvs_depth` of an installed package.

deepvoxels train --config quick
deepvoxels predict --run runs/deepvoxels-quick
"""

import runpy
import sys
from pathlib import Path

__all__ = ["VERBS", "main"]

VERBS = {
    "train": "train and measure: --config quick takes minutes on a laptop",
    "eval": "measure a finished run again",
    "predict": "use a method on your own data",
    "prepare": "check data, or make them ready",
    "table": "train every row of the paper's table",
    "keys": "list the keys of the configuration",
}


def main() -> None:
    """Run `<paper>.<verb>`; the paper is the name of the program."""
    paper = Path(sys.argv[0]).stem
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb not in VERBS:
        lines = [f"  {name:<9}{text}" for name, text in VERBS.items()]
        usage = "\n".join([f"usage: {paper} VERB [--help] ...", *lines]) + "\n"
        asked = verb in ("-h", "--help")
        (sys.stdout if asked else sys.stderr).write(usage)
        sys.exit(0 if asked else 2)
    if verb == "keys":
        sys.argv[1:2] = [paper]
        runpy.run_module("shared.runs.keys", run_name="__main__", alter_sys=True)
        return
    del sys.argv[1]
    runpy.run_module(f"{paper}.{verb}", run_name="__main__", alter_sys=True)
