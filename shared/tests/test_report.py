"""The report and its parts: nothing from outside, every word escaped; tables, videos and curves."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from shared.errors import DataError
from shared.files.images import encode_png
from shared.show.report import Curves, Picture, Section, Video, curve_svg, write_report
from shared.show.tables import Column, ResultsTable
from shared.show.video import first_frame, write_video

HIGHER = {"better": "higher", "definition": "mean over views"}
COLUMNS = [
    Column("method", "Method"),
    Column("paper", "PSNR [dB]", "paper", "Cube, 512 px", **HIGHER),
    Column("ours", "PSNR [dB]", "this run", "embedded cube", **HIGHER),
    Column("error", "RMSE [m]", "this run", "embedded cube", "valid pixels", "lower", digits=3),
]
ROWS = [
    {"method": "Nearest | neighbour", "paper": 18.32, "ours": 17.0, "error": 0.5},
    {"method": "DeepVoxels", "paper": 28.42, "ours": np.float32(24.311), "error": 0.25},
    {"method": "<script>alert(1)</script>", "error": float("nan")},
]
TABLE = ResultsTable("Table 1", COLUMNS, ROWS, note="Other data: compare the order.")

SOLID = [(0.8, 0.2, 0.4), (0.1, 0.7, 0.3), (0.2, 0.3, 0.9)]


def solid_frames(height: int, width: int) -> Iterator[Tensor]:
    """Four frames [3, H, W] of each colour, in [0, 1]."""
    for colour in SOLID:
        for _ in range(4):
            yield torch.tensor(colour)[:, None, None].expand(3, height, width)


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
    assert links == ["#views-more", "#results", "#training", "#files", "#what-to-do-next"]
    kinds = ["image/png", "image/jpeg", "image/png", "image/jpeg", "video/mp4"]  # the fourth is the poster
    assert [address.partition(";")[0] for address in data] == [f"data:{kind}" for kind in kinds]
    decoded = [base64.b64decode(address.partition(",")[2]) for address in data]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(decoded[0]))), image)
    assert Image.open(io.BytesIO(decoded[1])).size == (700, 600)
    poster, frame = np.asarray(Image.open(io.BytesIO(decoded[3]))), first_frame(video)
    assert np.abs(poster.astype(float) - frame).mean() < 8
    assert decoded[4] == video.read_bytes()
    best = [cell.text for cell in tree.iter("td") if "best" in cell.get("class", "")]
    assert best == ["28.42", "24.31", "0.250"]
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


@pytest.mark.parametrize("log", [False, True])
def test_a_line_and_an_exponential_are_drawn_straight(log):
    svg = curve_svg([(step, 10.0 ** (step / 2) if log else 2.0 * step) for step in range(11)], "a")
    assert ("log scale" in svg) == log
    slopes = np.diff([y for _, y in coordinates(svg)["line"]])
    assert (slopes < 0).all()  # up is less in SVG
    assert np.ptp(slopes) < 0.2


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


# ---- tables ------------------------------------------------------------------------------------------------


def test_table_as_text():
    rows = [dict(ROWS[0]), dict(ROWS[1]), {"method": "Pix2Pix", "error": float("nan")}]
    assert ResultsTable("Table 1", COLUMNS, rows, TABLE.note).text() == (
        "Table 1\n"
        "                    | paper: Cube, 512 px | this run: embedded cube\n"
        "Method              |         PSNR [dB] ↑ | PSNR [dB] ↑ | RMSE [m] ↓\n"
        "--------------------+---------------------+-------------+-----------\n"
        "Nearest | neighbour |               18.32 |       17.00 |      0.500\n"
        "DeepVoxels          |               28.42 |       24.31 |      0.250\n"
        "Pix2Pix             |                   – |           – |          –\n"
        "PSNR [dB]: mean over views\n"
        "RMSE [m]: valid pixels (this run)\n"
        "Other data: compare the order.\n"
    )


def test_table_as_markdown():
    lines = TABLE.markdown().splitlines()
    assert lines[2] == (
        "| Method | paper: Cube, 512 px<br>PSNR [dB] ↑ | this run: embedded cube<br>PSNR [dB] ↑ "
        "| this run: embedded cube<br>RMSE [m] ↓ |"
    )
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    assert lines[4] == "| Nearest \\| neighbour | 18.32 | 17.00 | 0.500 |"
    assert lines[5] == "| DeepVoxels | **28.42** | **24.31** | **0.250** |"
    assert "RMSE [m]: valid pixels (this run)" in TABLE.markdown()


def test_a_row_that_saw_the_truth_is_never_best():
    columns = [Column("error", "error", "run", "data", "definition", "lower", digits=1)]
    rows = [{"error": 0.0}, {"error": 1.0}, {"error": 2.0}]
    lines = ResultsTable("", columns, rows, oracles=[0]).markdown().splitlines()
    assert lines[2:5] == ["| 0.0 |", "| **1.0** |", "| 2.0 |"]


def test_ties_as_printed_are_both_best_and_a_single_figure_is_not():
    column = Column("x", "X", "a", "b", "c", "higher")
    both = ResultsTable("", [column], [{"x": 1.001}, {"x": 1.002}, {"x": 0.5}]).markdown()
    assert both.count("**1.00**") == 2
    assert "**" not in ResultsTable("", [column], [{"x": 1.0}, {}]).markdown()


def test_a_column_of_figures_must_say_whose_where_and_how():
    for given_fields in ({"source": "paper"}, {"dataset": "x", "definition": "y"}, {"better": "lower"}):
        with pytest.raises(ValueError, match="give source, dataset and definition"):
            Column("x", "X", **given_fields)
    with pytest.raises(ValueError, match="no column 'y'"):
        ResultsTable("", [Column("x", "X")], [{"y": 1}])
    with pytest.raises(ValueError, match="same key"):
        ResultsTable("", [Column("x", "X"), Column("x", "Y")], [])


# ---- videos ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(33, 47), (32, 48), (31, 20)])
def test_mp4_keeps_every_frame_and_its_colours(tmp_path, size):
    path = write_video(tmp_path / "deep" / "orbit.mp4", solid_frames(*size), fps=10)
    assert path == tmp_path / "deep" / "orbit.mp4"
    reader = cv2.VideoCapture(str(path))
    assert reader.get(cv2.CAP_PROP_FPS) == 10
    frames = []
    while (frame := reader.read()[1]) is not None:
        frames.append(frame[..., ::-1])
    reader.release()
    assert len(frames) == 12
    assert frames[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    for index, frame in enumerate(frames):
        # 4:2:0 chroma and 8-bit rounding; a BT.601 matrix in place of BT.709, which is how OpenCV 4 reads any
        # video, would be off by 10 and more
        assert np.abs(frame - np.array(SOLID[index // 4]) * 255).max() < (6 if cv2.__version__ > "5" else 24)
    assert [p.name for p in path.parent.iterdir()] == ["orbit.mp4"]


def test_gif_where_ffmpeg_is_missing(tmp_path, monkeypatch):
    def no_ffmpeg():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", no_ffmpeg)
    path = write_video(tmp_path / "orbit.mp4", solid_frames(9, 11), fps=10)
    assert path == tmp_path / "orbit.gif"
    with Image.open(path) as image:
        assert image.size == (11, 9)
        assert image.info["loop"] == 0
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            durations.append(image.info["duration"])
    assert sum(durations) == 1200  # equal frames may be merged, the time may not change


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_bad_videos_are_refused_and_leave_nothing(tmp_path, name):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / name, [])
    frames = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 10)]
    with pytest.raises(ValueError, match=r"frame 1 has shape \(8, 10, 3\), the first one \(8, 8, 3\)"):
        write_video(tmp_path / name, frames)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio leaves a pipe open
def test_a_failure_of_ffmpeg_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("shared.show.video.H264", ["-f", "no_such_format"])
    with pytest.raises(DataError, match=r"orbit\.mp4"):
        write_video(tmp_path / "orbit.mp4", solid_frames(64, 64))
    assert not list(tmp_path.iterdir())
