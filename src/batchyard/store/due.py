"""When a world that nobody asks has something to do next."""

from __future__ import annotations

from typing import Any

from batchyard.store.reader import Reader, Statement


def _as_it_is(value: Any) -> Any:
    return value


_AT_ONCE = Statement(
    "SELECT EXISTS (SELECT 1 FROM pool) OR EXISTS (SELECT 1 FROM node)"
    " OR EXISTS (SELECT 1 FROM job WHERE state IN ('disabling', 'enabling', 'terminating', 'deleting'))",
    int,
)
_DEADLINE = Statement("SELECT min(deadline) FROM job WHERE deadline IS NOT NULL AND state NOT IN ('completed', 'deleting')", _as_it_is)
_EXPIRES = Statement("SELECT min(expires) FROM task WHERE expires IS NOT NULL", _as_it_is)
_SPECIAL_EXPIRES = Statement("SELECT min(expires) FROM special_task WHERE expires IS NOT NULL", _as_it_is)
_OLDEST_OPEN = Statement(  # of each index of open tasks, so that those that are completed cost nothing
    "SELECT min(created) FROM (SELECT created FROM task WHERE ready = 1"
    " UNION ALL SELECT created FROM task WHERE state = 'active' AND ready = 0"
    " UNION ALL SELECT created FROM task WHERE state IN ('preparing', 'running')) AS waiting",
    _as_it_is,
)
_OLDEST_EVENT = Statement("SELECT min(at) FROM event", _as_it_is)
_LOOK = Statement("SELECT min(look) FROM job_schedule WHERE look IS NOT NULL", _as_it_is)
_OLDEST_USE = Statement("SELECT min(released) FROM node_usage", _as_it_is)


def at_once(reader: Reader) -> bool:
    """True while there are pools or nodes, or jobs on their way to another state."""
    return reader.first(_AT_ONCE) == 1


def next_due(reader: Reader, task_life_us: int, event_life_us: int, use_life_us: int) -> int | None:
    """The earliest of wall clocks, retention times, schedules and lives of tasks, events and uses that run out; None when none does."""
    lives: tuple[tuple[Statement[Any], int], ...] = (
        (_DEADLINE, 0),
        (_EXPIRES, 0),
        (_SPECIAL_EXPIRES, 0),
        (_OLDEST_OPEN, task_life_us),
        (_OLDEST_EVENT, event_life_us),
        (_OLDEST_USE, use_life_us),
        (_LOOK, 0),
    )
    ends = [since + life for since, life in ((reader.first(statement), life) for statement, life in lives) if since is not None]
    return min(ends, default=None)
