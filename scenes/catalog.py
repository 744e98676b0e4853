"""Single objects by name: `make_object("cube")`."""

from collections.abc import Callable

from scenes.objects import chair_object, letter_cube, pedestal, random_car, random_chair, vase
from scenes.scene import Scene

__all__ = ["OBJECTS", "make_object"]

# Centred at the origin, z up, within 0.7 of it, on white.
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
