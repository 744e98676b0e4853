"""Furniture in metres: lists of items on the floor z = 0 around the origin, facing -y."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from scenes.patterns import Colour, cloth, stripes, wood
from scenes.scene import Item
from scenes.shapes import Box, RoundedBox, Sphere, aimed, placed
from scenes.solids import Prism, Revolution, cone, cylinder
from scenes.textures import Texture, solid

__all__ = ["ChairStyle", "WOODS", "armchair", "bar", "chair", "cloth_texture", "random_chair_style", "strut"]
__all__ += ["wood_texture"]

WOODS: tuple[tuple[Colour, Colour], ...] = (
    ((0.82, 0.62, 0.40), (0.56, 0.36, 0.19)),  # oak
    ((0.62, 0.38, 0.22), (0.36, 0.19, 0.10)),  # walnut
    ((0.93, 0.80, 0.60), (0.76, 0.58, 0.36)),  # birch
    ((0.58, 0.26, 0.16), (0.33, 0.12, 0.08)),  # mahogany
    ((0.36, 0.27, 0.22), (0.20, 0.14, 0.11)),  # wenge
)
CLOTHS: tuple[Colour, ...] = (
    (0.70, 0.18, 0.17),
    (0.20, 0.36, 0.56),
    (0.32, 0.48, 0.30),
    (0.86, 0.62, 0.20),
    (0.48, 0.30, 0.48),
    (0.78, 0.72, 0.62),
    (0.18, 0.46, 0.48),
    (0.80, 0.42, 0.22),
)
_CREAM = (0.94, 0.90, 0.80)


def wood_texture(rng: np.random.Generator, kind: int, upright: bool = False, size: float = 0.45) -> Texture:
    """Wood of `WOODS` with the grain along u, or along v when upright."""
    return Texture(wood(256, rng, *WOODS[kind]), (size, size), turned=upright)


def cloth_texture(
    rng: np.random.Generator, colour: Colour, kind: str = "plain", size: float = 0.3
) -> Texture:
    """Cloth of one colour: plain, check or striped."""
    if kind == "striped":
        picture = stripes(256, rng, (colour, _CREAM, colour, tuple(0.55 * c for c in colour)), 8)
    else:
        picture = cloth(256, rng, colour, _CREAM if kind == "check" else None)
    return Texture(picture, (size, size))


def strut(start: Sequence[float], end: Sequence[float], thick: float, thin: float) -> Revolution:
    """A round bar from start (radius `thick`) to end (radius `thin`)."""
    return cone(thick, thin, math.dist(start, end) / 2, aimed(start, end))


def bar(low: Sequence[float], high: Sequence[float]) -> Box:
    """The axis-aligned box between two opposite corners."""
    centre = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    return Box([(b - a) / 2 for a, b in zip(low, high, strict=True)], placed(centre))


@dataclass(frozen=True)
class ChairStyle:
    """Measures in metres and the parts a chair is put together from."""

    width: float = 0.46
    depth: float = 0.45
    seat_height: float = 0.45
    back_height: float = 0.46
    lean_deg: float = 8.0
    legs: str = "round"  # round, square, star
    back: str = "slats"  # slats, ladder, panel, cushion
    arms: bool = False
    cushion: str = "plain"  # plain, check, striped, none
    wood: int = 0
    colour: Colour = CLOTHS[0]
    metal: bool = False
    slats: int = 5


def random_chair_style(seed: int) -> ChairStyle:
    """A style drawn at random: proportions, parts, wood and cloth."""
    rng = np.random.default_rng(seed)
    back = str(rng.choice(["slats", "ladder", "panel", "cushion"]))
    legs = str(rng.choice(["round", "square", "star"], p=[0.45, 0.35, 0.2]))
    return ChairStyle(
        width=float(rng.uniform(0.40, 0.58)),
        depth=float(rng.uniform(0.40, 0.52)),
        seat_height=float(rng.uniform(0.38, 0.50)),
        back_height=float(rng.uniform(0.30, 0.58)),
        lean_deg=float(rng.uniform(3.0, 16.0)),
        legs=legs,
        back=back,
        arms=bool(rng.random() < 0.4),
        cushion=str(rng.choice(["plain", "check", "striped", "none"], p=[0.4, 0.2, 0.2, 0.2])),
        wood=int(rng.integers(len(WOODS))),
        colour=CLOTHS[int(rng.integers(len(CLOTHS)))],
        metal=bool(legs == "star" or rng.random() < 0.2),
        slats=int(rng.integers(3, 8)),
    )


def chair(style: ChairStyle, rng: np.random.Generator) -> list[Item]:
    """A chair of the given style."""
    metal = solid(*rng.choice([(0.72, 0.73, 0.75), (0.16, 0.16, 0.17)])) if style.metal else None
    grain, upright = wood_texture(rng, style.wood), metal or wood_texture(rng, style.wood, upright=True)
    fabric = cloth_texture(rng, style.colour, style.cushion if style.cushion != "none" else "plain")
    half_w, half_d, top = style.width / 2, style.depth / 2, style.seat_height
    items = _chair_legs(style, upright)
    items.append(Item(RoundedBox((half_w, half_d, 0.02), 0.012, placed((0, 0, top - 0.02))), grain))
    if style.cushion != "none":
        pad = RoundedBox((half_w - 0.015, half_d - 0.015, 0.032), 0.03, placed((0, 0, top + 0.028)))
        items.append(Item(pad, fabric))
    items += _chair_back(style, grain, upright, fabric)
    if style.arms:
        reach = half_w + 0.015
        for side in (-reach, reach):
            arm = RoundedBox((0.028, half_d * 0.92, 0.014), 0.012, placed((side, 0.0, top + 0.23)))
            post = strut((side, -half_d * 0.75, top - 0.03), (side, -half_d * 0.75, top + 0.22), 0.018, 0.014)
            items += [Item(arm, grain), Item(post, upright)]
    return items


def _chair_legs(style: ChairStyle, texture: Texture) -> list[Item]:
    half_w, half_d, top = style.width / 2 - 0.03, style.depth / 2 - 0.03, style.seat_height - 0.03
    if style.legs == "star":
        items = [Item(cylinder(0.028, top / 2 - 0.04, placed((0, 0, top / 2 + 0.04))), texture)]
        for spoke in range(5):
            angle = 2 * math.pi * (spoke + 0.25) / 5
            x, y = 0.27 * math.cos(angle), 0.27 * math.sin(angle)
            items.append(Item(strut((0, 0, 0.10), (x, y, 0.055), 0.026, 0.016), texture))
            items.append(Item(Sphere(0.028, placed((x, y, 0.028))), solid(0.10, 0.10, 0.11)))
        return items
    items = []
    for x in (-half_w, half_w):
        for y in (-half_d, half_d):
            if style.legs == "square":
                items.append(Item(bar((x - 0.02, y - 0.02, 0.0), (x + 0.02, y + 0.02, top)), texture))
            else:
                items.append(Item(strut((x * 1.18, y * 1.18, 0.0), (x, y, top), 0.013, 0.022), texture))
    for x in (-half_w, half_w):  # rails between the legs
        items.append(
            Item(bar((x - 0.009, -half_d, 0.42 * top), (x + 0.009, half_d, 0.42 * top + 0.03)), texture)
        )
    return items


def _chair_back(style: ChairStyle, grain: Texture, upright: Texture, fabric: Texture) -> list[Item]:
    """The back, built upright and leant back about its foot."""
    half_w, tall = style.width / 2 - 0.02, style.back_height
    foot = placed((0, style.depth / 2 - 0.02, style.seat_height - 0.02), roll_deg=-style.lean_deg)

    def at(x: float, y: float, z: float) -> Tensor:
        """A placement in the leaning frame."""
        return foot @ placed((x, y, z))

    posts = [cone(0.02, 0.014, tall / 2, at(x, 0, tall / 2)) for x in (-half_w, half_w)]
    items = [Item(post, upright) for post in posts]
    if style.back == "cushion":
        items.append(Item(RoundedBox((half_w, 0.018, tall * 0.46), 0.015, at(0, 0, tall * 0.54)), grain))
        pad = RoundedBox((half_w - 0.025, 0.04, tall * 0.38), 0.036, at(0, -0.045, tall * 0.55))
        return [*items, Item(pad, fabric)]
    if style.back == "panel":
        arch = [(-half_w, 0.2 * tall), (half_w, 0.2 * tall)]
        arch += [
            (half_w * math.cos(a), tall * 0.86 + 0.2 * tall * math.sin(a))
            for a in np.linspace(0, math.pi, 17)
        ]
        return [*items, Item(Prism(arch, 0.012, foot, bevel=0.01), grain)]
    rail = RoundedBox((half_w + 0.018, 0.013, 0.035), 0.012, at(0, 0, tall - 0.01))
    items.append(Item(rail, grain))
    if style.back == "ladder":
        for rung in np.linspace(0.28, 0.78, max(2, style.slats - 2)):
            items.append(Item(RoundedBox((half_w, 0.009, 0.026), 0.008, at(0, 0, tall * float(rung))), grain))
        return items
    items.append(Item(Box((half_w, 0.01, 0.02), at(0, 0, 0.2 * tall)), grain))
    for x in np.linspace(-half_w, half_w, style.slats + 2)[1:-1]:
        items.append(Item(Box((0.012, 0.007, tall * 0.39), at(float(x), 0, tall * 0.59)), upright))
    return items


def armchair(rng: np.random.Generator, colour: Colour, kind: str = "check", wood_kind: int = 1) -> list[Item]:
    """An upholstered armchair on turned legs, about 0.8 m wide and 0.95 m tall."""
    fabric, plain = cloth_texture(rng, colour, kind), cloth_texture(rng, tuple(0.8 * c for c in colour))
    turned, grain = wood_texture(rng, wood_kind, upright=True), wood_texture(rng, wood_kind)
    items = [
        Item(RoundedBox((0.36, 0.33, 0.10), 0.03, placed((0, 0, 0.26))), plain),
        Item(RoundedBox((0.255, 0.30, 0.075), 0.06, placed((0, -0.045, 0.42))), fabric),
        Item(RoundedBox((0.30, 0.075, 0.34), 0.06, placed((0, 0.29, 0.63), roll_deg=-12)), plain),
        Item(RoundedBox((0.24, 0.06, 0.22), 0.055, placed((0, 0.185, 0.66), roll_deg=-12)), fabric),
    ]
    for side in (-1, 1):
        items.append(Item(RoundedBox((0.06, 0.32, 0.14), 0.05, placed((side * 0.31, -0.02, 0.44))), plain))
        rest = RoundedBox((0.05, 0.27, 0.016), 0.014, placed((side * 0.315, -0.05, 0.595)))
        items.append(Item(rest, grain))
        for y in (-0.28, 0.28):
            items.append(
                Item(strut((side * 0.33, y * 1.08, 0.0), (side * 0.30, y, 0.18), 0.016, 0.032), turned)
            )
    return items
