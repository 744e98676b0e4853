"""Fronts of town houses as pictures: windows, shutters, cornices, doors and shops."""

import cv2
import numpy as np

from scenes.patterns import Colour, blend, bricks, fractal_noise, glyph_mask, plaster

__all__ = ["facade"]


def facade(
    rng: np.random.Generator, floors: int, bays: int, colour: Colour, brick: bool, shop: bool
) -> np.ndarray:
    """The front of a house [512, 512, 3]: framed windows, a cornice, a ground floor with a shop or doors."""
    side = 512
    wall = bricks(side, rng, colour, rows=20 * floors, columns=9 * bays) if brick else None
    wall = plaster(side, rng, colour) if wall is None else wall
    picture = wall.copy()
    edges_y = np.linspace(18, side, floors + 1).round().astype(int)
    edges_x = np.linspace(6, side - 6, bays + 1).round().astype(int)
    trim = tuple(min(1.0, 0.4 + 0.6 * c) for c in colour)
    ratio = float(rng.uniform(0.42, 0.58))
    shutters = bool(rng.random() < 0.4) and not brick
    leaf = tuple(float(c) for c in rng.uniform(0.15, 0.5, 3))
    for top, bottom in zip(edges_y[:-2], edges_y[1:-1], strict=True):
        cv2.rectangle(picture, (0, int(bottom) - 4), (side, int(bottom)), trim, -1)
        for left, right in zip(edges_x[:-1], edges_x[1:], strict=True):
            _window(picture, rng, (left, top, right, bottom), ratio, trim, leaf if shutters else None)
    _ground_floor(picture, rng, edges_x, (int(edges_y[-2]), side), trim, shop)
    cv2.rectangle(picture, (0, 0), (side, 12), trim, -1)
    cv2.rectangle(picture, (0, 12), (side, 17), tuple(0.55 * c for c in trim), -1)
    return np.clip(picture, 0.0, 1.0)


def _window(
    picture: np.ndarray,
    rng: np.random.Generator,
    cell: tuple[int, int, int, int],
    ratio: float,
    trim: Colour,
    shutter: Colour | None,
) -> None:
    """One window in a cell (left, top, right, bottom) of the facade, in place."""
    left, top, right, bottom = map(int, cell)
    half = int((right - left) * ratio / 2)
    middle, high, low = (
        (left + right) // 2,
        top + int(0.18 * (bottom - top)),
        bottom - int(0.2 * (bottom - top)),
    )
    if shutter is not None:
        cv2.rectangle(
            picture, (middle - int(1.75 * half), high), (middle + int(1.75 * half), low), shutter, -1
        )
    cv2.rectangle(picture, (middle - half - 3, high - 3), (middle + half + 3, low + 3), trim, -1)
    pane = picture[high:low, middle - half : middle + half]
    ramp = np.linspace(0, 1, pane.shape[0], dtype=np.float32)[:, None] * np.ones(pane.shape[1], np.float32)
    bright = float(rng.uniform(0.5, 1.25))
    pane[:] = np.clip(blend((0.52, 0.62, 0.72), (0.12, 0.16, 0.20), ramp) * bright, 0, 1)
    if rng.random() < 0.35:
        pane[:, : pane.shape[1] // 4] = pane[:, -(pane.shape[1] // 4) :] = (0.86, 0.83, 0.76)
    cv2.line(picture, (middle, high), (middle, low), (0.92, 0.92, 0.90), 2)
    cv2.line(
        picture,
        (middle - half, (2 * high + low) // 3),
        (middle + half, (2 * high + low) // 3),
        (0.92, 0.92, 0.9),
        2,
    )
    cv2.rectangle(
        picture, (middle - half - 5, low + 2), (middle + half + 5, low + 6), tuple(0.8 * c for c in trim), -1
    )


def _ground_floor(
    picture: np.ndarray,
    rng: np.random.Generator,
    edges_x: np.ndarray,
    rows: tuple[int, int],
    trim: Colour,
    shop: bool,
) -> None:
    """Shop windows under a lettered board, or doors and windows, in place."""
    top, bottom = rows
    tall = bottom - top
    if not shop:
        door = int(rng.integers(len(edges_x) - 1))
        for bay, (left, right) in enumerate(zip(edges_x[:-1], edges_x[1:], strict=True)):
            if bay == door:
                wood = tuple(float(c) for c in rng.uniform(0.12, 0.45, 3))
                middle, half = int(left + right) // 2, int(right - left) // 4
                cv2.rectangle(
                    picture, (middle - half - 4, top + tall // 6), (middle + half + 4, bottom), trim, -1
                )
                cv2.rectangle(picture, (middle - half, top + tall // 5), (middle + half, bottom), wood, -1)
            else:
                _window(picture, rng, (left, top, right, bottom - tall // 8), 0.5, trim, None)
        picture[bottom - tall // 10 :] *= 0.6
        return
    board = np.asarray(rng.uniform(0.1, 0.6, 3), np.float32)
    picture[top:bottom] = 0.5 * board
    picture[top + 4 : top + tall // 4] = board
    words = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVZ"), int(rng.integers(4, 8))))
    letters = glyph_mask(words, 256, 0.5)
    ink = letters[np.flatnonzero(letters.max(1))[0] : np.flatnonzero(letters.max(1))[-1] + 1]
    ink = cv2.resize(ink, (256, max(4, tall // 7)), interpolation=cv2.INTER_AREA)
    area = picture[top + tall // 16 + 2 : top + tall // 16 + 2 + len(ink), 128:384]
    area[:] = blend(area, (0.95, 0.92, 0.82), ink[: len(area)])
    for left, right in zip(edges_x[:-1], edges_x[1:], strict=True):
        pane = picture[top + int(0.3 * tall) : bottom - tall // 8, int(left) + 6 : int(right) - 6]
        view = np.clip(0.15 + 0.6 * fractal_noise(64, rng, 1.0), 0, 1)
        tint = rng.uniform(0.6, 1.1, 3)
        goods = cv2.resize(view, (pane.shape[1], pane.shape[0]))[..., None] * tint
        pane[:] = np.clip(goods, 0, 1)
