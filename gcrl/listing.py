"""gcrl list: every task, a line each, under the scene whose tasks can share their data; and every algorithm."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby

from gcrl.agents import AGENTS
from gcrl.cli import guarded, no_flags
from tasks import PREFIX, SETS, TASKS, ogbench


def main(args: Sequence[str]) -> int:
    if no_flags(args, "gcrl list", __doc__):
        return 0
    width = max(map(len, TASKS)) + 2
    in_order = list(dict.fromkeys((task.family, task.scene) for task in TASKS.values()))
    tasks = sorted(TASKS.values(), key=lambda task: in_order.index((task.family, task.scene)))
    for scene, group in groupby(tasks, key=lambda task: task.scene):
        members = list(group)
        indent = ""
        if len(members) > 1:
            asked = f" (--task {PREFIX}{scene})" if scene in TASKS else ""
            print(f"scene {scene}: {len(members)} tasks that can share their data{asked}")
            indent = "  "
        for task in members:
            print(
                f"{indent + task.name:{width}}  {task.description} (budget {task.budget:,}, {task.horizon} an episode)"
            )
    for name, of in SETS.items():
        print(f"{name:{width}}  {len(of)} tasks at once")
    print(f"{'gym:<EnvId>':{width}}  any registered gymnasium environment, actions continuous or discrete")
    print(
        f"{'ogbench:<name>':{width}}  OGBench's {len(ogbench.NAMES)} tasks, as {ogbench.NAMES[0]}: see docs/ogbench.md"
    )
    print("algorithms (--agent)")
    for name, kind in AGENTS.items():
        first = (sys.modules[kind.__module__].__doc__ or "").partition("\n")[0]
        print(f"  {name:{width - 2}}  {first}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
