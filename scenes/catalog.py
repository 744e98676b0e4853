"""Every scene by name, each with cameras that show it: `make_scene("street", seed=3)`."""

from collections.abc import Callable
from dataclasses import replace

import torch

from scenes.objects import chair_object, letter_cube, pedestal, random_car, random_chair, vase
from scenes.rooms import room
from scenes.scene import Scene
from scenes.streets import street
from scenes.tabletop import tabletop
from shared.geometry.trajectories import orbit_trajectory

__all__ = ["CATALOG", "OBJECTS", "catalog_intrinsics", "make_object", "make_scene"]

# Single objects: centred at the origin, z up, within 0.7 of it, on white.
OBJECTS: dict[str, Callable[[int], Scene]] = {
    "cube": letter_cube,
    "vase": vase,
    "pedestal": pedestal,
    "chair": chair_object,
    "random_chair": random_chair,
    "random_car": random_car,
}
# Surroundings in metres with camera paths of their own.
_PLACES: dict[str, Callable[[int], Scene]] = {"room": room, "street": street, "tabletop": tabletop}
CATALOG: tuple[str, ...] = (*OBJECTS, *_PLACES)
_FOCAL_PER_SIDE = {"room": 0.85, "street": 0.9, "tabletop": 1.2}  # of the picture's longer side


def make_object(name: str, seed: int = 0) -> Scene:
    """One of `OBJECTS`; equal names and seeds give equal scenes. Raises ValueError for an unknown name."""
    if name not in OBJECTS:
        raise ValueError(f"unknown object {name!r}; there are {', '.join(OBJECTS)}")
    return OBJECTS[name](seed)


def make_scene(name: str, seed: int = 0) -> Scene:
    """Any scene of `CATALOG` with `cameras`; objects get 12 on an orbit of radius 1.7, 30 degrees up."""
    if name in _PLACES:
        return _PLACES[name](seed)
    if name not in OBJECTS:
        raise ValueError(f"unknown scene {name!r}; there are {', '.join(CATALOG)}")
    return replace(make_object(name, seed), cameras=orbit_trajectory(12, 1.7, 30.0))


def catalog_intrinsics(name: str, height: int, width: int) -> torch.Tensor:
    """K [3, 3] float32 with the field of view that suits a scene's cameras, principal point in the middle."""
    focal = _FOCAL_PER_SIDE.get(name, 1.1) * (max if name in _PLACES else min)(height, width)
    return torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
