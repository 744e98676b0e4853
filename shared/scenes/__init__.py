"""Procedural ray-cast scenes with exact depth: the embedded data of all papers."""

from shared.scenes.objects import letter_cube
from shared.scenes.render import Render, render, render_views
from shared.scenes.scene import Background, Item, Light, Scene

__all__ = ["Background", "Item", "Light", "Render", "Scene", "letter_cube", "render", "render_views"]
