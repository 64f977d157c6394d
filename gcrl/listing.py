"""gcrl list: every task, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from tasks import TASKS, InputError


def main(args: Sequence[str]) -> int:
    if args:
        raise InputError("gcrl list takes no flags")
    width = max(map(len, TASKS))
    for task in TASKS.values():
        print(f"{task.name:{width}}  {task.description} (budget {task.budget:,} steps of {task.horizon} an episode)")
    print(f"{'gym:<EnvId>':{width}}  any registered gymnasium environment with continuous actions, goals or none")
    return 0
