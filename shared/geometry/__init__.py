"""Cameras, warps and camera paths, on tensors whose shapes are checked by `check_shape`."""

from collections.abc import Mapping
from typing import Any

__all__ = ["check_shape"]


def check_shape(
    tensor: Any, layout: str, name: str, sizes: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The sizes of `tensor` by the letters of `layout`; ValueError, naming `name`, where its shape differs.

    layout: numbers and letters such as "B 3 H W", after "..." for any leading dimensions. The same
    letter means the same size, in `sizes` as well, so that two tensors can be compared.

        >>> sizes = check_shape(torch.rand(2, 3, 4, 5), "B 3 H W", "image")
        >>> check_shape(torch.rand(2, 1, 4, 6), "B 1 H W", "depth", sizes)
        Traceback (most recent call last):
        ValueError: depth must be [2, 1, 4, 5], got [2, 1, 4, 6]
    """
    given, found = dict(sizes or {}), dict(sizes or {})
    tokens, shape = layout.split(), list(tensor.shape)
    core = tokens[tokens[0] == "..." :]
    fits = len(shape) == len(core) or (len(core) < len(tokens) and len(shape) > len(core))
    for token, size in zip(core, shape[len(shape) - len(core) :], strict=False):
        fits = fits and size == (int(token) if token.isdecimal() else found.setdefault(token, size))
    if not fits:
        wanted = ", ".join(str(given.get(token, token)) for token in tokens)
        raise ValueError(f"{name} must be [{wanted}], got {shape}")
    return found
