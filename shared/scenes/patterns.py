"""Pictures for textures, baked once with NumPy and OpenCV: same seed, same bytes.

Every function returns a float32 picture [side, side, 3] in [0, 1] (display values); those named as materials
repeat without a seam.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

__all__ = [
    "blend",
    "fractal_noise",
    "glyph_mask",
    "wood",
]

Colour = Sequence[float]


def fractal_noise(
    side: int, rng: np.random.Generator, slope: float = 1.0, stretch: float = 1.0, coarsest: float = 0.0
) -> np.ndarray:
    """Periodic noise [side, side] in [0, 1] with amplitude ~ frequency^-slope; `stretch` > 1 draws it out along x.

    Frequencies below `coarsest` cycles per side are left out.
    """
    frequency_y = np.fft.fftfreq(side)[:, None] * side
    frequency_x = np.fft.fftfreq(side)[None, :] * side * stretch
    frequency = np.hypot(frequency_x, frequency_y)
    gain = np.where(frequency > coarsest, np.maximum(frequency, 1.0) ** -slope, 0.0)
    gain[0, 0] = 0.0
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * gain).real
    low, high = np.percentile(noise, (1, 99))
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
    rings = np.minimum(rings / 0.8, (1.0 - rings) / 0.2)  # slow rise of early wood, quick fall after late wood
    fibres = fractal_noise(side, rng, slope=0.35, stretch=24.0)
    pores = fractal_noise(side, rng, slope=0.1, stretch=14.0) > 0.94
    picture = blend(light, dark, np.clip(0.62 * rings + 0.45 * fibres - 0.1, 0.0, 1.0))
    return picture * (1.0 - 0.18 * pores[..., None]).astype(np.float32)


def glyph_mask(text: str, side: int, height: float = 0.62) -> np.ndarray:
    """Coverage [side, side] in [0, 1] of a bold text centred in the picture, `height` of its side tall if it fits.

    The text is cropped to its ink before it is scaled, so OpenCV 4 (stroke font) and 5 (outline font) both fit.
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
