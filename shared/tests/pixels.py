"""Random pixels to fill image files with."""

import numpy as np

__all__ = ["random_bytes"]


def random_bytes(*shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8 of this shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
