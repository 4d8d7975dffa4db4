"""Jobs, tasks, nodes and pools as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Found = Mapping[str, Any]
Row = Sequence[object]

JOBS = ("JOB", "STATE", "POOL", "PRIORITY", "WAITING", "RUNNING", "SUCCEEDED", "FAILED", "AGE")
TASKS = ("TASK", "STATE", "RESULT", "EXIT", "NODE", "TOOK", "AGE", "COMMAND")
NODES = ("NODE", "STATE", "SCHEDULING", "SLOTS", "RUNNING", "RUN", "ADDRESS", "UP")
POOLS = ("POOL", "STATE", "ALLOCATION", "NODES", "WANTED", "SLOTS/NODE", "SIZE", "AGE")
_NUMBERS = frozenset(
    {"PRIORITY", "WAITING", "RUNNING", "SUCCEEDED", "FAILED", "EXIT", "TOOK", "AGE", "RUN", "NODES", "WANTED", "SLOTS", "UP"}
)
_COLOURS = {"running": "cyan", "completed": "dim", "success": "green", "failure": "red", "idle": "green"}


def job(found: Found, now: datetime) -> Row:
    """A job with its task counts."""
    counts = found.get("taskCounts") or {}
    numbers = [counts.get(name, "") for name in ("active", "running", "succeeded", "failed")]
    return [
        found["id"],
        found["state"],
        found["poolInfo"].get("poolId", ""),
        found["priority"],
        *numbers,
        since(found["creationTime"], now),
    ]


def task(found: Found, now: datetime) -> Row:
    """A task."""
    info = found.get("executionInfo") or {}
    took = between(info["startTime"], info.get("endTime"), now) if info.get("startTime") else ""
    result = info.get("result", "")
    if info.get("failureInfo") and (info["failureInfo"].get("code") != "FailureExitCode"):
        result = f"{result} ({info['failureInfo'].get('code')})"
    node = short((found.get("nodeInfo") or {}).get("nodeId", ""))
    return [
        found["id"], found["state"], result, info.get("exitCode", ""), node, took, since(found["creationTime"], now), found["commandLine"],
    ]  # fmt: skip


def node(found: Found, slots: int, now: datetime) -> Row:
    """A node of a pool with so many slots per node."""
    used = f"{found.get('runningTaskSlotsCount', 0)}/{slots}"
    up = since(found["lastBootTime"], now) if found.get("lastBootTime") else ""
    return [
        found["id"], found["state"], found.get("schedulingState", ""), used, found.get("runningTasksCount", 0),
        found.get("totalTasksRun", 0), found.get("ipAddress", ""), up,
    ]  # fmt: skip


def pool(found: Found, now: datetime) -> Row:
    """A pool."""
    nodes = found.get("currentDedicatedNodes", 0) + found.get("currentLowPriorityNodes", 0)
    wanted = found.get("targetDedicatedNodes", 0) + found.get("targetLowPriorityNodes", 0)
    return [
        found["id"], found["state"], found.get("allocationState", ""), nodes, wanted, found.get("taskSlotsPerNode", 1),
        found.get("vmSize", ""), since(found["creationTime"], now),
    ]  # fmt: skip


def short(node_id: str) -> str:
    """Enough of a node's long id to tell it from others by eye."""
    return node_id if len(node_id) <= 20 else f"{node_id[:14]}…{node_id[-3:]}"


def since(start: str, now: datetime) -> str:
    """How long ago a time of the service was."""
    return between(start, None, now)


def between(start: str, end: str | None, now: datetime) -> str:
    """The time from start to end, or to now, in the unit that fits: 0.4s, 12s, 5m, 3h, 8d."""
    passed = max((datetime.fromisoformat(end) if end else now) - datetime.fromisoformat(start), timedelta())
    seconds = passed.total_seconds()
    if end and seconds < 10:
        return f"{seconds:.1f}s"
    for unit, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{int(seconds // unit)}{letter}"
    return f"{int(seconds)}s"


def table(heads: Sequence[str], rows: Iterable[Row], title: str | None = None) -> Table:
    """A table without lines, numbers to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for head in heads:
        made.add_column(head, no_wrap=True, justify="right" if head in _NUMBERS else "left", overflow="ellipsis")
    for row in rows:
        made.add_row(*(Text(" ".join(str(cell).split("\n")), style=_COLOURS.get(str(cell), "")) for cell in row))
    return made


def console() -> Console:
    """A console on stdout; where that is no terminal, nothing is cut off."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)


def print_table(heads: Sequence[str], rows: Iterable[Row]) -> None:
    """Print a table."""
    shown = console()
    if shown.is_terminal:
        shown.print(table(heads, rows))
        return
    with shown.capture() as text:
        shown.print(table(heads, rows))
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def print_json(found: Sequence[Found]) -> None:
    """Print a list as the service gave it."""
    json.dump(list(found), sys.stdout, indent=2, ensure_ascii=False)
    print()


def now() -> datetime:
    """This machine's time."""
    return datetime.now(UTC)
