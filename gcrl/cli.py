"""The border between a person and the library: flags in; one line, and an exit code, for what they can cure."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, get_origin, get_type_hints

from gcrl.run import RunError
from tasks import InputError, SimulatorError

T = TypeVar("T")


def guarded(main: Callable[[Sequence[str]], int], args: Sequence[str]) -> int:
    """main(args), with exit code 2 for bad input and 1 for what broke in the middle of a run; then a line says why."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return main(args)
    except (InputError, SimulatorError, RunError) as error:
        print("gcrl:", " ".join(str(error).split()), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("gcrl: interrupted before there was anything to save", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read what is printed has seen enough
        mute()
        return 141
    except OSError as error:
        where, cure = (f"{error.filename}: ", "; give a path that can be used") if error.filename else ("", "")
        print("gcrl:", " ".join(f"{where}{error.strerror or error}{cure}".split()), file=sys.stderr)
        return 2


def mute() -> None:
    """Nothing is printed from here on, nor is there anything to flush at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(line: str) -> None:
    """Print a line; if nobody can read it, go on in silence."""
    try:
        print(line, flush=True)
    except OSError:
        mute()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM, noted in the list instead of killing; a second one of them kills."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, signal.SIG_DFL)

    main = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield seen
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def until(stop: list[int], items: Iterable[T]) -> Iterator[T]:
    """The items, each if no signal has come by then: not in the midst of whatever a library does with one."""
    for item in items:
        if stop:
            raise KeyboardInterrupt
        yield item


def no_flags(args: Sequence[str], prog: str, what: str | None) -> bool:
    """For a command without flags: print `what` it does if help was asked for. Was it?"""
    if args and args[0] not in ("-h", "--help"):
        raise InputError(f"{prog} takes no flags")
    if args:
        print(f"usage: {prog}\n\n{what}")
    return bool(args)


def spelled_out(kind: Any, args: Sequence[str]) -> list[str]:
    """`args` with a value behind each flag that may be True, False or left open: --flag is True, --no-flag is False."""
    hints = get_type_hints(get_origin(kind) or kind)
    open_ = {f"--{name}".replace("_", "-") for name, hint in hints.items() if hint == bool | None}
    out = list[str]()
    for arg, following in zip(args, [*args, ""][1:], strict=True):
        flag = arg.replace("_", "-")
        if flag in open_ and (not following or following.startswith("-")):
            out += [arg, "True"]
        elif flag.startswith("--no-") and f"--{flag[5:]}" in open_:
            out += [f"--{flag[5:]}", "False"]
        else:
            out.append(arg)
    return out


def parse(kind: Any, args: Sequence[str], prog: str, default: Any = None) -> Any:
    """The flags of a settings dataclass. Raises InputError, one line, where tyro would print a box."""
    import tyro

    complaint = io.StringIO()
    start = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=spelled_out(kind, args), prog=prog, config=(tyro.conf.OmitArgPrefixes,), **start)
    except SystemExit as stop:
        if stop.code in (0, None):  # --help
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]|-{4,}|^[|+]|[|+]$", " ", complaint.getvalue(), flags=re.MULTILINE)
        said = re.sub(r"\s+", " ", text).strip()
        said = re.split(" Got errors| Argument helptext| For full helptext| Similar options", said)[0]
        said = re.sub("^(Value error|Unrecognized options|Parsing error|Missing argument|Required options) ", "", said)
        raise InputError(f"{said.rstrip('.')}; `--help` shows the flags") from None
