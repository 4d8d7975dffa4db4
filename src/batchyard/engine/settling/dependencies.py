"""What a new task waits for: ids and id ranges (contract 3.7)."""

from __future__ import annotations

from batchyard.model.task import TaskDependencies
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.tasks import Dependency, DependencyRange
from batchyard.store.tx import Tx

SPELT_OUT = 100
"""Numbers of a range that are kept one by one; a wider range is kept as one row with a counter."""


def wait_for(tx: Tx, job: JobRow, pk: int, depends_on: TaskDependencies, edges: list[Dependency], ranges: list[DependencyRange]) -> int:
    """Record what the task still waits for; how many waits that are.

    Forward references are legal: a parent that does not exist yet is simply not satisfied (contract 3.7).
    """
    parents = {name.lower() for name in depends_on.task_ids or () if not task_rows.is_satisfied(tx, job.pk, name)}
    waits = 0
    for low, high in _merged([(span.start, span.end) for span in depends_on.task_id_ranges or ()]):
        met = task_rows.satisfied_numbers(tx, job.pk, low, high)
        if high - low < SPELT_OUT:
            parents.update(task_rows.number_key(number) for number in range(low, high + 1) if number not in met)
        elif len(met) <= high - low:
            ranges.append(DependencyRange(job.pk, low, high, high - low + 1 - len(met), pk))
            waits += 1
    edges.extend(Dependency(job.pk, parent, pk) for parent in parents)
    return waits + len(parents)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers as spans that do not overlap."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(span for span in spans if span[0] <= span[1]):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
