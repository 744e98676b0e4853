"""The arrows of the house: papers stand on `shared`, never on each other; nothing unsafe at import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shared

ROOT = Path(shared.__file__).parent.parent
PAPERS = ("deepvoxels", "diffdiffdepth", "dfd_selfsup", "nvs_depth")
PACKAGES = ("shared", *PAPERS)
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Top-level names of all packages that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_paper_imports_another_and_shared_imports_none(package: str) -> None:
    allowed = {"shared", package}
    for path in sorted((ROOT / package).rglob("*.py")):
        crossing = (set(imports(path)) & set(PACKAGES)) - allowed
        assert not crossing, f"{path} imports {crossing}"


def test_nothing_edits_the_path_or_runs_foreign_code() -> None:
    forbidden_calls = {"eval", "exec", "compile"}
    for path in SOURCES:
        if "tests" in path.parts:
            continue
        tree = ast.parse(path.read_text(), str(path))
        assert "sys.path" not in path.read_text(), path
        assert not {"pickle", "cPickle", "marshal", "shelve"} & set(_pickle_uses(tree)), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in forbidden_calls, f"{path}:{node.lineno}: {name}"
                if name == "torch.load":
                    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
                if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
                    pytest.fail(f"{path}:{node.lineno}: {name}; use yaml.safe_load")


def _pickle_uses(tree: ast.AST) -> Iterator[str]:
    """Modules of which a function is called (naming an error of pickle in an except clause is no use)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func.value).split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_import_needs_no_gpu_and_prints_nothing(package: str) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / package).rglob("*.py"))
        if "tests" not in path.parts and path.name != "__init__.py"
    ]
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    code += "\nimport torch\nassert not torch.cuda.is_initialized()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
