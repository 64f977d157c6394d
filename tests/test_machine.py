"""What is set up on a machine before training begins: how memory is kept."""

from __future__ import annotations

import subprocess
import sys


def test_freed_memory_is_kept():
    """A megabyte that is freed and taken again and again is not cleared page by page each time."""
    code = """if True:
        import resource, sys, torch
        from gcrl import machine
        if sys.argv[1] == "prepared":
            machine.prepare(1)
        def faults(n):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(n):
                [torch.ones(300_000 + i) for i in range(5)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        faults(20)
        print(torch.get_num_threads(), faults(100))
    """
    said = {
        how: subprocess.run(
            [sys.executable, "-c", code, how], capture_output=True, text=True, check=True
        ).stdout.split()
        for how in ("plain", "prepared")
    }
    assert said["prepared"][0] == "1"
    if sys.platform == "linux" and int(said["plain"][1]) > 1000:  # where the library hands memory back
        assert int(said["prepared"][1]) < int(said["plain"][1]) / 10
