"""Pages of a job's tasks by `$filter`: found by the index of what they must be, so that `state eq 'x'` never looks at another state.

What no index narrows is looked for among the next LOOKED_AT tasks only; the page then says where to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from batchyard.model.states import TaskResult, TaskState
from batchyard.rules.odata import Comparison, Filter, possible
from batchyard.store import ready, tasks
from batchyard.store.filters import ALL, Page, by_key, condition, page, reach
from batchyard.store.reader import Reader, Statement
from batchyard.store.tasks import TaskLine

LOOKED_AT = 20_000
"""Index entries that a page looks at for each of its conditions on the state: a few milliseconds."""

COLUMNS = {
    "id": "task.id",
    "state": "task.state",
    "stateTransitionTime": "task.state_time",
    "creationTime": "task.created",
    "lastModified": "task.modified",
    "lastModifiedTime": "task.modified",
    "executionInfo/startTime": "task.started",
    "executionInfo/endTime": "task.ended",
    "executionInfo/exitCode": "task.exit_code",
    "executionInfo/result": "task.result",
}
_STATES = frozenset(TaskState)
_ALL_TASKS = "1 = 1"
_BLOCKED = "task.state = 'active' AND task.ready = 0"
_RUNS = "task.state IN ('preparing', 'running')"
_BY_STATE = {
    TaskState.PREPARING: f"{_RUNS} AND task.state = 'preparing'",
    TaskState.RUNNING: f"{_RUNS} AND task.state = 'running'",
    TaskState.COMPLETED: "task.state = 'completed'",
}
"""Each as the index of that state has it (a planner proves no more than equal words)."""
MOST_KINDS = 8
"""More kinds of ready tasks than that, by instances and slots, are not merged; all tasks are walked then."""


def filtered(reader: Reader, job_pk: int, found: Filter | None, after: int, most: int, row: type[TaskLine] = TaskLine) -> Page[TaskLine]:
    """At most `most` tasks of a job behind key `after` that are asked for, in the order they were added, as such rows."""
    if found is None:
        plain: Sequence[TaskLine] = (tasks.page if row is TaskLine else tasks.page_of_views)(reader, job_pk, after, most + 1)
        return page(plain, most, by_key)
    along, until = _search(reader, job_pk, found, after)
    if not along:
        return Page([], None)
    search, params = statement(found, along, row)
    limits = {"job_pk": job_pk, "after": after, "until": ALL if until is None else until, "n": most + 1}
    return page(reader.all(search, **limits, **params), most, by_key, until)


def _search(reader: Reader, job_pk: int, found: Filter, after: int) -> tuple[list[str], int | None]:
    """The ways to search along, and the key up to which to look; None for all that is there."""
    ids = possible(found, "id")
    if ids is not None:
        keys = reader.all(keys_of(len(ids)), job_pk=job_pk, **{f"i{n}": one for n, one in enumerate(ids)}) if ids else []
        return [f"task.pk IN ({', '.join(map(str, keys))})"] if keys else [], None
    along = ways(found, lambda: active_ways(ready.kinds(reader, job_pk, MOST_KINDS + 1), tasks.has_blocked(reader, job_pk)))
    if _is_the_way(found) and _ALL_TASKS not in along:
        return along, None
    return along, _until(reader, job_pk, along, after)


def keys_of(n: int) -> Statement[int]:
    """Keys of tasks by `n` ids, `i0`, `i1`, …"""
    return Statement(f"SELECT pk FROM task WHERE job_pk = :job_pk AND lower(id) IN ({', '.join(f':i{each}' for each in range(n))})", int)


def ways(found: Filter, active: Callable[[], list[str]]) -> list[str]:
    """Conditions with an index each, which between them cover all that is asked for; `active` gives those of active tasks."""
    if possible(found, "executionInfo/result") == frozenset[str]({TaskResult.FAILURE}):
        return ["task.result = 'failure'"]
    states = possible(found, "state", _STATES)
    if states is None or states == _STATES:
        return [_ALL_TASKS]
    first = active() if TaskState.ACTIVE in states else []
    if _ALL_TASKS in first:
        return first
    return first + [way for state, way in _BY_STATE.items() if state in states]


def active_ways(kinds: Sequence[tuple[int, int]], blocked: bool) -> list[str]:
    """The ways to active tasks: of those that are ready by their instances and slots, and of those that are not, if there are any."""
    if len(kinds) > MOST_KINDS:
        return [_ALL_TASKS]
    return [f"task.ready = 1 AND task.instances = {n} AND task.slots = {slots}" for n, slots in kinds] + [_BLOCKED] * blocked


def _is_the_way(found: Filter) -> bool:
    """True when all that an index finds is asked for, so that no more than a page is looked at."""
    if not isinstance(found, Comparison) or found.operator != "eq":
        return False
    return found.name == "state" or (found.name, found.value) == ("executionInfo/result", TaskResult.FAILURE)


def _until(reader: Reader, job_pk: int, along: list[str], after: int) -> int | None:
    """Key up to which to look; None for all that is there."""
    keys = [reach(reader, "task", f"job_pk = :job_pk AND {way}", after, LOOKED_AT, job_pk=job_pk) for way in along]
    return min((key for key in keys if key is not None), default=None)


def statement(found: Filter, along: list[str], row: type[TaskLine]) -> tuple[Statement[TaskLine], dict[str, Any]]:
    """The search along these ways with the parameters of the filter; each way gives its keys in order, so they are only merged."""
    where, params = condition(found, COLUMNS)
    near = [f"task.job_pk = :job_pk AND {way} AND task.pk > :after AND task.pk <= :until AND {where}" for way in along]
    if len(near) == 1:
        return Statement(f"{tasks.select(row)} WHERE {near[0]} ORDER BY task.pk LIMIT :n", row), params
    keys = " UNION ALL ".join(f"SELECT task.pk AS pk FROM task WHERE {each}" for each in near)
    merged = f"task.pk IN (SELECT pk FROM ({keys} ORDER BY pk LIMIT :n) AS found)"
    return Statement(f"{tasks.select(row)} WHERE {merged} ORDER BY task.pk", row), params
