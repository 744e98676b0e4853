"""Frames into a video file that plays everywhere: H.264 in mp4, or a GIF where ffmpeg is missing."""

import contextlib
import itertools
import os
import re
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np

from shared.errors import DataError
from shared.files.images import to_uint8

__all__ = [
    "first_frame",
    "write_video",
]


REMEDY = "Check the free space and the write permission of the folder"
# The colour matrix is named to the converter and in the file, so that every player shows the same colours.
BT709 = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
H264 = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", *BT709, "-c:v", "libx264", "-crf", "18"]
H264 += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-y"]


def write_video(path: str | Path, frames: Iterable[Any], fps: float = 25) -> Path:
    """Write images (see `shared.pictures`) of one size as an mp4 and return the path of the file made.

    Without ffmpeg a GIF is made instead, under the same name with the suffix `.gif`; a path that ends in
    `.gif` asks for one. H.264 needs even sides: an odd one gets its last row or column twice. Frames are
    taken one by one, so a generator keeps the memory low. Raises ValueError for no frame or unequal sizes,
    DataError if the file cannot be written.
    """
    path = Path(path)
    if not 0 < fps <= 240:
        raise ValueError(f"frames per second must be above 0 and at most 240, got {fps}")
    if path.suffix != ".gif" and not _has_ffmpeg():
        path = path.with_suffix(".gif")
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    write = _write_gif if path.suffix == ".gif" else _write_mp4
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary, _same_size(frames), fps)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error).replace(str(temporary), path.name)
        raise DataError(path, f"cannot be written ({reason})", REMEDY) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def first_frame(path: str | Path) -> np.ndarray | None:
    """The first picture uint8 [H, W, 3] of an mp4; None where ffmpeg is missing or cannot read the file."""
    if not _has_ffmpeg():
        return None
    source = ["-loglevel", "error", "-i", str(path), "-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-"]
    result = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *source], capture_output=True, check=False)
    return None if result.returncode else iio.imread(result.stdout, extension=".png")


def _has_ffmpeg() -> bool:
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        return False
    return True


def _same_size(frames: Iterable[Any]) -> Iterator[np.ndarray]:
    first = None
    for index, frame in enumerate(frames):
        pixels = to_uint8(frame)
        first = pixels.shape if first is None else first
        if pixels.shape != first:
            raise ValueError(f"frame {index} has shape {pixels.shape}, the first one {first}")
        yield pixels
    if first is None:
        raise ValueError("a video needs at least one frame")


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    first = next(frames)
    height, width = first.shape[0] + first.shape[0] % 2, first.shape[1] + first.shape[1] % 2
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *source, *H264, str(path)]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log) as process,
    ):
        try:
            for frame in itertools.chain([first], frames):
                bottom, right = height - frame.shape[0], width - frame.shape[1]
                process.stdin.write(np.pad(frame, ((0, bottom), (0, right), (0, 0)), mode="edge").tobytes())
            process.stdin.close()
        except BrokenPipeError:  # ffmpeg gave up: its exit code and log say why
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        except BaseException:
            process.kill()
            with contextlib.suppress(BrokenPipeError):  # or it would hide what went wrong
                process.stdin.close()
            raise
        if process.wait() != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            reason = re.sub(r"^\[.*?\] ", "", lines[0]) if lines else f"exit code {process.returncode}"
            raise OSError(f"ffmpeg: {reason}")


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    # GIF counts time in hundredths of a second, and browsers slow down anything below two of them.
    duration_ms = max(20, round(100 / fps) * 10)
    iio.imwrite(path, list(frames), plugin="pillow", extension=".gif", duration=duration_ms, loop=0)
