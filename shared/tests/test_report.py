"""The report: one file with everything in it, every word escaped; curves are drawn where the numbers are."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import DataError
from shared.files.images import encode_png
from shared.show.report import Curves, Picture, Section, Video, curve_svg, write_report
from shared.show.video import first_frame, write_video
from shared.tests.report_parts import TABLE, solid_frames

NASTY = "<script>alert('x')</script> & \"quotes\""
VOID = re.compile(r"<((?:meta|img)\b[^>]*)>")


def read_page(path) -> tuple[str, ElementTree.Element]:
    """The page as text and as a tree; a tag that is not closed, or text that is not escaped, is an error."""
    text = path.read_text()
    body = VOID.sub(r"<\1/>", text).removeprefix("<!DOCTYPE html>")
    body = body.replace("controls loop muted playsinline", "")
    return text, ElementTree.fromstring(body)


def addresses(tree: ElementTree.Element) -> list[str]:
    return [e.get(name) for e in tree.iter() for name in ("href", "poster", "src") if e.get(name)]


@pytest.fixture
def run_folder(tmp_path):
    rows = [{"step": s, "time_s": s * 2.0, "l1": 1.0 / s, "gan": None} for s in range(1, 61)]
    lines = [json.dumps(row) for row in rows] + ['{"step": 61, "l']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    (tmp_path / "config.yaml").write_text(f"name: {NASTY}\nsteps: 60\n")
    return tmp_path


def test_report_is_one_file_with_everything_in_it(run_folder):
    image = np.random.default_rng(0).integers(0, 256, (40, 400, 3), np.uint8)
    big = np.random.default_rng(1).integers(0, 256, (600, 700, 3), np.uint8)
    video = write_video(run_folder / "orbit.mp4", solid_frames(16, 16), fps=10)
    (run_folder / "view.png").write_bytes(encode_png(image[:, :50]))
    sections = [
        Section("Views & more", [NASTY, Picture(image, NASTY), Picture(big)]),
        Section("Results", [TABLE]),
        Section("Training", [Curves(["l1", "gan", NASTY])]),
        Section("Files", [Picture(run_folder / "view.png"), Video(video, "orbit")]),
    ]
    path = write_report(
        run_folder, f"Title {NASTY}", sections, summary="Summary.", facts={"Device": "cpu", NASTY: NASTY}
    )
    assert path == run_folder / "report.html"
    text, tree = read_page(path)
    tags = [element.tag for element in tree.iter()]
    assert "script" not in tags
    assert tags.count("svg") == 1
    links = [address for address in addresses(tree) if address.startswith("#")]
    data = [address for address in addresses(tree) if not address.startswith("#")]
    assert links == ["#views-more", "#results", "#training", "#files"]
    kinds = ["image/png", "image/jpeg", "image/png", "image/jpeg", "video/mp4"]  # the fourth is the poster
    assert [address.partition(";")[0] for address in data] == [f"data:{kind}" for kind in kinds]
    decoded = [base64.b64decode(address.partition(",")[2]) for address in data]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(decoded[0]))), image)
    assert Image.open(io.BytesIO(decoded[1])).size == (700, 600)
    poster, frame = np.asarray(Image.open(io.BytesIO(decoded[3]))), first_frame(video)
    assert np.abs(poster.astype(float) - frame).mean() < 8
    assert decoded[4] == video.read_bytes()
    words = " ".join(tree.itertext())
    for word in (f"Title {NASTY}", "Summary.", "60", "2.0 min", "cpu", "Table 1", f"name: {NASTY}", "orbit"):
        assert word in words
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_missing_or_unknown_picture_is_refused_and_no_report_is_left(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png"):
        write_report(tmp_path, "t", [Section("s", [Picture(tmp_path / "gone.png")])])
    with pytest.raises(ValueError, match=r"a\.tiff"):
        write_report(tmp_path, "t", [Section("s", [Picture(tmp_path / "a.tiff")])])
    assert not list(tmp_path.iterdir())


# ---- curves ------------------------------------------------------------------------------------------------


def coordinates(svg: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each polyline and polygon, by class."""
    root = ElementTree.fromstring(svg)
    shapes = {}
    for element in root:
        if "points" in element.attrib:
            pairs = [pair.split(",") for pair in element.get("points").split()]
            shapes[element.get("class")] = [(float(x), float(y)) for x, y in pairs]
    return shapes


def test_a_long_curve_is_its_mean_within_the_band_of_its_extremes():
    values = np.random.default_rng(0).normal(size=5000) + 10
    shapes = coordinates(curve_svg(list(enumerate(values)), "a"))
    assert len(shapes["line"]) == 160
    upper, lower = shapes["band"][:160], shapes["band"][160:][::-1]
    for (x, y), (x_up, y_up), (x_low, y_low) in zip(shapes["line"], upper, lower, strict=True):
        assert x == x_up == x_low
        assert y_up < y < y_low


FINITE = st.floats(-1e30, 1e30, allow_subnormal=False)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**7), FINITE), min_size=1, max_size=400))
def test_any_curve_stays_inside_its_frame(points):
    svg = curve_svg(sorted(points), 'any <name> & "more"')
    assert "nan" not in svg
    assert "inf" not in svg
    for shape in coordinates(svg).values():
        assert all(57 <= x <= 549 and 11 <= y <= 201 for x, y in shape)
    labels = [element.text for element in ElementTree.fromstring(svg) if element.tag == "text"]
    assert 2 <= len(labels) <= 24
