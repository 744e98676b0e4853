"""The report: one file with everything in it, every word escaped, nothing from outside."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from shared.errors import DataError
from shared.files.images import encode_png
from shared.show.report import Curves, Picture, Section, Video, write_report
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


def test_a_table_on_the_page(tmp_path):
    _, tree = read_page(write_report(tmp_path, "t", [Section("s", [TABLE])]))
    groups, head = tree.findall(".//thead/tr")
    assert [(th.text, th.get("colspan")) for th in groups] == [
        (None, "1"),
        ("paper: Cube, 512 px", "1"),
        ("this run: embedded cube", "2"),
    ]
    assert [th.text for th in head][1:] == ["PSNR [dB]\u00a0↑", "PSNR [dB]\u00a0↑", "RMSE [m]\u00a0↓"]
    rows = tree.findall(".//tbody/tr")
    assert [td.text for td in rows[2]] == ["<script>alert(1)</script>", "–", "–", "–"]
    assert [td.get("class") for td in rows[1]] == [None] + ["number best"] * 3
    assert tree.findall(".//p")[-1].text == TABLE.note


def test_report_of_an_empty_folder(tmp_path):
    text, _ = read_page(write_report(tmp_path, "Nothing yet", [Section("Training", [Curves(["l1"])])]))
    assert "l1: nothing was logged." in text


def test_small_pictures_are_shown_enlarged_and_a_gif_is_a_picture(tmp_path):
    video = Video(write_video(tmp_path / "orbit.gif", solid_frames(16, 16)), "orbit")
    picture = Picture(np.zeros((8, 16, 3), np.uint8))
    _, tree = read_page(write_report(tmp_path, "t", [Section("s", [picture, video])]))
    small, gif = tree.iter("img")
    assert (small.get("class"), small.get("width"), small.get("height")) == ("narrow", "320", "160")
    assert gif.get("src").startswith("data:image/gif")


def test_a_missing_or_unknown_picture_is_refused_and_no_report_is_left(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png"):
        write_report(tmp_path, "t", [Section("s", [Picture(tmp_path / "gone.png")])])
    with pytest.raises(ValueError, match=r"a\.tiff"):
        write_report(tmp_path, "t", [Section("s", [Picture(tmp_path / "a.tiff")])])
    assert not list(tmp_path.iterdir())
