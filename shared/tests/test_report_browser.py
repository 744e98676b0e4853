"""A report in a real browser: nothing hangs over on a phone, text can be read, nothing is fetched."""

import json

import numpy as np
import pytest

from shared.show.pictures import contact_sheet, depth_legend, depth_picture
from shared.show.report import Curves, Facts, Picture, Section, Video, write_report
from shared.show.tables import Column, ResultsTable
from shared.show.video import write_video
from shared.tests.browser import chromium_page

pytestmark = pytest.mark.slow

WORDS = "a sentence that is long enough to be broken into several lines on every telephone"
LAYOUT = """() => ({
  over: document.documentElement.scrollWidth - innerWidth,
  broken: [...document.images].filter(i => !i.naturalWidth || !i.alt).length,
  posters: [...document.querySelectorAll('video')].filter(v => !v.poster.startsWith('data:')).length,
  boxes: [...document.querySelectorAll('.scroll')].map(e => e.scrollWidth > e.clientWidth),
  outside: [...document.querySelectorAll('body *')].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre')).length,
})"""
# The least contrast of each kind of text with the nearest background behind it, as WCAG 2 reckons it.
CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } };
  const found = {};
  const texts = 'h1, h2, p, a, dt, dd, figcaption, th, td, caption, summary, pre, b, span, text';
  for (const e of document.querySelectorAll(texts)) {
    const style = getComputedStyle(e);
    const colour = rgb(e.tagName == 'text' ? style.fill : style.color);
    const [a, b] = [light(colour.slice(0, 3)), light(behind(e).slice(0, 3))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), name = e.tagName + '.' + (e.getAttribute('class') || '');
    found[name] = Math.min(ratio, found[name] ?? 99);
  }
  return found; }"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The address of a report of everything a report can hold, wider than a telephone where it can be."""
    folder = tmp_path_factory.mktemp("report")
    rows = [{"step": step, "loss": 1 / step, "time_s": 2.0 * step} for step in range(1, 30)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "config.yaml").write_text("root: " + "a_long_folder_name/" * 12)
    depth = np.linspace(1, 3, 24 * 32).reshape(24, 32)
    map_picture = depth_picture(depth, unit="m", status="metric z-depth, " + WORDS)
    legend = depth_legend(400, 1, 3, "m", "metric")
    sheet = contact_sheet([[map_picture] * 6], [f"view {i}" for i in range(6)], ["depth"], legend=legend)
    frames = [np.full((64, 96, 3), level, np.uint8) for level in (40, 80, 120)]
    columns = [Column("method", "Method")]
    columns += [
        Column(f"m{i}", f"measure {i}, median-scaled", "this run", "embedded rooms", WORDS, "lower")
        for i in range(9)
    ]
    table = ResultsTable("Table", columns, [{"method": WORDS} | {f"m{i}": 0.5 + i for i in range(9)}] * 3)
    video = Video(write_video(folder / "orbit.mp4", frames), "orbit")
    sections = [
        Section("Pictures", [WORDS, Picture(sheet, WORDS), Picture(map_picture, "a depth map"), video]),
        Section("Results", [table, Facts({"PSNR": "21.00 dB", "a long name of a fact": WORDS})]),
        Section("Training", [Curves(["loss"])]),
    ]
    facts = {"A fact": WORDS, "Another": 3}
    return write_report(folder, f"A report: {WORDS}", sections, summary=WORDS, facts=facts).as_uri()


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844), (320, 568)])
def test_nothing_hangs_over_but_inside_its_own_box(report, width, height):
    with chromium_page(width, height) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report)
        page.locator("summary").click()
        layout = page.evaluate(LAYOUT)
    boxes = layout.pop("boxes")
    assert layout == {"over": 0, "broken": 0, "posters": 0, "outside": 0}
    assert boxes == [width < 600, True]  # the sheet scrolls on a phone, so wide a table everywhere
    assert [url for url in asked if url != report and not url.startswith("data:")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(report, scheme):
    with chromium_page(1366, 768) as page:
        page.emulate_media(color_scheme=scheme)
        page.goto(report)
        ratios = page.evaluate(CONTRAST)
    assert {"H1.", "P.note", "TD.number best", "text."} <= set(ratios)
    assert {name: round(ratio, 2) for name, ratio in ratios.items() if ratio < 4.5} == {}
