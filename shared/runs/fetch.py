"""Downloads that were asked for: resumed where they stopped, checked, never half of one under its name."""

import argparse
import dataclasses
import errno
import hashlib
import http.client
import re
import shutil
import stat
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.errors import DataError, RunError
from shared.files.disk import new_folder, read_text, reading, write_bytes
from shared.runs.command import progress_bar, say_done

__all__ = ["Source", "download", "fetch", "github_folder"]

AT_ONCE = 1 << 20  # bytes
TIMEOUT_S = 30
LARGEST_GROWTH = 100  # of an archive when it is unpacked; pictures hardly grow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A published data set: what it is, under which terms, where it comes from, and what the loaders expect.

    url: a zip archive, whose folder `folder` becomes the data set; empty where a program cannot or may not
    fetch it: `by_hand` says what to do. sha256: of the archive, where it is known. tree, then (the next
    command): {out} stands for the folder.
    """

    title: str
    licence: str
    page: str
    tree: str
    then: str
    by_hand: str = ""
    url: str = ""
    folder: str = ""
    sha256: str = ""


def github_folder(repository: str, commit: str, folder: str) -> dict[str, Any]:
    """`page`, `url` and `folder` of a Source that is a folder of a repository on GitHub, at a commit."""
    name = repository.partition("/")[2]
    return {
        "page": f"github.com/{repository}, {folder}",
        "url": f"https://github.com/{repository}/archive/{commit}.zip",
        "folder": f"{name}-{commit}/{folder}",
    }


def download(
    args: argparse.Namespace,
    sources: Mapping[str, Source],
    backbone_file: Callable[[str], tuple[str, Path]],
) -> None:
    """Run `prepare.py fetch` or `prepare.py weights`.

    sources: the paper's published data sets by name. backbone_file: that of `shared.quality.losses`.
    """
    if args.command == "weights":
        _fetch_backbone(*backbone_file(args.network))
    elif args.name is None:
        _list_sources(sources)
    elif args.name not in sources:
        raise RunError(f"fetch {args.name}: there is no such data set; choose one of {', '.join(sources)}")
    else:
        _fetch_source(sources[args.name], args.out or Path("data") / args.name, args.accept_licence)


def _list_sources(sources: Mapping[str, Source]) -> None:
    for name, source in sources.items():
        how = "" if source.url else "by hand; "
        sys.stdout.write(f"{name:20s} {source.title}\n{'':20s} {how}licence: {source.licence}\n")
    say_done("", "the same with NAME fetches that one, or says how to get it")


def _fetch_source(source: Source, out: Path, accepted: bool) -> None:
    """Say what a data set is, fetch and unpack it to the new folder `out`, and print what is there."""
    facts = {"licence": source.licence, "from": source.page, "address": source.url, "how": source.by_hand}
    lines = [source.title, *(f"  {name:9s}{text}" for name, text in facts.items() if text)]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    if source.url:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise DataError(out, "is there already", "Remove it to fetch it again, or name another --out")
        if not accepted:
            _ask_for_acceptance()
        digest = _fetch_archive(source, out)
    sys.stdout.write(f"what the loaders read{'' if source.url else ', once you have put it there'}:\n")
    sys.stdout.write("".join(f"  {line}\n" for line in source.tree.format(out=out).splitlines()))
    say_done(f"{out} (SHA-256 of the archive: {digest})" if source.url else "", source.then.format(out=out))


def _ask_for_acceptance() -> None:
    """RunError unless the licence is accepted at the terminal."""
    if sys.stdin is not None and sys.stdin.isatty():
        sys.stdout.write("Do you accept this licence? Type yes: ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() == "yes":
            return
    reason = "its licence was not accepted, and nothing was fetched"
    raise RunError(f"fetch: {reason}; if you accept it, add --accept-licence")


def _fetch_archive(source: Source, out: Path) -> str:
    """Fetch and unpack; returns the archive's SHA-256, which is kept in OUT.sha256 for the next time."""
    archive, record = (out.with_name(out.name + suffix) for suffix in (".zip", ".sha256"))
    expected, changed = source.sha256, "The data set may have changed: look at its page"
    if not expected and record.exists():
        expected = (read_text(record).split() or [""])[0]
        changed += f"; remove {record}, of an earlier download, to take it as it is now"
    digest = fetch(source.url, archive, expected, changed)
    if not expected:
        sys.stderr.write(f"No checksum of it is published: this one is kept in {record}\n")
    try:
        _unpack(archive, source.folder, out)
    except DataError as error:
        if Path(error.path) == archive:
            archive.unlink()
        raise
    write_bytes(record, f"{digest}  {archive.name}\n".encode())
    archive.unlink()
    return digest


def _unpack(archive: Path, folder: str, out: Path) -> None:
    """Write what a zip archive holds in `folder` to the new folder `out`: all of it, or nothing.

    Raises DataError, of the archive for damage, links, names that lead elsewhere, and contents of many times
    its size; of `out` when it cannot be written.
    """
    damaged = reading(archive, "cannot be unpacked", "Start again: it is downloaded again")
    with damaged, zipfile.ZipFile(archive) as file, new_folder(out) as target:
        for name, member in _members(file, archive, folder).items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with file.open(member) as packed, open(path, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, AT_ONCE)


def _members(file: zipfile.ZipFile, archive: Path, folder: str) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive below `folder`, by their names from there."""
    prefix, members = f"{folder}/" if folder else "", {}
    for member in file.infolist():
        name = member.filename.removeprefix(prefix)
        if member.is_dir() or not member.filename.startswith(prefix):
            continue
        outside = any(part in ("", ".", "..") for part in name.split("/")) or re.search(r"[\\:\0]", name)
        if outside or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            reason = f"holds {member.filename!r}, which leads out of the folder or is no file"
            raise DataError(archive, reason, "Do not trust it: look at its page")
        members[name] = member
    size, packed = sum(member.file_size for member in members.values()), archive.stat().st_size
    if not members:
        raise DataError(
            archive, f"holds no folder {folder}", "The data set may have changed: look at its page"
        )
    if size > LARGEST_GROWTH * packed:
        reason = f"would grow from {packed >> 20} to {size >> 20} MB"
        raise DataError(archive, reason, "Do not trust it: look at its page")
    _require_space(archive.parent, size)
    return members


def _require_space(folder: Path, size: int) -> None:
    """OSError, as a full disk would raise it later, if `size` bytes do not fit."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(errno.ENOSPC, f"it takes {size >> 20} MB, and {free >> 20} MB are free")


def fetch(url: str, path: Path, sha256: str = "", changed: str = "") -> str:
    """Download a file to `path`, unless it is there; returns its SHA-256.

    sha256: first digits of its hash, or all of them, where it is known; changed: what to do if it is another.
    What a broken download left in PATH.part is gone on with. Raises DataError for no network, a refusal of
    the server, a full disk, and other content than asked for, which is removed.
    """
    if path.exists():
        digest = _sha256(path)
        if not digest.startswith(sha256):
            reason = f"is another file than expected: its SHA-256 begins with {digest[:8]}, not {sha256[:8]}"
            raise DataError(path, reason, changed or "Remove it, and start again")
        return digest
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
        raise DataError(url, reason, changed or remedy.replace(", it goes on where it stopped", ""))
    part.rename(path)
    return digest


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
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise ConnectionError("it leads to an address without encryption")
        held = held if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # the server may start over
        length = answer.headers.get("Content-Length")
        total = None if length is None else held + int(length)
        _require_space(part.parent, 0 if total is None else total - held)
        with open(part, "ab" if held else "wb") as file, progress_bar(held, total or 0, unit="B") as bar:
            while data := answer.read(AT_ONCE):
                file.write(data)
                bar.update(len(data))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"it broke off after {part.stat().st_size} of {total} bytes")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_backbone(url: str, path: Path) -> None:
    """Download ImageNet weights of PyTorch's, whose name has the start of their hash; says what and where."""
    sys.stderr.write(f"{url}\n  -> {path} (PyTorch's, under the BSD licence; ImageNet's terms apply)\n")
    fetch(url, path, re.findall(r"-([0-9a-f]{8,})\.", url)[0])
    say_done(path, "train.py and eval.py find it there")
