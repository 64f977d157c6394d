"""The console script: gcrl train | evaluate | fqe | data | plot | list | doctor."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gcrl.cli import guarded

USAGE = """usage: gcrl COMMAND ...   (COMMAND --help shows its flags)
  train      train a goal-conditioned policy, or go on with one
  evaluate   play a trained policy and say how good it is
  fqe        say what a trained policy is worth, from data alone
  data       what a data set holds; convert one; record one from policies
  plot       draw the learning curves of runs, whose data each task learned from, and V(s, g)
  list       the tasks, a line each
  doctor     what this machine has, what gcrl chose on it, and what to mend"""


def run(args: Sequence[str]) -> int:
    command, rest = (args[0], args[1:]) if args else ("--help", [])
    if command == "train":
        from gcrl.train import main
    elif command == "evaluate":
        from gcrl.evaluate import main
    elif command == "fqe":
        from gcrl.fqe import main
    elif command == "data":
        from gcrl.data import main
    elif command == "plot":
        from gcrl.plot import main
    elif command == "doctor":
        from gcrl.doctor import main
    elif command == "list":
        from gcrl.listing import main
    elif command in ("-h", "--help"):
        print(USAGE)
        return 0
    else:
        from tasks import InputError

        raise InputError(f"unknown command {command!r}: choose from train, evaluate, fqe, data, plot, list, doctor")
    return main(rest)


def main() -> None:
    sys.exit(guarded(run, sys.argv[1:]))


if __name__ == "__main__":
    main()
