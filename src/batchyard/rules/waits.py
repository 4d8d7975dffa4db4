"""Chains of dependencies in words: who waits for whom, the wait that nothing but the user ends before the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping

from batchyard.model import times
from batchyard.model.explain import Code, Reason
from batchyard.model.states import TaskState
from batchyard.rules import exits
from batchyard.rules.facts import TaskFacts, Wait
from batchyard.rules.reasons import reason

MOST_LINKS = 12
"""Length of a chain."""
MOST_REASONS = 10
"""Waits that are told of one task."""
_MISSING, _BLOCKED = 1, 2


class Waits:
    """What the blocked tasks of a snapshot wait for; `unblocked` says why one that waits for no other is where it is."""

    def __init__(self, job_id: str, tasks: Mapping[str, TaskFacts], unblocked: Callable[[TaskFacts], Reason]) -> None:
        self._job_id, self._tasks, self._unblocked = job_id, tasks, unblocked
        self._severity = _severities(tasks)

    def reasons(self, key: str, links: int = MOST_LINKS, most: int = MOST_REASONS) -> list[Reason]:
        """What a blocked task waits for, at most so many: a cycle first, then what is blocked for good, then what is missing."""
        task = self._tasks[key]
        cycle = [] if key in self._severity else _cycle(self._tasks, key)
        if cycle:
            names = " → ".join(self._tasks[one].id for one in cycle)
            return [reason(Code.DEPENDENCY_CYCLE, it=f"task {task.id}", cycle=names, job_id=self._job_id, name=task.id)]
        waits = sorted(task.waits, key=lambda wait: -_severity(self._tasks, self._severity, wait))
        return [self._wait(task, wait, links, most) for wait in waits[:most]]

    def _wait(self, task: TaskFacts, wait: Wait, links: int, most: int) -> Reason:
        if wait.task is not None:
            return self._on(task, wait.task, links)
        first, _ = wait.missing[0] if wait.missing else (wait.low, None)
        numbers = sorted(wait.missing, key=lambda number: -_severity_of(self._tasks, self._severity, number[1]))
        because = [self._on(task, key or str(number), links - 1) for number, key in numbers[:most]] if links > 0 else []
        return reason(
            Code.WAITS_FOR_RANGE,
            because,
            it=f"task {task.id}",
            left=wait.left,
            low=wait.low,
            high=wait.high,
            first=first,
            job_id=self._job_id,
        )

    def _on(self, task: TaskFacts, key: str, links: int) -> Reason:
        parent, it, job_id = self._tasks.get(key), f"task {task.id}", self._job_id
        if parent is None:
            return reason(Code.WAITS_FOR_MISSING_TASK, it=it, task_id=key, job_id=job_id)
        if parent.state == TaskState.COMPLETED:
            retry = f"batchyard retry {job_id}/{parent.id}" if parent.exit_code != 0 else ""
            return reason(Code.BLOCKED_BY_FAILURE, it=it, task_id=parent.id, job_id=job_id, how=_ended(parent), retry=retry)
        further = self._further(parent, key, links - 1)
        return reason(Code.WAITS_FOR_TASK, further, it=it, task_id=parent.id, job_id=job_id, state=parent.state)

    def _further(self, parent: TaskFacts, key: str, links: int) -> list[Reason]:
        """The deciding reason of a task that is waited for."""
        if links <= 0 or parent.state == TaskState.RUNNING:
            return []
        if parent.state == TaskState.ACTIVE and not parent.ready:
            return self.reasons(key, links, 1)
        return [self._unblocked(parent)]


def _ended(task: TaskFacts) -> str:
    verb = "ended" if task.succeeded else "failed"
    return verb + how(task) + f" at {times.iso(task.since)}"


def how(task: TaskFacts) -> str:
    """How a task ended, for the middle of a sentence."""
    code = "" if task.exit_code is None else f" with {exits.told(task.exit_code)}"
    return code + (f" ({task.failure})" if task.failure else "")


def _blocked(task: TaskFacts | None) -> bool:
    return task is not None and task.state == TaskState.ACTIVE and not task.ready


def _parents(wait: Wait) -> Iterator[str | None]:
    if wait.task is not None:
        yield wait.task
    else:
        yield from (key for _, key in wait.missing)


def _edges(tasks: Mapping[str, TaskFacts], key: str) -> list[str]:
    """Blocked tasks that a blocked task waits for, each once."""
    found = {one: None for wait in tasks[key].waits for one in _parents(wait) if one is not None and _blocked(tasks.get(one))}
    return list(found)


def _severity_of(tasks: Mapping[str, TaskFacts], known: Mapping[str, int], key: str | None) -> int:
    task = None if key is None else tasks.get(key)
    if task is None or key is None:
        return _MISSING
    if task.state == TaskState.COMPLETED:
        return 0 if task.satisfied else _BLOCKED
    return known.get(key, _BLOCKED) if _blocked(task) else 0


def _severity(tasks: Mapping[str, TaskFacts], known: Mapping[str, int], wait: Wait) -> int:
    return max((_severity_of(tasks, known, key) for key in _parents(wait)), default=0)


def _severities(tasks: Mapping[str, TaskFacts]) -> dict[str, int]:
    """How badly each blocked task is blocked, whatever the length of its chain; cycles and what waits for them are left out."""
    edges = {key: _edges(tasks, key) for key, task in tasks.items() if _blocked(task)}
    children: dict[str, list[str]] = {}
    for child, parents in edges.items():
        for parent in parents:
            children.setdefault(parent, []).append(child)
    open_parents = {key: len(parents) for key, parents in edges.items()}
    known: dict[str, int] = {}
    due = deque(key for key, number in open_parents.items() if not number)
    while due:
        key = due.popleft()
        known[key] = max((_severity(tasks, known, wait) for wait in tasks[key].waits), default=0)
        for child in children.get(key, ()):
            open_parents[child] -= 1
            if not open_parents[child]:
                due.append(child)
    return known


def _cycle(tasks: Mapping[str, TaskFacts], start: str) -> list[str]:
    """The shortest way from a task back to itself, both ends named; empty when there is none."""
    came_from: dict[str, str] = {}
    due = deque([start])
    while due:
        key = due.popleft()
        for parent in _edges(tasks, key):
            if parent == start:
                way = [start]
                while key != start:
                    way.append(key)
                    key = came_from[key]
                return [start, *reversed(way[1:]), start]
            if parent not in came_from:
                came_from[parent] = key
                due.append(parent)
    return []
