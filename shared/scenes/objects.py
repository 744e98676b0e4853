"""Single textured objects on white: centred at the origin, z up, inside the unit cube."""

from __future__ import annotations

import numpy as np

from shared.scenes.patterns import blend, fractal_noise, glyph_mask, wood
from shared.scenes.scene import Background, Item, Light, Scene
from shared.scenes.shapes import Box
from shared.scenes.textures import Texture

__all__ = ["OBJECT_LIGHT", "WHITE", "letter_cube", "make_object"]

WHITE = Background()
OBJECT_LIGHT = Light(to_sun=(0.5, -0.35, 0.8), shadows=True, occlusion_radius=0.12)

_CUBE_COLOURS = (
    (0.80, 0.16, 0.14),
    (0.10, 0.36, 0.66),
    (0.12, 0.52, 0.28),
    (0.90, 0.52, 0.06),
    (0.46, 0.20, 0.56),
    (0.08, 0.52, 0.56),
)


def make_object(name: str, seed: int = 0) -> Scene:
    """One of the objects by name: cube."""
    makers = {"cube": letter_cube}
    if name not in makers:
        raise ValueError(f"unknown object {name!r}; there are {', '.join(makers)}")
    return makers[name](seed)


def letter_cube(seed: int = 0, side: float = 0.8) -> Scene:
    """A wooden alphabet block: a frame, a painted panel, one big letter per face and small ones in its corners."""
    rng = np.random.default_rng(seed)
    letters = rng.permutation(list("ABDEFGHKLMNPQRSTUXYZ"))
    order = rng.permutation(6)
    faces = [
        _cube_face(256, str(letters[i]), "".join(letters[6 + 2 * i : 8 + 2 * i]), _CUBE_COLOURS[order[i]], rng)
        for i in range(6)
    ]
    texture = Texture(np.stack(faces), (side, side), repeat=False, layer_of_part=range(6))
    light = Light(to_sun=OBJECT_LIGHT.to_sun)  # a convex body neither shades nor occludes itself
    return Scene([Item(Box((side / 2,) * 3), texture)], light, WHITE)


def _cube_face(side: int, letter: str, corners: str, colour: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """One face of the block: [side, side, 3]."""
    grain = wood(side, rng, (0.88, 0.70, 0.46), (0.66, 0.44, 0.24))
    y, x = np.abs(np.mgrid[0:side, 0:side] + 0.5 - side / 2) / (side / 2)
    ring = np.maximum(x, y)
    paint = np.asarray(colour, np.float32) * (0.86 + 0.20 * fractal_noise(side, rng, 1.2))[..., None]
    cream = np.asarray((0.97, 0.93, 0.82), np.float32) * (0.93 + 0.07 * fractal_noise(side, rng, 0.8))[..., None]
    dots = (np.hypot((x * 12) % 1 - 0.5, (y * 12) % 1 - 0.5) < 0.22).astype(np.float32)
    face = blend(grain, paint, _band(ring, 0.0, 0.86))
    face = blend(face, cream, _band(ring, 0.70, 0.83) * dots)
    face = blend(face, cream, _band(ring, 0.0, 0.66))
    panel = np.asarray(colour, np.float32) * 0.35 + 0.62
    stripes = (((x + y) * 10) % 1 < 0.5).astype(np.float32)
    face = blend(face, panel, _band(ring, 0.0, 0.62) * stripes * 0.55)
    big = glyph_mask(letter, side, 0.46)
    face = blend(face, (0.12, 0.10, 0.10), np.roll(big, (4, 4), (0, 1)) * 0.55)
    face = blend(face, paint, big)
    step = round(0.245 * side)
    for text, shift in zip(corners, (-step, step), strict=True):
        face = blend(face, (0.15, 0.12, 0.12), np.roll(glyph_mask(text, side, 0.10), (shift, shift), (0, 1)))
    return np.clip(face, 0.0, 1.0)


def _band(ring: np.ndarray, low: float, high: float) -> np.ndarray:
    """1 where low <= ring < high, with edges one hundredth wide; low = 0 has no inner edge."""
    inner = np.clip((ring - low) * 100 + 0.5, 0, 1) if low > 0 else 1.0
    return inner * np.clip((high - ring) * 100 + 0.5, 0, 1)
