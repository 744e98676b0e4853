"""Nothing in the tree runs foreign code: no pickle, eval, exec, shell or unsafe YAML; torch.load for tensors.

Proven over the syntax trees of every Python file, tests and benchmarks included, with names resolved through
imports, aliases and `from` imports; and the check itself is shown to see each of them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shared

ROOT = Path(shared.__file__).parent.parent
FOLDERS = ("shared", "deepvoxels", "diffdiffdepth", "dfd_selfsup", "nvs_depth", "benchmarks")
FORBIDDEN = {
    "eval": "evaluates text",
    "exec": "runs text",
    "compile": "compiles text",
    "__import__": "imports by text",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "yaml.load": "yaml.safe_load reads plain values",
    "yaml.load_all": "yaml.safe_load reads plain values",
    "yaml.unsafe_load": "runs code of the file",
    "yaml.full_load": "builds Python objects",
    "torch.jit.load": "runs code of the file",
    "torch.hub.load": "runs code of the network",
    "torch.hub.load_state_dict_from_url": "downloads",
    "torch.package.PackageImporter": "runs code of the file",
    "joblib.load": "runs code of the file",
}
FORBIDDEN_MODULES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve")
# What the tests themselves need to attack with: file and call.
ALLOWED_IN_TESTS = {
    ("test_files.py", "pickle.loads"),  # that our own error survives pickling between processes
    ("test_files.py", "pickle.dumps"),
    ("test_checkpoint.py", "torch.load"),  # that the malicious file would run code if it were unpickled
}
TESTS_MAY_CALL = ("numpy.load", "__import__")


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the full name of what is called, through imports and their aliases."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            first, dot, rest = name.partition(".")
            yield known.get(first, first) + dot + rest, node


def findings(text: str) -> list[str]:
    """What is unsafe in a file, as the names of the calls."""
    found = []
    for name, node in calls(ast.parse(text)):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN_MODULES:
            found.append(name)
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append(name)
        if keywords.get("allow_pickle", "False") != "False" or keywords.get("shell", "False") != "False":
            found.append(name)
        if name == "numpy.load" and "allow_pickle" not in keywords:
            found.append(name)
    return found


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_nothing_runs_foreign_code() -> None:
    paths = sources()
    assert len(paths) > 200
    for path in paths:
        in_tests = "tests" in path.parts
        for name in findings(path.read_text()):
            if in_tests and ((path.name, name) in ALLOWED_IN_TESTS or name in TESTS_MAY_CALL):
                continue
            pytest.fail(f"{path.relative_to(ROOT)}: {name}: {FORBIDDEN.get(name, 'may run code of a file')}")


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "exec('1')",
        "import pickle\npickle.load(f)",
        "from pickle import load\nload(f)",
        "from pickle import loads as read\nread(b)",
        "import _pickle as p\np.loads(b)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "from torch import load\nload(f)",
        "import torch as t\nt.load(f, weights_only=flag)",
        "import yaml\nyaml.load(f, yaml.FullLoader)",
        "from yaml import unsafe_load\nunsafe_load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f)",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import torch.jit\ntorch.jit.load(f)",
    ],
)
def test_the_check_sees_it(text: str) -> None:
    assert findings(text)


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(f, weights_only=True)",
        "import yaml\nyaml.safe_load(f)",
        "network.eval()",
        "import re\nre.compile('a')",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "try:\n    pass\nexcept pickle.UnpicklingError:\n    pass",
    ],
)
def test_the_check_lets_it_pass(text: str) -> None:
    assert not findings(text)
