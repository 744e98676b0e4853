"""Single textured objects on white: centred at the origin, z up, inside the unit cube."""

import math
from collections.abc import Callable

import numpy as np
from scipy.interpolate import PchipInterpolator

from scenes.cars import car, random_car_style
from scenes.furniture import CLOTHS, WOODS, armchair, bar, chair, random_chair_style, strut
from scenes.patterns import blend, fractal_noise, glyph_mask, marble, stone, wood
from scenes.pictures import vase_bands
from scenes.scene import Background, Item, Light, Scene, moved
from scenes.shapes import Box, RoundedBox, Sphere, placed
from scenes.solids import Prism, Revolution
from scenes.textures import Texture, solid

__all__ = [
    "OBJECTS",
    "OBJECT_LIGHT",
    "WHITE",
    "chair_object",
    "letter_cube",
    "make_object",
    "pedestal",
    "random_car",
    "random_chair",
    "vase",
]

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


def letter_cube(seed: int = 0, side: float = 0.8) -> Scene:
    """A wooden alphabet block: per face a frame, a painted panel, a big letter and two small ones."""
    rng = np.random.default_rng(seed)
    letters = rng.permutation(list("ABDEFGHKLMNPQRSTUXYZ"))
    order = rng.permutation(6)
    faces = [
        _cube_face(
            256, str(letters[i]), "".join(letters[6 + 2 * i : 8 + 2 * i]), _CUBE_COLOURS[order[i]], rng
        )
        for i in range(6)
    ]
    texture = Texture(np.stack(faces), (side, side), repeat=False, layer_of_part=range(6))
    light = Light(to_sun=OBJECT_LIGHT.to_sun)  # a convex body neither shades nor occludes itself
    return Scene([Item(Box((side / 2,) * 3), texture)], light, WHITE)


def _cube_face(
    side: int, letter: str, corners: str, colour: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """One face of the block: [side, side, 3]."""
    grain = wood(side, rng, (0.88, 0.70, 0.46), (0.66, 0.44, 0.24))
    y, x = np.abs(np.mgrid[0:side, 0:side] + 0.5 - side / 2) / (side / 2)
    ring = np.maximum(x, y)
    paint = np.asarray(colour, np.float32) * (0.86 + 0.20 * fractal_noise(side, rng, 1.2))[..., None]
    cream = (
        np.asarray((0.97, 0.93, 0.82), np.float32) * (0.93 + 0.07 * fractal_noise(side, rng, 0.8))[..., None]
    )
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


def vase(seed: int = 0) -> Scene:
    """A painted amphora: a solid of revolution with bands of ornament, and two handles."""
    rng = np.random.default_rng(seed)
    heights = [-0.49, -0.465, -0.44, -0.40, -0.25, -0.05, 0.12, 0.22, 0.29, 0.36, 0.43, 0.47, 0.49]
    radii = [0.17, 0.175, 0.135, 0.115, 0.21, 0.325, 0.335, 0.26, 0.155, 0.118, 0.13, 0.17, 0.175]
    z = np.linspace(heights[0], heights[-1], 44)
    r = PchipInterpolator(heights, radii)(z)
    body = Revolution([(0.0, -0.49), *zip(r, z, strict=True), (0.15, 0.487)])
    inside = Revolution([(0.15, 0.487), (0.10, 0.36), (0.13, 0.29), (0.2, 0.2), (0.0, 0.05)])
    bands = vase_bands(1024, 512, rng)
    paint = Texture(bands, (body.circumference, body.arc_length))
    clay, glaze = (
        solid(0.28, 0.14, 0.09),
        Texture(stone(128, rng, (0.17, 0.14, 0.13), (0.10, 0.08, 0.08)), (0.3, 0.3)),
    )
    items = [Item(body, paint), Item(inside, clay)]
    curve = [(0.115, 0.42), (0.19, 0.445), (0.27, 0.42), (0.31, 0.35), (0.305, 0.26), (0.27, 0.185)]
    for side in (-1, 1):
        points = [(side * x, 0.0, height) for x, height in curve]
        items += [
            Item(strut(a, b, 0.022, 0.022), glaze) for a, b in zip(points[:-1], points[1:], strict=True)
        ]
        items += [Item(Sphere(0.022, placed(p)), glaze) for p in points[1:-1]]
    return Scene(items, OBJECT_LIGHT, WHITE)


def pedestal(seed: int = 0) -> Scene:
    """A marble bust on a fluted column between stepped slabs."""
    rng = np.random.default_rng(seed)
    white, veined = Texture(marble(256, rng), (0.6, 0.6)), Texture(_dark_marble(rng), (0.5, 0.5))
    sand = Texture(stone(256, rng), (0.4, 0.4), turned=True)
    flutes = [
        (
            (0.165 - 0.020 * abs(math.sin(8 * a))) * math.cos(a),
            (0.165 - 0.020 * abs(math.sin(8 * a))) * math.sin(a),
        )
        for a in np.linspace(0, 2 * math.pi, 96, endpoint=False)
    ]
    items = [
        Item(bar((-0.28, -0.28, -0.50), (0.28, 0.28, -0.42)), veined),
        Item(bar((-0.235, -0.235, -0.42), (0.235, 0.235, -0.36)), white),
        Item(Revolution([(0.0, -0.36), *_round(0.185, -0.335, 0.025), (0.0, -0.31)]), sand),
        Item(Prism(flutes, 0.15, placed((0, 0, -0.16), roll_deg=90), crease_deg=30), sand),
        Item(Revolution([(0.0, -0.01), *_round(0.18, 0.01, 0.02), (0.0, 0.03)]), sand),
        Item(bar((-0.23, -0.23, 0.03), (0.23, 0.23, 0.08)), veined),
    ]
    return Scene(items + _bust(white, rng), OBJECT_LIGHT, WHITE)


def _bust(white: Texture, rng: np.random.Generator) -> list[Item]:
    """Shoulders, neck, head, hair and a nose; it looks along -y."""
    curls = Texture(stone(128, rng, (0.80, 0.77, 0.72), (0.50, 0.47, 0.44)), (0.07, 0.07))
    torso = PchipInterpolator(
        [0.08, 0.10, 0.15, 0.19, 0.215, 0.24, 0.29], [0.075, 0.08, 0.165, 0.16, 0.10, 0.058, 0.052]
    )
    z = np.linspace(0.08, 0.29, 24)
    egg = [
        (0.088 * math.sin(a) * (1 - 0.16 * math.cos(a)), -0.118 * math.cos(a))
        for a in np.linspace(0, math.pi, 25)
    ]
    head = placed((0, -0.012, 0.375), roll_deg=6)
    items = [
        Item(Revolution([*zip(torso(z), z, strict=True)]), white),
        Item(Revolution([(max(r, 0.0), h) for r, h in egg], head), white),
        Item(Sphere(0.092, placed((0, 0.014, 0.402))), curls),
        Item(strut((0, -0.088, 0.395), (0, -0.112, 0.352), 0.008, 0.016), white),
        Item(RoundedBox((0.024, 0.012, 0.0075), 0.007, placed((0, -0.088, 0.322))), curls),
        Item(RoundedBox((0.022, 0.012, 0.016), 0.011, placed((0, -0.074, 0.29))), white),
    ]
    for side in (-1, 1):
        items.append(Item(Sphere(0.013, placed((side * 0.032, -0.083, 0.388))), curls))
        items.append(
            Item(RoundedBox((0.009, 0.016, 0.026), 0.008, placed((side * 0.089, -0.005, 0.372))), white)
        )
    for turn in range(14):
        angle = 2 * math.pi * turn / 14
        x, y = 0.083 * math.cos(angle), 0.083 * math.sin(angle)
        items.append(Item(Sphere(0.026, placed((x, y + 0.012, 0.425 - 0.03 * math.sin(angle)))), curls))
    return items


def _dark_marble(rng: np.random.Generator) -> np.ndarray:
    return marble(256, rng, (0.30, 0.36, 0.33), (0.85, 0.86, 0.82))


def _round(radius: float, z: float, bulge: float) -> list[tuple[float, float]]:
    """Half a circle of a torus moulding, bottom to top."""
    angles = np.linspace(-math.pi / 2, math.pi / 2, 9)
    return [(radius + bulge * math.cos(a), z + bulge * math.sin(a)) for a in angles]


def chair_object(seed: int = 0) -> Scene:
    """An upholstered armchair; the seed picks cloth and wood."""
    rng = np.random.default_rng(seed)
    colour = CLOTHS[(1 + seed) % len(CLOTHS)]
    items = armchair(rng, colour, ("check", "striped", "plain")[seed % 3], (1 + seed) % len(WOODS))
    return Scene(moved(items, placed((0, 0, -0.47))), OBJECT_LIGHT, WHITE)


def random_chair(seed: int) -> Scene:
    """A chair drawn at random, about 0.9 units tall; equal seeds give equal chairs."""
    style = random_chair_style(seed)
    items = chair(style, np.random.default_rng((seed, 1)))
    return Scene(
        moved(items, placed((0, 0, -(style.seat_height + style.back_height) / 2))), OBJECT_LIGHT, WHITE
    )


def random_car(seed: int) -> Scene:
    """A car drawn at random, 0.95 units long, nose towards +x; equal seeds give equal cars."""
    style = random_car_style(seed)
    items = car(style, np.random.default_rng((seed, 2)), length=0.95)
    return Scene(moved(items, placed((0, 0, -0.475 * style.roof))), OBJECT_LIGHT, WHITE)


# By name: centred at the origin, z up, within 0.7 of it, on white.
OBJECTS: dict[str, Callable[[int], Scene]] = {
    "cube": letter_cube,
    "vase": vase,
    "pedestal": pedestal,
    "chair": chair_object,
    "random_chair": random_chair,
    "random_car": random_car,
}


def make_object(name: str, seed: int = 0) -> Scene:
    """One of `OBJECTS`; equal names and seeds give equal scenes. Raises ValueError for an unknown name."""
    if name not in OBJECTS:
        raise ValueError(f"unknown object {name!r}; there are {', '.join(OBJECTS)}")
    return OBJECTS[name](seed)
