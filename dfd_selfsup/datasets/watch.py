"""What is wrong with the photos of a stack as a whole: looked at while they pass by, one after the other."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from dfd_selfsup.datasets.stack import FocalStack, PhotoFiles
from shared.errors import DataError

__all__ = ["Watched", "needs", "watch", "watched"]

GRID = 24, 18  # cells in which sharpness is compared, across and down
SAME_LEVEL = 1 / 512  # of grey: two photos that differ less are one
EXPOSURE = 1.1  # ratio of brightness that is worth a note
SHORTER = 0.75  # another place for a photo must make the way through the stack so much shorter
MEGAPIXEL_GB = {"check": 0.06, "align": 0.075, "predict": 0.12}  # measured with photos of 12 megapixels
MEGAPIXEL_S = {"check": 0.06, "align": 0.7, "predict": 0.45}
LEAST_SHARPNESS = 2e-3  # grey levels: less is noise


class _Glance(NamedTuple):
    """A photo at a glance: its mean, whether it is flat, and brightness and log sharpness of the cells."""

    flat: bool
    grey: np.ndarray
    sharpness: np.ndarray


class Watched(Sequence[Tensor]):
    """Slices [3, H, W] that are looked at when they are asked for; `notes` says what was seen so far."""

    def __init__(self, images: Sequence[Tensor], names: Sequence[str], by_name: bool):
        """by_name: the order of the slices is that of their names, which may be wrong."""
        self._images, self._names, self._by_name = images, names, by_name
        self._seen: dict[int, _Glance] = {}
        self.shape = images.shape

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index):
        if isinstance(index, list):
            return torch.stack([self[each] for each in index])
        image = self._images[index]
        self._seen.setdefault(index, _glance(image))
        return image

    def notes(self, folder: str = "") -> list[str]:
        """What is odd about the slices seen, in words; DataError if none of them shows anything."""
        names, seen = (
            [self._names[i] for i in sorted(self._seen)],
            [self._seen[i] for i in sorted(self._seen)],
        )
        flat = [name for name, glance in zip(names, seen, strict=True) if glance.flat]
        if len(flat) == len(names):
            raise DataError(folder, "every slice is of one colour throughout", "Give photos with content")
        notes = [f"{', '.join(flat)}: of one colour throughout, tells nothing about depth"] if flat else []
        notes += _identical(names, seen) + _exposures(names, seen)
        return notes + (_out_of_order(names, seen) if self._by_name else [])


def watch(stack: FocalStack) -> Watched:
    """The photos of an opened stack, to be looked at as they are asked for."""
    photos = cast("PhotoFiles", stack.images)
    return Watched(photos, [path.name for path in photos.paths], stack.depth_unit == "slices")


def watched(stack: FocalStack) -> FocalStack:
    """An opened stack read into memory, with notes on what is odd about its photos."""
    images = watch(stack)
    read = replace(stack, images=images[list(range(len(images)))])
    return replace(read, notes=(*stack.notes, *images.notes(stack.name)))


def needs(stack: FocalStack, command: Literal["check", "align", "predict"] = "check") -> str:
    """A line on the memory and time that a command will take on an opened stack, roughly."""
    pixels = stack.size[0] * stack.size[1] / 1e6
    memory_gb = 0.4 + MEGAPIXEL_GB[command] * pixels
    seconds = MEGAPIXEL_S[command] * pixels * len(stack.images)
    size = f"{len(stack.images)} photos of {stack.size[1]} x {stack.size[0]}"
    return f"{size}: about {memory_gb:.1f} GB of memory and {max(seconds, 1):.0f} s of one core\n"


def _glance(image: Tensor) -> _Glance:
    import cv2

    grey = image.mean(0).numpy()
    cells = [
        cv2.resize(each, GRID, interpolation=cv2.INTER_AREA) for each in (grey, abs(cv2.Laplacian(grey, -1)))
    ]
    return _Glance(bool(image.max() == image.min()), cells[0], np.log(cells[1] + LEAST_SHARPNESS))


def _identical(names: Sequence[str], seen: Sequence[_Glance]) -> list[str]:
    pairs = []
    for index, glance in enumerate(seen):
        for name, other in zip(names[:index], seen[:index], strict=True):
            apart = abs(glance.grey - other.grey).max(), abs(glance.sharpness - other.sharpness).max()
            if apart[0] < SAME_LEVEL and apart[1] < 0.02 and not glance.flat:
                pairs.append(f"{name} and {names[index]}")
                break
    return [f"{', '.join(pairs)} show the same: leave one out"] if pairs else []


def _exposures(names: Sequence[str], seen: Sequence[_Glance]) -> list[str]:
    levels = np.stack([glance.grey for glance in seen]) + 1e-3
    ratios = np.median(levels / np.median(levels, 0), (1, 2))
    odd = [
        f"{n} ({r:.2f} times)" for n, r in zip(names, ratios, strict=True) if not 1 / EXPOSURE < r < EXPOSURE
    ]
    return [f"the exposure changes: {', '.join(odd)}; fix it, with the white balance"] if odd else []


def _out_of_order(names: Sequence[str], seen: Sequence[_Glance]) -> list[str]:
    """Photos whose sharpness fits better elsewhere: neighbours in focus have most of it in common."""
    if len(seen) < 4:
        return []
    cells = np.stack([glance.sharpness for glance in seen])
    apart = abs(cells[:, None] - cells).mean((2, 3))

    def way(order: list[int]) -> float:
        return sum(apart[a, b] for a, b in itertools.pairwise(order))

    order = list(range(len(seen)))
    while True:
        moves = [
            [*rest[:to], index, *rest[to:]]
            for index in order
            for rest in [[other for other in order if other != index]]
            for to in range(len(order))
        ]
        best = min(moves, key=way)
        if way(best) >= 0.999 * way(order):  # also where all photos show the same
            break
        order = best
    if way(order) >= SHORTER * way(list(range(len(seen)))):
        return []
    if order[0] > order[-1]:
        order.reverse()
    return [
        f"the photos seem to be out of order: by sharpness they would be {', '.join(names[i] for i in order)}"
    ]
