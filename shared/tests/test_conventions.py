"""The rules of the house: imports run one way, the conventions page holds, no default is left unsaid."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import shared
from shared.geometry import camera, trajectories, warp

# ---- imports -----------------------------------------------------------------------------------------------

ROOT = Path(shared.__file__).parent.parent
KNOWN = ("deepvoxels", "diffdiffdepth", "dfd_selfsup", "nvs_depth")
PAPERS = [name for name in KNOWN if (ROOT / name).is_dir()]
PACKAGES = ["shared", *PAPERS]
# What each part of `shared` may import of the others.
ALLOWED = {
    "errors": set(),
    "geometry": set(),
    "quality": {"errors", "geometry"},
    "files": {"errors", "geometry"},
    "results": {"geometry", "files"},
    "runs": {"errors", "files", "interrupt"},
    "show": {"errors", "geometry", "files", "interrupt", "results", "runs"},
    "interrupt": set(),
}
SCRIPTS = {"train", "eval", "predict", "prepare", "table", "report", "viewer"}


def sources(package: str, tests: bool = False) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    return [path for path in found if tests or "tests" not in path.parts]


def all_sources() -> list[Path]:
    return [path for package in PACKAGES for path in sources(package, tests=True)]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, at_import: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Modules that a file imports, with the names taken from them; on request only what its import runs."""
    tree = ast.parse(path.read_text(), str(path))
    later: set[ast.AST] = set()
    for node in ast.walk(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if isinstance(node, ast.FunctionDef) or for_types:
            later |= set(ast.walk(node))
    for node in ast.walk(tree):
        if at_import and node in later:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module, [alias.name for alias in node.names]


def test_the_parts_of_shared_import_one_way() -> None:
    for path in sources("shared"):
        part = module_of(path).split(".")[1:2]
        for module, _ in imports(path):
            if part and module.startswith("shared."):
                other = module.split(".")[1]
                assert other == part[0] or other in ALLOWED[part[0]], f"{path} imports {module}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_paper_imports_another_and_shared_imports_none(package: str) -> None:
    for path in sources(package, tests=True):
        crossing = {module.split(".")[0] for module, _ in imports(path)} & set(PACKAGES) - {"shared", package}
        assert not crossing, f"{path} imports {crossing}"


@pytest.mark.parametrize("package", PACKAGES)
def test_scenes_are_imported_by_the_embedded_data_alone_and_only_when_asked_for(package: str) -> None:
    for path in sources(package):
        embedded = path.relative_to(ROOT / package).as_posix() == "datasets/embedded.py"
        found = [m for m, _ in imports(path, at_import=embedded) if m.split(".")[0] == "scenes"]
        assert not found, f"{path} imports {found[0]}"


@pytest.mark.parametrize("paper", PAPERS)
def test_scripts_import_the_method_and_never_the_other_way(paper: str) -> None:
    for path in sources(paper):
        parts = module_of(path).split(".")[1:]
        below = parts and parts[0] not in SCRIPTS
        for module, names in imports(path):
            target = (module.split(".") + names)[1] if module.split(".")[0] == paper and names else ""
            assert not (below and target in SCRIPTS), f"{path} imports {target}"
            is_core = parts and (parts[0] in ("models", "datasets", "losses", "config"))
            assert not (is_core and target == "api"), f"{path} imports {target}"
            loads = parts == ["config"] and target == "datasets" and names != ["DataConfig"]
            assert not loads, f"{path} imports {names} of {module}"


@pytest.mark.parametrize("package", PACKAGES)
def test_scripts_care_for_an_interrupt_before_they_import_anything_slow(package: str) -> None:
    for path in sources(package):
        if path.read_text().endswith("    command_line(main)\n"):
            body = ast.parse(path.read_text()).body[1:]  # after the docstring
            first = next(place for place, node in enumerate(body) if isinstance(node, ast.If))
            assert re.search(r"import shared\.interrupt|begin\(", ast.unparse(body[first])), path
            light = {package, f"{package}.arguments", "shared.runs.command"}
            assert all(isinstance(node, ast.ImportFrom) and node.module in light for node in body[:first]), (
                path
            )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_is_imported_from_the_module_that_defines_it(package: str) -> None:
    for path in sources(package):
        for module, names in imports(path):
            file = ROOT / f"{module.replace('.', '/')}.py"
            if module.split(".")[0] in PACKAGES and file.is_file():
                tree = list(ast.walk(ast.parse(file.read_text())))
                defined = {n.name for n in tree if isinstance(n, ast.FunctionDef | ast.ClassDef)}
                defined |= {n.id for n in tree if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
                assert set(names) <= defined, f"{path} imports from {module} what it does not define"


@pytest.mark.parametrize("paper", PAPERS)
def test_importing_a_paper_is_cheap(paper: str) -> None:
    run(f"import sys, {paper}; assert 'torch' not in sys.modules and {paper}.__all__")


@pytest.mark.parametrize("paper", PAPERS)
def test_the_object_of_a_paper_waits_for_no_package_before_it_is_needed(paper: str) -> None:
    """Each of these takes as long as most of the rest together."""
    slow = {"PIL", "OpenEXR", "cv2", "filelock", "imageio", "jinja2", "lpips", "scipy", "torchvision"}
    run(
        f"import sys, torch, {paper}; before = set(sys.modules)\n"
        f"assert all(getattr({paper}, name) for name in {paper}.__all__)\n"
        f"assert not (found := {slow} & (set(sys.modules) - before)), found"
    )


@pytest.mark.parametrize("paper", PAPERS)
def test_help_and_mistakes_are_answered_without_any_package(paper: str) -> None:
    """As `deepvoxels VERB` and as `python -m deepvoxels.VERB`; so is a Python that lacks PyTorch."""
    code = f"""
import runpy, sys
from shared.runs import verbs
for package in ("torch", "numpy", "pydantic", "yaml", "tqdm", "PIL", "cv2"):
    sys.modules[package] = None
sys.stdout = open("/dev/null", "w")
for verb in set(verbs.VERBS) - {{'keys'}}:
    for arguments, code in ((["--help"], 0), (["--nonsense"], 2)):
        sys.argv = ["/usr/bin/{paper}", verb, *arguments]
        try:
            verbs.main()
        except SystemExit as end:
            assert end.code == code, (verb, end.code)
sys.argv = ["{paper}.eval", "--run", "runs/none"]
sys.modules.pop("torch")
sys.path[:] = [place for place in sys.path if "site-packages" not in place]
try:
    runpy.run_module("{paper}.eval", run_name="__main__")
except SystemExit as end:
    assert end.code == 2
"""
    run(code)


def test_import_needs_no_gpu_and_prints_nothing() -> None:
    modules = [module_of(path) for package in PACKAGES for path in sources(package)]
    code = "import sys\nsys.modules['fcntl'] = None  # as on Windows\n"
    code += f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    run(code + "\nimport torch\nassert not torch.cuda.is_initialized()")


def run(code: str) -> None:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


# ---- conventions -------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "conventions.md"


def names_of_tests() -> set[str]:
    tests = [path.read_text() for path in all_sources() if path.name.startswith("test_")]
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
    found = {str(path.relative_to(ROOT)): unsaid_defaults(path.read_text()) for path in all_sources()}
    assert {path: calls for path, calls in found.items() if calls} == {}


MODULES = ["geometry", "geometry.camera", "geometry.warp", "geometry.trajectories", "quality.ssim",
           "quality.metrics", "quality.losses", "results"]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"shared.{name}")
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, tried = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=options)
    assert tried > 0
    assert failed == 0
