"""A report in a real browser: nothing is too wide for a phone, nothing is fetched."""

import json

import numpy as np
import pytest

from shared.show.pictures import contact_sheet, depth_legend, depth_picture
from shared.show.report import Curves, Picture, Section, Video, write_report
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
        Section("Results", [table]),
        Section("Training", [Curves(["loss"])]),
    ]
    facts = {"a long name of a fact": WORDS, "Another": 3}
    return write_report(folder, f"A report: {WORDS}", sections, summary=WORDS, facts=facts).as_uri()


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (320, 568)])
def test_nothing_is_too_wide_but_inside_its_own_box(report, width, height):
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
