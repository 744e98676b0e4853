"""Parts of reports: a table of results, and the frames of a video in plain colours."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from shared.show.tables import Column, ResultsTable

__all__ = ["COLUMNS", "ROWS", "SOLID", "TABLE", "solid_frames"]

HIGHER = {"better": "higher", "definition": "mean over views"}
COLUMNS = [
    Column("method", "Method"),
    Column("paper", "PSNR [dB]", "paper", "Cube, 512 px", **HIGHER),
    Column("ours", "PSNR [dB]", "this run", "embedded cube", **HIGHER),
    Column("error", "RMSE [m]", "this run", "embedded cube", "valid pixels", "lower", digits=3),
]
ROWS = [
    {"method": "Nearest | neighbour", "paper": 18.32, "ours": 17.0, "error": 0.5},
    {"method": "DeepVoxels", "paper": 28.42, "ours": np.float32(24.311), "error": 0.25},
    {"method": "<script>alert(1)</script>", "error": float("nan")},
]
TABLE = ResultsTable("Table 1", COLUMNS, ROWS, note="Other data: compare the order.")

SOLID = [(0.8, 0.2, 0.4), (0.1, 0.7, 0.3), (0.2, 0.3, 0.9)]


def solid_frames(height: int, width: int) -> Iterator[Tensor]:
    """Four frames [3, H, W] of each colour, in [0, 1]."""
    for colour in SOLID:
        for _ in range(4):
            yield torch.tensor(colour)[:, None, None].expand(3, height, width)
