"""Tasks as clients see them: the stored JSON with what the service knows put behind it.

A page has a thousand, so what the service knows is put together as text, several times as fast as a shape and its encoder. Only what needs
no escape goes in: ids, words and times; URLs are escaped once for a page. A test holds the text against the shape `TaskServed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from batchyard.api.batch import statistics
from batchyard.api.wire.call import Call
from batchyard.api.wire.wire import encode
from batchyard.model import times
from batchyard.model.ids import NODE_AFFINITY_PREFIX
from batchyard.model.redact import shown
from batchyard.rules.places import job_directory
from batchyard.store.tasks import TaskLine, TaskView

_iso = times.iso


@lru_cache(maxsize=256)
def version(modified: int) -> tuple[str, str]:
    """Tag and time that all tasks of a collection have in common."""
    return times.etag(modified), times.iso(modified)


def task(row: TaskLine, job_id: str, call: Call) -> bytes:
    """A task."""
    [view] = tasks([row], job_id, call)
    return view


def tasks(rows: Iterable[TaskLine], job_id: str, call: Call) -> list[bytes]:
    """Tasks of one job; statistics are shown of a TaskView when they are asked for."""
    urls, where = _text(call.url("jobs", job_id, "tasks")), _Nodes(job_id, call)
    with_stats = call.expands_stats()
    return [
        b"%b,%b%b}"
        % (
            shown(row.body)[:-1],
            (_task(row, urls) + where(row)).encode(),
            _stats(row, f"{urls}/{row.id}", call) if with_stats and isinstance(row, TaskView) else b"",
        )
        for row in rows
    ]


def _text(value: str) -> str:
    """As it stands within the quotes of JSON."""
    return encode(value).decode()[1:-1]


def _stats(row: TaskView, url: str, call: Call) -> bytes:
    return b',"stats":' + encode(statistics.of_task(row, url, call))


def _task(row: TaskLine, urls: str) -> str:
    """The members behind the client's. A task has the same time in several places: each is written once."""
    tag, modified = version(row.modified)
    created = modified if row.created == row.modified else _iso(row.created)
    changed = modified if row.state_time == row.modified else _iso(row.state_time)
    previous = before = ""
    if row.previous_state is not None and row.previous_time is not None:
        previous = created if row.previous_time == row.created else _iso(row.previous_time)
        before = f'"previousState":"{row.previous_state}","previousStateTransitionTime":"{previous}",'
    return (
        f'"url":"{urls}/{row.id}","eTag":"{tag}","lastModified":"{modified}","creationTime":"{created}","state":"{row.state}",'
        f'"stateTransitionTime":"{changed}",{before}"executionInfo":{{{_runs(row, previous, changed)}'
        f'"retryCount":{row.retries},"requeueCount":{row.requeues}}}'
    )


def _runs(row: TaskLine, previous: str, changed: str) -> str:
    """What is only there once a task ran or was ended; a run mostly begins and ends with a change of the state."""
    text = ""
    if row.started is not None:
        text = f'"startTime":"{previous if row.started == row.previous_time else _iso(row.started)}",'
    if row.ended is not None:
        text += f'"endTime":"{changed if row.ended == row.state_time else _iso(row.ended)}",'
    if row.exit_code is not None:
        text += f'"exitCode":{row.exit_code},'
    if row.result is not None:
        text += f'"result":"{row.result}",'
    if row.failure is not None:
        text += f'"failureInfo":{row.failure.decode()},'
    if row.last_retry is not None:
        text += f'"lastRetryTime":"{_iso(row.last_retry)}",'
    if row.last_requeue is not None:
        text += f'"lastRequeueTime":"{_iso(row.last_requeue)}",'
    return text


class _Nodes:
    """Where tasks ran; an ended task that never ran, or whose node is gone, shows an empty object (contract B.3)."""

    def __init__(self, job_id: str, call: Call) -> None:
        self._root, self._call = job_directory(job_id), call
        self._known: dict[tuple[str, str], tuple[str, str]] = {}

    def __call__(self, row: TaskLine) -> str:
        """The member `nodeInfo` behind a comma, or nothing."""
        if row.node_id is None or row.pool_id is None:
            return "" if row.ended is None else ',"nodeInfo":{}'
        head, files = self._known.get((row.pool_id, row.node_id)) or self._node(row.pool_id, row.node_id)
        return f'{head}{row.id}","taskRootDirectoryUrl":"{files}{row.id}"}}'

    def _node(self, pool_id: str, node_id: str) -> tuple[str, str]:
        """All up to the directory's last segment, and the same of its URL."""
        url = _text(self._call.url("pools", pool_id, "nodes", node_id))
        head = (
            f',"nodeInfo":{{"affinityId":"{NODE_AFFINITY_PREFIX}{node_id}","nodeUrl":"{url}","poolId":"{pool_id}","nodeId":"{node_id}",'
            f'"taskRootDirectory":"{self._root}/'
        )
        self._known[pool_id, node_id] = known = head, f"{url}/files/{self._root}/"
        return known
