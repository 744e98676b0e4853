"""Small mistakes made on purpose, one at a time (mutmut), to find those that no test notices.

    make mutants                                   # every file of benchmarks/mutants.yaml
    make mutants ARGS=deepvoxels/losses.py         # one of them, some minutes

`mutants.yaml` names for each file the tests that answer for it, and the mutations which these let live, each
with its reason. What lives and is not in the list is printed, and ends the run with an error.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutants.yaml")
UNTOUCHED = [r"raise \w+", r"^\s*(reason|remedy|message) = "]  # the words of errors
SETTINGS = """
[tool.mutmut]
source_paths = {packages}
also_copy = ["conftest.py", "scenes"]
only_mutate = ["{file}"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-m", "not slow"]
pytest_add_cli_args_test_selection = {tests}
do_not_mutate_patterns = {untouched}
process_isolation = "forkserver"
use_git_change_detection = false
timeout_constant = 20.0
timeout_multiplier = 5.0
"""
DIFFS = """
import sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
for name in sys.argv[1:]:
    print("\\f" + get_diff_for_mutant(name))
"""


def main(argv: Sequence[str] | None = None) -> None:
    known: dict[str, dict[str, Any]] = yaml.safe_load(LIST.read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="*", choices=[*known, []], metavar="FILE", help=", ".join(known))
    alive = []
    for file in parser.parse_args(argv).files or known:
        with tempfile.TemporaryDirectory() as folder:
            total, survivors = mutate(file, known[file]["tests"], Path(folder))
        explained = known[file].get("survivors") or {}
        new = [mutation for mutation in survivors if mutation not in explained]
        print(f"{file}: {total} mutations, {len(survivors)} alive, {len(new)} of them not explained")  # noqa: T201
        for mutation in new:
            print(f"  {mutation}")  # noqa: T201
        for mutation in explained.keys() - survivors:
            print(f"  no longer alive: {mutation}")  # noqa: T201
        alive += new
    sys.exit(f"{len(alive)} mutations are seen by no test" if alive else 0)


def mutate(file: str, tests: Sequence[str], folder: Path) -> tuple[int, list[str]]:
    """Make all mutations of a file in a copy of the project: their number, and those that live."""
    packages = sorted({"shared", file.partition("/")[0]})
    for name in (*packages, "scenes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(ROOT / "conftest.py", folder)
    lists = {"packages": packages, "tests": tests, "untouched": UNTOUCHED}
    settings = SETTINGS.format(file=file, **{name: json.dumps(values) for name, values in lists.items()})
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings)

    def python(*arguments: str, **options: Any) -> str:
        done = subprocess.run([sys.executable, *arguments], cwd=folder, text=True, check=False, **options)
        if done.returncode:
            sys.exit(f"mutmut failed on {file}")
        return done.stdout

    python("-m", "mutmut", "run")
    results = python("-m", "mutmut", "results", "--all", "true", stdout=subprocess.PIPE)
    states = dict(re.findall(r"(\S+): (.+)", results))
    alive = [name for name, state in states.items() if state not in ("killed", "timeout")]
    _, *diffs = python("-c", DIFFS, *alive, stdout=subprocess.PIPE).split("\f")
    return len(states), [changed(diff) for diff in diffs]


def changed(diff: str) -> str:
    """A mutation by its lines, "old -> new", which stay the same when code around them moves."""
    lines = [[line[1:].strip() for line in re.findall(rf"^[{sign}](?![-+]).*$", diff, re.M)] for sign in "-+"]
    return " -> ".join(" ".join(part) for part in lines)


if __name__ == "__main__":
    main()
