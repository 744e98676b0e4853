"""Pictures, tables, curves, video and the report: right pixels, right words, nothing from outside."""

import base64
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.curves import curve_svg, series
from shared.files import DataError
from shared.pictures import encode_png, to_uint8
from shared.report import (
    Column,
    Curves,
    Facts,
    Picture,
    ResultsTable,
    Section,
    Video,
    colorize_depth,
    contact_sheet,
    depth_legend,
    depth_picture,
    depth_range,
    write_report,
    write_video,
)
from shared.video import first_frame

RED, GREEN = np.array([[[255, 0, 0]]], np.uint8), np.array([[[0, 255, 0]]], np.uint8)

# ---- images ------------------------------------------------------------------------------------------------


def test_convention_torch_is_chw_and_numpy_is_hwc():
    chw = torch.rand(3, 5, 7)
    expected = np.rint(chw.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    assert np.array_equal(to_uint8(chw), expected)
    assert np.array_equal(to_uint8(chw.permute(1, 2, 0).numpy()), expected)
    assert np.array_equal(to_uint8(expected), expected)
    assert np.array_equal(to_uint8(torch.from_numpy(expected).permute(2, 0, 1)), expected)
    grey = to_uint8(chw[0])
    assert grey.shape == (5, 7, 3)
    assert np.array_equal(grey, to_uint8(chw[:1]))
    assert (grey == grey[..., :1]).all()
    assert to_uint8(chw.double().requires_grad_()).dtype == np.uint8


def test_values_outside_the_range_are_clipped():
    image = torch.tensor([[-1.0, 0.0, 0.5, 1.0, 7.0, math.nan, math.inf, -math.inf]])
    assert to_uint8(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0, 255, 0]


@pytest.mark.parametrize(
    "image", [torch.rand(1, 3, 4, 5), torch.rand(4, 5, 6), np.zeros((2, 2), np.int64), torch.rand(3, 0, 4)]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match="expected"):
        to_uint8(image)


def test_png_is_lossless():
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image)))), image)


# ---- depth -------------------------------------------------------------------------------------------------


def colour_of(level: int, colormap: int = cv2.COLORMAP_TURBO) -> list[int]:
    bgr = cv2.applyColorMap(np.array([[level]], np.uint8), colormap)[0, 0]
    return bgr[::-1].tolist()


def test_depth_colours_run_from_vmin_to_vmax_and_invalid_is_grey():
    depth = torch.tensor([[1.0, 2.0, 3.0, 0.0, 9.0, math.nan, math.inf, 2.0]])
    mask = torch.tensor([[True, True, True, True, True, True, True, False]])
    colours = colorize_depth(depth, mask, vmin=1.0, vmax=3.0)[0].tolist()
    low, middle, high, grey = colour_of(0), colour_of(128), colour_of(255), [128] * 3
    assert colours == [low, middle, high, low, high, grey, grey, grey]
    magma = colorize_depth(depth, mask, 1.0, 3.0, colormap="magma")[0, 2].tolist()
    assert magma == colour_of(255, cv2.COLORMAP_MAGMA) != high


def test_masked_values_do_not_move_the_range():
    depth = np.linspace(2.0, 4.0, 35).reshape(5, 7)
    mask = np.ones((5, 7), bool)
    mask[2, 3] = False
    spoiled = depth.copy()
    spoiled[2, 3] = 1e30
    assert depth_range(spoiled, mask) == depth_range(np.where(mask, depth, np.nan))
    assert np.array_equal(colorize_depth(spoiled, mask), colorize_depth(depth, mask))
    low, high = depth_range(depth, mask)
    assert 2.0 <= low < 2.1
    assert 3.9 < high <= 4.0


def test_constant_and_entirely_invalid_depth():
    assert (colorize_depth(np.full((3, 4), 2.5)) == np.array(colour_of(128))).all()
    assert (colorize_depth(np.full((3, 4), np.nan)) == 128).all()
    assert (colorize_depth(torch.ones(1, 3, 4), torch.zeros(1, 3, 4, dtype=torch.bool)) == 128).all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((torch.rand(3, 4), torch.ones(4, 3)), "must have the shape of the depth"),
        ((torch.rand(2, 3, 4),), "expected one depth map"),
        ((torch.rand(3, 4), None, 2.0, 1.0), "must be finite and ascending"),
        ((torch.rand(3, 4), None, 0.0, math.inf), "must be finite and ascending"),
    ],
)
def test_bad_depth_arguments_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        colorize_depth(*arguments)


def test_depth_picture_is_the_enlarged_map_over_its_legend():
    depth = np.arange(15.0).reshape(3, 5)
    picture = depth_picture(depth, depth > 0, unit="m", status="metric", vmin=0, vmax=14, min_width=16)
    coloured = colorize_depth(depth, depth > 0, 0, 14)
    assert np.array_equal(picture[: 3 * 4], coloured.repeat(4, 0).repeat(4, 1))
    bar = picture[12]
    assert bar[0].tolist() == colour_of(0)
    assert bar[-1].tolist() == colour_of(255)


def test_the_legend_prints_range_unit_and_status():
    """What is printed cannot be read back here, but different words must give different pictures."""
    base = depth_legend(320, 1.0, 3.0, "m", "metric")
    others = [
        depth_legend(320, 1.5, 3.0, "m", "metric"),
        depth_legend(320, 1.0, 3.5, "m", "metric"),
        depth_legend(320, 1.0, 3.0, "units", "metric"),
        depth_legend(320, 1.0, 3.0, "m", "up to scale"),
    ]
    assert all(other.shape == base.shape and (other != base).any() for other in others)
    taller = depth_legend(120, 1.0, 3.0, "m", "a status of the scale that needs a second and a third line")
    assert taller.shape[0] > depth_legend(120, 1.0, 3.0, "m", "metric").shape[0]
    for width in (1, 2, 17):
        assert depth_legend(width, 0.0, 0.0, "m").shape[1] == width


# ---- contact sheets ----------------------------------------------------------------------------------------


def test_contact_sheet_places_every_image_whole():
    red, green = RED.repeat(4, 0).repeat(6, 1), GREEN.repeat(2, 0).repeat(6, 1)
    sheet = contact_sheet([[red, green], [None, red]], cell_width=12)
    assert sheet.shape == (8 + 8 + 8 + 8 + 8, 8 + 12 + 8 + 12 + 8, 3)
    is_red, is_green = (sheet == RED[0, 0]).all(-1), (sheet == GREEN[0, 0]).all(-1)
    assert is_red[8:16, 8:20].all()
    assert is_red[24:32, 28:40].all()
    assert is_green[8:12, 28:40].all()
    assert (is_red.sum(), is_green.sum()) == (2 * 8 * 12, 4 * 12)
    assert (sheet[~is_red & ~is_green] == 255).all()


def test_captions_stand_beside_the_images():
    image = np.full((20, 30, 3), 200, np.uint8)
    plain = contact_sheet([[image]], cell_width=60)
    captioned = contact_sheet([[image]], ["Error × 5 → äöü °"], ["view 3"], cell_width=60)
    assert captioned.shape[0] > plain.shape[0]
    assert captioned.shape[1] > plain.shape[1]
    ink = (captioned < 120).all(-1)
    assert ink[:30, -68:].any()
    assert ink[30:, :50].any()
    assert (captioned == 200).all(-1).sum() == 40 * 60


def test_a_legend_stands_below_the_cells_as_it_is():
    image, legend = np.full((20, 30, 3), 200, np.uint8), np.full((11, 50, 3), 77, np.uint8)
    for captions, left in ((), 8), (["view 3"], None):
        plain = contact_sheet([[image]], (), captions, cell_width=60)
        sheet = contact_sheet([[image]], (), captions, cell_width=60, legend=legend)
        assert sheet.shape == (plain.shape[0] + 8 + 11, plain.shape[1], 3)
        assert np.array_equal(sheet[: plain.shape[0]], plain)
        rows, columns = np.nonzero((sheet == 77).all(-1))
        cell = np.nonzero((plain == 200).all(-1))[1].min()
        assert left is None or cell == left
        assert (rows.min(), columns.min()) == (plain.shape[0], cell)
        assert len(rows) == 11 * 50
    wide = contact_sheet([[image]], cell_width=30, legend=legend)
    assert wide.shape[1] == 30 + 16  # what is too wide is cut


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([],), "at least one image"),
        (([[None]],), "at least one image"),
        (([[RED, RED]], ["one"]), "2 column captions are needed, got 1"),
        (([[RED, RED]], (), ["a", "b"]), "1 row captions are needed, got 2"),
    ],
)
def test_bad_sheets_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        contact_sheet(*arguments)


# ---- video -------------------------------------------------------------------------------------------------

SOLID = [(0.8, 0.2, 0.4), (0.1, 0.7, 0.3), (0.2, 0.3, 0.9)]


def solid_frames(height: int, width: int):
    for colour in SOLID:
        for _ in range(4):
            yield torch.tensor(colour)[:, None, None].expand(3, height, width)


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
        # 4:2:0 chroma and 8-bit rounding; a BT.601 matrix in place of BT.709 would be off by 10 and more
        assert np.abs(frame - np.array(SOLID[index // 4]) * 255).max() < 6
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


def test_the_first_frame_is_none_where_it_cannot_be_had(tmp_path, monkeypatch):
    path = write_video(tmp_path / "orbit.mp4", solid_frames(32, 48), fps=10)
    assert first_frame(path).shape == (32, 48, 3)
    assert np.abs(first_frame(path).reshape(-1, 3).mean(0) / 255 - SOLID[0]).max() < 0.02
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert first_frame(tmp_path / "broken.mp4") is None
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    assert first_frame(path) is None


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_bad_videos_are_refused_and_leave_nothing(tmp_path, name):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / name, [])
    frames = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 10)]
    with pytest.raises(ValueError, match=r"frame 1 has shape \(8, 10, 3\), the first one \(8, 8, 3\)"):
        write_video(tmp_path / name, frames)
    with pytest.raises(ValueError, match="frames per second"):
        write_video(tmp_path / name, solid_frames(8, 8), fps=0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        write_video(tmp_path / "file" / name, solid_frames(8, 8))


def test_a_failure_of_ffmpeg_is_told_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"cannot be written \(ffmpeg: ") as caught:
        write_video(tmp_path / "orbit.unknown", solid_frames(64, 64))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# ---- tables ------------------------------------------------------------------------------------------------

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


def test_table_as_html():
    root = ElementTree.fromstring(f"<div>{TABLE.html()}</div>")
    head = root.findall(".//thead/tr")
    assert [(th.text, th.get("colspan")) for th in head[0]] == [
        (None, "1"),
        ("paper: Cube, 512 px", "1"),
        ("this run: embedded cube", "2"),
    ]
    assert [th.text for th in head[1]][1:] == ["PSNR [dB]\u00a0↑", "PSNR [dB]\u00a0↑", "RMSE [m]\u00a0↓"]
    body = [[td.text for td in row] for row in root.findall(".//tbody/tr")]
    assert body[2] == ["<script>alert(1)</script>", "–", "–", "–"]
    assert [td.get("class") for td in root.findall(".//tbody/tr")[1]] == [None] + ["number best"] * 3
    assert root.findall(".//p")[-1].text == TABLE.note


def test_metrics_of_one_definition_share_its_line():
    columns = [
        Column("a", "δ1", "this run", "rooms", "all pixels", "higher"),
        Column("b", "δ2", "this run", "rooms", "all pixels", "higher"),
        Column("c", "RMSE", "this run", "rooms", "valid pixels", "lower"),
        Column("d", "δ1", "paper", "NYUv2", "all pixels", "higher"),
    ]
    lines = ResultsTable("", columns, []).text().splitlines()
    assert lines[-3:] == ["δ1: all pixels", "δ2: all pixels (this run)", "RMSE: valid pixels (this run)"]
    lines = ResultsTable("", columns[:3], []).text().splitlines()
    assert lines[-2:] == ["δ1, δ2: all pixels", "RMSE: valid pixels"]


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


def test_series_leaves_out_what_is_missing_or_not_finite():
    rows = [{"step": 3, "a": 1}, {"step": 1, "a": 2.5}, {"step": 2}, {"step": 4, "a": None}, {"step": 5}]
    assert series(rows, "a") == [(1, 2.5), (3, 1.0)]
    assert series(rows, "gone") == []


def test_a_straight_line_is_drawn_straight():
    line = coordinates(curve_svg([(step, 2.0 * step) for step in range(11)], "a"))["line"]
    assert len(line) == 11
    slopes = np.diff([y for _, y in line]) / np.diff([x for x, _ in line])
    assert (slopes < 0).all()  # up is less in SVG
    assert np.ptp(slopes) < 0.02


def test_an_exponential_is_straight_on_the_log_scale():
    svg = curve_svg([(step, 10.0 ** (-step / 2)) for step in range(11)], "a")
    assert "log scale" in svg
    slopes = np.diff([y for _, y in coordinates(svg)["line"]])
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


def test_nothing_logged_is_said():
    assert "nothing was logged" in curve_svg([], "a")


# ---- the report --------------------------------------------------------------------------------------------


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
