"""What tables show of jobs, tasks, nodes, pools and files, a column each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from batchyard.cli.layout import Column

if TYPE_CHECKING:
    from rich.console import Console

Found = Mapping[str, Any]


def _info(found: Found) -> Found:
    return found.get("executionInfo") or {}


def _count(name: str) -> Column:
    heads = {"active": "WAITING", "running": "RUNNING", "succeeded": "SUCCEEDED", "failed": "FAILED"}
    return Column(heads[name], lambda found, now: (found.get("taskCounts") or {}).get(name, ""), number=True, keep=4)


def _of(head: str, name: str, *, number: bool = False, wide: bool = False, keep: int = 0) -> Column:
    return Column(head, lambda found, now: found.get(name, ""), number, wide, keep)


def _age(head: str, name: str, keep: int = 1) -> Column:
    return Column(head, lambda found, now: since(found[name], now) if found.get(name) else "", number=True, keep=keep)


def _result(found: Found, now: datetime) -> str:
    info = _info(found)
    failure = (info.get("failureInfo") or {}).get("code")
    return f"{info.get('result', '')} ({failure})" if failure and failure != "FailureExitCode" else str(info.get("result", ""))


def _took(found: Found, now: datetime) -> str:
    info = _info(found)
    return between(info["startTime"], info.get("endTime"), now) if info.get("startTime") else ""


def _nodes(kind: str) -> Column:
    heads = {"current": "NODES", "target": "WANTED"}
    names = (f"{kind}DedicatedNodes", f"{kind}LowPriorityNodes")
    return Column(heads[kind], lambda found, now: sum(found.get(name) or 0 for name in names), number=True, keep=4)


def _slots(found: Found, now: datetime) -> str:
    return f"{found.get('runningTaskSlotsCount', 0)}/{found.get('taskSlotsPerNode', '?')}"


def _node_id(found: Found) -> str:
    return str((found.get("nodeInfo") or {}).get("nodeId", ""))


_STATE = _of("STATE", "state", keep=9)
JOBS = (
    _of("JOB", "id", keep=9),
    _STATE,
    Column("POOL", lambda found, now: (found.get("poolInfo") or {}).get("poolId", ""), keep=3),
    _of("PRIORITY", "priority", number=True),
    *(_count(name) for name in ("active", "running", "succeeded", "failed")),
    _age("AGE", "creationTime"),
    _of("NAME", "displayName", wide=True),
    Column("ENDED BY", lambda found, now: _info(found).get("terminateReason", ""), wide=True),
)


def _timing(found: Found, now: datetime) -> str:
    cron = {item["name"]: item["value"] for item in found.get("metadata") or ()}
    if "batchyard.cron" in cron:
        return " ".join((cron["batchyard.cron"], cron.get("batchyard.timeZone", "")[:1] and f"({cron['batchyard.timeZone']})")).strip()
    return str((found.get("schedule") or {}).get("recurrenceInterval", "once"))


def _recent(found: Found, now: datetime) -> str:
    return str((_info(found).get("recentJob") or {}).get("id", ""))


SCHEDULES = (
    _of("SCHEDULE", "id", keep=9),
    _STATE,
    Column("EVERY", _timing, keep=8),
    Column("NEXT RUN", lambda found, now: _info(found).get("nextRunTime", ""), keep=7),
    Column("RECENT JOB", _recent, keep=6),
    _age("AGE", "creationTime"),
    _of("NAME", "displayName", wide=True),
    Column("ENDED", lambda found, now: _info(found).get("endTime", ""), wide=True),
)
TASKS = (
    _of("TASK", "id", keep=9),
    _STATE,
    Column("RESULT", _result, keep=6),
    Column("EXIT", lambda found, now: _info(found).get("exitCode", ""), number=True, keep=5),
    Column("NODE", lambda found, now: short(_node_id(found)), keep=1),
    Column("TOOK", _took, number=True, keep=3),
    _age("AGE", "creationTime", 2),
    Column("RETRIES", lambda found, now: _info(found).get("retryCount", ""), number=True, wide=True, keep=1),
    Column("SLOTS", lambda found, now: found.get("requiredSlots", 1), number=True, wide=True, keep=1),
    Column("ENDED", lambda found, now: _info(found).get("endTime", ""), wide=True, keep=1),
    _of("COMMAND", "commandLine"),
)
NODE_POOL = _of("POOL", "poolId", keep=8)
NODES = (
    _of("NODE", "id", keep=9),
    _STATE,
    _of("SCHEDULING", "schedulingState", keep=2),
    Column("SLOTS", _slots, number=True, keep=5),
    _of("RUNNING", "runningTasksCount", number=True, keep=3),
    _of("RUN", "totalTasksRun", number=True, keep=2),
    _of("ADDRESS", "ipAddress"),
    _age("UP", "lastBootTime"),
    _of("SIZE", "vmSize", wide=True),
    Column("DEDICATED", lambda found, now: "yes" if found.get("isDedicated") else "no", wide=True),
)
POOLS = (
    _of("POOL", "id", keep=9),
    _STATE,
    _of("ALLOCATION", "allocationState", keep=3),
    _nodes("current"),
    _nodes("target"),
    Column("SLOTS/NODE", lambda found, now: found.get("taskSlotsPerNode", 1), keep=2),
    _of("SIZE", "vmSize"),
    _age("AGE", "creationTime"),
    Column("AUTOSCALE", lambda found, now: "yes" if found.get("enableAutoScale") else "no", wide=True),
)


def _quota(name: str) -> Callable[[Any, Any], object]:
    return lambda found, now: found.get("quotas", {}).get(name, "-")


ACCOUNTS = (
    _of("ACCOUNT", "name", keep=9),
    _STATE,
    Column("POOLS", _quota("poolQuota"), number=True),
    Column("JOBS", _quota("activeJobAndJobScheduleQuota"), number=True),
    Column("CORES", _quota("dedicatedCoreQuota"), number=True),
    Column("SPOT CORES", _quota("lowPriorityCoreQuota"), number=True),
    _of("STORAGE", "storageAccount"),
    _of("ENDPOINT", "accountEndpoint"),
)
STORAGE = (
    _of("STORAGE", "name", keep=9),
    _STATE,
    _of("ACCOUNT", "account"),
    Column("LINKED", lambda found, now: "yes" if found.get("linked") else ""),
    Column("ENDPOINT", lambda found, now: found.get("endpoints", {}).get("blob", "")),
)
FILES = (
    _of("FILE", "name", keep=9),
    Column("BYTES", lambda found, now: (found.get("properties") or {}).get("contentLength", ""), number=True, keep=5),
    Column("CHANGED", lambda found, now: (found.get("properties") or {}).get("lastModified", "")),
)
PROGRESS = (
    _of("JOB", "id", keep=9),
    _STATE,
    Column("DONE", lambda found, now: f"{found['percent']}%", number=True, keep=8),
    *(_count(name) for name in ("active", "running", "succeeded", "failed")),
)


def cells(columns: tuple[Column, ...], found: Found, now: datetime) -> list[object]:
    """A row."""
    return [column.cell(found, now) for column in columns]


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
    return f"{seconds:.1f}s" if end and seconds < 10 else span(seconds)


def span(seconds: float) -> str:
    """A duration in the unit that fits."""
    for unit, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{int(seconds // unit)}{letter}"
    return f"{int(seconds)}s"


def console() -> Console:
    """A console on stdout; where that is no terminal, nothing is cut off."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)


def now() -> datetime:
    """This machine's time."""
    return datetime.now(UTC)
