"""OpenEXR depth: round trip through ZIP blocks, and damaged or unsupported files."""

import pytest
import torch

from nvs_depth.datasets.exr import read_exr, write_exr
from shared.errors import DataError


def test_exr_round_trip(tmp_path):
    values = torch.randn(37, 23, generator=torch.Generator().manual_seed(0))
    values[3, 4], values[5, 6] = torch.inf, 1e10
    write_exr(tmp_path / "d.exr", values)
    torch.testing.assert_close(read_exr(tmp_path / "d.exr"), values)
    constant = torch.full((40, 40), 2.0)
    write_exr(tmp_path / "c.exr", constant)
    assert (tmp_path / "c.exr").stat().st_size < 1500  # really compressed
    torch.testing.assert_close(read_exr(tmp_path / "c.exr"), constant)


def test_exr_errors(tmp_path):
    path = tmp_path / "d.exr"
    write_exr(path, torch.rand(20, 20))
    data = path.read_bytes()
    path.write_bytes(data[:200])
    with pytest.raises(DataError, match="damaged EXR"):
        read_exr(path)
    path.write_bytes(
        data.replace(b"compression\0compression\0\x01\0\0\0\x03", b"compression\0compression\0\x01\0\0\0\x04")
    )
    with pytest.raises(DataError, match="PIZ is not supported"):
        read_exr(path)
    path.write_bytes(b"nonsense" * 20)
    with pytest.raises(DataError, match="not an OpenEXR"):
        read_exr(path)
    write_exr(path, torch.rand(4, 4))
    with pytest.raises(DataError, match="no channel 'Z', only R"):
        read_exr(path, "Z")
