"""Procedural ray-cast scenes with exact depth: the embedded data of all papers."""

from shared.scenes.objects import letter_cube, make_object
from shared.scenes.rendering import Render, render, render_views
from shared.scenes.scene import SCENES_VERSION, Background, Item, Light, Scene

__all__ = [
    "SCENES_VERSION",
    "Background",
    "Item",
    "Light",
    "Render",
    "Scene",
    "letter_cube",
    "make_object",
    "render",
    "render_views",
]
