"""The report of a run: one HTML file that holds its pictures, videos, curves and tables and needs no network.

    write_report(
        run.folder,
        "DeepVoxels: the embedded cube",
        [
            Section("Novel views", ["Four held-out views.", Picture(sheet, "input, prediction, error")]),
            Section("Depth", [Picture(depth_picture(depth, mask, unit="m", status="metric"), "view 3")]),
            Section("Results", [table]),
            Section("Training", [Curves(["l1", "gan", "psnr"])]),
        ],
    )
"""

import base64
import dataclasses
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from shared.files.disk import read_bytes, read_text, write_bytes
from shared.files.images import encode_png, to_uint8
from shared.runs.folder import read_metrics
from shared.show.tables import ResultsTable
from shared.show.video import first_frame

__all__ = [
    "Curves",
    "Facts",
    "Picture",
    "Section",
    "Video",
    "curve_svg",
    "series",
    "write_report",
]


WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 30
STRETCHES = 160  # a curve of more points is drawn as the mean, minimum and maximum of this many stretches


def series(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Collect (step, value) of one logged name, without missing and non-finite values, ordered by step."""
    pairs = [(row["step"], row.get(name)) for row in rows]
    kept = [(s, float(v)) for s, v in pairs if isinstance(v, int | float) and math.isfinite(v)]
    return sorted(kept)


def curve_svg(points: Sequence[tuple[float, float]], name: str) -> str:
    """Draw (step, value) points as an SVG that takes its colours from the page's CSS variables.

    The vertical axis is logarithmic if the values are positive and span more than a factor of 50.
    """
    if not points:
        return f'<p class="note">{html.escape(name)}: nothing was logged.</p>'
    stretches = _summarise(points)
    low, high = min(s[2] for s in stretches), max(s[3] for s in stretches)
    log = low > 0 and high / low > 50
    if log:
        ticks = _log_ticks(low, high)
        bottom, top = math.log10(low), math.log10(high)
    else:
        ticks = _linear_ticks(low, high)
        bottom, top = min(low, ticks[0]), max(high, ticks[-1])
    first, last = points[0][0], points[-1][0]

    def x_at(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / (last - first) if last > first else 0.5)

    def y_at(value: float) -> float:
        level = math.log10(value) if log else value
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (level - bottom) / (top - bottom)

    parts = [*_grid(ticks, y_at, first, last, x_at), *_line(stretches, x_at, y_at)]
    scale = ", log scale" if log else ""
    label = f"{name} over {last:g} steps{scale}: from {points[0][1]:.4g} to {points[-1][1]:.4g}"
    head = f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
    return "\n".join([head, *parts, "</svg>"])


def _summarise(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """Turn points into (step, mean, minimum, maximum) of at most `STRETCHES` stretches."""
    count = min(len(points), STRETCHES)
    stretches = []
    for i in range(count):
        part = points[i * len(points) // count : (i + 1) * len(points) // count]
        values = [value for _, value in part]
        step = sum(step for step, _ in part) / len(part)
        stretches.append((step, sum(values) / len(values), min(values), max(values)))
    return stretches


def _grid(ticks: Sequence[float], y_at: Any, first: float, last: float, x_at: Any) -> list[str]:
    parts = []
    for tick in ticks:
        y = y_at(tick)
        if TOP - 1 <= y <= HEIGHT - BOTTOM + 1:
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            text = f"{tick:.6g}"
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    steps = [tick for tick in _linear_ticks(first, last) if first <= tick <= last] or [first]
    for tick in steps:
        unit = " steps" if tick == steps[-1] else ""
        anchor = "end" if x_at(tick) > WIDTH - 50 else "middle"
        parts.append(
            f'<text x="{x_at(tick):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{tick:,.6g}{unit}</text>'
        )
    return parts


def _line(stretches: Sequence[tuple[float, float, float, float]], x_at: Any, y_at: Any) -> list[str]:
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


LARGEST_PNG = 600_000  # bytes; beyond it a JPEG is embedded, to keep the file easy to send
NARROW = 320  # pictures below this width are shown enlarged, without interpolation
WIDE = 800  # pictures above this width keep a size that can be read on a phone, and scroll in their box
MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".mp4": "video/mp4"}


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image (see `shared.pictures`) or an image file, with its caption."""

    image: Any
    caption: str = ""

    def html(self, rows: Sequence[Mapping]) -> str:
        data, media_type = _encode(self.image)
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
        shown = max(width, NARROW)
        size = f'width="{shown}" height="{round(height * shown / width)}"'
        alt = html.escape(self.caption or "picture")
        look = ' class="narrow"' if width < NARROW else ""
        tag = f'<img{look} {size} alt="{alt}" src="{_data_uri(data, media_type)}">'
        if width > WIDE:
            tag = f'<div class="scroll wide" tabindex="0">{tag}</div>'
        return _figure(tag, self.caption, shown)


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file (mp4 or GIF, as `write_video` returns it), its caption and its width on the page."""

    path: str | Path
    caption: str = ""
    width: int = 480

    def html(self, rows: Sequence[Mapping]) -> str:
        suffix = Path(self.path).suffix.lower()
        if suffix != ".mp4":
            return Picture(self.path, self.caption).html(rows)
        source = _data_uri(read_bytes(self.path), MEDIA_TYPES[suffix])
        label = html.escape(self.caption or "video")
        start = f'<video controls loop muted playsinline aria-label="{label}"'
        tag = f'{start}{self._poster()} src="{source}"></video>'
        return _figure(tag, self.caption, self.width)

    def _poster(self) -> str:
        """The first frame, for the browsers (and printers) that show none before the video is started."""
        frame = first_frame(self.path)
        if frame is None:
            return ""
        height, width = frame.shape[:2]
        return f' width="{width}" height="{height}" poster="{_data_uri(_encode_jpeg(frame), "image/jpeg")}"'


@dataclasses.dataclass(frozen=True)
class Curves:
    """Curves of values logged to metrics.jsonl, one chart for each name."""

    names: Sequence[str]

    def html(self, rows: Sequence[Mapping]) -> str:
        charts = []
        for name in self.names:
            points = series(rows, name)
            last = f"last {points[-1][1]:.4g}" if points else ""
            title = f"<b>{html.escape(name)}</b> <span>{last}</span>"
            charts.append(f"<figure><figcaption>{title}</figcaption>{curve_svg(points, name)}</figure>")
        note = "Line: mean over stretches of steps. Band: from the lowest to the highest value of each."
        return f'<div class="charts">{"".join(charts)}</div><p class="note">{note}</p>'


@dataclasses.dataclass(frozen=True)
class Facts:
    """Short facts as pairs of a name and a value."""

    values: Mapping[str, Any]

    def html(self, rows: Sequence[Mapping]) -> str:
        pairs = [
            f"<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd></div>"
            for name, value in self.values.items()
        ]
        return f'<dl class="facts">{"".join(pairs)}</dl>'


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it; a plain string is a paragraph."""

    heading: str
    items: Sequence[str | Picture | Video | Curves | Facts | ResultsTable]

    def html(self, rows: Sequence[Mapping]) -> str:
        parts = [f'<section id="{_anchor(self.heading)}"><h2>{html.escape(self.heading)}</h2>']
        for item in self.items:
            if isinstance(item, str):
                parts.append(f"<p>{html.escape(item)}</p>")
            elif isinstance(item, ResultsTable):
                parts.append(item.html())
            else:
                parts.append(item.html(rows))
        return "\n".join([*parts, "</section>"])


def write_report(
    run_folder: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    summary: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write report.html into the run folder and return its path.

    Curves come from metrics.jsonl and the config from config.yaml of that folder, where they exist. All text
    is escaped, everything is embedded. Raises DataError for a picture or video that cannot be read.
    """
    folder = Path(run_folder)
    log, config = folder / "metrics.jsonl", folder / "config.yaml"
    rows = read_metrics(log) if log.exists() else []
    all_facts = _run_facts(rows) | dict(facts or {})
    links = [f'<a href="#{_anchor(s.heading)}">{html.escape(s.heading)}</a>' for s in sections]
    body = [
        f"<header><h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(summary)}</p>" if summary else "",
        Facts(all_facts).html(rows) if all_facts else "",
        f"<nav>{''.join(links)}</nav></header>" if len(links) > 1 else "</header>",
        *[section.html(rows) for section in sections],
    ]
    if config.exists():
        text = html.escape(read_text(config))
        body.append(f"<details><summary>Configuration of this run</summary><pre>{text}</pre></details>")
    page = PAGE.format(title=html.escape(title), style=STYLE, body="\n".join(part for part in body if part))
    path = folder / "report.html"
    write_bytes(path, page.encode())
    return path


def _run_facts(rows: Sequence[Mapping]) -> dict[str, str]:
    """Steps, and the time from the start, data included, to the last of them, as the log has them."""
    if not rows:
        return {}
    facts = {"Steps": f"{max(row['step'] for row in rows):,}"}
    seconds = max((row.get("time_s", 0) for row in rows), default=0)
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


def _figure(content: str, caption: str, width: int) -> str:
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure style="width:{width}px">{content}{below}</figure>'


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1d2127; --quiet: #667080; --rule: #dfe3e8;
  --accent: #2563a8; --card: #ffffff; --mark: #e6effa; --shade: #0003; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e3e6ea; --quiet: #99a3b0;
  --rule: #30363e; --accent: #7fb2ea; --card: #1c2026; --mark: #223040; --shade: #fff3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 1.75rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; margin: 0 0 .4em; }
h2 { font-size: 1.2rem; font-weight: 620; margin: 0 0 .6em; }
p { max-width: 44em; margin: .4em 0 .9em; }
header { margin-bottom: 8px; }
section { display: flex; flex-wrap: wrap; column-gap: 28px; }
section > * { flex: 0 0 100%; min-width: 0; }
section > figure { flex: 0 1 auto; }
section, details { border-top: 1px solid var(--rule); padding-top: 22px; margin-top: 30px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 18px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.facts { display: flex; flex-wrap: wrap; gap: 12px 34px; margin: 18px 0 0; }
.facts dt { color: var(--quiet); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.05rem; font-weight: 550; font-variant-numeric: tabular-nums; }
figure { margin: 14px 0 22px; max-width: 100%; }
figcaption { color: var(--quiet); font-size: .875rem; margin-top: 8px; max-width: 50em; }
img, video { display: block; max-width: 100%; height: auto; border-radius: 4px; }
.narrow { image-rendering: pixelated; }
video { width: 100%; background: #000; }
.wide { margin: 0; }
.charts { display: grid; gap: 12px 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.charts figure { margin: 0; }
.charts figcaption { color: var(--ink); margin: 0 0 4px; }
.charts span { color: var(--quiet); margin-left: .6em; font-variant-numeric: tabular-nums; }
.curve { display: block; width: 100%; height: auto; font-size: 12px; }
.curve text { fill: var(--quiet); }
.curve .grid { stroke: var(--rule); }
.curve .line { fill: none; stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; }
.curve .band { fill: var(--accent); opacity: .16; }
.curve .dot { fill: var(--accent); }
.scroll { overflow-x: auto; margin: 14px 0; background:
  linear-gradient(to right, var(--page) 40%, transparent) left / 36px 100% no-repeat local,
  linear-gradient(to left, var(--page) 40%, transparent) right / 36px 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / 12px 100% no-repeat,
  linear-gradient(to left, var(--shade), transparent) right / 12px 100% no-repeat; }
table { border-collapse: collapse; font-size: .92rem; }
caption { text-align: left; font-weight: 550; padding-bottom: 8px; }
th, td { text-align: left; padding: 7px 12px 7px 0; }
td { white-space: nowrap; }
td:first-child { white-space: normal; min-width: 13em; }
thead th { vertical-align: bottom; }
tr { border-bottom: 1px solid var(--rule); }
th { font-weight: 550; color: var(--quiet); }
.groups { border-bottom: 0; }
.groups th { color: var(--ink); padding: 0 6px 0 14px; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); padding-left: 0; }
.number { text-align: right; padding: 7px 6px 7px 14px; font-variant-numeric: tabular-nums; }
.best { font-weight: 650; background: var(--mark); }
.note { color: var(--quiet); font-size: .85rem; margin: .3em 0; max-width: 60em; }
summary { cursor: pointer; font-weight: 550; }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 4px;
  padding: 14px 16px; font-size: .82rem; line-height: 1.45; }
@media (max-width: 600px) { main { padding: 24px 16px 60px; } h1 { font-size: 1.4rem; }
  .wide img { max-width: none; width: 860px; }
  td:first-child { min-width: 8em; } }
@media print { body { background: #fff; } section { break-inside: avoid; } .scroll { overflow: visible; } }
"""
