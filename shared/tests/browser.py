"""A headless Chromium for tests that look at a page; without playwright or a browser they are skipped."""

import contextlib
import importlib
import io
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

__all__ = ["chromium_page", "screenshot"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SOFTWARE_3D = ["--no-sandbox", "--enable-unsafe-swiftshader"]


@contextlib.contextmanager
def chromium_page(width: int, height: int) -> Iterator[Any]:
    """A blank playwright page of that size whose browser cannot reach any host but this one."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium on the path")
    with importlib.import_module("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=SOFTWARE_3D)
        try:
            context = browser.new_context(viewport={"width": width, "height": height})
            yield context.new_page()
        finally:
            browser.close()


def screenshot(page: Any, **clip: int) -> np.ndarray:
    """The page, or the part of it given by x, y, width, height, as uint8 RGB [H, W, 3]."""
    data = page.screenshot(**({"clip": clip} if clip else {}))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
