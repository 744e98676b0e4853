"""The embedded scene: a still life on a table before a wall, with slanted, curved, thin and plain parts."""

import math

import numpy as np

from scenes import Item, Light, Scene, make_object
from scenes.furniture import strut
from scenes.patterns import bricks, cloth, planks, stripes, wood
from scenes.scene import moved
from scenes.shapes import Box, Quad, RoundedBox, Sphere, placed
from scenes.textures import Texture, solid

__all__ = ["TABLE_Z", "still_life"]

TABLE_Z = -0.49  # the vase stands on it


def still_life(seed: int = 0) -> Scene:
    """About 1.7 units wide and 1.1 tall around the origin, seen from -y; z is up.

    The plain ball has no texture: its depth must come from its outline and its surroundings.
    """
    rng = np.random.default_rng(seed)
    table = Texture(planks(512, rng), (1.3, 1.3))
    wall = Texture(bricks(512, rng), (1.1, 1.1))
    painting = Texture(
        stripes(256, rng, ((0.16, 0.3, 0.5), (0.9, 0.86, 0.7), (0.7, 0.25, 0.16)), 6), (0.5, 0.5)
    )
    fabric = Texture(cloth(256, rng, (0.2, 0.42, 0.3), (0.9, 0.86, 0.72)), (0.35, 0.35))
    oak, dark = Texture(wood(256, rng), (0.5, 0.5)), Texture(wood(256, rng, (0.4, 0.25, 0.16)), (0.4, 0.4))
    vase = moved(make_object("vase", seed).items, placed((-0.42, 0.25, 0.0), yaw_deg=25))
    items = [
        Item(Quad((3.0, 3.0), placed((0, 0.8, TABLE_Z))), table),
        Item(Quad((4.0, 3.0), placed((0, 1.5, 0.5), roll_deg=90, yaw_deg=12)), wall),
        Item(Box((0.34, 0.02, 0.3), placed((0.62, 1.1, 0.2), yaw_deg=-20)), painting),
        Item(Box((0.26, 0.02, 0.3), placed((-0.95, 0.75, -0.2), yaw_deg=30, roll_deg=-18)), oak),
        Item(RoundedBox((0.22, 0.16, 0.17), 0.05, placed((0.33, 0.1, TABLE_Z + 0.17), yaw_deg=-28)), fabric),
        Item(Sphere(0.16, placed((0.05, -0.35, TABLE_Z + 0.16))), solid(0.82, 0.72, 0.62)),
        Item(
            Sphere(0.13, placed((0.62, -0.25, TABLE_Z + 0.13))),
            Texture(stripes(128, rng, ((0.75, 0.2, 0.16), (0.95, 0.9, 0.8)), 8), (0.4, 0.4)),
        ),
        Item(Box((0.2, 0.14, 0.035), placed((-0.36, -0.42, TABLE_Z + 0.035), yaw_deg=18)), dark),
    ]
    for index in range(5):  # pencils in a jar: thin, overlapping, slanted
        angle = 2 * math.pi * index / 5 + rng.uniform(-0.3, 0.3)
        top = (0.8 + 0.1 * math.cos(angle), 0.45 + 0.1 * math.sin(angle), 0.08 + 0.06 * rng.uniform())
        foot = (0.8, 0.45, TABLE_Z)
        items.append(Item(strut(foot, top, 0.013, 0.013), solid(*rng.uniform(0.15, 0.95, 3))))
    light = Light(to_sun=(-0.35, -0.6, 0.75), shadows=True)
    return Scene(items + vase, light)
