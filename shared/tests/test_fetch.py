"""Downloads from a server on this machine: whole, broken off and resumed, wrong, refused, unpacked."""

import argparse
import hashlib
import http.server
import importlib
import io
import os
import random
import shutil
import stat
import struct
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shared.errors import DataError, RunError
from shared.runs.command import add_download_commands
from shared.runs.fetch import Source, download, fetch, github_folder

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Sends `content`, of which it skips what the client has; after `breaks_after` bytes it hangs up."""

    content = CONTENT
    breaks_after: int | None = None
    ranges = True

    def do_GET(self) -> None:
        if not self.path.startswith("/weights"):
            self.send_error(404, "Not here")
            return
        asked = self.headers.get("Range") if self.ranges else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:][: self.breaks_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/weights.pth"
        server.shutdown()


def test_a_file_is_fetched_once(tmp_path, address):
    path = tmp_path / "cache" / "weights.pth"
    fetch(address, path, DIGEST[:8])
    assert path.read_bytes() == CONTENT
    assert [each.name for each in path.parent.iterdir()] == ["weights.pth"]
    fetch("http://127.0.0.1:9/nobody", path, DIGEST[:8])  # it is there: nobody is asked


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(tmp_path, address, monkeypatch, ranges):
    path, part = tmp_path / "weights.pth", tmp_path / "weights.pth.part"
    monkeypatch.setattr(Server, "breaks_after", 300_000)
    with pytest.raises(DataError, match=r"broke off after 300000 of 1280000 bytes.*goes on where it stopped"):
        fetch(address, path, DIGEST)
    assert not path.exists()
    assert part.read_bytes() == CONTENT[:300_000]
    monkeypatch.setattr(Server, "breaks_after", None)
    monkeypatch.setattr(Server, "ranges", ranges)  # without, the server sends all of it again
    fetch(address, path, DIGEST)
    assert path.read_bytes() == CONTENT


def test_a_whole_part_only_needs_its_name(tmp_path, address):
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    fetch(address, tmp_path / "weights.pth", DIGEST)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_another_file_than_expected_is_removed(tmp_path, address):
    with pytest.raises(DataError, match=f"begins with {DIGEST[:8]}, not 00000000"):
        fetch(address, tmp_path / "weights.pth", "00000000")
    assert not list(tmp_path.iterdir())


def test_a_file_put_there_by_hand_is_checked_too(tmp_path, address):
    (tmp_path / "file.bin").write_bytes(b"something else")
    with pytest.raises(DataError, match="another file than expected"):
        fetch(f"{address}/file.bin", tmp_path / "file.bin", "0" * 64)
    assert (tmp_path / "file.bin").read_bytes() == b"something else"


def test_refusals_and_no_network_are_one_error(tmp_path, address):
    for url, reason in (
        (address.replace("weights", "other"), "Not here"),
        ("http://127.0.0.1:9/w", "refused"),
    ):
        with pytest.raises(DataError, match=reason):
            fetch(url, tmp_path / "weights.pth", DIGEST)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        fetch(address, tmp_path / "file" / "weights.pth", DIGEST)
    with pytest.raises(ValueError, match="not an address"):
        fetch("file:///etc/passwd", tmp_path / "weights.pth", DIGEST)


def prepare(command: str, sources: Mapping[str, Source] | None = None, files: Mapping | None = None) -> None:
    """`prepare.py COMMAND`"""
    parser = argparse.ArgumentParser()
    add_download_commands(parser.add_subparsers(dest="command"))
    download(parser.parse_args(command.split()), sources or {}, (files or {}).__getitem__)


def test_the_hash_of_a_backbone_is_in_its_name(tmp_path, address, capsys):
    url, path = address.replace(".pth", f"-{DIGEST[:8]}.pth"), tmp_path / "checkpoints" / "alexnet.pth"
    prepare("weights", files={"alexnet": (url, path)})
    assert path.read_bytes() == CONTENT
    said = capsys.readouterr().err
    assert url in said
    assert f"written: {path}" in said


# ---- data sets ---------------------------------------------------------------------------------------------

PICTURE = random.Random(0).randbytes(5000)
FILES = {
    "repo-1/data/scene/cameras.json": b"{}",
    "repo-1/data/scene/images/0001.png": PICTURE,
    "repo-1/data/scene/images/0002.png": PICTURE[::-1],
    "repo-1/README.md": b"not of the data set",
}


def zipped(files: Mapping[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return data.getvalue()


@pytest.fixture
def offered(address, monkeypatch, tmp_path) -> dict[str, Source]:
    """A data set that is fetched and one that is not; the working folder is `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Server, "content", zipped(FILES))
    texts = {
        "licence": "CC BY 4.0",
        "page": "example.org",
        "tree": "{out}/\n  images/0001.png",
        "then": "check {out}",
    }
    free = Source(title="A scene", **texts, url=address, folder="repo-1/data/scene")
    by_hand = Source(title="A secret", **texts, by_hand="register there")
    return {"scene": free, "secret": by_hand}


def found_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_data_set_is_fetched_checked_and_unpacked(tmp_path, offered, capsys):
    prepare("fetch scene --accept-licence", offered)
    written = ["scene.sha256", "scene/cameras.json", "scene/images/0001.png", "scene/images/0002.png"]
    assert found_below(tmp_path / "data") == written
    assert (tmp_path / "data/scene/images/0001.png").read_bytes() == PICTURE
    digest = hashlib.sha256(Server.content).hexdigest()
    assert (tmp_path / "data/scene.sha256").read_text().split()[0] == digest
    said = capsys.readouterr()
    assert said.out.index("CC BY 4.0") < said.out.index("data/scene/\n    images/0001.png")
    assert "No checksum" in said.err
    assert digest in said.err
    assert said.err.endswith("next:    check data/scene\n")
    with pytest.raises(DataError, match="is there already"):
        prepare("fetch scene --accept-licence", offered)


def test_the_second_download_is_compared_with_the_first(tmp_path, offered, monkeypatch):
    prepare("fetch scene --accept-licence", offered)
    shutil.rmtree("data/scene")
    prepare("fetch scene --accept-licence", offered)  # the same content
    shutil.rmtree("data/scene")
    monkeypatch.setattr(Server, "content", zipped(FILES | {"repo-1/data/scene/cameras.json": b"[]"}))
    with pytest.raises(DataError, match="another file than expected.*remove data/scene.sha256"):
        prepare("fetch scene --accept-licence", offered)
    assert found_below(tmp_path / "data") == ["scene.sha256"]
    Path("data/scene.sha256").unlink()
    prepare("fetch scene --accept-licence", offered)
    assert Path("data/scene/cameras.json").read_text() == "[]"


def test_nothing_is_fetched_without_the_licence(tmp_path, offered, monkeypatch, capsys):
    with pytest.raises(RunError, match="not accepted"):
        prepare("fetch scene", offered)  # no terminal
    for answer, accepted in (("no\n", False), ("\n", False), ("yes\n", True)):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", terminal)
        if not accepted:
            with pytest.raises(RunError, match="not accepted"):
                prepare("fetch scene", offered)
            assert not list(tmp_path.iterdir())
    prepare("fetch scene --out elsewhere", offered)
    assert Path("elsewhere/cameras.json").exists()
    assert "Type yes" in capsys.readouterr().out


def test_what_is_not_handed_out_is_described(tmp_path, offered, capsys):
    prepare("fetch secret", offered)
    said = capsys.readouterr()
    assert "register there" in said.out
    assert said.out.endswith("data/secret/\n    images/0001.png\n")
    assert said.err == "next:    check data/secret\n"
    prepare("fetch", offered)
    listed = capsys.readouterr().out
    assert "scene" in listed
    assert listed.count("by hand") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match="no such data set; choose one of scene, secret"):
        prepare("fetch scenes", offered)


INSIDE = "repo-1/data/scene/"
UNTRUSTED = {
    "up": zipped({INSIDE + "../../../evil": b"x"}),
    "root": zipped({INSIDE + "/etc/evil": b"x"}),
    "backslash": zipped({INSIDE + "..\\evil": b"x"}),
    "drive": zipped({INSIDE + "C:evil": b"x"}),
    "link": zipped({INSIDE + "evil": b"/etc"}, stat.S_IFLNK | 0o777),
    "device": zipped({INSIDE + "evil": b""}, stat.S_IFCHR | 0o666),
    "bomb": zipped({INSIDE + "zeros": bytes(20 << 20)}),
    "none of it": zipped({"repo-2/README.md": b"x"}),
    "half": zipped(FILES)[:-40],
    "page": b"<html>Please log in</html>" * 100,
}


@pytest.mark.parametrize("kind", UNTRUSTED)
def test_archives_that_are_not_unpacked(tmp_path, offered, monkeypatch, kind):
    """Good files come first, so that something could be half-unpacked."""
    monkeypatch.setattr(Server, "content", UNTRUSTED[kind])
    with pytest.raises(DataError, match=r"data/scene\.zip"):
        prepare("fetch scene --accept-licence", offered)
    assert found_below(tmp_path) == []


def test_a_member_that_is_longer_than_it_says(tmp_path, offered, monkeypatch):
    """The sizes that the check sums up are what the archive says; more than that is not unpacked."""
    content = zipped(
        {INSIDE + "zeros": bytes(1 << 20), INSIDE + "noise": random.Random(1).randbytes(1 << 16)}
    )
    for signature, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # of the uncompressed size
        at = content.index(signature) + place
        content = content[:at] + struct.pack("<I", 10) + content[at + 4 :]
    monkeypatch.setattr(Server, "content", content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        prepare("fetch scene --accept-licence", offered)
    assert found_below(tmp_path) == []


def test_damaged_archives_are_one_error_or_whole(tmp_path, offered, monkeypatch):
    intact, chance, refused = zipped(FILES), random.Random(2), 0
    for _ in range(100):
        damaged = bytearray(intact)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        monkeypatch.setattr(Server, "content", bytes(damaged))
        try:
            prepare("fetch scene --accept-licence", offered)
        except DataError:
            refused += 1
            assert found_below(tmp_path) == []
        shutil.rmtree("data", ignore_errors=True)
    assert refused > 50


def test_no_space(tmp_path, offered, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(DataError, match="0 MB are free.*Check the free space"):
        prepare("fetch scene --accept-licence", offered)
    free = iter([1 << 20, 1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=next(free)))
    with pytest.raises(DataError, match="Check the free space"):  # for the archive, not for what is in it
        prepare("fetch scene --accept-licence", offered)
    assert found_below(tmp_path) == ["data/scene.zip"]  # it need not be downloaded again
    monkeypatch.undo()
    os.chdir(tmp_path)
    prepare("fetch scene --accept-licence --out data/scene", offered)
    assert "scene/cameras.json" in found_below(tmp_path / "data")


def test_a_download_of_a_data_set_goes_on(tmp_path, offered, monkeypatch):
    monkeypatch.setattr(Server, "breaks_after", 4000)
    with pytest.raises(DataError, match="broke off after 4000"):
        prepare("fetch scene --accept-licence", offered)
    monkeypatch.setattr(Server, "breaks_after", None)
    prepare("fetch scene --accept-licence", offered)
    assert len(found_below(tmp_path)) == 4


@pytest.mark.parametrize("paper", ["deepvoxels", "diffdiffdepth", "dfd_selfsup", "nvs_depth"])
def test_the_papers_tables_of_data_sets(paper, tmp_path, monkeypatch, capsys):
    sources = importlib.import_module(f"{paper}.datasets.sources").SOURCES
    monkeypatch.chdir(tmp_path)
    for name, source in sources.items():
        assert bool(source.url) != bool(source.by_hand)
        assert source.url.startswith("https://") or not source.url
        if source.by_hand:
            prepare(f"fetch {name}", sources)
            said = capsys.readouterr()
            assert "data/" in said.out.partition("what the loaders read")[2]
            assert "{" not in said.err
    assert not list(tmp_path.iterdir())


def test_a_folder_on_github():
    found = github_folder("someone/thing", "abc123", "data/x")
    assert found["url"] == "https://github.com/someone/thing/archive/abc123.zip"
    assert found["folder"] == "thing-abc123/data/x"
