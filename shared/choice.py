"""Picking a few of many."""

import torch

__all__ = ["evenly"]


def evenly(count: int, at_most: int) -> list[int]:
    """Indices of up to `at_most` of `count` things, spread over all of them, the ends among them."""
    return torch.linspace(0, count - 1, min(count, at_most)).round().long().tolist()
