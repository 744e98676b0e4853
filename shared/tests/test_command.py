"""The command line: arguments, devices, and known errors as three lines and an exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from shared.errors import KEYS, ConfigError, DataError, NonFiniteError, RunError, RunStopped
from shared.runs.command import command_line, parse_eval_args, parse_train_args, select_device


def test_train_arguments(tmp_path, capsys):
    args = parse_train_args("doc", ["--config", "a.yaml", "--set", "a=1", "b=2", "--set", "c.d=3"])
    assert (args.config, args.out, args.resume) == (Path("a.yaml"), None, False)
    assert args.set == ["a=1", "b=2", "c.d=3"]
    assert parse_train_args("doc", ["--resume", "--out", "r"]).config == Path("r/config.yaml")
    assert parse_train_args("doc", ["--config", "a.yaml"]).set == []  # no leftovers from the call before
    (tmp_path / "quick.yaml").write_text("steps: 1")
    assert parse_train_args("doc", ["--config", "quick"], tmp_path).config == tmp_path / "quick.yaml"
    with pytest.raises(SystemExit):
        parse_train_args("doc", ["--config", "quack"], tmp_path)
    assert "one of quick" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_train_args("doc", [])
    assert "--config FILE is needed" in capsys.readouterr().err
    args = parse_eval_args("doc", ["--run", "runs/a"])
    assert (args.run, args.checkpoint, args.device) == (Path("runs/a"), "best", "auto")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("a.png", "is\nbroken", "Fix it"), 2, "error: a.png\n  why: is broken\n  do:  Fix it\n"),
        (DataError("/a" * 80, "b", "c"), 2, f"error: {'/a' * 80}\n  why: b\n  do:  c\n"),
        (RunError("out: no"), 2, "error: out\n  why: no\n"),
        (RunError("no; but; this"), 2, "error: no; but\n  do:  this\n"),
        (NonFiniteError("step 3: a; b; c"), 2, "error: step 3\n  why: a; b\n  do:  c\n"),
        (ConfigError("a: b, line 2", "x; y"), 2, "error: a: b, line 2\n  why: x\n  do:  y\n"),
        (ConfigError("a", "x"), 2, f"error: a\n  why: x\n  do:  {KEYS}\n"),
        (RunStopped("stopped after step 3", signal.SIGTERM), 143, "stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            NotImplementedError("No x for MPS. Set"),
            2,
            "error: --device mps\n  why: No x for MPS\n  do:  use --device cpu\n",
        ),
    ],
)
def test_known_errors_become_three_lines_and_an_exit_code(capsys, error, code, text):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        command_line(main)
    assert caught.value.code == code
    assert capsys.readouterr().err == text


def test_an_interrupt_while_a_script_imports_ends_in_one_line():
    script = subprocess.Popen(
        [sys.executable, "-m", "deepvoxels.train", "--config", "quick"], stderr=subprocess.PIPE, text=True
    )
    maps = Path(f"/proc/{script.pid}/maps")
    while "torch" not in maps.read_text():
        time.sleep(0.01)
    script.send_signal(signal.SIGINT)
    assert script.communicate(timeout=60)[1] == "starting ...\ninterrupted\n"
    assert script.returncode == 128 + signal.SIGINT


def test_unknown_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        command_line(lambda: 1 / 0)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == select_device("cpu") == torch.device("cpu")
    with pytest.raises(RunError, match="no CUDA device"):
        select_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("auto", 1) == torch.device("cuda:1")
    assert select_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RunError, match="no Apple GPU"):
        select_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert select_device("mps") == torch.device("mps")
    with pytest.raises(RunError, match="process 2 has no CUDA device of its own"):
        select_device("cuda", 2)


@pytest.mark.parametrize(("given", "taken"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_asked_otherwise(given, taken):
    """The OpenMP library shows what it has read from its environment when it is loaded."""
    code = "from shared.runs import command; command.begin(lambda doc, argv: None, None); import torch"
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "TRUE"} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"OMP_WAIT_POLICY = '{taken}'" in shown.stderr, shown.stderr
