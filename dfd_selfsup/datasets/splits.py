"""The stacks of a run, split into training, validation and test; loaded when first asked for.

A new data set is a function of (root, config) that returns loaders per split, as in `datasets/nyuv2.py`, and
one line in `KINDS`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.defocusnet import defocusnet_splits
from dfd_selfsup.datasets.embedded import embedded_splits
from dfd_selfsup.datasets.folder import Order, folder_splits, open_stack
from dfd_selfsup.datasets.mobile_depth import is_mobile_depth, mobile_depth_splits, open_mobile_depth
from dfd_selfsup.datasets.nyuv2 import nyuv2_splits
from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader, resize_stack
from shared.errors import ConfigError, DataError

__all__ = ["KINDS", "StackSet", "load_splits", "open_folder"]

KINDS: dict[str, Callable[[Path, DataConfig], dict[str, list[Loader]]]] = {
    "embedded": embedded_splits,
    "folders": folder_splits,
    "nyuv2": nyuv2_splits,
    "defocusnet": defocusnet_splits,
    "mobile_depth": mobile_depth_splits,
}


class StackSet(Sequence[FocalStack]):
    """A sequence of stacks that are read on first use; up to `cache` of them stay in memory, None: all."""

    def __init__(self, loaders: Sequence[Loader], cache: int | None = 1000):
        self._count, self._made_of = len(loaders), (loaders, cache)
        self._load = functools.lru_cache(cache)(lambda index: loaders[index]())

    def __reduce__(self) -> tuple[Any, ...]:  # for processes that are not forked
        return StackSet, self._made_of

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> FocalStack:
        return self._load(index)

    def __iter__(self) -> Iterator[FocalStack]:  # not by IndexError, which a loader's mistake may raise
        return map(self._load, range(self._count))


def load_splits(config: DataConfig) -> dict[str, StackSet]:
    """The stacks of each of `SPLITS`; embedded ones are rendered first if they are not there.

    Only the training stacks are resized (`resize_to`). Raises DataError where the data are missing or
    damaged, ConfigError for an unknown kind.
    """
    if config.kind not in KINDS:
        raise ConfigError("data.kind", f"must be one of {', '.join(KINDS)}, got {config.kind!r}")
    loaders = KINDS[config.kind](Path(config.root), config)
    if config.resize_to is not None:
        loaders["train"] = [functools.partial(_resized, load, config) for load in loaders["train"]]
    return {split: StackSet(loaders[split]) for split in SPLITS}


def open_folder(folder: str | Path, order: Order | None = None) -> FocalStack:
    """One stack in a folder, its photos not yet read: with stack.yaml, or a scene of Mobile Depth.

    order: which end of the names is near, where neither focus distances nor a calibration say it.
    """
    folder = Path(folder).expanduser()
    return open_mobile_depth(folder, order) if is_mobile_depth(folder) else open_stack(folder, order)


def _resized(load: Loader, config: DataConfig) -> FocalStack:
    stack = load()
    try:
        return resize_stack(stack, *config.resize_to, config.rescale_pitch)
    except ValueError as error:
        remedy = "Choose data.resize_to of the same shape, or data.rescale_pitch=false"
        raise DataError(stack.name, str(error), remedy) from None
