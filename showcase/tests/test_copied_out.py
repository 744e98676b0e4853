"""A paper's folder with `shared` and `scenes`, and nothing else of the repository, trains and evaluates."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from showcase.results import PAPERS, ROOT
from showcase.tests.tiny import copy_folder, shrink_quick_configs


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_needs_shared_and_scenes_alone(paper: str, tmp_path: Path) -> None:
    for name in ("shared", "scenes", paper):
        copy_folder(ROOT / name, tmp_path / name)
    shrink_quick_configs(tmp_path / paper)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ours = f"[m for name, m in sys.modules.items() if name.split('.')[0] in ('{paper}', 'shared')]"
    code = f"import sys, {paper}; print(*(module.__file__ for module in {ours}))"
    train = ["train.py", "--config", "configs/quick.yaml", "--device", "cpu", "--out"]
    finer = [] if paper == "diffdiffdepth" else [[*train, "runs/finer", "--set", "init_from=runs/mine"]]
    for command in (
        ["-c", code],
        [*train, "runs/mine"],
        ["eval.py", "--run", "runs/mine", "--device", "cpu"],
        *finer,
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
            assert all(Path(place).is_relative_to(tmp_path) for place in result.stdout.split())
    runs = tmp_path / paper / "runs"
    assert (runs / "mine" / "report.html").exists()
    assert not finer or "Began with the weights of" in (runs / "finer" / "report.html").read_text()
