"""Pictures that show something: ornament, facades, carpets, paintings, book spines, the flanks of a car.

Like `patterns`, every function is seeded and returns float32 [height, width, 3] in [0, 1].
"""

import cv2
import numpy as np

from scenes.patterns import Colour, asphalt, blend, fractal_noise, stone, weave

__all__ = [
    "book_spines",
    "carpet",
    "globe",
    "landscape",
    "modern_painting",
    "paving",
    "road",
    "vase_bands",
    "window_view",
]


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
        ],
        np.float32,
    )
    rows = np.arange(height) * len(key) // height
    columns = np.arange(width) * repeats * key.shape[1] // width % key.shape[1]
    return key[rows[:, None], columns[None, :]]


def vase_bands(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Black and cream bands on red clay for a vase, top row at the lip: [height, width, 3]."""
    clay, black, cream = (0.78, 0.40, 0.20), (0.13, 0.10, 0.10), (0.93, 0.84, 0.66)
    picture = np.broadcast_to(np.asarray(clay, np.float32), (height, width, 3)).copy()
    x = (np.arange(width) + 0.5) / width

    def rows(low: float, high: float) -> slice:
        return slice(round(low * height), round(high * height))

    def paint(low: float, high: float, colour: Colour, cover: np.ndarray | float = 1.0) -> None:
        part = picture[rows(low, high)]
        part[:] = blend(part, colour, np.broadcast_to(cover, part.shape[:2]))

    def paint_meander(low: float, high: float, repeats: int) -> None:
        band = rows(low, high)
        paint(low, high, cream)
        paint(low, high, black, _meander(width, band.stop - band.start, repeats))

    paint(0.0, 0.16, black)
    paint(0.175, 0.19, black)
    paint_meander(0.20, 0.25, 26)
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
    paint_meander(0.65, 0.70, 22)
    paint(0.71, 0.73, black)
    y = (np.arange(rows(0.74, 0.88).stop - rows(0.74, 0.88).start) + 0.5)[:, None]
    rays = np.abs((x * 20) % 1 - 0.5)[None] < 0.48 * (y / len(y))
    paint(0.74, 0.88, black, rays)
    paint(0.88, 1.0, black)
    shade = 0.86 + 0.2 * fractal_noise(max(width, height), rng, 0.9)[:height, :width]
    return np.clip(picture * shade[..., None], 0.0, 1.0)


def _figures(band: np.ndarray, rng: np.random.Generator, black: Colour, cream: Colour) -> None:
    """Rosettes, leaves and waves in turn around the band [h, w, 3], in place."""
    height, width = band.shape[:2]
    count = 8
    y, x = np.mgrid[0:height, 0:width] + 0.5
    cell = (x / width * count) % 1 - 0.5
    u, v = cell * width / count, y - height / 2
    radius, angle = np.hypot(u, v) / height, np.arctan2(v, u)
    odd = (x / width * count).astype(int) % 2
    colours = rng.permutation(
        np.array([(0.62, 0.16, 0.13), (0.16, 0.30, 0.42), (0.20, 0.36, 0.22), (0.70, 0.52, 0.14)])
    )
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


def landscape(side: int, rng: np.random.Generator) -> np.ndarray:
    """Sky, sun, three ranges of hills and a meadow: [side, side, 3]."""
    y = np.broadcast_to(np.linspace(0, 1, side, dtype=np.float32)[:, None], (side, side))
    x = np.broadcast_to(np.linspace(0, 1, side, dtype=np.float32)[None], (side, side))
    dusk = float(rng.uniform(0, 1))
    top = np.array((0.30, 0.52, 0.82)) * (1 - 0.4 * dusk)
    low = np.array((0.82, 0.88, 0.94)) * (1 - dusk) + np.array((0.98, 0.72, 0.42)) * dusk
    picture = blend(top, low, np.clip(y * 1.8, 0, 1))
    clouds = np.clip(fractal_noise(side, rng, 1.5, stretch=3.0) * 2.2 - 1.1, 0, 1) * np.clip(
        1.2 - 2.2 * y, 0, 1
    )
    picture = blend(picture, (1.0, 0.97, 0.93), 0.9 * clouds)
    sun_x, sun_y = rng.uniform(0.15, 0.85), rng.uniform(0.12, 0.3)
    picture = blend(picture, (1.0, 0.95, 0.75), np.hypot(x - sun_x, y - sun_y) < 0.055)
    shades = [(0.45, 0.52, 0.66), (0.30, 0.42, 0.44), (0.22, 0.36, 0.20), (0.44, 0.56, 0.20)]
    for index, colour in enumerate(shades):
        ridge = fractal_noise(side, rng, 1.5 + 0.3 * index)[0] * (0.30 - 0.05 * index)
        ground = y > (0.44 + 0.14 * index - ridge + 0.05)[None]
        texture = 0.8 + 0.4 * fractal_noise(side, rng, 0.8)
        picture = np.where(ground[..., None], np.asarray(colour) * texture[..., None], picture)
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


def modern_painting(side: int, rng: np.random.Generator) -> np.ndarray:
    """Overlapping discs, bars and blocks in a few colours on canvas: [side, side, 3]."""
    palette = rng.permutation(
        np.array(
            [
                (0.85, 0.20, 0.16),
                (0.12, 0.26, 0.52),
                (0.95, 0.72, 0.16),
                (0.13, 0.13, 0.14),
                (0.20, 0.50, 0.46),
                (0.92, 0.55, 0.40),
            ]
        )
    )
    big = np.full((2 * side, 2 * side, 3), (0.94, 0.91, 0.84), np.float32)
    for index in range(14):
        colour = tuple(float(c) for c in palette[index % len(palette)])
        a, b = (rng.uniform(0.05, 0.95, (2, 2)) * 2 * side).astype(int)
        if index % 3 == 0:
            cv2.circle(
                big, tuple(map(int, a)), int(rng.uniform(0.05, 0.2) * 2 * side), colour, -1, cv2.LINE_AA
            )
        elif index % 3 == 1:
            cv2.line(
                big, tuple(map(int, a)), tuple(map(int, b)), colour, int(rng.uniform(4, 26)), cv2.LINE_AA
            )
        else:
            corner = a + (rng.uniform(0.08, 0.3, 2) * 2 * side).astype(int)
            cv2.rectangle(big, tuple(map(int, a)), tuple(map(int, corner)), colour, -1)
    picture = cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA)
    return np.clip(picture * weave(side, rng)[..., None], 0.0, 1.0)


def carpet(side: int, rng: np.random.Generator) -> np.ndarray:
    """An oriental rug: borders, a medallion and small ornaments, four-fold symmetric: [side, side, 3]."""
    grounds = np.array([(0.55, 0.12, 0.12), (0.13, 0.20, 0.38), (0.16, 0.32, 0.26), (0.45, 0.22, 0.12)])
    ground, border = grounds[rng.permutation(4)[:2]]
    cream, gold = (0.90, 0.83, 0.68), (0.80, 0.58, 0.24)
    y, x = np.abs(np.mgrid[0:side, 0:side] + 0.5 - side / 2) / (side / 2)
    ring = np.maximum(x, y)
    blobs = fractal_noise(side, rng, 0.6, coarsest=7)
    blobs = (blobs + blobs[::-1] + blobs[:, ::-1] + blobs[::-1, ::-1]) / 4
    picture = blend(ground, np.asarray(border) * 1.3, blobs > 0.60)
    picture = blend(picture, gold, (blobs > 0.48) & (blobs < 0.52))
    radius, angle = np.hypot(x, y * 1.15), np.arctan2(y, x)
    star = radius / (0.5 + 0.10 * np.cos(8 * angle))
    for limit, colour in (
        (1.0, cream),
        (0.94, border),
        (0.66, cream),
        (0.61, ground),
        (0.36, gold),
        (0.30, cream),
    ):
        picture = blend(picture, colour, star < limit)
    picture = blend(picture, border, (star < 0.9) & (star > 0.7) & ((angle * 24 / np.pi) % 1 < 0.4))
    for low, high, colour in (
        (0.97, 1.1, cream),
        (0.82, 0.97, border),
        (0.80, 0.82, cream),
        (0.78, 0.80, gold),
    ):
        picture = blend(picture, colour, (ring >= low) & (ring < high))
    motif = np.abs((np.where(x > y, y, x) * 11) % 1 - 0.5) + np.abs((ring - 0.895) / 0.12)
    picture = blend(picture, gold, (ring > 0.82) & (ring < 0.97) & (motif < 0.42))
    picture = blend(picture, cream, (ring > 0.82) & (ring < 0.97) & (motif < 0.2))
    return np.clip(picture * weave(side, rng, 96)[..., None], 0.0, 1.0).astype(np.float32)


def book_spines(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A row of books seen from the front, standing in the dark of a shelf: [height, width, 3]."""
    picture = np.full((height, width, 3), (0.10, 0.08, 0.07), np.float32)
    left = 2
    while left < width - 8:
        thick, tall = int(rng.integers(7, 20)), int(height * rng.uniform(0.68, 0.95))
        right = min(left + thick, width)
        colour = np.clip(rng.uniform(0.08, 0.85, 3) * rng.uniform(0.6, 1.1), 0.03, 0.95)
        shade = 0.75 + 0.25 * np.sin(np.linspace(0.15, np.pi - 0.15, thick))[: right - left]
        picture[height - tall :, left:right] = colour * shade[None, :, None]
        label = np.clip(colour + rng.choice([-0.4, 0.5]), 0.05, 0.95)
        for share in (0.12, 0.18, 0.82):
            row = height - tall + int(share * tall)
            picture[row : row + max(2, tall // 40), left:right] = label
        top = height - tall + int(tall * 0.3)
        picture[top : top + int(tall * 0.35) : 4, left + thick // 3 : right - thick // 3] = label
        left += thick + int(rng.random() < 0.15) * 6
    return picture


def window_view(side: int, rng: np.random.Generator) -> np.ndarray:
    """A white casement with four panes before a landscape: [side, side, 3]."""
    view = np.clip(landscape(side, rng) * 1.15 + 0.06, 0, 1)
    y, x = np.abs(np.mgrid[0:side, 0:side] + 0.5 - side / 2) / (side / 2)
    frame = (
        (np.maximum(x, y) > 0.92) | (x < 0.05) | (np.abs(np.mgrid[0:side, 0:side][0] / side - 0.36) < 0.02)
    )
    gap = ((np.maximum(x, y) > 0.90) | (x < 0.065)) & ~frame
    picture = blend(view, (0.62, 0.62, 0.60), gap)
    return blend(picture, (0.95, 0.95, 0.93), frame)


def globe(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A school globe: seas, lands, ice and a grid of meridians; wraps around: [height, width, 3]."""
    relief = fractal_noise(width, rng, 1.7)[:height]
    latitude = np.abs(np.linspace(-1, 1, height))[:, None]
    sea, shore = (0.16, 0.38, 0.62), (0.50, 0.72, 0.80)
    picture = blend(shore, sea, np.clip((0.55 - relief) * 9, 0, 1))
    land = blend(
        (0.36, 0.56, 0.24), (0.80, 0.66, 0.38), np.clip((relief - 0.6) * 4 + 0.3 * (latitude < 0.4), 0, 1)
    )
    picture = np.where((relief > 0.55)[..., None], land, picture)
    picture = blend(picture, (0.95, 0.96, 0.97), np.clip((latitude + 0.2 * relief - 0.95) * 15, 0, 1))
    rows, columns = np.arange(height) * 12 / height % 1, np.arange(width) * 24 / width % 1
    return blend(picture, (0.25, 0.30, 0.36), 0.5 * np.maximum(rows[:, None] < 0.05, columns[None] < 0.05))


def paving(side: int, rng: np.random.Generator) -> np.ndarray:
    """Stone slabs of a pavement: [side, side, 3]."""
    picture = stone(side, rng, (0.66, 0.64, 0.61), (0.50, 0.49, 0.47))
    cells = np.arange(side) * 4 // side
    picture = picture * rng.uniform(0.85, 1.08, (4, 4))[cells[:, None], cells[None]][..., None]
    place = (np.arange(side) + 0.5) * 4 / side % 1.0
    gap = np.minimum(place, 1 - place) < 0.02
    return blend(picture, (0.30, 0.29, 0.28), gap[:, None] | gap[None, :])


def road(side: int, rng: np.random.Generator) -> np.ndarray:
    """A two-lane road along x that fills the height: edge lines, one dash, patches: [side, side, 3]."""
    picture = asphalt(side, rng)
    v = (np.arange(side)[:, None] + 0.5) / side * np.ones(side)
    u = (np.arange(side)[None] + 0.5) / side * np.ones((side, 1))
    tracks = np.exp(-(((np.abs(v - 0.5) - 0.145) / 0.03) ** 2)) + np.exp(
        -(((np.abs(v - 0.5) - 0.355) / 0.03) ** 2)
    )
    picture = picture * (1 - 0.22 * tracks)[..., None]
    worn = fractal_noise(side, rng, 0.5) > 0.12
    lines = (np.abs(np.abs(v - 0.5) - 0.465) < 0.009) | ((np.abs(v - 0.5) < 0.009) & (np.abs(u - 0.5) < 0.24))
    picture = blend(picture, (0.88, 0.87, 0.83), lines & worn)
    for _ in range(2):
        x, y = rng.uniform(0.1, 0.8), rng.uniform(0.15, 0.75)
        patch = (u > x) & (u < x + rng.uniform(0.05, 0.15)) & (v > y) & (v < y + rng.uniform(0.05, 0.15))
        picture = np.where((patch & ~lines)[..., None], picture * 0.72, picture)
    x, y = rng.uniform(0.1, 0.9), rng.choice([0.3, 0.7])
    cover = np.hypot((u - x) * 1.4, v - y)
    picture = blend(picture, (0.22, 0.21, 0.21), cover < 0.04)
    return np.clip(blend(picture, (0.42, 0.40, 0.38), np.abs(cover - 0.04) < 0.005), 0, 1).astype(np.float32)
