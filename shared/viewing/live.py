"""Pictures that follow the browser's camera: the newest viewpoint is rendered, and cut to the window."""

import math
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

__all__ = ["NewestOnly", "fit_window"]

Request = TypeVar("Request")
NOTHING = object()


class NewestOnly(Generic[Request]):
    """Does `work(request)` in a thread of its own, always for the newest request.

    Requests that were overtaken while the work was busy are dropped, so a slow network lags by one picture at
    most. An error of `work` is reported on stderr and ends nothing.
    """

    def __init__(self, work: Callable[[Request], None]):
        self._work = work
        self._newest: object = NOTHING
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="live view", daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> None:
        """Ask for work; returns at once."""
        with self._changed:
            self._newest = request
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after the work it is at."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._newest is not NOTHING)
                if self._stopped:
                    return
                request, self._newest = self._newest, NOTHING
            try:
                self._work(request)
            except Exception:  # the next viewpoint may work, and the page must stay
                traceback.print_exc(file=sys.stderr)


def fit_window(picture: np.ndarray, K: Tensor, fov_y: float, aspect: float, blank: int = 255) -> np.ndarray:
    """Cut or pad a picture uint8 [H, W, 3] taken with `K` so that it fills a window, at its own resolution.

    The window has the vertical field of view `fov_y` (radians), `aspect` = width / height, and its middle on
    the optical axis. What the picture does not show is `blank`. Edges are rounded to whole pixels.
    """
    if not (0 < fov_y < math.pi and aspect > 0):
        raise ValueError(f"the field of view must be in (0, pi) and the aspect positive: {fov_y}, {aspect}")
    height, width = picture.shape[:2]
    reach = math.tan(fov_y / 2)
    half_height, half_width = float(K[1, 1]) * reach, float(K[0, 0]) * reach * aspect
    centre_x, centre_y = float(K[0, 2]) + 0.5, float(K[1, 2]) + 0.5  # from the outer border
    left, top = round(centre_x - half_width), round(centre_y - half_height)
    right, bottom = max(left + 1, round(centre_x + half_width)), max(top + 1, round(centre_y + half_height))
    window = np.full((bottom - top, right - left, 3), blank, np.uint8)
    inside_y = slice(max(0, top), min(height, bottom))
    inside_x = slice(max(0, left), min(width, right))
    part = picture[inside_y, inside_x]
    if part.size:
        y, x = inside_y.start - top, inside_x.start - left
        window[y : y + part.shape[0], x : x + part.shape[1]] = part
    return window
