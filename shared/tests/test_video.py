"""Videos: every frame and its colours, a GIF without ffmpeg, and nothing left of what failed."""

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from shared.errors import DataError
from shared.show.video import write_video
from shared.tests.report_parts import SOLID, solid_frames


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


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_bad_videos_are_refused_and_leave_nothing(tmp_path, name):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / name, [])
    frames = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 10)]
    with pytest.raises(ValueError, match=r"frame 1 has shape \(8, 10, 3\), the first one \(8, 8, 3\)"):
        write_video(tmp_path / name, frames)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio leaves a pipe open
def test_a_failure_of_ffmpeg_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("shared.show.video.H264", ["-f", "no_such_format"])
    with pytest.raises(DataError, match=r"orbit\.mp4"):
        write_video(tmp_path / "orbit.mp4", solid_frames(64, 64))
    assert not list(tmp_path.iterdir())
