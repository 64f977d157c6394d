"""Frames into an mp4."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tasks import InputError


def check(folder: Path) -> None:
    """Raise InputError unless videos can be written to `folder`."""
    if find_spec("imageio") is None or find_spec("imageio_ffmpeg") is None:
        raise InputError('--video needs the extra "video": pip install "gcrl[video]"')
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"--video: cannot write to {folder}: {error.strerror}; make it writable") from None


def write(frames: Sequence[Any], path: Path, fps: int = 25) -> Path:
    """Write RGB frames (H, W, 3) uint8 to `path`. Raises InputError where that fails."""
    import imageio.v3 as imageio

    try:
        imageio.imwrite(path, list(frames), fps=fps, macro_block_size=1)
    except OSError as error:  # ffmpeg's words, of many lines, do not say more
        raise InputError(f"--video: cannot write {path}: {error.strerror or 'ffmpeg fails'}; make room") from None
    return path
