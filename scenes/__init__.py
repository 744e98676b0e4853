"""Procedural ray-cast scenes with exact depth: the embedded data of all papers."""

from scenes.catalog import CATALOG, OBJECTS, catalog_intrinsics, make_object, make_scene
from scenes.lens import circle_of_confusion_px, render_focal_stack, render_thin_lens
from scenes.objects import letter_cube
from scenes.rendering import Render, render, render_views
from scenes.scene import SCENES_VERSION, Background, Item, Light, Scene

__all__ = [
    "CATALOG",
    "OBJECTS",
    "SCENES_VERSION",
    "Background",
    "Item",
    "Light",
    "Render",
    "Scene",
    "catalog_intrinsics",
    "circle_of_confusion_px",
    "letter_cube",
    "make_object",
    "make_scene",
    "render",
    "render_focal_stack",
    "render_thin_lens",
    "render_views",
]
