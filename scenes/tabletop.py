"""Things on a desk, in metres, for focal stacks and light fields."""

import numpy as np
import torch

from scenes.decor import (
    WALL_PAINTS,
    book_pile,
    candle,
    mug,
    painted_vase,
    striped_ball,
    toy_blocks,
    wallpaper,
)
from scenes.patterns import planks
from scenes.scene import Item, Light, Scene, moved
from scenes.shapes import Box, Quad, placed
from scenes.textures import Texture
from shared.geometry.camera import look_at

__all__ = ["tabletop"]


def tabletop(seed: int = 0) -> Scene:
    """Things on a desk between 0.5 m and 2 m from the camera, for focal stacks and light fields.

    `cameras` [1, 4, 4] is one suggested view.
    """
    rng = np.random.default_rng(seed)
    grain = Texture(planks(512, rng, 5), (1.2, 0.9), turned=True)
    items = [Item(Box((1.0, 1.1, 0.02), placed((0, 0.75, -0.02))), grain)]
    back = Texture(wallpaper(rng, WALL_PAINTS[seed % len(WALL_PAINTS)]), (0.45, 0.45))
    items.append(Item(Quad((4, 3), placed((0, 2.2, 0), roll_deg=90)), back, blocks_light=False))
    spots = [
        (-0.24, 0.12),
        (0.17, 0.02),
        (-0.05, 0.42),
        (0.34, 0.52),
        (-0.42, 0.68),
        (0.08, 0.92),
        (-0.22, 1.28),
        (0.46, 1.2),
    ]
    makers = (
        lambda: mug(rng),
        lambda: book_pile(rng, int(rng.integers(2, 5))),
        lambda: painted_vase(rng, rng.uniform(0.22, 0.34), int(rng.integers(3))),
        lambda: [striped_ball(rng, rng.uniform(0.05, 0.09))],
        lambda: toy_blocks(rng),
        lambda: candle(rng),
    )
    order = [0, 4, *rng.permutation([1, 2, 3, 5]).tolist(), 2, 1]
    for (x, y), index in zip(spots, order, strict=True):
        pose = placed((x + rng.uniform(-0.03, 0.03), y, 0), yaw_deg=rng.uniform(-40, 40))
        items += moved(makers[index](), pose)
    position = torch.tensor([[0.0, -0.62, 0.36]], dtype=torch.float64)
    target = position + torch.tensor([0.0, 1.25, -0.27], dtype=torch.float64)
    light = Light(to_sun=(0.6, -0.5, 0.9), sun=(0.5, 0.47, 0.42), shadows=True, occlusion_radius=0.1)
    return Scene(items, light, cameras=look_at(position, target).float())
