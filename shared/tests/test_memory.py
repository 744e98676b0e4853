"""Keeping large buffers: faster, never an error."""

import platform
import subprocess
import sys

import pytest

from shared.runs import run as memory

COUNT_FAULTS = """
import resource, sys, torch
from shared.memory import keep_large_buffers
if sys.argv[1] == "keep":
    assert keep_large_buffers()
torch.set_num_threads(1)
x = torch.zeros(16_000_000)  # 64 MB
for _ in range(8):
    x + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    x + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or platform.system() != "Linux", reason="needs glibc on Linux"
)
def test_large_results_no_longer_touch_fresh_pages() -> None:
    faults = {
        mode: int(
            subprocess.run(
                [sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, text=True, check=True
            ).stdout
        )
        for mode in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 4


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.platform, "system", lambda: "Darwin")
    assert memory.keep_large_buffers() is False
