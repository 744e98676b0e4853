"""Folders as people have them: what their photos say of themselves, and what else lies next to them."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from dfd_selfsup import predict, prepare
from dfd_selfsup.datasets.folder import load_stack
from dfd_selfsup.datasets.splits import open_folder
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.thin_lens import Lens
from shared.errors import DataError
from shared.files.disk import natural_order

EXIF = {name: getattr(ExifTags.Base, name) for name in ("FocalLength", "FNumber", "SubjectDistance")}
EXIF["Film"] = ExifTags.Base.FocalLengthIn35mmFilm
LENS = {"FocalLength": 50, "FNumber": 2.8, "Film": 50}
LENS_YAML = "focal_length_mm: 50\nf_number: 2.8\nsensor_width_mm: 36\n"


def slices(count: int = 4) -> list[np.ndarray]:
    """A near half on the left, a far one on the right; the focus goes from near to far."""
    scene = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(3))
    far = (torch.arange(56) >= 28) * (count - 1.0)
    sigma = 1.2 * (far - torch.arange(count)[:, None, None]).abs().expand(count, 40, 56)
    return [(s.permute(1, 2, 0) * 255).round().byte().numpy() for s in render_stack(scene, sigma[None])[0]]


def stack(folder, exif=None, orientations=(1,) * 4, yaml="", pictures=None, mode="RGB"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, (pixels, turn) in enumerate(zip(pictures or slices(), orientations, strict=True)):
        tags = Image.Exif()
        tags[ExifTags.Base.Orientation] = turn
        if exif:
            tags[ExifTags.IFD.Exif] = {EXIF[name]: value for name, value in exif(index).items()}
        Image.fromarray(pixels).convert(mode).save(folder / f"{index}.png", exif=tags)
    if yaml:
        (folder / "stack.yaml").write_text(yaml)
    return folder


@pytest.mark.parametrize(
    ("tags", "turns"), [((1, 1, 3, 1), 0), ((1, 6, 1, 1), 0), ((6, 6, 8, 6), -1), ((3, 1, 3, 3), 2)]
)
def test_one_orientation_holds_for_the_whole_stack(tmp_path, tags, turns):
    plain = load_stack(stack(tmp_path / "plain"))
    mixed = load_stack(stack(tmp_path / "mixed", orientations=tags))
    assert torch.equal(mixed.images, plain.images.rot90(turns, (-2, -1)))
    odd = next(index for index, tag in enumerate(tags) if tags.count(tag) == 1)
    assert any("orientation" in note and f"{odd}.png" in note for note in mixed.notes)


@pytest.mark.parametrize(
    "name", ["._0.png", ".DS_Store", "__MACOSX/._1.png", ".ipynb_checkpoints/2.png", "@eaDir/0.png"]
)
def test_what_systems_put_next_to_photos_is_passed_over(tmp_path, name, capsys):
    for folder in (tmp_path / "one", tmp_path / "train", tmp_path / "train" / "a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7")
    for split in ("train", "test"):
        stack(tmp_path / split / "a")
    assert len(load_stack(stack(tmp_path / "one")).images) == 4
    prepare.main(["check", str(tmp_path)])
    said = capsys.readouterr().out
    assert "train: 1 stacks" in said
    assert "UNUSABLE" not in said


@pytest.mark.parametrize("name", ["IMG_5.HEIC", "IMG_5.CR2", "clip.mov"])
def test_what_is_left_out_is_named_in_every_output(tmp_path, name, capsys):
    folder = stack(tmp_path / "s")
    (folder / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    prepare.main(["check", str(folder)])
    assert name in capsys.readouterr().out
    predict.main([str(folder), "--out", str(tmp_path / "out")])
    assert any(name in note for note in json.loads((tmp_path / "out" / "depth.json").read_text())["notes"])
    assert name in (tmp_path / "out" / "report.html").read_text()
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=name[-4:]):
        load_stack(folder)


@pytest.mark.parametrize("last", [".inf", "1.0e+9", "EXIF"])
def test_the_last_photo_may_be_focused_at_infinity(tmp_path, last):
    yaml = "" if last == "EXIF" else f"focus_m: [1.6, 2.2, 3.2, {last}]\n{LENS_YAML}"
    distances = (1.6, 2.2, 3.2, IFDRational(4294967295, 1))
    folder = stack(tmp_path / "s", lambda i: LENS | {"SubjectDistance": distances[i]}, yaml=yaml)
    found = load_stack(folder)
    assert found.is_metric
    assert found.defocus.focus_q[-1].item() == pytest.approx(0, abs=2e-9)
    a_long_way = Lens(50, 2.8, 36000 / 56).gain_px(1e7)
    assert found.defocus.gain_px[-1].item() == pytest.approx(a_long_way, rel=1e-5)
    predict.main([str(folder), "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "depth.json").read_text())["unit"] == "m"


@pytest.mark.parametrize(
    ("exif", "yaml", "missing"),
    [
        (("FocalLength", "FNumber", "Film", "SubjectDistance"), "", None),
        (("FocalLength", "FNumber", "SubjectDistance"), "", "sensor_width_mm"),
        (("FocalLength", "FNumber", "SubjectDistance"), "pixel_pitch_um: 640", None),
        (("FocalLength", "Film", "SubjectDistance"), "", "f_number"),
        (("FocalLength", "FNumber", "Film"), "", "focus_m"),
        ((), "focus_m: [1, 2, 3, 4]\nf_number: 2\nsensor_width_mm: 36", "focal_length_mm"),
    ],
)
def test_a_lens_half_known_lacks_one_thing_by_name(tmp_path, exif, yaml, missing):
    known = LENS | {"SubjectDistance": 0}
    folder = stack(tmp_path / "s", lambda i: {k: known[k] or 1.5 + i for k in exif}, yaml=yaml)
    found = load_stack(folder)
    assert found.is_metric == (missing is None)
    assert any(f"only {missing} is missing" in note for note in found.notes) == (missing is not None)
    if missing is None and not yaml:
        assert found.lens == Lens(50, 2.8, 36000 / 56)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white_through_every_door(tmp_path, mode, capsys):
    pictures = [np.dstack([s, np.full(s.shape[:2], 255, np.uint8)]) for s in slices()]
    for picture in pictures:
        picture[:, :6, 3] = 0
    folder = stack(tmp_path / "s", pictures=pictures, mode="RGBA" if mode == "P" else mode)
    if mode == "P":
        for path in folder.glob("*.png"):
            image = Image.open(path).convert("RGB").quantize(64)
            image.info["transparency"] = 0
            image.save(path)
    found = load_stack(folder)
    assert any("white" in note for note in found.notes)
    if mode != "P":
        assert (found.images[..., :6] == 1).all()
    prepare.main(["align", str(folder), "--out", str(tmp_path / "al"), "--tolerance", "9"])
    predict.main([str(folder), "--out", str(tmp_path / "out")])
    assert "white" in (tmp_path / "out" / "depth.json").read_text()


def brighter(pictures, index):
    return [p if i != index else (p * 0.8).astype(np.uint8) for i, p in enumerate(pictures)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: [p[0], p[1], p[1], p[3]], r"1\.png and 2\.png show the same"),
        (lambda p: [p[0], p[1], p[2], p[2]], r"2\.png and 3\.png show the same"),
        (lambda p: [p[0]] * 4, r"0\.png and 1\.png, .* and 3\.png show the same"),
        (lambda p: brighter(p, 2), r"exposure changes: 2\.png"),
        (lambda p: brighter(p, 0), r"exposure changes: 0\.png"),
        (lambda p: [p[0], p[2], p[1], p[3]], "out of order.*0.png, 2.png, 1.png, 3.png"),
        (lambda p: [p[1], p[3], p[2], p[0]], "out of order"),
        (lambda p: p, None),
        (lambda p: p[::-1], None),
    ],
)
def test_odd_photos_are_noticed_by_name(tmp_path, change, named, capsys):
    prepare.main(["check", str(stack(tmp_path / "s", pictures=change(slices())))])
    said = capsys.readouterr().out
    odd = [
        line for line in said.splitlines() if "same" in line or "exposure" in line or "out of order" in line
    ]
    if named is None:
        assert not odd
    else:
        assert len(odd) == 1
        assert re.search(named, odd[0])


@pytest.mark.parametrize(
    ("distances", "known"),
    [
        ((1, 1, 2, 3), "near to far"),
        ((0, 5, 3, 2), "far to near"),
        ((1, 3, 2, 2), None),
        ((2, 2, 2, 2), None),
    ],
)
def test_distances_that_only_some_photos_have_tell_the_direction_where_they_decide(
    tmp_path, distances, known
):
    folder = stack(tmp_path / "s", lambda i: {"SubjectDistance": distances[i]} if distances[i] else {})
    found = load_stack(folder)
    assert found.defocus.kind == ("order" if known else "place")
    if known:
        assert any(f"EXIF: {known}" in note for note in found.notes)


@pytest.mark.parametrize("kind", [None, "folders", "nyuv2"])
def test_errors_name_a_source_of_data_only_where_published_data_were_asked_for(tmp_path, kind):
    (tmp_path / "s").mkdir()
    with pytest.raises(DataError) as caught:
        prepare.main(["check", str(tmp_path / "s"), *(["--kind", kind] if kind else [])])
    assert ("fetch nyuv2" in str(caught.value)) == (kind == "nyuv2")


def test_the_home_folder_is_found_by_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    stack(tmp_path / "s")
    prepare.main(["check", "~/s"])
    prepare.main(["align", "~/s", "--out", "~/al", "--tolerance", "9"])
    predict.main(["~/s", "--out", "~/out"])
    assert (tmp_path / "al" / "0.png").exists()
    assert (tmp_path / "out" / "depth.pfm").exists()


@pytest.mark.parametrize(
    "names", ["a.jpg a.png a_b.png b.png", "A.jpg a.png b.jpg B.tif", "2.jpg 2.png 10.jpg 10.png"]
)
def test_photos_of_one_name_stay_apart_and_in_order_when_aligned(tmp_path, names):
    folder = stack(tmp_path / "s", yaml="focus_m: [1, 2, 3, 4]\n" + LENS_YAML)
    photos = [path.rename(path.with_suffix("")) for path in sorted(folder.glob("*.png"))]
    for path, name in zip(photos, sorted(names.split(), key=natural_order), strict=True):
        path.rename(folder / name)
    prepare.main(["align", str(folder), "--out", str(tmp_path / "al"), "--tolerance", "9"])
    before, after = open_folder(folder), open_folder(tmp_path / "al")
    assert torch.equal(after.defocus.focus_q, before.defocus.focus_q)
    for opened in (before, after):  # the near half is on the left
        edges = [photo.diff(dim=-1).abs().mean((0, 1)) for photo in opened.images]
        nearness = [float(each[:25].mean() / each[-25:].mean()) for each in edges]
        assert len(nearness) == 4
        assert nearness == sorted(nearness, reverse=True)
