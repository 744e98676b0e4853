"""The conventions page holds: its tests exist, geometry is covered by name, and no default is left unsaid."""

import ast
import re
from pathlib import Path

import pytest

from shared.geometry import camera, trajectories, warp

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["shared", "deepvoxels", "nvs_depth", "diffdiffdepth", "dfd_selfsup"]
PAGE = ROOT / "docs" / "conventions.md"


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def names_of_tests() -> set[str]:
    tests = [path.read_text() for path in sources() if path.name.startswith("test_")]
    return set(re.findall(r"^def (test_\w+)", "\n".join(tests), flags=re.MULTILINE))


@pytest.mark.skipif(not PAGE.is_file(), reason="docs/ was not copied along with the packages")
def test_every_test_named_on_the_conventions_page_exists():
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert len(named) > 20
    assert named <= names_of_tests()


@pytest.mark.parametrize("module", [camera, trajectories, warp])
def test_every_public_function_of_geometry_has_its_convention_pinned(module):
    pinned = names_of_tests()
    without = [n for n in module.__all__ if not any(t.startswith(f"test_convention_{n}") for t in pinned)]
    assert without == []


def unsaid_defaults(source: str) -> list[str]:
    """Calls of sampling functions without `align_corners`, and of meshgrid without `indexing`."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        mode = getattr(keywords.get("mode"), "value", "")
        linear = name in ("interpolate", "Upsample") and mode in (
            "linear",
            "bilinear",
            "bicubic",
            "trilinear",
        )
        if (name in ("grid_sample", "affine_grid") or linear) and "align_corners" not in keywords:
            found.append(f"line {call.lineno}: {name} without align_corners")
        if name == "meshgrid" and "indexing" not in keywords:
            found.append(f"line {call.lineno}: meshgrid without indexing")
    return found


def test_align_corners_and_indexing_are_always_written_out():
    for line in ("F.grid_sample(image, grid)", "torch.meshgrid(x, y)", "nn.Upsample(2, mode='bilinear')"):
        assert len(unsaid_defaults(line)) == 1
    found = {str(path.relative_to(ROOT)): unsaid_defaults(path.read_text()) for path in sources()}
    assert {path: calls for path, calls in found.items() if calls} == {}
