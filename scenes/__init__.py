"""Procedural ray-cast scenes with exact depth: the embedded data of all papers."""

from scenes.objects import OBJECTS, make_object
from scenes.rendering import Render, render
from scenes.scene import SCENES_VERSION, Background, Item, Light, Scene

__all__ = [
    "OBJECTS",
    "SCENES_VERSION",
    "Background",
    "Item",
    "Light",
    "Render",
    "Scene",
    "make_object",
    "render",
]
