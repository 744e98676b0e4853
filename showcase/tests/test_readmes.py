"""What the READMEs tell a reader to type: every command is understood, and those that need no data run.

Every block begins at the top of the repository, in a shell with the environment activated. One whose first
line is `# needs: ...` is for data that the reader brings. All other blocks are run as they are written, each
in a new shell, in a copy of the tree whose quick configurations are tiny (`slow`); then the Python lines.
"""

import argparse
import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.runs.config import load_config
from showcase.results import PAPERS, ROOT
from showcase.tests.tiny import copy_folder, shrink_quick_configs

READMES = [ROOT / "README.md", *(ROOT / paper / "README.md" for paper in PAPERS)]
FOREIGN = ("conda", "git", "pip", "cd", "source")  # not ours to test


@dataclass(frozen=True)
class Command:
    """One line of a fenced block."""

    readme: Path
    line: str
    folder: Path  # where it is typed

    def __str__(self) -> str:
        return f"{self.readme.parent.name}: {self.line}"


def blocks(readme: Path, language: str, with_data: bool = True) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", readme.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in found if with_data or not block.startswith("# needs: ")]


def commands(readme: Path) -> Iterator[Command]:
    for block in blocks(readme, "sh"):
        folder = ROOT
        for line in block.splitlines():
            if text := re.sub(r"(^|\s+)#.*", "", line).strip():
                folder = folder / text[3:] if text.startswith("cd ") else folder
                yield Command(readme, text, folder)


COMMANDS = [command for readme in READMES for command in commands(readme)]

# Set-up and tests are left out; `make` takes the interpreter of these tests.
NEW_SHELL = f"""source .venv/bin/activate
make() {{ [[ $1 =~ ^(setup|test|test-all)$ ]] || command make PYTHON={sys.executable} "$@"; }}"""


class Understood(Exception):
    """The arguments were parsed; raised in place of going on."""


def test_no_readme_hides_commands_in_other_blocks() -> None:
    for readme in READMES:
        text = readme.read_text()
        assert set(re.findall(r"^```(\w*)\n", text, re.MULTILINE)) <= {"sh", "python", "bibtex", "yaml", ""}
        assert not re.search(r"^ {4}(python|make) ", text, re.MULTILINE), (
            f"{readme}: fence the command with ```sh"
        )


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_python_lines_import_what_is_there(readme: Path) -> None:
    for block in blocks(readme, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_is_understood(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command.line)
    monkeypatch.chdir(command.folder)
    if words[0] == "make":
        arguments = [word for word in words[1:] if not word.startswith("PYTHON=")]
        result = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return
    if words[0] in FOREIGN:
        return
    assert words[0] == "python", f"unknown program in {command}"
    args, module = parse(words, command.folder, monkeypatch)
    if getattr(args, "config", None) is not None:
        config_type = importlib.import_module(f"{module.split('.')[0]}.config").TrainConfig
        load_config(config_type, args.config, getattr(args, "set", ()))


def parse(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[argparse.Namespace, str]:
    """What the script makes of its arguments; SystemExit if it does not understand them."""
    module = words[2] if words[1] == "-m" else f"{folder.name}.{words[1].removesuffix('.py')}"
    arguments = words[3:] if words[1] == "-m" else words[2:]
    parsed: list[argparse.Namespace] = []
    original = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> argparse.Namespace:
        parsed.append(original(self, *args, **kwargs))
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Understood):
        importlib.import_module(module).main(arguments)
    return parsed[0], module


@pytest.fixture(scope="module")
def tiny_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which quick.yaml builds on the real one and makes everything small."""
    house = tmp_path_factory.mktemp("house")
    for name in ("shared", "scenes", "showcase", *PAPERS):
        copy_folder(ROOT / name, house / name)
    for name in ("results", "docs", "Makefile", "README.md"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, house / name)
    for paper in PAPERS:
        shrink_quick_configs(house / paper)
    (house / ".venv" / "bin").mkdir(parents=True)
    real = Path(sys.prefix) / "bin" / "activate"
    line = f"source {real}" if real.exists() else f"PATH={Path(sys.executable).parent}:$PATH"
    (house / ".venv" / "bin" / "activate").write_text(line + "\n")
    return house


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_commands_and_python_that_need_nothing_run(readme: Path, tiny_house: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tiny_house), "OMP_NUM_THREADS": "1"}
    for block in blocks(readme, "sh", with_data=False):
        script = f"set -e\n{NEW_SHELL}\n{block}"
        result = subprocess.run(
            ["bash", "-c", script], cwd=tiny_house, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, f"{block}\n{result.stderr[-2000:]}"
    code = "\n".join(blocks(readme, "python", with_data=False))
    paper = readme.parent.name
    if paper in PAPERS and not (tiny_house / "runs" / f"{paper}-quick").exists():  # loaded below
        train = ["make", f"train-{paper}", f"PYTHON={sys.executable}"]
        subprocess.run(train, cwd=tiny_house, env=environment, capture_output=True, check=True)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny_house, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{readme}\n{code}\n{result.stderr[-2000:]}"
