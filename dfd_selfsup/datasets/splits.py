"""The stacks of a run, split into training, validation and test; loaded when first asked for."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets.defocusnet import defocusnet_splits
from dfd_selfsup.datasets.embedded import SPLITS, make_embedded_stacks
from dfd_selfsup.datasets.folder import load_stack
from dfd_selfsup.datasets.nyuv2 import nyuv2_splits
from dfd_selfsup.datasets.stack import FocalStack, resize_stack
from shared.errors import DataError

__all__ = ["StackSet", "folder_splits", "load_splits"]

Loader = Callable[[], FocalStack]


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
    damaged.
    """
    root = Path(config.root)
    if config.kind == "embedded":
        loaders = folder_splits(make_embedded_stacks(root / "embedded", config.embedded))
    elif config.kind == "folders":
        loaders = folder_splits(root)
    elif config.kind == "nyuv2":
        loaders = nyuv2_splits(root, config.validation, config.depth_encoding)
    else:
        loaders = defocusnet_splits(root)
    if config.resize_to is not None:
        height, width = config.resize_to
        loaders["train"] = [_resized(load, height, width, config.rescale_pitch) for load in loaders["train"]]
    return {split: StackSet(loaders[split], config.cache_stacks) for split in SPLITS}


def folder_splits(root: Path) -> dict[str, list[Loader]]:
    """<root>/{train,validation,test}/<stack>/; without validation the test stacks stand in for it."""
    loaders = {split: [_from_folder(path) for path in _stack_folders(root / split)] for split in SPLITS}
    for split in ("train", "test"):
        if not loaders[split]:
            reason = "holds no folder of a focal stack"
            raise DataError(
                root / split, reason, "Put one folder per stack there; prepare.py check tells more"
            )
    loaders["validation"] = loaders["validation"] or loaders["test"]
    return loaders


def _stack_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _from_folder(path: Path) -> Loader:
    return lambda: load_stack(path)


def _resized(load: Loader, height: int, width: int, rescale_pitch: bool) -> Loader:
    def load_resized() -> FocalStack:
        stack = load()
        try:
            return resize_stack(stack, height, width, rescale_pitch)
        except ValueError as error:
            remedy = "Choose data.resize_to of the same shape, or data.rescale_pitch=false"
            raise DataError(stack.name, str(error), remedy) from None

    return load_resized
