"""The text that tasks are served as is what their shapes would be, member for member."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from batchyard.api.batch import task_views
from batchyard.api.wire.auth import Signed
from batchyard.api.wire.call import Call, Services
from batchyard.model import times
from batchyard.model.states import ErrorCategory, TaskResult, TaskState
from batchyard.model.task import ComputeNodeInformation, TaskExecutionInformation, TaskFailureInformation, TaskServed
from batchyard.store.tasks import TaskLine

BASE = 'http://a"host\\:8777'
"""What a client may write into its Host header must not break the JSON."""
TIMES = st.sampled_from([1_700_000_000_000_000, 1_700_000_000_123_456, 1_700_000_000_120_000, 1_700_000_001_000_000])
MAYBE = st.none() | TIMES
FAILURE = TaskFailureInformation(category=ErrorCategory.USER_ERROR, code="C", message='"quoted" é')


def call(**query: str) -> Call:
    services = cast(Services, None)  # views ask nothing of them
    return Call(services, Signed("GET", "/", "", {}), BASE, {}, query, b"", 0, "")


@st.composite
def lines(draw: st.DrawFn) -> TaskLine:
    before = draw(st.none() | st.sampled_from(list(TaskState)))
    node = draw(st.none() | st.sampled_from(["tvm-1", "tvm-2"]))
    return TaskLine(
        pk=1, id="task-1", state=draw(st.sampled_from(list(TaskState))), retries=draw(st.integers(0, 3)), requeues=draw(st.integers(0, 3)),
        created=draw(TIMES), modified=draw(TIMES), state_time=draw(TIMES), previous_state=before,
        previous_time=None if before is None else draw(TIMES), started=draw(MAYBE), ended=draw(MAYBE), last_retry=draw(MAYBE),
        last_requeue=draw(MAYBE), exit_code=draw(st.none() | st.integers(-1, 137)),
        result=draw(st.none() | st.sampled_from(list(TaskResult))),
        failure=draw(st.sampled_from([None, msgspec.json.encode(FAILURE)])), body=b'{"id":"task-1","commandLine":"true"}',
        node_id=node, pool_id=None if node is None else "pool",
    )  # fmt: skip


def shaped(row: TaskLine) -> TaskServed:
    """The same by shapes."""

    def time(us: int | None) -> str | None:
        return None if us is None else times.iso(us)

    where = None if row.ended is None else ComputeNodeInformation()
    if row.node_id is not None:
        url, path = f"{BASE}/pools/pool/nodes/{row.node_id}", "workitems/schedule/job-3/task-1"
        where = ComputeNodeInformation(
            affinity_id=f"TVM:{row.node_id}", node_url=url, pool_id="pool", node_id=row.node_id, task_root_directory=path,
            task_root_directory_url=f"{url}/files/{path}",
        )  # fmt: skip
    ran = TaskExecutionInformation(
        start_time=time(row.started), end_time=time(row.ended), exit_code=row.exit_code, result=row.result, retry_count=row.retries,
        last_retry_time=time(row.last_retry), requeue_count=row.requeues, last_requeue_time=time(row.last_requeue),
        failure_info=None if row.failure is None else FAILURE,
    )  # fmt: skip
    return TaskServed(
        url=f"{BASE}/jobs/schedule:job-3/tasks/task-1", e_tag=times.etag(row.modified), last_modified=times.iso(row.modified),
        creation_time=times.iso(row.created), state=row.state, state_transition_time=times.iso(row.state_time),
        previous_state=row.previous_state, previous_state_transition_time=time(row.previous_time), execution_info=ran, node_info=where,
    )  # fmt: skip


@given(st.lists(lines(), min_size=1, max_size=3))
def test_the_text_is_what_the_shape_would_be(rows: list[TaskLine]) -> None:
    for row, text in zip(rows, task_views.tasks(rows, "schedule:job-3", call()), strict=True):
        found: dict[str, Any] = msgspec.json.decode(text)
        assert len(text) == len(msgspec.json.encode(found)), "no member stands there twice"
        assert found == msgspec.json.decode(row.body) | msgspec.to_builtins(shaped(row))
