"""Frames come back out of the mp4 that they went into."""

import numpy as np
import pytest

from gcrl import video

imageio = pytest.importorskip("imageio.v3", reason='needs the extra "video"')


def test_every_frame_is_there_at_its_size_and_about_its_colour(tmp_path):
    video.check(tmp_path)
    frames = [np.full((48, 64, 3), shade, np.uint8) for shade in (0, 80, 160, 240)]
    path = video.write(frames, tmp_path / "video.mp4")
    back = imageio.imread(path)
    assert back.shape == (4, 48, 64, 3)
    assert np.abs(back.mean((1, 2, 3)) - [0, 80, 160, 240]).max() < 12
