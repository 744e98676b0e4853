"""Downloads that were asked for: resumed where they stopped, checked, never half of one under its name."""

import hashlib
import http.client
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

from shared.errors import DataError
from shared.runs.command import progress_bar, say_done

__all__ = ["fetch", "fetch_backbone"]

AT_ONCE = 1 << 20  # bytes
TIMEOUT_S = 30


def fetch(url: str, path: Path, sha256: str) -> None:
    """Download a file to `path`, unless it is there; `sha256`: first digits of its hash, or all of them.

    What a broken download left in PATH.part is gone on with. Raises DataError for no network, a refusal of
    the server, a full disk, and other content than asked for, which is removed.
    """
    if path.exists():
        return
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"not an address of the web: {url}")
    part = path.with_name(f"{path.name}.part")
    remedy = f"Start again, it goes on where it stopped; or get the file elsewhere and put it at {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part)
        digest = _sha256(part)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(url, f"cannot be downloaded ({reason})", remedy) from None
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise DataError(part, reason, "Check the free space and the write permission") from None
    if not digest.startswith(sha256):
        part.unlink()
        reason = (
            f"sends another file than expected: its SHA-256 begins with {digest[: len(sha256)]}, not {sha256}"
        )
        raise DataError(url, reason, remedy.replace(", it goes on where it stopped", ""))
    part.rename(path)


def _download(url: str, part: Path) -> None:
    """Fetch what is missing of `part`; ConnectionError if the server ends before the file does."""
    held = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={held}-"} if held else {})  # noqa: S310
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 - http(s) alone, see above
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all of it is there; the checksum tells whether it is right
        raise
    with answer:
        held = held if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # the server may start over
        length = answer.headers.get("Content-Length")
        total = None if length is None else held + int(length)
        with open(part, "ab" if held else "wb") as file, progress_bar(held, total or 0, unit="B") as bar:
            while data := answer.read(AT_ONCE):
                file.write(data)
                bar.update(len(data))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"it broke off after {part.stat().st_size} of {total} bytes")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_backbone(url: str, path: Path) -> None:
    """Download ImageNet weights of PyTorch's, whose name has the start of their hash; says what and where."""
    sys.stderr.write(f"{url}\n  -> {path} (PyTorch's, under the BSD licence; ImageNet's terms apply)\n")
    fetch(url, path, re.findall(r"-([0-9a-f]{8,})\.", url)[0])
    say_done(path, "train.py and eval.py report LPIPS from now on")
