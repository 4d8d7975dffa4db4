"""Jobs of a pool of which a task may start: where they are few, one look at all of them answers every question of a round."""

from __future__ import annotations

from collections.abc import Sequence

from batchyard.store import jobs as job_rows
from batchyard.store.jobs import JobDemand
from batchyard.store.reader import Reader

FEW = 8
"""So many jobs are read at once; of more each question reads what it asks for, through an index."""
MOST_RESTARTED = 4
"""Jobs whose managers are to run again and that go before their equals in one round; further ones have their turns."""


class Demand:
    """Any number of jobs. What it says is of the moment at which it is asked: a round asks before it writes."""

    few = 0
    """How many they are, where that is known."""

    def __init__(self, reader: Reader, pool_key: str) -> None:
        self._reader, self._key = reader, pool_key
        self._restarted: list[JobDemand] | None = None

    def restarted(self) -> list[JobDemand]:
        """The first jobs whose manager may have run before and wait to run again, highest priority first."""
        if self._restarted is None:
            self._restarted = job_rows.restarted(self._reader, self._key, MOST_RESTARTED)
        return self._restarted

    def barred(self, n: int) -> list[JobDemand]:
        """The `n` jobs that may not run where there is room and that were not looked at for longest."""
        return job_rows.barred(self._reader, self._key, n)

    def sizes(self, low: int, high: int) -> list[int]:
        """What the smallest tasks of jobs need, each number within bounds once."""
        return job_rows.sizes(self._reader, self._key, low, high)

    def highest(self, below: int, within: tuple[int, int]) -> int | None:
        """The highest priority below another, of which the `smallest` of a job lies within bounds."""
        return job_rows.highest(self._reader, self._key, below, within)

    def in_turn(self, priority: int, size: int, behind: JobDemand | None, n: int, *, oldest_first: bool) -> list[JobDemand]:
        """The next `n` jobs of a priority whose `smallest` is `size`, in the order of their turns, `behind` the last one seen."""
        return job_rows.in_turn(self._reader, self._key, priority, size, behind, n, oldest_first=oldest_first)


class _Few(Demand):
    """Jobs that were all read."""

    def __init__(self, reader: Reader, pool_key: str, jobs: Sequence[JobDemand]) -> None:
        super().__init__(reader, pool_key)
        self._jobs, self.few = jobs, len(jobs)
        self._restarted = sorted((job for job in jobs if job.restarted), key=lambda job: (-job.priority, job.running, job.pk))
        del self._restarted[MOST_RESTARTED:]

    def barred(self, n: int) -> list[JobDemand]:
        found = [job for job in self._jobs if job.smallest == job_rows.BARRED]
        return sorted(found, key=lambda job: (job.looked, job.pk))[:n]

    def sizes(self, low: int, high: int) -> list[int]:
        return sorted({job.smallest for job in self._jobs if low <= job.smallest <= high})

    def highest(self, below: int, within: tuple[int, int]) -> int | None:
        low, high = within
        return max((job.priority for job in self._jobs if job.priority < below and low <= job.smallest <= high), default=None)

    def in_turn(self, priority: int, size: int, behind: JobDemand | None, n: int, *, oldest_first: bool) -> list[JobDemand]:
        def turn(job: JobDemand) -> tuple[int, int]:
            return 0 if oldest_first else job.running, job.pk

        found = (job for job in self._jobs if job.priority == priority and job.smallest == size)
        return sorted((job for job in found if behind is None or turn(job) > turn(behind)), key=turn)[:n]


def asked(reader: Reader, pool_key: str) -> Sequence[JobDemand]:
    """The jobs that `demand` tells apart, which are few or more."""
    return job_rows.may_start(reader, pool_key, FEW + 1)


def demand(reader: Reader, pool_key: str, jobs: Sequence[JobDemand]) -> Demand:
    """What waits for a pool now, of which `asked` is this much."""
    return Demand(reader, pool_key) if len(jobs) > FEW else _Few(reader, pool_key, jobs)
