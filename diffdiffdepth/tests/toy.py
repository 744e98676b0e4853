"""Scenes with known depth: a textured square before a textured wall, as a light field and as posed views."""

import torch

from diffdiffdepth.scene import LightField, MultiViewScene

HEIGHT, WIDTH = 41, 54
SQUARE = (20, 12, 35, 28)  # left, top, right, bottom
NEAR, FAR = 2.0, -1.0


def texture(x, y, phase=0.0):
    """A smooth colour pattern, defined everywhere, [3, ...]."""
    waves = [
        0.5 + 0.4 * torch.sin(0.45 * x + 0.2 * y + phase + c) * torch.cos(0.37 * y - c) for c in range(3)
    ]
    return torch.stack(waves)


def pixels(dtype=torch.float32):
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return x.to(dtype), y.to(dtype)


def on_square(x, y):
    left, top, right, bottom = SQUARE
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


def light_field(directions=((1, 0), (-1, 0), (0, 1), (0, -1), (2, -1)), dtype=torch.float32):
    """View at grid position (u, v) right and below the centre: what is nearer moves left and up."""
    x, y = pixels(dtype)

    def view(u, v):
        near, far = ((x + u * d, y + v * d) for d in (NEAR, FAR))
        return torch.where(on_square(*near), texture(*near, 2.0), texture(*far))

    views = torch.stack([view(u, v) for u, v in directions])
    truth = torch.where(on_square(x, y), NEAR, FAR).to(dtype)
    return LightField(view(0, 0), views, -torch.tensor(directions, dtype=dtype), truth=truth)


def multi_view(scale=1.0, dtype=torch.float32):
    """Planes at depth 2 and 4, all lengths times `scale`, seen by cameras moved right, down, and forwards."""
    x, y = pixels(dtype)
    focal, cx, cy = 60.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    K = torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=dtype)
    moves = torch.tensor([[0.12, 0, 0], [-0.1, 0.05, 0], [0, -0.12, 0.0], [0.02, 0.0, 0.2]], dtype=dtype)

    def view(move):
        # back to the pixels of the centre view that see the same points of each plane
        near, far = (
            [
                ((p - c) * (z - move[2]) / focal + m) * focal / z + c
                for p, c, m in ((x, cx, move[0]), (y, cy, move[1]))
            ]
            for z in (2.0, 4.0)
        )
        return torch.where(on_square(*near), texture(*near, 2.0), texture(*far))

    poses = torch.eye(4, dtype=dtype).repeat(len(moves), 1, 1)
    poses[:, :3, 3] = -moves * scale
    views = torch.stack([view(move) for move in moves])
    truth = torch.where(on_square(x, y), 2.0, 4.0).to(dtype) * scale
    centre = view(torch.zeros(3, dtype=dtype))
    return MultiViewScene(centre, views, K, K.expand(len(moves), 3, 3), poses, truth=truth)
