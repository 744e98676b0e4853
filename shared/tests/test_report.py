"""The report: one file with everything in it, every word escaped, nothing from outside."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from shared.errors import DataError
from shared.files.images import encode_png
from shared.show.report import Curves, Facts, Picture, Section, Video, write_report
from shared.show.video import first_frame, write_video
from shared.tests.report_parts import TABLE, solid_frames


class Page(HTMLParser):
    """Checks that tags are balanced and gathers text and addresses."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.addresses, self.texts, self.tags = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "poster", "data")]
        if tag not in ("meta", "img", "line", "polyline", "polygon", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


NASTY = "<script>alert('x')</script> & \"quotes\""


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
        Section("Results", [TABLE, Facts({NASTY: NASTY})]),
        Section("Training", [Curves(["l1", "gan", NASTY])]),
        Section("Files", [Picture(run_folder / "view.png"), Video(video, "orbit")]),
    ]
    path = write_report(run_folder, f"Title {NASTY}", sections, summary="Summary.", facts={"Device": "cpu"})
    assert path == run_folder / "report.html"
    page = Page(path.read_text())
    assert "script" not in page.tags
    assert page.tags.count("svg") == 1
    links = [address for address in page.addresses if address.startswith("#")]
    data = [address for address in page.addresses if not address.startswith("#")]
    assert links == ["#views-more", "#results", "#training", "#files"]
    assert [address.partition(";")[0] for address in data] == [
        "data:image/png",
        "data:image/jpeg",
        "data:image/png",
        "data:image/jpeg",  # the poster of the video
        "data:video/mp4",
    ]
    decoded = [base64.b64decode(address.partition(",")[2]) for address in data]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(decoded[0]))), image)
    assert Image.open(io.BytesIO(decoded[1])).size == (700, 600)
    poster, frame = np.asarray(Image.open(io.BytesIO(decoded[3]))), first_frame(video)
    assert poster.shape == frame.shape
    assert np.abs(poster.astype(float) - frame).mean() < 8
    assert decoded[4] == video.read_bytes()
    text = " ".join(page.texts)
    for words in (f"Title {NASTY}", "Summary.", "60", "2.0 min", "cpu", "Table 1", f"name: {NASTY}", "orbit"):
        assert words in text
    assert not re.search(r"https?://|@import|url\(", path.read_text())


def test_report_of_an_empty_folder(tmp_path):
    page = Page(write_report(tmp_path, "Nothing yet", [Section("Training", [Curves(["l1"])])]).read_text())
    assert "l1: nothing was logged." in page.texts


def test_small_pictures_are_shown_enlarged_and_sharp(tmp_path):
    text = write_report(tmp_path, "t", [Section("s", [Picture(np.zeros((8, 16, 3), np.uint8))])]).read_text()
    assert 'class="narrow" width="320" height="160"' in text


def test_a_gif_stands_in_for_the_video(tmp_path):
    video = Video(write_video(tmp_path / "orbit.gif", solid_frames(16, 16)), "orbit")
    page = Page(write_report(tmp_path, "t", [Section("s", [video])]).read_text())
    assert page.addresses[0].startswith("data:image/gif")


def test_a_missing_or_unknown_picture_is_refused_and_no_report_is_left(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png"):
        write_report(tmp_path, "t", [Section("s", [Picture(tmp_path / "gone.png")])])
    with pytest.raises(ValueError, match="PNG, JPEG, GIF and mp4"):
        write_report(tmp_path, "t", [Section("s", [Picture(tmp_path / "a.tiff")])])
    assert not list(tmp_path.iterdir())
