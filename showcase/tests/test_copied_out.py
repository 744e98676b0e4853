"""A paper's folder with `shared` and `scenes`, and nothing else of the repository, trains and evaluates."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from showcase.results import PAPERS, ROOT
from showcase.tests.tiny import shrink_quick_configs


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_needs_shared_and_scenes_alone(paper: str, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "tests", "runs", "data")
    for name in ("shared", "scenes", paper):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shrink_quick_configs(tmp_path / paper)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    code = f"import {paper}, shared; print({paper}.__path__[0], shared.__path__[0])"
    for command in (
        ["-c", code],
        ["train.py", "--config", "configs/quick.yaml", "--out", "runs/mine", "--device", "cpu"],
        ["eval.py", "--run", "runs/mine", "--device", "cpu"],
    ):
        result = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path / paper,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        if command[0] == "-c":  # the copies, not the tree of this test
            assert all(Path(place).parent == tmp_path for place in result.stdout.split())
    assert (tmp_path / paper / "runs" / "mine" / "report.html").exists()
