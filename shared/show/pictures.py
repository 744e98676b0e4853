"""Pictures to look at: depth in colour with its range printed on it, and contact sheets.

Everything here takes a torch image [3 or 1, H, W] or [H, W] in [0, 1], or a NumPy image [H, W, 3] or [H, W]
that is uint8 or float in [0, 1], and returns a uint8 RGB array [H, W, 3]. Depth is a `DepthMap` of one view,
or a plain map [H, W] with its mask.
"""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from shared.files.images import to_uint8
from shared.results import DepthMap

if TYPE_CHECKING:
    from PIL import ImageFont

__all__ = ["captioned", "colorize_depth", "contact_sheet", "depth_legend", "depth_picture", "depth_range"]
__all__ += ["evenly"]


def evenly(count: int, at_most: int) -> list[int]:
    """Indices of up to `at_most` of `count` things, spread over all of them, the ends among them."""
    return torch.linspace(0, count - 1, min(count, at_most)).round().long().tolist()


Colormap = Literal["turbo", "magma"]
INVALID_GREY = 128
KINDS = {
    "z_depth": "z-depth",
    "ray_distance": "distance from the camera",
    "inv_depth": "inverse depth",
    "disparity_px": "disparity",
    "order": "place in the stack",
    "place": "place in the stack, direction not known",
}
PLAIN_LETTERS = {"×": "x", "–": "-", "—": "-", "−": "-", "→": "->", "±": "+-", "°": " deg", "µ": "u"}
INK = (32, 36, 42)
PAPER = (255, 255, 255)


# ---- depth -------------------------------------------------------------------------------------------------


def depth_range(depth: Any, mask: Any = None) -> tuple[float, float]:
    """Return a range that shows a depth map [H, W] well: the 1st and 99th percentile of its valid values."""
    depth, valid = _depth_and_mask(depth, mask)
    if not valid.any():
        return 0.0, 1.0
    low, high = np.percentile(depth[valid], [1, 99])
    return float(low), float(high)


def colorize_depth(
    depth: Any,
    mask: Any = None,
    vmin: float | None = None,
    vmax: float | None = None,
    colormap: Colormap = "turbo",
    near_is_large: bool = False,
) -> np.ndarray:
    """Colour a depth map [H, W] (or [1, H, W]) from `vmin` to `vmax`: red is near; invalid pixels are grey.

    `near_is_large` says that of a plain map (True for disparity); a `DepthMap` knows it.

    Values beyond the range take the colour of its end. Without a range that of `depth_range` is taken, so
    give the same range to pictures that are to be compared. `mask` is True where the depth is valid; NaN and
    infinite depths are invalid in any case. A constant depth takes the middle colour.
    """
    import cv2  # here, as everywhere: whoever only imports a method should not wait for it

    near_is_large = depth.near_is_large if isinstance(depth, DepthMap) else near_is_large
    depth, valid = _depth_and_mask(depth, mask)
    low, high = depth_range(depth, valid)
    vmin, vmax = low if vmin is None else vmin, high if vmax is None else vmax
    if not (np.isfinite(vmin) and np.isfinite(vmax) and vmin <= vmax):
        raise ValueError(f"the depth range must be finite and ascending, got {vmin} to {vmax}")
    with np.errstate(invalid="ignore"):
        unit = (depth - vmin) / (vmax - vmin) if vmax > vmin else np.full(depth.shape, 0.5)
    levels = np.rint(np.clip(np.where(valid, unit, 0), 0, 1) * 255).astype(np.uint8)
    if colormap == "turbo" and not near_is_large:  # magma is for errors, where no end is nearer
        levels = 255 - levels
    table = {"turbo": cv2.COLORMAP_TURBO, "magma": cv2.COLORMAP_MAGMA}[colormap]
    colours = cv2.cvtColor(cv2.applyColorMap(levels, table), cv2.COLOR_BGR2RGB)
    return np.where(valid[..., None], colours, np.uint8(INVALID_GREY))


def depth_legend(
    width: int, vmin: float, vmax: float, unit: str, status: str = "", near_is_large: bool = False
) -> np.ndarray:
    """Draw a colour bar of the given width with the range, the unit and the status of the scale in words.

    `unit` is e.g. "m" or "scene units"; `status` is e.g. "metric", "up to scale", "median-aligned".
    """
    bar_height, size = max(8, width // 40), 13
    ramp = np.repeat(np.linspace(vmin, vmax, max(width, 2))[None], bar_height, axis=0)
    bar = colorize_depth(ramp, None, vmin, vmax, near_is_large=near_is_large)[:, :width]
    ends = _text_strip(width, size, left=f"{vmin:.4g}", right=f"{vmax:.4g} {unit}")
    lines = [_text_strip(width, size, left=line) for line in _wrapped(status, size, width)]
    return np.concatenate([bar, ends, *lines])


def depth_picture(
    depth: Any,
    mask: Any = None,
    *,
    unit: str = "",
    status: str = "",
    vmin: float | None = None,
    vmax: float | None = None,
    min_width: int = 320,
    grey: str = "no depth",
    near_is_large: bool = False,
) -> np.ndarray:
    """Colour a depth map and put its legend (range, unit, scale status, share of invalid pixels) below.

    A `DepthMap` knows its unit and status; for a plain map they are given. Narrow maps are enlarged by a
    whole factor, without interpolation, to at least `min_width` pixels. `grey` is what the legend calls the
    pixels outside the mask.
    """
    if isinstance(depth, DepthMap):
        unit, status = unit or depth.unit, status or f"{KINDS[depth.kind]}: {depth.scale}"
        near_is_large = depth.near_is_large
    if not (unit and status):
        raise ValueError("a picture of depth needs its unit and its status")
    depth, valid = _depth_and_mask(depth, mask)
    low, high = depth_range(depth, valid)
    vmin, vmax = low if vmin is None else vmin, high if vmax is None else vmax
    colours = colorize_depth(depth, valid, vmin, vmax, near_is_large=near_is_large)
    picture = _enlarge(colours, min_width)
    invalid = 1 - valid.mean()
    share = f"{invalid:.0%}" if invalid >= 0.005 else "below 1%"
    note = f"{status}; grey: {grey} ({share})" if invalid > 0 else status
    return np.concatenate([picture, depth_legend(picture.shape[1], vmin, vmax, unit, note, near_is_large)])


def _depth_and_mask(depth: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(depth, DepthMap):
        depth, mask = depth.values, depth.valid
    arrays = []
    for array in (depth, mask):
        array = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
        if array is not None:
            array = np.asarray(array)
            array = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
        arrays.append(array)
    depth, mask = arrays
    if depth.ndim != 2 or depth.size == 0:
        raise ValueError(f"expected one depth map [H, W] or [1, H, W], got {depth.shape}")
    if mask is not None and mask.shape != depth.shape:
        raise ValueError(f"the mask {mask.shape} must have the shape of the depth {depth.shape}")
    depth = depth.astype(np.float64)
    finite = np.isfinite(depth)
    return depth, finite if mask is None else finite & mask.astype(bool)


# ---- sheets ------------------------------------------------------------------------------------------------


def _enlarge(image: np.ndarray, min_width: int) -> np.ndarray:
    """Repeat pixels by the smallest whole factor that makes the image at least `min_width` wide."""
    factor = -(-min_width // image.shape[1])
    return image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image


def contact_sheet(
    rows: Sequence[Sequence[Any]],
    columns: Sequence[str] = (),
    row_captions: Sequence[str] = (),
    cell_width: int = 192,
    legend: np.ndarray | None = None,
) -> np.ndarray:
    """Lay out rows of images on white, with a caption above each column and to the left of each row.

    Each image is scaled to `cell_width` pixels: shrunk by area averaging or enlarged without interpolation.
    None leaves a cell empty. A `legend` (see `depth_legend`) is put below as it is, under the cells.
    """
    if not rows or not any(image is not None for row in rows for image in row):
        raise ValueError("a contact sheet needs at least one image")
    count = max(len(row) for row in rows)
    for what, captions, wanted in (("column", columns, count), ("row", row_captions, len(rows))):
        if captions and len(captions) != wanted:
            raise ValueError(f"{wanted} {what} captions are needed, got {len(captions)}")
    gap, size = 8, 14
    texts = [text for caption in row_captions for text in caption.split("\n")]
    margin = max((int(_font(size).getlength(text)) for text in texts), default=-gap) + gap
    lines = []
    if columns:
        captions = [_text_strip(cell_width, size, left=text) for text in columns]
        lines.append(_join([_blank(captions[0].shape[0], margin), *captions], gap))
    for index, row in enumerate(rows):
        cells = [None if image is None else _fit(to_uint8(image), cell_width) for image in row]
        height = max((cell.shape[0] for cell in cells if cell is not None), default=size)
        padded = [_pad(_blank(1, cell_width) if cell is None else cell, height) for cell in cells]
        padded += [_blank(height, cell_width)] * (count - len(row))
        label = _blank(height, margin)
        if row_captions:
            texts = row_captions[index].split("\n")
            strip = np.concatenate([_text_strip(margin, size, left=text) for text in texts])
            label = _pad(strip, height, top=max(0, (height - strip.shape[0]) // 2))
        lines.append(_join([label, *padded], gap))
    if legend is not None:
        left = margin + gap if margin else 0
        strip = _blank(legend.shape[0], lines[0].shape[1])
        shown = legend[:, : strip.shape[1] - left]
        strip[:, left : left + shown.shape[1]] = shown
        lines.append(strip)
    spaced = [part for line in lines for part in (line, _blank(gap, line.shape[1]))]
    return np.pad(np.concatenate(spaced[:-1]), ((gap, gap), (gap, gap), (0, 0)), constant_values=255)


def captioned(image: Any, text: str, width: int) -> np.ndarray:
    """Scale an image to `width` pixels, as on a contact sheet, and write a line of text below it."""
    return np.concatenate([_fit(to_uint8(image), width), _text_strip(width, 14, left=text)])


def _fit(image: np.ndarray, width: int) -> np.ndarray:
    """Scale to exactly `width`, keeping the proportions."""
    import cv2

    height = max(1, round(image.shape[0] * width / image.shape[1]))
    if image.shape[1] > width:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def _pad(image: np.ndarray, height: int, top: int = 0) -> np.ndarray:
    bottom = max(0, height - top - image.shape[0])
    return np.pad(image, ((top, bottom), (0, 0), (0, 0)), constant_values=255)[:height]


def _join(images: Sequence[np.ndarray], gap: int) -> np.ndarray:
    parts = [part for image in images if image.shape[1] for part in (image, _blank(image.shape[0], gap))]
    return np.concatenate(parts[:-1], axis=1)


def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)  # the only font that is there wherever Pillow is


def _drawable(text: str) -> str:
    """Put plain letters in place of what the font may lack, which is most of Unicode."""
    for character, replacement in PLAIN_LETTERS.items():
        text = text.replace(character, replacement)
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Break a text into lines that fit the width."""
    lines: list[str] = []
    for word in _drawable(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _text_strip(width: int, size: int, left: str = "", right: str = "") -> np.ndarray:
    """Draw a line of text on white; text that is too long is drawn smaller, and cut at last."""
    from PIL import Image, ImageDraw

    left, right = _drawable(left), _drawable(right)
    strip = Image.new("RGB", (max(width, 1), round(size * 1.6)), PAPER)
    draw = ImageDraw.Draw(strip)
    font = _font(size)
    wanted = font.getlength(f"{left}  {right}" if left and right else left + right)
    if wanted > width:
        font = _font(max(7, int(size * width / wanted)))
    middle = strip.height // 2
    draw.text((0, middle), left, fill=INK, font=font, anchor="lm")
    draw.text((width - 1, middle), right, fill=INK, font=font, anchor="rm")
    return np.asarray(strip)[:, :width]
