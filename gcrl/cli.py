"""The border between a person and the library: flags in; one line, and an exit code, for what they can cure."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tasks import InputError, SimulatorError


def guarded(main: Callable[[Sequence[str]], int], args: Sequence[str]) -> int:
    """main(args), with exit code 2 for bad input and 1 for a simulator that broke in the middle of a run."""
    try:
        return main(args)
    except InputError as error:
        print(f"gcrl: {error}", file=sys.stderr)
        return 2
    except SimulatorError as error:
        print(f"gcrl: {error}", file=sys.stderr)
        return 1


def parse(kind: Any, args: Sequence[str], prog: str, default: Any = None) -> Any:
    """The flags of a settings dataclass. Raises InputError, one line, where tyro would print a box."""
    import tyro

    complaint = io.StringIO()
    start = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(args), prog=prog, config=(tyro.conf.OmitArgPrefixes,), **start)
    except SystemExit as stop:
        if stop.code in (0, None):  # --help
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]", " ", complaint.getvalue())
        said = re.sub(r"\s+", " ", text).strip()
        said = re.split(" Got errors| Argument helptext| For full helptext| Similar options", said)[0]
        said = said.removeprefix("Value error ").removeprefix("Unrecognized options ").removeprefix("Parsing error ")
        raise InputError(f"{said.rstrip('.')}; `--help` shows the flags") from None
