"""Writing frames as a video that plays everywhere: H.264 in mp4, or a GIF where ffmpeg is missing."""

import contextlib
import itertools
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np

from shared.files.disk import temporary_file
from shared.files.images import to_uint8

__all__ = ["first_frame", "write_video"]

# The colour matrix is named to the converter and in the file, so that every player shows the same colours.
BT709 = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
H264 = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", *BT709, "-crf", "18"]
H264 += ["-movflags", "+faststart", "-f", "mp4"]


def write_video(path: str | Path, frames: Iterable[Any], fps: float = 25) -> Path:
    """Write images (see `shared.show.pictures`) of one size as an mp4 and return the path of the file made.

    Without ffmpeg a GIF is made instead, under the same name with the suffix `.gif`; a path that ends in
    `.gif` asks for one. H.264 needs even sides: an odd one gets its last row or column twice. Frames are
    taken one by one, so a generator keeps the memory low. Raises ValueError for no frame or unequal sizes,
    DataError if the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"a video is written as .mp4 or .gif, not {path.suffix!r}")
    if not 0 < fps <= 240:
        raise ValueError(f"frames per second must be above 0 and at most 240, got {fps}")
    if path.suffix != ".gif" and not _has_ffmpeg():
        path = path.with_suffix(".gif")
    write = _write_gif if path.suffix == ".gif" else _write_mp4
    with temporary_file(path) as temporary:
        write(temporary, _same_size(frames), fps)
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
    even = (np.pad(f, ((0, f.shape[0] % 2), (0, f.shape[1] % 2), (0, 0)), mode="edge") for f in frames)
    first = next(even)
    options = {"codec": "libx264", "macro_block_size": 1, "ffmpeg_log_level": "error", "output_params": H264}
    writer = imageio_ffmpeg.write_frames(path, first.shape[1::-1], fps=fps, quality=None, **options)
    with contextlib.closing(writer):
        next(writer)  # starts ffmpeg
        for frame in itertools.chain([first], even):
            try:
                writer.send(frame.tobytes())
            except OSError:  # ffmpeg gave up; in other cases imageio says nothing, so the file itself decides
                break
    if first_frame(path) is None:
        raise OSError("ffmpeg could not write it; its own message is above")


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    # GIF counts time in hundredths of a second, and browsers slow down anything below two of them.
    duration_ms = max(20, round(100 / fps) * 10)
    iio.imwrite(path, list(frames), plugin="pillow", extension=".gif", duration=duration_ms, loop=0)
