"""Downloads from a server on this machine: whole, broken off and resumed, wrong, refused."""

import hashlib
import http.server
import threading
from collections.abc import Iterator

import pytest

from shared.errors import DataError
from shared.runs.fetch import fetch, fetch_backbone

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Sends CONTENT, of which it skips what the client has; `breaks_after` bytes it hangs up."""

    breaks_after: int | None = None
    ranges = True

    def do_GET(self) -> None:
        if not self.path.startswith("/weights"):
            self.send_error(404, "Not here")
            return
        asked = self.headers.get("Range") if self.ranges else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:][: self.breaks_after])

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


def test_the_hash_of_a_backbone_is_in_its_name(tmp_path, address, capsys):
    url, path = address.replace(".pth", f"-{DIGEST[:8]}.pth"), tmp_path / "checkpoints" / "alexnet.pth"
    fetch_backbone(url, path)
    assert path.read_bytes() == CONTENT
    said = capsys.readouterr().err
    assert url in said
    assert f"written: {path}" in said
