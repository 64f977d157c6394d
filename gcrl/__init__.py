"""gcrl: one goal-conditioned policy over many robot tasks."""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path


def _shadow() -> str | None:
    """A file of the user's that stands before one of our packages on the import path."""
    for package, module in (("tasks", "task.py"), ("relabel", "goals.py")):
        spec = find_spec(package)
        if spec is None or spec.origin is None or not Path(spec.origin).with_name(module).exists():
            return f"{spec.origin if spec else 'nothing'} is found where gcrl's own package `{package}` should be"
    return None


if _found := _shadow():
    _message = f"gcrl: {_found}: rename it, leave its folder, or use the console script `gcrl`"
    if sys.argv[:1] == ["-m"]:  # python -m gcrl...: a person reads this
        print(_message, file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(_message)

_ours = sys.argv[:1] == ["-m"] and " -m gcrl." in " ".join(sys.orig_argv)
if _ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while all is imported; gcrl.cli.guarded listens again
