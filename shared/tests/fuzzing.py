"""Damage to files, made by hypothesis, and readers that may answer with `DataError` and nothing else.

Reading happens in a forked child that may use 256 MB more than it has, and two seconds for each file, so that
a header's lie, a bomb or a loop is caught whatever the language of the reader.
"""

import io
import os
import resource
import signal
import struct
import traceback
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import DataError

__all__ = ["EXAMPLES", "assert_damage_is_refused", "in_small_memory", "repaired_png", "repaired_zip"]

ROOM = 256 * 2**20
SECONDS = 2
EXAMPLES = [60, pytest.param(500, marks=pytest.mark.slow)]
Repair = Callable[[bytes], bytes]


def assert_damage_is_refused(
    path: Path,
    read: Callable[[Path], Any],
    examples: int,
    repair: Repair | None = None,
    where: tuple[int, int] = (0, 0),
) -> None:
    """Read `path` after each of `examples` truncations and bit flips of it: DataError or a result.

    `repair` puts checksums right after the damage, so that it reaches what lies behind them; `where` limits
    flips to a range of bytes.
    """
    good = path.read_bytes()
    read(path)  # undamaged, it is fine; and what is loaded on first use is there
    first, last = where if where[1] else (0, len(good))

    def attack() -> None:
        refused = 0

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(recipe=recipes(first, last))
        def check(recipe: tuple) -> None:
            nonlocal refused
            path.write_bytes(damage(good, recipe, repair))
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                read(path)
            except DataError as error:
                refused += bool(error.path and error.reason and error.remedy)
                fail_if_out_of_memory(error)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)

        check()
        assert refused > examples // 10, f"only {refused} of {examples} were refused: is anything damaged?"

    in_small_memory(attack)


def in_small_memory(act: Callable[[], Any], room: int = ROOM) -> None:
    """Run `act` in a forked child that may map `room` more bytes; its error becomes a failure here."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(receive)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
            signal.signal(signal.SIGALRM, too_slow)
            act()
            code = 0
        except BaseException:  # all of it is for the parent to see
            text = traceback.format_exc()
            os.write(send, (text[:20_000] + text[-20_000:]).encode()[-60_000:])
        finally:
            os._exit(code)
    os.close(send)
    with open(receive, "rb") as pipe:
        report = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        pytest.fail(report or f"the reader ended its process ({code})")


class Excess(BaseException):
    """Too much time or memory for a small file; no `except Exception` of a reader swallows it."""


def too_slow(number: int, frame: Any) -> None:
    raise Excess(f"reading took longer than {SECONDS} seconds")


def fail_if_out_of_memory(error: BaseException | None) -> None:
    """A reader may have turned a failed allocation into its own error; the cause still hangs on it."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            raise Excess(f"more than {ROOM >> 20} MB were asked for") from error
        error = error.__context__


def recipes(first: int, last: int) -> st.SearchStrategy:
    """Where to cut (or None), which bits to flip, which bytes to set to an extreme value."""
    place = st.integers(first, last - 1)
    flips = st.lists(st.tuples(place, st.integers(0, 7)), max_size=4)
    extremes = st.lists(st.tuples(place, st.sampled_from([0x00, 0x7F, 0x80, 0xFF])), max_size=4)
    return st.tuples(st.none() | st.integers(0, last - 1), flips, extremes)


def damage(good: bytes, recipe: tuple, repair: Repair | None) -> bytes:
    keep, flips, extremes = recipe
    data = bytearray(good)
    for position, bit in flips:
        data[position] ^= 1 << bit
    for position, value in extremes:
        data[position] = value
    data = bytes(data if keep is None else data[:keep])
    return data if repair is None else repair(data)


def repaired_png(data: bytes) -> bytes:
    """A PNG with the checksum of every chunk that can be found put right."""
    out, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 12 + length > len(data):
            break
        body = data[place + 4 : place + 8 + length]
        out += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return bytes(out) + data[place:]


def repaired_zip(good: bytes, member: str) -> Callable[[bytes], bytes]:
    """Puts damaged bytes as `member` into a copy of an archive that is right in all else."""

    def repair(data: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(buffer, "w") as target:
            for info in source.infolist():
                content = data if info.filename.endswith(member) else source.read(info)
                target.writestr(info, content, info.compress_type)
        return buffer.getvalue()

    return repair
