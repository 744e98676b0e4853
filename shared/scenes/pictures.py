"""Pictures that show something: ornament, facades, carpets, paintings, book spines, the flanks of a car.

Like `patterns`, every function is seeded and returns float32 [height, width, 3] in [0, 1].
"""

from __future__ import annotations

import numpy as np

from shared.scenes.patterns import blend, fractal_noise

__all__ = ["vase_bands"]


def _meander(width: int, height: int, repeats: int) -> np.ndarray:
    """Greek key coverage [height, width]."""
    key = np.array(
        [
            [1, 1, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 0, 0, 1],
            [0, 1, 1, 1, 1, 1, 0, 1],
            [0, 1, 0, 0, 0, 1, 0, 1],
            [0, 1, 0, 1, 1, 1, 0, 1],
            [0, 1, 0, 0, 0, 0, 0, 1],
            [0, 1, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ],
        np.float32,
    )[:7]
    rows = np.arange(height) * len(key) // height
    columns = np.arange(width) * repeats * key.shape[1] // width % key.shape[1]
    return key[rows[:, None], columns[None, :]]


def vase_bands(width: int, height: int, rng: np.random.Generator, heights: np.ndarray) -> np.ndarray:
    """Black and cream bands on red clay for a vase, top row at the lip: [height, width, 3].

    `heights` in [0, 1] of the profile's points are only used to know how many there are: bands follow arc length.
    """
    del heights
    clay, black, cream = (0.78, 0.40, 0.20), (0.13, 0.10, 0.10), (0.93, 0.84, 0.66)
    picture = np.broadcast_to(np.asarray(clay, np.float32), (height, width, 3)).copy()
    x = (np.arange(width) + 0.5) / width

    def rows(low: float, high: float) -> slice:
        return slice(round(low * height), round(high * height))

    def paint(low: float, high: float, colour: tuple[float, ...], cover: np.ndarray | float = 1.0) -> None:
        part = picture[rows(low, high)]
        part[:] = blend(part, colour, np.broadcast_to(cover, part.shape[:2]))

    paint(0.0, 0.16, black)
    paint(0.175, 0.19, black)
    tall = rows(0.20, 0.25)
    paint(0.20, 0.25, cream)
    paint(0.20, 0.25, black, _meander(width, tall.stop - tall.start, 26))
    paint(0.26, 0.27, black)
    y = (np.arange(rows(0.28, 0.38).stop - rows(0.28, 0.38).start) + 0.5)[:, None]
    y = y / len(y)
    tongue = np.abs((x * 36) % 1 - 0.5)[None] < 0.40 * np.sqrt(np.clip(1 - y**2, 0, 1))
    paint(0.28, 0.38, black, tongue)
    core = np.abs((x * 36) % 1 - 0.5)[None] < 0.22 * np.sqrt(np.clip(0.8 - y**2, 0, 1))
    paint(0.28, 0.38, (0.62, 0.16, 0.13), core)
    _figures(picture[rows(0.40, 0.62)], rng, black, cream)
    paint(0.39, 0.397, black)
    paint(0.625, 0.64, black)
    tall = rows(0.65, 0.70)
    paint(0.65, 0.70, cream)
    paint(0.65, 0.70, black, _meander(width, tall.stop - tall.start, 22))
    paint(0.71, 0.73, black)
    y = (np.arange(rows(0.74, 0.88).stop - rows(0.74, 0.88).start) + 0.5)[:, None]
    rays = np.abs((x * 20) % 1 - 0.5)[None] < 0.48 * (y / len(y))
    paint(0.74, 0.88, black, rays)
    paint(0.88, 1.0, black)
    shade = 0.86 + 0.2 * fractal_noise(1024, rng, 0.9)[:height, :width]
    return np.clip(picture * shade[..., None], 0.0, 1.0)


def _figures(band: np.ndarray, rng: np.random.Generator, black: tuple, cream: tuple) -> None:
    """Rosettes, leaves and waves in turn around the band [h, w, 3], in place."""
    height, width = band.shape[:2]
    count = 8
    y, x = np.mgrid[0:height, 0:width] + 0.5
    cell = (x / width * count) % 1 - 0.5
    u, v = cell * width / count, y - height / 2
    radius, angle = np.hypot(u, v) / height, np.arctan2(v, u)
    odd = (x / width * count).astype(int) % 2
    colours = rng.permutation(np.array([(0.62, 0.16, 0.13), (0.16, 0.30, 0.42), (0.20, 0.36, 0.22), (0.70, 0.52, 0.14)]))
    petals = (radius < 0.40 * (0.62 + 0.38 * np.cos(8 * angle))) & (odd == 0)
    ring = (np.abs(radius - 0.45) < 0.025) & (odd == 0)
    band[:] = blend(band, black, petals | ring)
    band[:] = blend(band, cream, (radius < 0.22 * (0.6 + 0.4 * np.cos(8 * angle))) & (odd == 0))
    band[:] = blend(band, colours[0], (radius < 0.07) & (odd == 0))
    palm = (radius < 0.46 * np.abs(np.cos(3.5 * (angle + np.pi / 2)))) & (odd == 1)
    index = (x / width * count).astype(int) // 2 % len(colours)
    band[:] = blend(band, black, palm)
    inner = (radius < 0.32 * np.abs(np.cos(3.5 * (angle + np.pi / 2)))) & (odd == 1)
    band[:] = np.where(inner[..., None], colours[index].astype(np.float32), band)
    border = np.abs(np.abs(cell) - 0.5) < 0.02
    band[:] = blend(band, black, border)
