"""Broken light fields, COLMAP scenes and points: each row ends in a `DataError` with file, reason, remedy.

Loaders: HCI, Stanford, cross-hair, COLMAP scenes, points. Each within 2 s, also where a name or a header
claims millions of views.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.datasets.crosshair import load_crosshair
from diffdiffdepth.datasets.hci import load_hci
from diffdiffdepth.datasets.stanford import SIGNS_FILE, load_stanford
from diffdiffdepth.inputs import data_kind
from diffdiffdepth.points.store import load_points
from diffdiffdepth.prepare import report_folder
from shared.errors import DataError
from shared.files.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints, write_colmap_model
from shared.files.maps import write_pfm
from shared.geometry.camera import look_at
from shared.tests.broken import Case, assert_refused, change, cut, picture, remove, write

CFG = """[intrinsics]
focal_length_mm = 100.0
image_resolution_x_px = 20
image_resolution_y_px = 16
sensor_size_mm = 35.0
[extrinsics]
num_cams_x = 3
num_cams_y = 3
baseline_mm = 50.0
focus_distance_m = 8.0
[meta]
disp_min = -1.5
disp_max = 1.5
"""


def hci(folder: Path) -> Path:
    for index in range(9):
        picture(f"input_Cam{index:03d}.png", 16, 20)(folder)
    write_pfm(folder / "gt_disp_lowres.pfm", torch.ones(16, 20))
    (folder / "parameters.cfg").write_text(CFG)
    return folder


def setting(old: str, new: str, says: str) -> Case:
    return Case(change("parameters.cfg", old, new), says)


def truth(*shape: int, value: float = 1.0) -> Callable[[Path], None]:
    return lambda folder: write_pfm(folder / "gt_disp_lowres.pfm", torch.full(shape, value))


CAMERAS_3 = "num_cams_x = 3\nnum_cams_y = 3"
HCI = {
    "a view missing": Case(remove("input_Cam004.png"), "1 of 9 views are missing, first input_Cam004"),
    "a view cut short": Case(cut("input_Cam007.png"), "input_Cam007"),
    "a view of another size": Case(picture("input_Cam003.png", 16, 21), "21 x 16 pixels", "input_Cam003"),
    "not square": setting("num_cams_y = 3", "num_cams_y = 1", "3 x 1, not square"),
    "no centre": setting(CAMERAS_3, CAMERAS_3.replace("3", "2"), "no centre view"),
    "a million views": setting(CAMERAS_3, CAMERAS_3.replace("3", "99999"), "views are missing"),
    "another resolution": setting("x_px = 20", "x_px = 512", "parameters.cfg says 512 x 16"),
    "a key missing": setting("baseline_mm = 50.0\n", "", "no baseline_mm"),
    "focal length 0": setting("focal_length_mm = 100.0", "focal_length_mm = 0", "not a positive number"),
    "a per cent sign": setting("baseline_mm = 50.0", "baseline_mm = 50%", "not a positive number"),
    "not INI": Case(write("parameters.cfg", "focal length: far"), "INI", "parameters.cfg"),
    "truth of another size": Case(truth(8, 10), "values, the views are 20 x 16", "gt_disp_lowres"),
    "truth without a number": Case(truth(16, 20, value=torch.nan), "no finite value", "gt_disp_lowres"),
}


@pytest.mark.parametrize("case", HCI)
def test_hci(tmp_path: Path, case: str) -> None:
    load_hci(hci(tmp_path / "scene"))
    assert_refused(HCI[case], tmp_path / "scene", lambda: load_hci(tmp_path / "scene"))


def test_a_view_numbered_in_the_millions(tmp_path: Path) -> None:
    case = Case(picture("input_Cam999950883.png", 16, 20), "views are missing, first input_Cam009")
    hci(tmp_path / "scene")
    (tmp_path / "scene" / "parameters.cfg").unlink()
    assert_refused(case, tmp_path / "scene", lambda: load_hci(tmp_path / "scene"))


def stanford(folder: Path) -> Path:
    for row in range(3):
        for column in range(3):
            picture(f"out_{row:02d}_{column:02d}_{-10.0 * row}_{9.0 * column}.png", 16, 20)(folder)
    (folder / SIGNS_FILE).write_text(json.dumps({"x": 1, "y": -1}))
    return folder


def moved(folder: Path) -> None:
    """All cameras at one place."""
    for path in folder.glob("out_*"):
        path.rename(folder / f"{path.name[:9]}_1.0_1.0.png")


STANFORD = {
    "a view missing": Case(remove("out_01_02_-10.0_18.0.png"), "row 1, column 2"),
    "no centre": Case(lambda f: [p.unlink() for p in f.glob("out_02*")], "2 x 3 grid has no centre"),
    "one column": Case(lambda f: [p.unlink() for p in f.glob("out_*") if p.name[6:9] != "_00"], "3 x 1 grid"),
    "a row in the millions": Case(picture("out_999999998_00_1.0_1.0.png", 16, 20), "first row 3, column 0"),
    "two files for one view": Case(picture("out_01_02_-11.0_18.0.png", 16, 20), "both"),
    "all cameras at one place": Case(moved, "position"),
    "a view of another size": Case(
        picture("out_01_02_-10.0_18.0.png", 18, 20), "10 x 9 pixels, not 10 x 8", "out_01_02"
    ),
    "signs of another kind": Case(write(SIGNS_FILE, '{"x": 2, "y": 1}'), "1 or -1", SIGNS_FILE),
    "signs cut short": Case(cut(SIGNS_FILE), "not valid JSON", SIGNS_FILE),
}


@pytest.mark.parametrize("case", STANFORD)
def test_stanford(tmp_path: Path, case: str) -> None:
    load_stanford(stanford(tmp_path / "scene"))
    assert_refused(STANFORD[case], tmp_path / "scene", lambda: load_stanford(tmp_path / "scene"))


def crosshair(folder: Path) -> Path:
    for index in range(5):
        picture(f"scene_02_{index:02d}.png", 16, 20)(folder)
        picture(f"scene_{index:02d}_02.png", 16, 20)(folder)
    return folder


CROSSHAIR = {
    "a gap": Case(remove("scene_02_01.png"), "row 2 has no view 1"),
    "the centre missing": Case(remove("scene_02_02.png"), "centre view"),
    "one end missing": Case(
        lambda f: [remove(f"scene_02_0{i}.png")(f) for i in (0, 1)], "end of its row|no view"
    ),
    "two scenes": Case(picture("other_02_01.png", 16, 20), "both the view"),
    "too few": Case(lambda f: [p.unlink() for p in sorted(f.iterdir())[:5]], "fewer than a cross needs"),
    "sizes differ": Case(picture("scene_02_01.png", 16, 22), "22 x 16 pixels", "scene_02_01"),
}


@pytest.mark.parametrize("case", CROSSHAIR)
def test_crosshair(tmp_path: Path, case: str) -> None:
    load_crosshair(crosshair(tmp_path / "scene"))
    assert_refused(CROSSHAIR[case], tmp_path / "scene", lambda: load_crosshair(tmp_path / "scene"))


def model(names: list[str] | None = None, camera: str = "PINHOLE", behind: bool = False) -> ColmapModel:
    names = [f"{i}.png" for i in range(3)] if names is None else names
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(20, 3, generator=generator, dtype=torch.float64) - 0.5
    xyz += torch.tensor([9.0, 0, 0]) if behind else 0
    keypoints = torch.rand(20, 2, generator=generator, dtype=torch.float64) * 16
    images = {
        i + 1: ColmapImage(
            name, 1, look_at(torch.tensor([4.0, i - 1.0, 1.0]).double()), keypoints, torch.arange(20)
        )
        for i, name in enumerate(names)
    }
    tracks = torch.tensor([[view, point] for point in range(20) for view in images]).reshape(-1, 2)
    starts = torch.arange(21) * len(images)
    rgb = torch.zeros(20, 3, dtype=torch.uint8)
    points = ColmapPoints(torch.arange(20), xyz, rgb, torch.ones(20).double(), starts, tracks)
    return ColmapModel({1: ColmapCamera(camera, 20, 16, (18.0, 18.0, 10.0, 8.0))}, images, points)


def colmap(folder: Path, **options: object) -> Path:
    for index in range(3):
        picture(f"images/{index}.png", 16, 20)(folder)
    write_colmap_model(folder / "sparse" / "0", model(**options))
    return folder


def rewritten(**options: object) -> Callable[[Path], Path]:
    return lambda folder: colmap(folder, **options)


CAMERAS = "sparse/0/cameras.txt"
COLMAP = {
    "no model": Case(remove(CAMERAS), "holds no COLMAP model"),
    "a model without images": Case(write("sparse/0/images.txt", "# none\n"), "holds no images"),
    "a single image": Case(rewritten(names=["0.png"]), "holds one image only"),
    "the photos missing": Case(lambda f: shutil.rmtree(f / "images"), "such as 0.png, are not in"),
    "a damaged neighbour": Case(write("images/2.png", "no picture"), "not an image", "2.png"),
    "a photo of another size": Case(picture("images/1.png", 18, 20), "its camera 20 x 16", "1.png"),
    "points behind the camera": Case(rewritten(behind=True), "outside the image or behind"),
    "no points": Case(write("sparse/0/points3D.txt", "# none\n"), "no point that 0.png sees"),
    "truth of another size": Case(lambda f: write_pfm(f / "depth/0.pfm", torch.ones(8, 10)), "size", "0.pfm"),
}


@pytest.mark.parametrize("case", COLMAP)
def test_colmap(tmp_path: Path, case: str) -> None:
    ColmapScenes(colmap(tmp_path / "scene"))[0]
    assert_refused(COLMAP[case], tmp_path / "scene", lambda: ColmapScenes(tmp_path / "scene")[0])


COLUMNS = {"x": np.arange(3.0), "y": np.arange(3.0), "label": np.ones(3), "kind": np.array("depth")}


def columns(**changes: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / "p.npz", **(COLUMNS | changes))


POINTS = {
    "no file": Case(remove("p.npz"), "does not exist"),
    "a column missing": Case(lambda f: np.savez(f / "p.npz", x=np.ones(3)), "no column 'kind'"),
    "lengths differ": Case(columns(x=np.ones(4)), "does not hold points"),
    "no points": Case(columns(x=np.ones(0), y=np.ones(0), label=np.ones(0)), "empty"),
    "NaN": Case(columns(x=np.array([1, np.nan, 2])), "NaN"),
    "depth behind the camera": Case(columns(label=np.array([1.0, -1, 2])), "positive"),
    "another kind": Case(columns(kind=np.array("height")), "disparity"),
    "words": Case(columns(x=np.array(["a", "b", "c"])), "does not hold points"),
    "weights of zero": Case(columns(weight=np.zeros(3)), "weights"),
    "outside the image": Case(columns(x=np.full(3, 99.0)), "all 3 points are outside"),
}


@pytest.mark.parametrize("case", POINTS)
def test_points(tmp_path: Path, case: str) -> None:
    columns()(tmp_path)
    load_points(tmp_path / "p.npz", (16, 20))
    assert_refused(POINTS[case], tmp_path, lambda: load_points(tmp_path / "p.npz", (16, 20)))


def test_a_folder_of_another_kind(tmp_path: Path) -> None:
    case = Case(write("notes.txt", "hello"), "holds no light field")
    assert_refused(case, tmp_path, lambda: data_kind(tmp_path))


def test_errors_about_own_files_do_not_end_with_where_to_get_published_ones(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    picture("photos/IMG_1.jpg", 16, 20)(tmp_path)
    write("scan/scan.obj", "v 0 0 0")(tmp_path)
    for name, source in (("empty", True), ("missing", True), ("photos", False), ("scan", False)):
        with pytest.raises(DataError) as caught:
            report_folder(tmp_path / name)
        assert ("prepare fetch" in str(caught.value)) == source
