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


def test_nothing_edits_the_path() -> None:
    for path in SOURCES:
        assert "tests" in path.parts or "sys.path" not in path.read_text(), path


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
