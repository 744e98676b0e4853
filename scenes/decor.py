"""Small things for rooms and tables, in metres, on z = 0: vases, books, mugs, plants, lamps, toys."""

import math

import numpy as np
from scipy.interpolate import PchipInterpolator

from scenes.furniture import WOODS, strut, wood_texture
from scenes.objects import letter_cube
from scenes.patterns import Colour, blend, foliage, fractal_noise, marble, plaster, stripes
from scenes.pictures import vase_bands
from scenes.scene import Item, moved
from scenes.shapes import Box, Sphere, placed
from scenes.solids import Revolution, cylinder
from scenes.textures import Texture, solid

__all__ = [
    "WALL_PAINTS",
    "book_pile",
    "candle",
    "floor_lamp",
    "mug",
    "painted_vase",
    "potted_plant",
    "striped_ball",
    "toy_blocks",
    "wallpaper",
]

WALL_PAINTS: tuple[Colour, ...] = (
    (0.90, 0.86, 0.76),
    (0.72, 0.80, 0.80),
    (0.88, 0.78, 0.70),
    (0.78, 0.82, 0.70),
    (0.84, 0.84, 0.88),
)


def _vase_body(height: float, profile: int) -> Revolution:
    """A vase of one of three shapes standing on z = 0."""
    shapes = (
        ((0.16, 0), (0.2, 0.02), (0.34, 0.35), (0.30, 0.6), (0.12, 0.8), (0.11, 0.92), (0.17, 1.0)),
        ((0.22, 0), (0.24, 0.02), (0.20, 0.3), (0.26, 0.7), (0.34, 1.0)),
        ((0.14, 0), (0.30, 0.15), (0.36, 0.35), (0.30, 0.58), (0.08, 0.72), (0.07, 0.98), (0.09, 1.0)),
    )
    points = np.array(shapes[profile % 3]) * height
    z = np.linspace(0, height, 20)
    radius = PchipInterpolator(points[:, 1], points[:, 0])(z)
    return Revolution(
        [(0.0, 0.0), *zip(radius, z, strict=True), (0.8 * radius[-1], height), (0.0, 0.8 * height)]
    )


def painted_vase(rng: np.random.Generator, height: float, profile: int) -> list[Item]:
    body = _vase_body(height, profile)
    picture = (
        vase_bands(512, 256, rng) if rng.random() < 0.5 else marble(256, rng, tuple(rng.uniform(0.2, 0.8, 3)))
    )
    return [Item(body, Texture(picture, (body.circumference, body.arc_length)))]


def book_pile(rng: np.random.Generator, count: int) -> list[Item]:
    """Books lying on each other: coloured covers around white pages."""
    items, z = [], 0.0
    for _ in range(count):
        thick, wide, deep = rng.uniform(0.012, 0.022), rng.uniform(0.10, 0.14), rng.uniform(0.075, 0.10)
        pose = placed(
            (rng.uniform(-0.015, 0.015), rng.uniform(-0.01, 0.01), z + thick), yaw_deg=rng.uniform(-14, 14)
        )
        cover = np.full((64, 64, 3), rng.uniform(0.1, 0.8, 3), np.float32)
        cover[8:12, 6:-6] = cover[-12:-8, 6:-6] = cover[20:34, 14:-14] = (0.93, 0.88, 0.72)
        pages = np.full((64, 64, 3), (0.92, 0.90, 0.84), np.float32)
        pages[::3] *= 0.9
        spine = np.full((64, 64, 3), cover[0, 0], np.float32)
        texture = Texture(
            np.stack([pages, pages, pages, spine, cover, cover]), (2 * wide, 2 * deep), layer_of_part=range(6)
        )
        items.append(Item(Box((wide, deep, thick), pose), texture))
        z += 2 * thick
    return items


def potted_plant(rng: np.random.Generator) -> list[Item]:
    """A potted plant 1.3 m tall."""
    clay = Texture(plaster(64, rng, (0.72, 0.40, 0.26)), (0.3, 0.3))
    pot = Revolution(
        [(0, 0), (0.13, 0), (0.19, 0.30), (0.205, 0.30), (0.205, 0.345), (0.17, 0.345), (0.16, 0.3), (0, 0.3)]
    )
    leaves = Texture(foliage(256, rng), (0.35, 0.35))
    items = [Item(pot, clay)]
    for _ in range(11):
        angle, lean = rng.uniform(0, 2 * math.pi), rng.uniform(0.03, 0.24)
        x, y, z = lean * math.cos(angle), lean * math.sin(angle), rng.uniform(0.62, 1.18)
        items.append(Item(strut((0, 0, 0.3), (x, y, z), 0.012, 0.007), solid(0.36, 0.28, 0.16)))
        items.append(Item(Sphere(rng.uniform(0.085, 0.15), placed((x, y, z))), leaves))
    return items


def floor_lamp(rng: np.random.Generator) -> list[Item]:
    metal = solid(0.20, 0.19, 0.18)
    shade = Texture(
        np.clip(1.12 * stripes(128, rng, ((0.95, 0.88, 0.70), (0.90, 0.80, 0.60)), 16), 0, 1), (0.3, 0.3)
    )
    return [
        Item(cylinder(0.15, 0.012, placed((0, 0, 0.012))), metal),
        Item(strut((0, 0, 0.02), (0, 0, 1.42), 0.012, 0.012), metal),
        Item(Revolution([(0.23, 1.36), (0.15, 1.68)]), shade),
    ]


def mug(rng: np.random.Generator) -> list[Item]:
    """A mug with a painted band and a handle."""
    body = Revolution(
        [(0, 0), (0.038, 0), (0.041, 0.01), (0.041, 0.095), (0.036, 0.095), (0.035, 0.02), (0, 0.015)]
    )
    picture = stripes(128, rng, ((0.94, 0.93, 0.90), tuple(rng.uniform(0.1, 0.8, 3))), 8)
    items = [Item(body, Texture(picture, (body.circumference / 2, 0.06)))]
    arc = [(0.038 + 0.03 * math.cos(a), 0.05 + 0.028 * math.sin(a)) for a in np.linspace(-1.45, 1.45, 7)]
    for (x0, z0), (x1, z1) in zip(arc[:-1], arc[1:], strict=True):
        items.append(Item(strut((x0, 0, z0), (x1, 0, z1), 0.006, 0.006), solid(0.93, 0.92, 0.89)))
    return items


def striped_ball(rng: np.random.Generator, radius: float) -> Item:
    colours = (tuple(rng.uniform(0.1, 0.9, 3)), (0.94, 0.92, 0.88), tuple(rng.uniform(0.1, 0.9, 3)))
    texture = Texture(stripes(128, rng, colours, 12), (math.pi * radius, math.pi * radius))
    return Item(Sphere(radius, placed((0, 0, radius), roll_deg=25)), texture)


def toy_blocks(rng: np.random.Generator) -> list[Item]:
    """Two toy blocks with letters, one on the other."""
    blocks = []
    for z, turn in ((0.045, 0.0), (0.125, 25.0)):
        block = letter_cube(int(rng.integers(1000)), 0.09 if z < 0.1 else 0.07)
        blocks += moved(block.items, placed((0, 0, z), yaw_deg=turn))
    return blocks


def candle(rng: np.random.Generator) -> list[Item]:
    """A candle on a turned stick."""
    profile = [
        (0, 0),
        (0.05, 0),
        (0.05, 0.012),
        (0.015, 0.03),
        (0.022, 0.06),
        (0.012, 0.1),
        (0.03, 0.13),
        (0, 0.13),
    ]
    wax = 0.9 + 0.1 * fractal_noise(64, rng, 1.0)[..., None] * np.ones(3)
    return [
        Item(Revolution(profile), wood_texture(rng, int(rng.integers(len(WOODS))), size=0.1)),
        Item(cylinder(0.012, 0.05, placed((0, 0, 0.18))), Texture(wax * (0.95, 0.9, 0.75), (0.1, 0.1))),
        Item(cylinder(0.0012, 0.006, placed((0, 0, 0.236))), solid(0.1, 0.1, 0.1)),
    ]


def wallpaper(rng: np.random.Generator, paint: tuple[float, ...]) -> np.ndarray:
    """A damask of flowers in staggered rows."""
    side = 256
    y, x = np.mgrid[0:side, 0:side] / side * 4
    x = x + 0.5 * (np.floor(y).astype(int) % 2)
    u, v = x % 1 - 0.5, y % 1 - 0.5
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    flower = radius < 0.30 * np.abs(np.cos(2.5 * angle)) + 0.06
    ring = np.abs(radius - 0.42 - 0.04 * np.cos(8 * angle)) < 0.018
    deep = tuple(0.72 * c for c in paint)
    return blend(plaster(side, rng, paint), deep, flower | ring)
