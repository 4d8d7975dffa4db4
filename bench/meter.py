"""What processes use: CPU time to the nanosecond, memory as proportional set size."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """CPU seconds of all threads of a process, ended ones included."""
    return time.clock_gettime(~pid << 3 | 2)  # CPUCLOCK_SCHED of another process, see clock_getcpuclockid(3)


def cpu_of(pids: Iterable[int]) -> float:
    """CPU seconds of processes together."""
    return sum(map(cpu, pids))


def cpu_of_waited(pids: Iterable[int]) -> float:
    """CPU seconds of the children that processes have waited for."""
    return sum(map(_waited, pids))


def _waited(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICKS


def children(pid: int) -> list[int]:
    """Children of a process."""
    return [int(child) for thread in Path(f"/proc/{pid}/task").iterdir() for child in (thread / "children").read_text().split()]


def memory_mb(pids: Iterable[int]) -> float:
    """Proportional set size of processes together, in MB of 10**6 bytes."""
    return sum(_pss_kib(pid) for pid in pids) * 1024 / 1e6


def _pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
