"""The stacks of a run, split into training, validation and test; loaded when first asked for.

A new data set is a function of (root, config) that returns loaders per split, as in `datasets/nyuv2.py`, and
one line in `KINDS`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.defocusnet import defocusnet_splits
from dfd_selfsup.datasets.embedded import embedded_splits
from dfd_selfsup.datasets.folder import folder_splits, load_stack
from dfd_selfsup.datasets.mobile_depth import is_mobile_depth, load_mobile_depth, mobile_depth_splits
from dfd_selfsup.datasets.nyuv2 import nyuv2_splits
from dfd_selfsup.datasets.stack import SPLITS, FocalStack, Loader, resize_stack
from shared.errors import ConfigError, DataError

__all__ = ["KINDS", "StackSet", "load_splits", "read_folder"]

KINDS: dict[str, Callable[[Path, DataConfig], dict[str, list[Loader]]]] = {
    "embedded": embedded_splits,
    "folders": folder_splits,
    "nyuv2": nyuv2_splits,
    "defocusnet": defocusnet_splits,
    "mobile_depth": mobile_depth_splits,
}


class StackSet(Sequence[FocalStack]):
    """A sequence of stacks that are read on first use; up to `cache` of them stay in memory."""

    def __init__(self, loaders: Sequence[Loader], cache: int = 1000):
        self._loaders = list(loaders)
        self._cache: dict[int, FocalStack] = {}
        self._room = cache

    def __len__(self) -> int:
        return len(self._loaders)

    def __getitem__(self, index: int) -> FocalStack:
        if index in self._cache:
            return self._cache[index]
        stack = self._loaders[index]()
        if len(self._cache) < self._room:
            self._cache[index] = stack
        return stack

    def __iter__(self) -> Iterator[FocalStack]:
        return (self[index] for index in range(len(self)))


def load_splits(config: DataConfig) -> dict[str, StackSet]:
    """The stacks of each of `SPLITS`; embedded ones are rendered first if they are not there.

    Only the training stacks are resized (`resize_to`). Raises DataError where the data are missing or
    damaged, ConfigError for an unknown kind.
    """
    if config.kind not in KINDS:
        raise ConfigError("data.kind", f"must be one of {', '.join(KINDS)}, got {config.kind!r}")
    loaders = KINDS[config.kind](Path(config.root), config)
    if config.resize_to is not None:
        height, width = config.resize_to
        loaders["train"] = [_resized(load, height, width, config.rescale_pitch) for load in loaders["train"]]
    return {split: StackSet(loaders[split], config.cache_stacks) for split in SPLITS}


def read_folder(folder: str | Path) -> FocalStack:
    """One stack in a folder: photos with stack.yaml, or a scene of Mobile Depth with its calibration."""
    return load_mobile_depth(folder) if is_mobile_depth(folder) else load_stack(folder)


def _resized(load: Loader, height: int, width: int, rescale_pitch: bool) -> Loader:
    def load_resized() -> FocalStack:
        stack = load()
        try:
            return resize_stack(stack, height, width, rescale_pitch)
        except ValueError as error:
            remedy = "Choose data.resize_to of the same shape, or data.rescale_pitch=false"
            raise DataError(stack.name, str(error), remedy) from None

    return load_resized
