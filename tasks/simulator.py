"""The simulator under the robot tasks: is it one that works here, and if not, what to type."""

from __future__ import annotations

import contextlib
import io
from importlib import metadata

from tasks.task import InputError

OLDEST, TOO_NEW = (3, 3), (3, 12)
CURE = 'pip install "mujoco>=3.3,<3.12"'


def require_mujoco() -> None:
    """Raise InputError unless the installed mujoco is one that gymnasium-robotics runs on; mujoco is not imported."""
    try:
        version = metadata.version("mujoco")
    except metadata.PackageNotFoundError:
        raise InputError(f"mujoco is not installed: {CURE}") from None
    major, minor = version.split(".")[:2]
    if not OLDEST <= (int(major), int(minor)) < TOO_NEW:
        raise InputError(f"gymnasium-robotics does not run on mujoco {version}: {CURE}")


def register_robotics() -> None:
    """Make gymnasium know the environments of gymnasium-robotics."""
    require_mujoco()
    with contextlib.redirect_stderr(io.StringIO()):  # each import prints a notice about environments that are not ours
        import gymnasium_robotics  # noqa: F401
