"""Frames into an mp4."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks import InputError


def check() -> None:
    """Raise InputError unless videos can be written."""
    if find_spec("imageio") is None or find_spec("imageio_ffmpeg") is None:
        raise InputError('--video needs the extra "video": pip install "gcrl[video]"')


def write(frames: Sequence[Any], path: Path, fps: int = 25) -> Path:
    """Write RGB frames (H, W, 3) uint8 to `path`."""
    import imageio.v3 as imageio

    imageio.imwrite(path, list(frames), fps=fps, macro_block_size=1)
    return path
