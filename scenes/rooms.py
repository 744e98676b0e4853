"""Furnished rooms in metres: z up, the floor's centre at the origin, the cameras look towards +y."""

import math

import numpy as np
import torch

from scenes.decor import WALL_PAINTS, book_pile, floor_lamp, mug, painted_vase, potted_plant, wallpaper
from scenes.furniture import (
    CLOTHS,
    WOODS,
    armchair,
    bar,
    chair,
    cloth_texture,
    random_chair_style,
    strut,
    wood_texture,
)
from scenes.patterns import bricks, marble, planks, plaster, stripes
from scenes.pictures import book_spines, carpet, globe, landscape, modern_painting, window_view
from scenes.scene import Item, Light, Scene, moved
from scenes.shapes import Box, Quad, RoundedBox, Sphere, placed
from scenes.solids import HeightField, Revolution, cone, cylinder
from scenes.textures import Texture, solid
from shared.geometry.camera import look_at

__all__ = ["room"]

ROOM_LIGHT = Light(
    to_sun=(0.75, -0.55, 0.75),
    sun=(0.56, 0.53, 0.46),
    sky=(0.62, 0.62, 0.63),
    ground=(0.54, 0.52, 0.48),
    shadows=True,
    occlusion_radius=0.45,
)
_WHITE = (0.93, 0.92, 0.89)


def room(seed: int = 0, views: int = 12) -> Scene:
    """A furnished attic room about 5 m wide; `cameras` [views, 4, 4] stroll through its front half.

    One ceiling slope, planked floor, a rug, sofa, chairs, shelf, pictures, plant, lamp, a throw over the
    sofa and round things on the tables; measures, colours and places follow the seed.
    """
    rng = np.random.default_rng(seed)
    half_x, half_y, tall = rng.uniform(2.3, 2.8), rng.uniform(2.4, 2.9), rng.uniform(2.5, 2.8)
    colours = [CLOTHS[i] for i in rng.permutation(len(CLOTHS))[:4]]
    items = _shell(rng, half_x, half_y, tall)
    items += _hangings(rng, half_x, half_y)
    rug = Box((1.35, 0.95, 0.008), placed((0, 0.45, 0.008)))
    items.append(Item(rug, Texture(carpet(512, rng), (2.7, 1.9), repeat=False)))
    items += moved(_sofa(rng, colours[0]), placed((0.1, half_y - 0.62, 0)))
    items += moved(_low_table(rng), placed((rng.uniform(-0.15, 0.15), 0.55, 0), yaw_deg=rng.uniform(-8, 8)))
    seat = armchair(rng, colours[1], str(rng.choice(["check", "striped"])), int(rng.integers(len(WOODS))))
    items += moved(seat, placed((half_x - 0.85, 0.35, 0), yaw_deg=-65 + rng.uniform(-10, 10)))
    items += moved(_bookshelf(rng), placed((-half_x + 0.18, 0.75, 0), yaw_deg=90))
    items += moved(potted_plant(rng), placed((half_x - 0.45, half_y - 0.42, 0)))
    items += moved(floor_lamp(rng), placed((-half_x + 0.5, half_y - 0.38, 0)))
    items += moved(_dining(rng), placed((-half_x + 0.95, -0.95, 0), yaw_deg=rng.uniform(-15, 15)))
    ottoman = Revolution(
        [(0, 0), (0.25, 0.0), (0.27, 0.05), (0.27, 0.3), (0.24, 0.36), (0.12, 0.38), (0, 0.385)]
    )
    items += moved(
        [Item(ottoman, cloth_texture(rng, colours[3], "striped", 0.27 * math.pi))], placed((0.95, -0.75, 0))
    )
    return Scene(items, ROOM_LIGHT, cameras=_stroll(rng, half_x, half_y, views))


def _stroll(rng: np.random.Generator, half_x: float, half_y: float, views: int) -> torch.Tensor:
    """A smooth path at eye height through the front of the room, looking into it."""
    share = torch.linspace(0, 1, views, dtype=torch.float64)
    swing = torch.sin(math.pi * (share - 0.5)) * (half_x - 1.1)
    height = 1.35 + 0.15 * torch.cos(2 * math.pi * share + float(rng.uniform(0, 6)))
    position = torch.stack([swing, -half_y + 0.35 + 0.5 * torch.sin(math.pi * share), height], 1)
    target = torch.stack([0.35 * swing, torch.full_like(share, 0.9), torch.full_like(share, 0.75)], 1)
    return look_at(position, target).float()


def _shell(rng: np.random.Generator, half_x: float, half_y: float, tall: float) -> list[Item]:
    """Floor, walls, ceiling, a slope over the left wall, skirting boards and a round pillar."""
    paint = WALL_PAINTS[int(rng.integers(len(WALL_PAINTS)))]
    walls = Texture(plaster(256, rng, paint), (2.5, 2.5))
    accents = (
        Texture(bricks(512, rng, mortar=(0.82, 0.80, 0.76)), (1.0, 1.0)),
        Texture(wallpaper(rng, paint), (0.8, 0.8)),
        Texture(stripes(256, rng, (paint, tuple(0.86 * c for c in paint)), 8), (0.8, 0.8)),
    )
    accent = accents[int(rng.permutation(3)[0])]
    white = Texture(plaster(256, rng, _WHITE), (3.0, 3.0))
    floor = Texture(planks(512, rng, 8), (1.6, 1.12))
    knee = tall - rng.uniform(0.9, 1.2)  # where the slope starts on the left wall
    run = rng.uniform(0.9, 1.2)
    slope = math.degrees(math.atan2(tall - knee, run))
    long = math.hypot(run, tall - knee)
    pose = placed((-half_x + run / 2, 0, (knee + tall) / 2), pitch_deg=-slope)

    def wall(
        half: tuple[float, float], at: tuple[float, float, float], texture: Texture, **turn: float
    ) -> Item:
        return Item(Quad(half, placed(at, **turn)), texture, blocks_light=False)

    items = [
        wall((half_x, half_y), (0, 0, 0), floor),
        wall((half_x, half_y), (0, 0, tall), white),
        Item(Quad((long / 2 + 0.01, half_y), pose), white, blocks_light=False),
        # a quad's v runs along its -y: upright walls keep pictures upright
        wall((half_x, tall / 2), (0, half_y, tall / 2), accent, roll_deg=90),
        wall((half_x, tall / 2), (0, -half_y, tall / 2), walls, roll_deg=90),
        wall((half_y, tall / 2), (half_x, 0, tall / 2), walls, roll_deg=90, yaw_deg=-90),
        wall((half_y, tall / 2), (-half_x, 0, tall / 2), walls, roll_deg=90, yaw_deg=90),
    ]
    board = solid(*_WHITE)
    for x in (-half_x, half_x):
        items.append(Item(bar((x - 0.015, -half_y, 0), (x + 0.015, half_y, 0.09)), board, blocks_light=False))
    items.append(Item(bar((-half_x, half_y - 0.015, 0), (half_x, half_y + 0.015, 0.09)), board))
    pillar = cylinder(0.14, tall / 2, placed((half_x - 0.25, -0.75, tall / 2)))
    items.append(Item(pillar, Texture(marble(256, rng), (0.88, 0.9)), blocks_light=False))
    return items


def _hangings(rng: np.random.Generator, half_x: float, half_y: float) -> list[Item]:
    """Framed pictures over the sofa, a window on the right wall, a mirror-like round picture."""
    frame = wood_texture(rng, int(rng.integers(len(WOODS))))
    items = []
    pictures = [landscape(256, rng), modern_painting(256, rng), landscape(256, rng)]
    order = rng.permutation(3)
    for slot, (x, half_w, half_h) in enumerate(((-1.15, 0.30, 0.38), (0.1, 0.55, 0.40), (1.25, 0.28, 0.28))):
        z = 1.55 + rng.uniform(-0.05, 0.08)
        items.append(
            Item(
                RoundedBox((half_w + 0.04, 0.018, half_h + 0.04), 0.012, placed((x, half_y - 0.018, z))),
                frame,
            )
        )
        picture = Texture(pictures[order[slot]], (2 * half_w, 2 * half_h), repeat=False)
        items.append(Item(Quad((half_w, half_h), placed((x, half_y - 0.038, z), roll_deg=90)), picture))
    window = Texture(window_view(256, rng), (1.3, 1.3), repeat=False)
    at = (half_x - 0.02, 1.05, 1.45)
    items.append(Item(Box((0.02, 0.70, 0.70), placed((half_x, 1.05, 1.45))), solid(0.95, 0.95, 0.93)))
    items.append(
        Item(Quad((0.65, 0.65), placed((at[0] - 0.003, at[1], at[2]), roll_deg=90, yaw_deg=-90)), window)
    )
    items.append(Item(bar((half_x - 0.16, 0.28, 0.70), (half_x, 1.82, 0.735)), solid(0.95, 0.95, 0.93)))
    for y in (0.25, 1.85):  # curtains: folds of a height field
        waves = [(0.022, 2 * math.pi / 0.09, 0.0, float(rng.uniform(0, 6))), (0.008, 23.0, 2.0, 0.5)]
        pose = placed((half_x - 0.10, y, 1.28), roll_deg=90, yaw_deg=-90)
        curtain = HeightField((0.20, 1.12), waves, world_from_local=pose)
        items.append(Item(curtain, cloth_texture(rng, CLOTHS[int(rng.integers(len(CLOTHS)))], "plain")))
    return items


def _sofa(rng: np.random.Generator, colour: tuple[float, ...]) -> list[Item]:
    """A three-seater, 2 m wide, with cushions and a throw."""
    kind = str(rng.choice(["plain", "plain", "check"]))
    fabric, pillow = cloth_texture(rng, colour, kind), CLOTHS[int(rng.integers(len(CLOTHS)))]
    items = [
        Item(RoundedBox((1.0, 0.42, 0.13), 0.04, placed((0, 0, 0.24))), fabric),
        Item(RoundedBox((0.98, 0.11, 0.36), 0.09, placed((0, 0.34, 0.52), roll_deg=-8)), fabric),
    ]
    for side in (-1, 1):
        items.append(Item(RoundedBox((0.11, 0.43, 0.20), 0.09, placed((side * 0.98, -0.01, 0.42))), fabric))
    for slot in (-1, 0, 1):
        items.append(Item(RoundedBox((0.285, 0.36, 0.085), 0.06, placed((slot * 0.58, -0.08, 0.43))), fabric))
    for x, turn in ((-0.68, 12), (0.70, -15)):
        pose = placed((x, 0.10, 0.68), yaw_deg=turn, roll_deg=-22)
        kind = str(rng.choice(["striped", "check", "plain"]))
        items.append(
            Item(RoundedBox((0.21, 0.075, 0.20), 0.07, pose), cloth_texture(rng, pillow, kind, 0.25))
        )
    waves = [(0.010, 14.0, 5.0, 0.3), (0.007, -9.0, 21.0, 1.0)]
    throw = HeightField((0.24, 0.36), waves, world_from_local=placed((0.0, -0.09, 0.528)))
    items.append(Item(throw, cloth_texture(rng, tuple(rng.uniform(0.3, 0.9, 3)), "check", 0.3)))
    for x in (-0.9, 0.9):
        for y in (-0.34, 0.34):
            items.append(
                Item(cone(0.022, 0.03, 0.06, placed((x, y, 0.06))), wood_texture(rng, 1, upright=True))
            )
    return items


def _low_table(rng: np.random.Generator) -> list[Item]:
    """A coffee table with books, a bowl of fruit and a vase."""
    kind = int(rng.integers(len(WOODS)))
    grain, upright = wood_texture(rng, kind, size=0.6), wood_texture(rng, kind, upright=True)
    items = [Item(RoundedBox((0.58, 0.34, 0.022), 0.015, placed((0, 0, 0.40))), grain)]
    items.append(Item(Box((0.50, 0.27, 0.01), placed((0, 0, 0.16))), grain))
    for x in (-0.51, 0.51):
        for y in (-0.28, 0.28):
            items.append(
                Item(strut((x * 1.05, y * 1.05, 0.0), (x * 0.96, y * 0.96, 0.39), 0.014, 0.024), upright)
            )
    items += moved(book_pile(rng, 3), placed((-0.30, 0.02, 0.422), yaw_deg=20))
    items += moved(painted_vase(rng, 0.30, int(rng.integers(3))), placed((0.06, 0.12, 0.422)))
    bowl = Revolution(
        [(0, 0), (0.06, 0.0), (0.10, 0.03), (0.145, 0.085), (0.135, 0.085), (0.09, 0.035), (0.0, 0.02)]
    )
    items += moved([Item(bowl, wood_texture(rng, 2))], placed((0.34, -0.06, 0.422)))
    for turn in range(4):
        at = (0.34 + 0.055 * math.cos(1.57 * turn), -0.06 + 0.055 * math.sin(1.57 * turn), 0.422 + 0.075)
        colour = ((0.85, 0.22, 0.12), (0.93, 0.62, 0.12), (0.55, 0.68, 0.16), (0.88, 0.42, 0.10))[turn]
        items.append(Item(Sphere(0.042, placed(at)), Texture(plaster(64, rng, colour), (0.1, 0.1))))
    return items


def _bookshelf(rng: np.random.Generator) -> list[Item]:
    """A shelf 1.3 m wide and 1.25 m high: painted rows of books, a globe and a vase on top."""
    kind = int(rng.integers(len(WOODS)))
    grain, upright = wood_texture(rng, kind), wood_texture(rng, kind, upright=True)
    wide, deep, tall = 0.65, 0.14, 1.25
    items = [
        Item(bar((s * wide - 0.015, -deep, 0), (s * wide + 0.015, deep, tall)), upright) for s in (-1, 1)
    ]
    items.append(Item(bar((-wide, deep - 0.01, 0), (wide, deep, tall)), upright))
    levels = np.linspace(0.06, tall - 0.012, 4)
    for z in levels:
        items.append(Item(bar((-wide, -deep, z - 0.012), (wide, deep, z + 0.012)), grain))
    for low, high in zip(levels[:-1], levels[1:], strict=True):
        end = wide - 0.02 - float(rng.choice([0.0, 0.0, 0.3]))
        row = bar((-wide + 0.015, -0.5 * deep, low + 0.012), (end, deep - 0.01, low + 0.86 * (high - low)))
        size = (2 * row.half[0], 2 * row.half[2])
        items.append(Item(row, Texture(_spines_on_front(rng), size, False, (1, 1, 1, 0, 1, 1))))
    ball = Sphere(0.13, placed((-0.38, 0, tall + 0.19), roll_deg=20))
    items.append(Item(ball, Texture(globe(256, 128, rng), (2 * math.pi * 0.13, math.pi * 0.13))))
    items.append(Item(cone(0.08, 0.015, 0.03, placed((-0.38, 0, tall + 0.042))), upright))
    items += moved(painted_vase(rng, 0.34, int(rng.integers(3))), placed((0.05, 0, tall + 0.012)))
    return items + moved(book_pile(rng, 4), placed((0.42, 0, tall + 0.012)))


def _spines_on_front(rng: np.random.Generator) -> np.ndarray:
    """Two layers: spines, and plain paper for the other faces."""
    spines = book_spines(512, 128, rng)
    return np.stack([spines, np.full_like(spines, (0.72, 0.69, 0.62))])


def _dining(rng: np.random.Generator) -> list[Item]:
    """A round table with two chairs, a jug and cups."""
    kind = int(rng.integers(len(WOODS)))
    grain = wood_texture(rng, kind, size=0.5)
    profile = [(0, 0), (0.25, 0.0), (0.25, 0.03), (0.05, 0.08), (0.035, 0.3), (0.05, 0.68), (0.1, 0.72)]
    items = [Item(Revolution(profile), wood_texture(rng, kind, upright=True))]
    items.append(Item(cylinder(0.46, 0.016, placed((0, 0, 0.736))), grain))
    style = random_chair_style(int(rng.integers(1000)))
    for angle in (25, 155):
        a = math.radians(angle)
        pose = placed((0.68 * math.cos(a), 0.68 * math.sin(a), 0), yaw_deg=angle - 90 + rng.uniform(-12, 12))
        items += moved(chair(style, rng), pose)
    items += moved(painted_vase(rng, 0.24, 0), placed((-0.08, 0.1, 0.752)))
    items += moved(mug(rng), placed((0.20, -0.12, 0.752)))
    return items + moved(mug(rng), placed((-0.22, -0.18, 0.752), yaw_deg=130))
