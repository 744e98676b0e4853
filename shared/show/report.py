"""The report of a run: one HTML file that holds its pictures, videos, curves and tables and needs no network.

    write_report(
        run.folder,
        "DeepVoxels: the embedded cube",
        [
            Section("Novel views", ["Four held-out views.", Picture(sheet, "input, prediction, error")]),
            Section("Depth", [Picture(depth_picture(depth_map), "view 3")]),
            Section("Results", [table]),
            Section("Training", [Curves(["l1", "gan", "psnr"])]),
        ],
    )

The page itself is the template report.html next to this file.
"""

import base64
import functools
import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from shared.files.disk import read_bytes, read_text, write_bytes
from shared.files.images import encode_png, to_uint8
from shared.runs.folder import read_metrics
from shared.show.tables import ResultsTable
from shared.show.video import first_frame

__all__ = ["Curves", "Picture", "Section", "Video", "curve_svg", "series", "write_report"]

LARGEST_PNG = 600_000  # bytes; beyond it a JPEG is embedded, to keep the file easy to send
NARROW = 320  # pictures below this width are shown enlarged, without interpolation
WIDE = 800  # pictures above this width keep a size that can be read on a phone, and scroll in their box
MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".mp4": "video/mp4"}


@dataclass(frozen=True)
class Picture:
    """An image (see `shared.show.pictures`) or an image file, with its caption."""

    image: Any
    caption: str = ""


@dataclass(frozen=True)
class Video:
    """A video file (mp4 or GIF, as `write_video` returns it), its caption and its width on the page."""

    path: str | Path
    caption: str = ""
    width: int = 480


@dataclass(frozen=True)
class Curves:
    """Curves of values logged to metrics.jsonl, one chart for each name."""

    names: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A heading and what is below it; a plain string is a paragraph."""

    heading: str
    items: Sequence[str | Picture | Video | Curves | ResultsTable]


def write_report(
    run_folder: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    summary: str = "",
    facts: Mapping[str, Any] | None = None,
    then: Sequence[str] = (),
) -> Path:
    """Write report.html into the run folder and return its path.

    Curves come from metrics.jsonl and the config from config.yaml of that folder, where they exist. All text
    is escaped, everything is embedded. The page ends with what to do next: `then`, where RUN stands for the
    folder, and the viewer. Raises DataError for a picture or video that cannot be read.
    """
    folder = Path(run_folder)
    log, config = folder / "metrics.jsonl", folder / "config.yaml"
    rows = read_metrics(log) if log.exists() else []
    place = folder if not folder.is_absolute() else Path(folder.name)
    viewer = "python -m shared.show.viewer RUN: look around in the browser"
    steps = [text.replace("RUN", str(place)) for text in (*then, viewer)]
    text = read_text(config) if config.exists() else ""
    begun = re.search(r"^init_from: '?([^'\n]+)", text, re.MULTILINE)
    origin = {"Began with the weights of": begun[1]} if begun else {}
    page = _template().render(
        title=title,
        summary=summary,
        facts=_run_facts(rows) | origin | dict(facts or {}),
        sections=[_section(section, rows) for section in (*sections, Section("What to do next", steps))],
        config=text,
    )
    path = folder / "report.html"
    write_bytes(path, page.encode())
    return path


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html")


def _section(section: Section, rows: Sequence[Mapping]) -> dict[str, Any]:
    anchor = re.sub(r"[^a-z0-9]+", "-", section.heading.lower()).strip("-") or "section"
    content = [_content(item, rows) for item in section.items]
    return {"heading": section.heading, "anchor": anchor, "content": content}


def _content(item: Any, rows: Sequence[Mapping]) -> tuple[str, Any]:
    """The kind of an item, and what the template needs of it."""
    match item:
        case Picture():
            return "picture", _picture(item)
        case Video() if Path(item.path).suffix.lower() == ".mp4":
            return "video", _video(item)
        case Video():
            return "picture", _picture(Picture(item.path, item.caption))
        case Curves():
            return "curves", {"charts": [_chart(series(rows, name), name) for name in item.names]}
        case ResultsTable():
            return "table", item
    return "text", item


def _picture(item: Picture) -> dict[str, Any]:
    data, media_type = _encode(item.image)
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    shown = max(width, NARROW)
    size = {"width": shown, "height": round(height * shown / width)}
    look = {"narrow": width < NARROW, "wide": width > WIDE}
    return size | look | {"caption": item.caption, "source": _data_uri(data, media_type)}


def _video(item: Video) -> dict[str, Any]:
    source = _data_uri(read_bytes(item.path), MEDIA_TYPES[".mp4"])
    frame = first_frame(item.path)  # for the browsers (and printers) that show none before the start
    poster = None
    if frame is not None:
        height, width = frame.shape[:2]
        poster = {"width": width, "height": height, "source": _data_uri(_encode_jpeg(frame), "image/jpeg")}
    return {"source": source, "poster": poster, "caption": item.caption, "width": item.width}


def _chart(points: list[tuple[float, float]], name: str) -> tuple[str, str, Markup]:
    svg = Markup(curve_svg(points, name))  # noqa: S704 (it escapes its own text)
    return name, f"last {points[-1][1]:.4g}" if points else "", svg


def _run_facts(rows: Sequence[Mapping]) -> dict[str, str]:
    """Steps, and the time from the start, data included, to the last of them, as the log has them."""
    if not rows:
        return {}
    facts = {"Steps": f"{max(row['step'] for row in rows):,}"}
    seconds = max(row.get("time_s", 0) for row in rows)
    if seconds > 0:
        facts["Time to the last step"] = _duration(seconds)
    return facts


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _encode(image: Any) -> tuple[bytes, str]:
    """Return the bytes and the media type of a picture; image files are embedded as they are."""
    if isinstance(image, str | Path):
        suffix = Path(image).suffix.lower().replace(".jpeg", ".jpg")
        if suffix not in MEDIA_TYPES:
            raise ValueError(f"{image}: a report can show PNG, JPEG, GIF and mp4 files")
        return read_bytes(image), MEDIA_TYPES[suffix]
    data = encode_png(image)
    if len(data) <= LARGEST_PNG:
        return data, "image/png"
    return _encode_jpeg(image), "image/jpeg"


def _encode_jpeg(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


# ---- curves ------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 58, WIDTH - 12, 12, HEIGHT - 30  # edges of the plot, from the top left corner
STRETCHES = 160  # a curve of more points is drawn as the mean, minimum and maximum of this many stretches


def series(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Collect (step, value) of one logged name, without missing and non-finite values, ordered by step."""
    pairs = [(row["step"], row.get(name)) for row in rows]
    return sorted((s, float(v)) for s, v in pairs if isinstance(v, int | float) and math.isfinite(v))


def curve_svg(points: Sequence[tuple[float, float]], name: str) -> str:
    """Draw (step, value) points as an SVG that takes its colours from the page's CSS variables.

    The vertical axis is logarithmic if the values are positive and span more than a factor of 50.
    """
    if not points:
        return f'<p class="note">{html.escape(name)}: nothing was logged.</p>'
    stretches = _summarise(points)
    low, high = min(s[2] for s in stretches), max(s[3] for s in stretches)
    log = low > 0 and high / low > 50
    ticks = _log_ticks(low, high) if log else _linear_ticks(low, high)
    first, last = points[0][0], points[-1][0]
    x_at = _scale(first, last, LEFT, RIGHT)
    if log:
        level = _scale(math.log10(low), math.log10(high), BOTTOM, TOP)
        y_at = lambda value: level(math.log10(value))  # noqa: E731
    else:
        y_at = _scale(min(low, ticks[0]), max(high, ticks[-1]), BOTTOM, TOP)
    step_ticks = [tick for tick in _linear_ticks(first, last) if first <= tick <= last] or [first]
    scale = ", log scale" if log else ""
    label = f"{name} over {last:g} steps{scale}: from {points[0][1]:.4g} to {points[-1][1]:.4g}"
    head = f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
    grid = [*_value_grid(ticks, y_at), *_step_labels(step_ticks, x_at)]
    return "\n".join([head, *grid, *_line(stretches, x_at, y_at), "</svg>"])


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear map of [low, high] to [start, end]; the middle for an empty range."""
    return lambda value: start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _summarise(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """Turn points into (step, mean, minimum, maximum) of at most `STRETCHES` stretches."""
    count = min(len(points), STRETCHES)
    stretches = []
    for i in range(count):
        part = points[i * len(points) // count : (i + 1) * len(points) // count]
        steps, values = zip(*part, strict=True)
        stretches.append((sum(steps) / len(part), sum(values) / len(part), min(values), max(values)))
    return stretches


def _value_grid(ticks: Sequence[float], y_at: Callable[[float], float]) -> list[str]:
    parts = []
    for tick in ticks:
        y = y_at(tick)
        if TOP - 1 <= y <= BOTTOM + 1:
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    return parts


def _step_labels(ticks: Sequence[float], x_at: Callable[[float], float]) -> list[str]:
    labels = []
    for tick in ticks:
        x, unit = x_at(tick), " steps" if tick == ticks[-1] else ""
        anchor = "end" if x > WIDTH - 50 else "middle"
        labels.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{tick:,.6g}{unit}</text>')
    return labels


def _line(
    stretches: Sequence[tuple[float, float, float, float]],
    x_at: Callable[[float], float],
    y_at: Callable[[float], float],
) -> list[str]:
    parts = []
    if any(high > low for _, _, low, high in stretches):
        upper = [f"{x_at(step):.1f},{y_at(high):.1f}" for step, _, _, high in stretches]
        lower = [f"{x_at(step):.1f},{y_at(low):.1f}" for step, _, low, _ in reversed(stretches)]
        parts.append(f'<polygon class="band" points="{" ".join([*upper, *lower])}"/>')
    middle = [(x_at(step), y_at(mean)) for step, mean, _, _ in stretches]
    parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in middle)}"/>')
    if len(middle) <= 40:
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in middle]
    return parts


def _linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, about four of them, around [low, high]."""
    scale = max(abs(low), abs(high)) or 1.0
    span = high - low if high - low > 1e-9 * scale else scale  # constant up to rounding
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 5)
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if start == stop:
        start, stop = start - 1, stop + 1
    return [i * step for i in range(start, stop + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = max(1, len(decades) // 5)
    return [10.0**d for d in decades if d % stride == 0]
