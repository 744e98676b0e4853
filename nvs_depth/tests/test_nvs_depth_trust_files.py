"""LiDAR files under 500 truncations, bit flips and extreme bytes each (60 in `make test`)."""

from pathlib import Path

import numpy as np
import pytest

from nvs_depth.datasets.kitti_convert import read_velodyne
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused


@pytest.mark.parametrize("examples", EXAMPLES)
def test_velodyne(tmp_path: Path, examples: int) -> None:
    points = np.random.default_rng(0).uniform(-20, 20, (9, 4)).astype("<f4")
    (tmp_path / "0.bin").write_bytes(points.tobytes())
    assert_damage_is_refused(tmp_path / "0.bin", read_velodyne, examples)
