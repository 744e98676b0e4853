"""Pictures for textures, baked once with NumPy and OpenCV: same seed, same bytes.

Every function returns a float32 picture [side, side, 3] in [0, 1] (display values); those named as materials
repeat without a seam.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy import fft

__all__ = [
    "asphalt",
    "blend",
    "bricks",
    "cloth",
    "foliage",
    "fractal_noise",
    "glyph_mask",
    "marble",
    "planks",
    "plaster",
    "stone",
    "stripes",
    "weave",
    "wood",
]

Colour = Sequence[float]


def fractal_noise(
    side: int, rng: np.random.Generator, slope: float = 1.0, stretch: float = 1.0, coarsest: float = 0.0
) -> np.ndarray:
    """Periodic noise [side, side] in [0, 1], amplitude ~ frequency^-slope; `stretch` > 1 draws it out in x.

    Frequencies below `coarsest` cycles per side are left out.
    """
    frequency_y = fft.fftfreq(side)[:, None] * side
    frequency_x = fft.rfftfreq(side)[None, :] * side * stretch
    frequency = np.hypot(frequency_x, frequency_y)
    gain = np.where(frequency > coarsest, np.maximum(frequency, 1.0) ** -slope, 0.0)
    gain[0, 0] = 0.0
    white = rng.standard_normal((side, side), dtype=np.float32)
    noise = fft.irfft2(fft.rfft2(white) * gain.astype(np.float32), (side, side))
    low, high = np.percentile(noise[::2, ::2], (1, 99))
    return np.clip((noise - low) / (high - low), 0.0, 1.0).astype(np.float32)


def blend(first: np.ndarray | Colour, second: np.ndarray | Colour, weight: np.ndarray) -> np.ndarray:
    """first * (1 - weight) + second * weight; colours or pictures [H, W, 3], weight [H, W]."""
    weight = np.asarray(weight, dtype=np.float32)[..., None]
    return np.asarray(first, np.float32) * (1 - weight) + np.asarray(second, np.float32) * weight


def wood(
    side: int, rng: np.random.Generator, light: Colour = (0.80, 0.60, 0.38), dark: Colour = (0.50, 0.31, 0.16)
) -> np.ndarray:
    """Planed wood with the grain along x: drawn-out rings, fibres and a few pores."""
    y = np.linspace(0.0, 1.0, side, endpoint=False, dtype=np.float32)[:, None]
    warp = fractal_noise(side, rng, slope=1.6, stretch=5.0)
    rings = (7.0 * y + 1.8 * warp) % 1.0
    rings = np.minimum(
        rings / 0.8, (1.0 - rings) / 0.2
    )  # slow rise of early wood, quick fall after late wood
    fibres = fractal_noise(side, rng, slope=0.35, stretch=24.0)
    pores = fractal_noise(side, rng, slope=0.1, stretch=14.0) > 0.94
    picture = blend(light, dark, np.clip(0.62 * rings + 0.45 * fibres - 0.1, 0.0, 1.0))
    return picture * (1.0 - 0.18 * pores[..., None]).astype(np.float32)


def marble(
    side: int,
    rng: np.random.Generator,
    ground: Colour = (0.93, 0.91, 0.88),
    vein: Colour = (0.48, 0.47, 0.50),
) -> np.ndarray:
    """Polished marble: thin veins where two warped noises cross their middle, over a cloudy ground."""
    clouds = fractal_noise(side, rng, 1.5)
    broad = 1 - np.abs(2 * fractal_noise(side, rng, 2.1) - 1)
    fine = 1 - np.abs(2 * fractal_noise(side, rng, 2.0, coarsest=2) - 1)
    weight = 0.8 * broad**16 + 0.5 * fine**22 + 0.25 * clouds
    return blend(ground, vein, np.clip(weight, 0.0, 1.0))


def stone(
    side: int, rng: np.random.Generator, light: Colour = (0.80, 0.76, 0.68), dark: Colour = (0.52, 0.48, 0.42)
) -> np.ndarray:
    """Cut sandstone: clouds, grains and pits."""
    mix = 0.55 * fractal_noise(side, rng, 1.2) + 0.45 * fractal_noise(side, rng, 0.3)
    picture = blend(light, dark, mix)
    pits = fractal_noise(side, rng, 0.5, coarsest=8) > 0.93
    return picture * (1.0 - 0.3 * pits[..., None]).astype(np.float32)


def plaster(side: int, rng: np.random.Generator, colour: Colour) -> np.ndarray:
    """Painted plaster: the colour with faint blotches and a rough grain."""
    shade = 0.90 + 0.08 * fractal_noise(side, rng, 1.3) + 0.04 * fractal_noise(side, rng, 0.2)
    return np.clip(np.asarray(colour, np.float32) * shade[..., None], 0.0, 1.0)


def stripes(side: int, rng: np.random.Generator, colours: Sequence[Colour], count: int = 8) -> np.ndarray:
    """`count` stripes along y in turn, of a woven cloth."""
    index = (np.arange(side) * count // side) % len(colours)
    picture = np.broadcast_to(np.asarray(colours, np.float32)[index][None], (side, side, 3))
    return picture * weave(side, rng)[..., None]


def bricks(
    side: int,
    rng: np.random.Generator,
    colour: Colour = (0.62, 0.27, 0.19),
    mortar: Colour = (0.74, 0.71, 0.66),
    rows: int = 12,
    columns: int = 4,
) -> np.ndarray:
    """A running bond: every second row is moved by half a brick; bricks differ in tone."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side
    row = np.floor(y * rows).astype(int)
    along = x * columns + 0.5 * (row % 2)
    column = np.floor(along).astype(int) % columns
    rough = 0.08 * (fractal_noise(side, rng, 0.8) - 0.5)
    across = np.minimum(along % 1.0, 1 - along % 1.0) / columns * rows + rough
    upright = np.minimum(y * rows % 1.0, 1 - y * rows % 1.0) + rough
    joint = np.clip(1.5 - np.minimum(across, upright) / 0.045, 0.0, 1.0)
    tone = rng.uniform(0.72, 1.18, (rows, columns))[row % rows, column]
    tint = rng.uniform(-0.04, 0.04, (rows, columns, 3))[row % rows, column]
    brick = (
        np.asarray(colour, np.float32) * (tone * (0.82 + 0.3 * fractal_noise(side, rng, 0.7)))[..., None]
        + tint
    )
    paste = np.asarray(mortar, np.float32) * (0.85 + 0.2 * fractal_noise(side, rng, 0.5))[..., None]
    return np.clip(blend(brick, paste, joint), 0.0, 1.0).astype(np.float32)


def weave(side: int, rng: np.random.Generator, threads: int = 64) -> np.ndarray:
    """Shade [side, side] of a plain weave with uneven threads."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side * threads * np.pi
    over = 0.5 + 0.5 * np.sin(x) * np.sin(y)
    uneven = 0.5 * fractal_noise(side, rng, 0.4, stretch=16.0) + 0.5 * fractal_noise(side, rng, 0.4, 16.0).T
    return (0.80 + 0.12 * over + 0.16 * uneven).astype(np.float32)


def cloth(side: int, rng: np.random.Generator, colour: Colour, pattern: Colour | None = None) -> np.ndarray:
    """Woven cloth, plain or with a check of a second colour."""
    picture: np.ndarray = np.broadcast_to(np.asarray(colour, np.float32), (side, side, 3))
    if pattern is not None:
        band = ((np.arange(side) * 8 // side) % 4 == 0).astype(np.float32)
        thin = ((np.arange(side) * 64 // side) % 32 == 20).astype(np.float32)
        picture = blend(picture, pattern, 0.38 * (band[:, None] + band[None, :]))
        picture = blend(picture, (0.95, 0.93, 0.88), 0.6 * np.maximum(thin[:, None], thin[None, :]))
    return np.clip(picture * weave(side, rng)[..., None], 0.0, 1.0)


def planks(side: int, rng: np.random.Generator, count: int = 6) -> np.ndarray:
    """A floor of boards along x, each with its own grain, tone and butt joint."""
    picture = np.empty((side, side, 3), np.float32)
    edges = np.linspace(0, side, count + 1).round().astype(int)
    for top, bottom in zip(edges[:-1], edges[1:], strict=True):
        board = np.roll(wood(side, rng), int(rng.integers(side)), 0)[: bottom - top]
        half = rng.uniform(0.82, 1.08, 2)
        joint = int(rng.integers(side))
        tone = np.where((np.arange(side) + joint) % side < side // 2, half[0], half[1])
        board = board * tone[None, :, None]
        for cut in (joint, joint + side // 2):
            board[:, (-cut) % side] *= 0.45
        board[-max(1, side // 256) :] *= 0.45
        picture[top:bottom] = board
    return np.clip(picture, 0.0, 1.0)


def asphalt(side: int, rng: np.random.Generator) -> np.ndarray:
    """Worn road surface: grit, patches and a few cracks."""
    tone = 0.27 + 0.10 * fractal_noise(side, rng, 1.3) + 0.12 * fractal_noise(side, rng, 0.15)
    crack = 1 - np.abs(2 * fractal_noise(side, rng, 1.4) - 1)
    tone = tone * (1 - 0.5 * np.clip((crack - 0.985) / 0.015, 0, 1))
    return np.clip(tone[..., None] * np.asarray((1.0, 1.0, 1.03), np.float32), 0, 1).astype(np.float32)


def foliage(side: int, rng: np.random.Generator, colour: Colour = (0.24, 0.42, 0.14)) -> np.ndarray:
    """Leaves: light and dark tufts at several sizes."""
    tufts = 0.5 * fractal_noise(side, rng, 0.9, coarsest=4) + 0.5 * fractal_noise(side, rng, 0.4, coarsest=16)
    shade = 0.35 + 1.15 * tufts
    tint = blend((1.0, 1.0, 1.0), (1.25, 1.08, 0.6), fractal_noise(side, rng, 1.4))
    return np.clip(np.asarray(colour, np.float32) * tint * shade[..., None], 0.0, 1.0).astype(np.float32)


def glyph_mask(text: str, side: int, height: float = 0.62) -> np.ndarray:
    """Coverage [side, side] in [0, 1] of a bold text in the middle, `height` of the side tall if it fits.

    The text is cropped to its ink before it is scaled, so OpenCV 4 (stroke font) and 5 (outline font) both
    fit.
    """
    canvas = np.zeros((400, 400 * len(text) + 400), np.uint8)
    cv2.putText(canvas, text, (100, 300), cv2.FONT_HERSHEY_SIMPLEX, 10.0, 255, 34, cv2.LINE_AA)
    rows, columns = np.flatnonzero(canvas.max(1)), np.flatnonzero(canvas.max(0))
    ink = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32) / 255.0
    scale = min(height * side / ink.shape[0], 0.86 * side / ink.shape[1])
    size = (max(1, round(ink.shape[1] * scale)), max(1, round(ink.shape[0] * scale)))
    ink = cv2.resize(ink, size, interpolation=cv2.INTER_AREA)
    mask = np.zeros((side, side), np.float32)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    mask[top : top + size[1], left : left + size[0]] = ink
    return mask
