"""Driving corridors in metres: the road runs along +x, y to the left, z up, the ground at z = 0."""

import math

import numpy as np
import torch

from scenes.cars import car, random_car_style
from scenes.facades import facade
from scenes.furniture import bar, strut
from scenes.patterns import Colour, bricks, foliage, plaster, stone, wood
from scenes.pictures import paving, road
from scenes.scene import Background, Item, Light, Scene, moved
from scenes.shapes import Box, Quad, Sphere, placed
from scenes.solids import HeightField, Prism, Revolution, cylinder
from scenes.textures import Texture, solid
from shared.geometry.camera import look_at

__all__ = ["street"]

LENGTH = 120.0
_HALF_ROAD, _KERB = 4.6, 0.14
_SKY = Background(horizon=(0.86, 0.91, 0.96), zenith=(0.36, 0.58, 0.88))
_PAINTS: tuple[Colour, ...] = (
    (0.86, 0.78, 0.62),
    (0.80, 0.62, 0.46),
    (0.72, 0.78, 0.80),
    (0.88, 0.86, 0.80),
    (0.70, 0.52, 0.44),
    (0.76, 0.80, 0.68),
    (0.66, 0.66, 0.68),
)


def street(seed: int = 0, views: int = 24, step_m: float = 0.8) -> Scene:
    """A street 120 m long; `cameras` [views, 4, 4] drive along the right lane at 1.6 m, `step_m` apart.

    Road with markings, kerbs and pavements, two rows of houses with a gap for a side street, parked and
    oncoming cars, trees, lamp posts, signs and hills at the end; everything follows the seed.
    """
    rng = np.random.default_rng(seed)
    sun = (0.25 + rng.uniform(-0.2, 0.2), float(rng.choice([-1, 1])) * rng.uniform(0.3, 0.6), 1.0)
    light = Light(
        to_sun=sun,
        sun=(0.72, 0.69, 0.62),
        sky=(0.46, 0.50, 0.58),
        ground=(0.32, 0.30, 0.28),
        shadows=True,
        occlusion_radius=1.0,
    )
    pavement = float(rng.uniform(2.6, 3.6))
    items = _ground(rng, pavement)
    for side in (-1, 1):
        items += _houses(rng, side, _HALF_ROAD + pavement)
        items += _kerbside(rng, side, pavement)
    items += _parked_cars(rng, seed)
    return Scene(items, light, _SKY, _drive(rng, views, step_m))


def _drive(rng: np.random.Generator, views: int, step_m: float) -> torch.Tensor:
    """Forward motion in the right lane with a little sway."""
    x = torch.arange(views, dtype=torch.float64) * step_m + float(rng.uniform(4, 8))
    sway = 0.12 * torch.sin(0.35 * x + float(rng.uniform(0, 6)))
    position = torch.stack([x, -1.45 + sway, torch.full_like(x, 1.6)], 1)
    ahead = torch.stack([x + 20.0, -1.25 + 0.2 * sway, torch.full_like(x, 1.45)], 1)
    return look_at(position, ahead).float()


def _ground(rng: np.random.Generator, pavement: float) -> list[Item]:
    tarmac = Texture(road(512, rng), (12.0, 2 * _HALF_ROAD))
    slabs = Texture(paving(256, rng), (2.4, 2.4))
    kerb = Texture(stone(128, rng, (0.72, 0.71, 0.69), (0.55, 0.54, 0.53)), (1.0, 0.5))
    grass = Texture(foliage(256, rng, (0.36, 0.48, 0.22)), (3.0, 3.0))
    items = [Item(Quad((LENGTH, _HALF_ROAD), placed((LENGTH / 2, 0, 0))), tarmac)]
    items.append(Item(Quad((2 * LENGTH, LENGTH), placed((LENGTH / 2, 0, -0.03))), grass, blocks_light=False))
    for side in (-1, 1):
        near, far = side * _HALF_ROAD, side * (_HALF_ROAD + pavement)
        for low, high, texture in ((near, near + side * 0.18, kerb), (near + side * 0.18, far, slabs)):
            items.append(
                Item(bar((-LENGTH, min(low, high), -0.1), (2 * LENGTH, max(low, high), _KERB)), texture)
            )
    bumps = [(rng.uniform(5, 13), 0, rng.uniform(-70, 70), rng.uniform(14, 26)) for _ in range(7)]
    hills = HeightField((45, 110), bumps=bumps, world_from_local=placed((LENGTH + 75, 0, -1.0)))
    items.append(
        Item(hills, Texture(foliage(256, rng, (0.34, 0.44, 0.30)), (14.0, 14.0)), blocks_light=False)
    )
    return items


def _houses(rng: np.random.Generator, side: int, line: float) -> list[Item]:
    """A row of houses whose fronts are at y = side * line, with one gap, flat or pitched roofs."""
    items: list[Item] = []
    x, gap = -6.0, float(rng.uniform(25, 60))
    while x < LENGTH - 5:
        wide = float(rng.uniform(8, 15))
        if x < gap < x + wide:
            x = gap + float(rng.uniform(7, 10))  # a side street
            gap = -100.0
            continue
        items += _house(rng, side, (x, x + wide), line + float(rng.choice([0.0, 0.0, 0.8])))
        x += wide + float(rng.choice([0.0, 0.0, 0.0, 2.5]))
    return items


_BRICKS: tuple[Colour, ...] = ((0.60, 0.30, 0.22), (0.66, 0.52, 0.38))


def _house(rng: np.random.Generator, side: int, span: tuple[float, float], line: float) -> list[Item]:
    """A house between x = span with its front, a picture, at y = side * line."""
    floors, deep = int(rng.integers(2, 6)), float(rng.uniform(8, 11))
    tall, wide, middle = 3.1 * floors + 0.6, span[1] - span[0], sum(span) / 2
    brick, shop = bool(rng.random() < 0.4), bool(rng.random() < 0.45)
    colour = (_BRICKS if brick else _PAINTS)[int(rng.integers(len(_BRICKS if brick else _PAINTS)))]
    wall = bricks(256, rng, colour, rows=14, columns=4) if brick else plaster(256, rng, colour)
    body = Box((wide / 2, deep / 2, tall / 2), placed((middle, side * (line + deep / 2), tall / 2)))
    front = facade(rng, floors, max(2, round(wide / 2.9)), colour, brick, shop)
    face = Quad((wide / 2, tall / 2), placed((middle, side * (line - 0.01), tall / 2), 90 - 90 * side, 0, 90))
    items = [
        Item(body, Texture(wall, (1.1, 1.1) if brick else (4.0, 4.0))),
        Item(face, Texture(front, (wide, tall), repeat=False)),
    ]
    items += _roof(rng, (middle, side * (line + deep / 2), tall), (wide, deep), colour)
    if shop and rng.random() < 0.7:  # an awning
        outline = [(0.0, 0.0), (1.3, -0.45), (1.3, -0.40), (0.0, 0.12)]
        pose = placed((middle, side * line, 2.75), yaw_deg=-90 * side)
        items.append(Item(Prism(outline, 0.42 * wide, pose), solid(*rng.uniform(0.25, 0.8, 3))))
    elif rng.random() < 0.6:
        for level in range(1, floors - 1):
            items += _balcony(middle, side, line, 0.6 + 3.1 * level)
    return items


def _roof(
    rng: np.random.Generator, foot: tuple[float, float, float], size: tuple[float, float], colour: Colour
) -> list[Item]:
    """A pitched roof with its ridge along the street, or a flat one with a ledge."""
    (x, y, z), (wide, deep) = foot, size
    if rng.random() < 0.6:
        tiles = Texture(_roof_tiles(rng), (2.2, 2.2), turned=True)
        outline = [(-deep / 2 - 0.35, 0.0), (deep / 2 + 0.35, 0.0), (0.0, float(rng.uniform(1.6, 3.0)))]
        return [Item(Prism(outline, wide / 2 + 0.1, placed(foot, yaw_deg=90), crease_deg=10), tiles)]
    ledge = solid(*(min(1.0, 0.5 + 0.5 * c) for c in colour))
    low, high = (x - wide / 2, y - deep / 2 - 0.2, z), (x + wide / 2, y + deep / 2 + 0.2, z + 0.35)
    return [Item(bar(low, high), ledge)]


def _balcony(x: float, side: int, line: float, z: float) -> list[Item]:
    wall, front, inner = (side * (line - gap) for gap in (0.0, 0.9, 0.86))
    floor = bar((x - 1.4, min(wall, front), z), (x + 1.4, max(wall, front), z + 0.12))
    rail = bar((x - 1.4, min(inner, front), z + 0.2), (x + 1.4, max(inner, front), z + 0.95))
    return [Item(floor, solid(0.75, 0.74, 0.72)), Item(rail, solid(0.2, 0.2, 0.22))]


def _roof_tiles(rng: np.random.Generator) -> np.ndarray:
    """Rows of clay tiles with shaded lower edges."""
    side = 256
    picture = bricks(side, rng, (0.58, 0.28, 0.20), (0.30, 0.17, 0.13), rows=10, columns=10)
    fall = np.linspace(0, 10, side, endpoint=False) % 1.0
    return np.clip(picture * (1.12 - 0.38 * fall)[:, None, None], 0, 1).astype(np.float32)


def _kerbside(rng: np.random.Generator, side: int, pavement: float) -> list[Item]:
    """Trees and lamp posts along the kerb, bins, signs and hedges."""
    y = side * (_HALF_ROAD + 0.75)
    bark = Texture(wood(128, rng, (0.42, 0.33, 0.26), (0.24, 0.18, 0.14)), (0.5, 0.5), turned=True)
    leaves = [
        Texture(foliage(256, rng, tuple(rng.uniform((0.18, 0.34, 0.10), (0.36, 0.50, 0.2)))), (1.6, 1.6))
        for _ in range(3)
    ]
    dark = solid(0.18, 0.20, 0.20)
    items: list[Item] = []
    spacing = float(rng.uniform(9, 13))
    for index, x in enumerate(np.arange(2.0, LENGTH, spacing)):
        place = x + float(rng.uniform(-1, 1))
        if index % 3 == 2:
            items += _lamp_post(place, y, side, dark)
        elif rng.random() < 0.85:
            items += moved(_tree(rng, bark, leaves[int(rng.integers(3))]), placed((place, y, _KERB)))
        if rng.random() < 0.5:
            items += moved(_sign(rng), placed((place + spacing / 2, y - side * 0.35, _KERB), yaw_deg=180))
        if rng.random() < 0.4:
            bin_at = placed((place + spacing / 3, side * (_HALF_ROAD + pavement - 0.5), _KERB + 0.5))
            items.append(
                Item(
                    cylinder(0.27, 0.5, bin_at), solid(*rng.choice([(0.16, 0.30, 0.22), (0.25, 0.26, 0.28)]))
                )
            )
    return items


def _tree(rng: np.random.Generator, bark: Texture, leaves: Texture) -> list[Item]:
    """A street tree: trunk, three boughs and a crown of tufts."""
    tall, wide = float(rng.uniform(4.2, 6.5)), float(rng.uniform(1.3, 1.9))
    items = [Item(strut((0, 0, 0), (0, 0, 0.6 * tall), 0.17, 0.11), bark)]
    for bough in range(3):
        angle = 2.1 * bough + float(rng.uniform(0, 1))
        tip = (0.6 * wide * math.cos(angle), 0.6 * wide * math.sin(angle), 0.8 * tall)
        items.append(Item(strut((0, 0, 0.45 * tall), tip, 0.08, 0.04), bark))
    for tuft in range(11):
        angle, out = 2.4 * tuft, wide * math.sqrt((tuft + 0.3) / 13)
        height = tall * (0.86 + float(rng.uniform(-0.13, 0.16))) - 0.15 * out
        pose = placed(
            (out * math.cos(angle), out * math.sin(angle), height), yaw_deg=float(rng.uniform(0, 360))
        )
        items.append(Item(Sphere(float(rng.uniform(0.55, 0.95)), pose), leaves))
    return items


def _lamp_post(x: float, y: float, side: int, texture: Texture) -> list[Item]:
    top = 5.6
    items = [
        Item(strut((x, y, _KERB), (x, y, top), 0.075, 0.045), texture),
        Item(cylinder(0.12, 0.35, placed((x, y, _KERB + 0.35))), texture),
        Item(strut((x, y, top - 0.03), (x, y - side * 1.3, top + 0.12), 0.04, 0.03), texture),
    ]
    lamp = Revolution(
        [(0.0, 0.0), (0.16, 0.02), (0.2, 0.08), (0.12, 0.18), (0.0, 0.2)], placed((x, y - side * 1.35, top))
    )
    return [*items, Item(lamp, solid(0.86, 0.86, 0.82))]


def _sign(rng: np.random.Generator) -> list[Item]:
    """A round or square traffic sign facing local +x."""
    items = [Item(strut((0, 0, 0), (0, 0, 2.5), 0.03, 0.03), solid(0.55, 0.56, 0.58))]
    side = 128
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side * 2 - 1
    radius = np.hypot(x, y)
    if rng.random() < 0.5:
        picture = np.where((radius < 0.74)[..., None], (0.95, 0.95, 0.94), (0.80, 0.08, 0.08))
        mark = (np.abs(y) < 0.14) & (np.abs(x) < 0.5)
        picture = np.where(mark[..., None], (0.1, 0.1, 0.1), picture)
        shape = Revolution(
            [(0.0, -0.01), (0.33, -0.01), (0.33, 0.01), (0.0, 0.01)], placed((0.04, 0, 2.5), pitch_deg=90)
        )
        texture = solid(0.55, 0.56, 0.58)
        face = Texture(picture, (0.66, 0.66), repeat=False)
        disc = Quad((0.23, 0.23), placed((0.052, 0, 2.5), roll_deg=90, yaw_deg=90))
        rim = Revolution([(0.33, 0.0), (0.0, 0.0)], placed((0.051, 0, 2.5), pitch_deg=90))
        return [*items, Item(shape, texture), Item(rim, solid(0.80, 0.08, 0.08)), Item(disc, face)]
    arrow = ((np.abs(x) < 0.16) & (y > -0.3) & (y < 0.6)) | (
        (y > -0.72) & (y < -0.2) & (np.abs(x) < 0.9 * (y + 0.75))
    )
    picture = np.where(arrow[..., None], (0.95, 0.95, 0.95), (0.10, 0.28, 0.66))
    board = Box((0.012, 0.3, 0.3), placed((0.04, 0, 2.45)))
    return [*items, Item(board, Texture(picture, (0.6, 0.6), repeat=False))]


def _parked_cars(rng: np.random.Generator, seed: int) -> list[Item]:
    """Cars along both kerbs and two oncoming ones on the road."""
    items: list[Item] = []
    number = 1000 * seed
    for side in (-1, 1):
        x = float(rng.uniform(9, 14))
        while x < 0.75 * LENGTH:
            if rng.random() < 0.62:
                number += 1
                style, length = random_car_style(number), float(rng.uniform(4.0, 4.7))
                pose = placed(
                    (x, side * (_HALF_ROAD - 1.0 + rng.uniform(-0.08, 0.08)), 0),
                    yaw_deg=0 if side < 0 else 180,
                )
                items += moved(car(style, rng, length), pose)
            x += float(rng.uniform(5.6, 9.0))
    for x in (float(rng.uniform(34, 48)), float(rng.uniform(70, 90))):
        number += 1
        pose = placed((x, 1.15, 0), yaw_deg=180 + float(rng.uniform(-1, 1)))
        items += moved(car(random_car_style(number), rng, 4.4), pose)
    return items
