"""Task operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from starlette.responses import Response

from batchyard.api.batch import selection, subtask_views, task_views
from batchyard.api.wire import wire
from batchyard.api.wire.call import Call, decode
from batchyard.engine import lookup
from batchyard.engine.nodes import linked_storage
from batchyard.engine.pools import pools
from batchyard.engine.work import tasks
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.task import TaskAddCollection, TaskAddResult, TaskCreateContent, TaskUpdate
from batchyard.model.words import ElevationLevel, TaskAddStatus
from batchyard.rules import odata
from batchyard.rules.conditions import Conditions
from batchyard.store import instances, task_pages
from batchyard.store import tasks as rows
from batchyard.store.filters import Page
from batchyard.store.instances import InstanceRow
from batchyard.store.jobs import JobRow
from batchyard.store.reader import Reader
from batchyard.store.tasks import TaskLine, TaskView
from batchyard.store.tx import Tx

T = TypeVar("T")

MOST_PER_COLLECTION = 100


async def add(call: Call) -> Response:
    """POST /jobs/{jobId}/tasks"""
    wanted = _wanted(call.body, call)
    async with call.services.single_turns.turn(call.ids["job_id"].lower(), 1, len(call.body)):
        [(name, outcome)] = await call.db.run(_add, call.ids["job_id"], [wanted], call.now, by_task=call.by_task)
    if isinstance(outcome, BatchError):
        raise outcome
    return wire.nothing(201, modified=outcome, resource=call.url("jobs", call.ids["job_id"], "tasks", name), location=True)


def _add(tx: Tx, job_id: str, wanted: Sequence[TaskCreateContent], now: int, *, by_task: int) -> list[tasks.Outcome]:
    """Add tasks, but for a task's token none that asks for more than its task may have."""
    if not by_task:
        return tasks.add(tx, job_id, wanted, now)
    allowed, barred = _allowed(tx, job_id, wanted, by_task)
    return [*barred, *tasks.add(tx, job_id, allowed, now)]


def _allowed(
    reader: Reader, job_id: str, wanted: Sequence[TaskCreateContent], by_task: int
) -> tuple[list[TaskCreateContent], list[tasks.Outcome]]:
    """Tasks that a task's token may add, and why not the others: they name an administrator, or storage that is not the job's."""
    kept_from = pools.administrators_of(reader, job_id)
    parts = linked_storage.parts_for_task(reader, lookup.job(reader, job_id), by_task)
    allowed: list[TaskCreateContent] = []
    barred: list[tasks.Outcome] = []
    for task in wanted:
        try:
            if task.user_identity is not None and task.user_identity.username in kept_from:
                raise _too_much()
            linked_storage.check_parts(task, parts)
            allowed.append(task)
        except BatchError as error:
            barred.append((task.id, error))
    return allowed, barred


def _wanted(body: bytes | msgspec.Raw, call: Call) -> TaskCreateContent:
    """A task that the caller may add. Raises Forbidden for a task's token that asks for more rights than its task may have."""
    task = decode(body, TaskCreateContent)
    user = None if task.user_identity is None else task.user_identity.auto_user
    if call.by_task and user is not None and user.elevation_level is ElevationLevel.ADMIN:
        raise _too_much()
    return task


def _too_much() -> BatchError:
    return BatchError("Forbidden", Reason="A task's token does not allow tasks with admin elevation")


class _Named(msgspec.Struct):
    """Only what names a task that is wrong otherwise."""

    id: str = ""


async def add_collection(call: Call) -> Response:
    """POST /jobs/{jobId}/addtaskcollection: a wrong task is refused alone, never with a 5xx (contract 9.1)."""
    sent = call.decode(TaskAddCollection).value
    if not 1 <= len(sent) <= MOST_PER_COLLECTION:
        raise invalid_property("value", len(sent), f"A collection holds 1 to {MOST_PER_COLLECTION} tasks")
    async with call.services.turns.turn(call.ids["job_id"].lower(), len(sent), len(call.body)):
        return wire.listing(call.base, "taskaddresult", await _add_each(call, sent), None)


async def _add_each(call: Call, sent: Sequence[msgspec.Raw]) -> list[bytes]:
    """What became of each task."""
    wanted: list[TaskCreateContent] = []
    results: list[bytes] = []
    for raw in sent:
        try:
            wanted.append(_wanted(raw, call))
        except BatchError as error:
            results.append(_refused(_name(raw), error, call))
    urls = call.url("jobs", call.ids["job_id"], "tasks")
    for name, outcome in await call.db.run(_add, call.ids["job_id"], wanted, call.now, by_task=call.by_task):
        results.append(_refused(name, outcome, call) if isinstance(outcome, BatchError) else _added(name, outcome, urls))
    return results


def _name(raw: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=_Named).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _added(name: str, at: int, urls: str) -> bytes:
    tag, modified = task_views.version(at)
    return wire.encode(
        TaskAddResult(status=TaskAddStatus.SUCCESS, task_id=name, e_tag=tag, last_modified=modified, location=f"{urls}/{name}")
    )


def _refused(name: str, error: BatchError, call: Call) -> bytes:
    """The sentence also says what the values say: the SDKs show nothing else of a task that was refused."""
    if "PropertyName" in error.values:
        said = " ".join(filter(None, (error.message, f"{error.values['PropertyName']}:", error.values.get("Reason"))))
        error = BatchError(error.code, message=said, **error.values)
    body = wire.error_body(error, call.request_id, call.now)
    return wire.encode(TaskAddResult(status=TaskAddStatus.CLIENT_ERROR, task_id=name, error=body))


async def list_(call: Call) -> Response:
    """GET /jobs/{jobId}/tasks"""
    chosen, found = selection.of(call, selection.TASK), call.filter(odata.TASKS)
    after, most = call.page()
    row = TaskView if call.expands_stats() else TaskLine

    def query(reader: Reader, job_id: str) -> tuple[JobRow, Page[TaskLine]]:
        job = lookup.job(reader, job_id)
        return job, task_pages.filtered(reader, job.pk, found, after, most, row)

    job, page = await call.db.read(query, call.ids["job_id"])
    items = chosen.all(task_views.tasks(page.rows, job.id, call))
    return wire.listing(call.base, "tasks", items, call.next_link(page.more))


async def get(call: Call) -> Response:
    """GET /jobs/{jobId}/tasks/{taskId}"""
    chosen = selection.of(call, selection.TASK)
    job, task = await call.db.read(find, call.ids["job_id"], call.ids["task_id"])
    call.conditions().check(task.modified, reading=True)
    answer = wire.element(call.base, "tasks", chosen.one(task_views.task(task, job.id, call)))
    return wire.tag(answer, task.modified, call.url("jobs", job.id, "tasks", task.id))


def find(reader: Reader, job_id: str, task_id: str) -> tuple[JobRow, TaskView]:
    """Job and task with its body. Raises JobNotFound, TaskNotFound."""
    job = lookup.job(reader, job_id)
    task = rows.view(reader, job.pk, task_id)
    if task is None:
        raise BatchError("TaskNotFound")
    return job, task


async def _change(call: Call, use: Callable[[Tx, str, str, int], T]) -> T:
    """What a use case makes of a task, which must be as the conditional headers want it."""

    def unit(tx: Tx, job_id: str, task_id: str, conditions: Conditions) -> T:
        conditions.check(tasks.find(tx, job_id, task_id)[1].modified)
        return use(tx, job_id, task_id, call.now)

    return await call.db.run(unit, call.ids["job_id"], call.ids["task_id"], call.conditions())


def _url(call: Call, *more: str) -> str:
    return call.url("jobs", call.ids["job_id"], "tasks", call.ids["task_id"], *more)


async def terminate(call: Call) -> Response:
    """POST /jobs/{jobId}/tasks/{taskId}/terminate"""
    task = await _change(call, tasks.terminate)
    return wire.nothing(204, modified=task.modified, resource=_url(call, "terminate"))


async def update(call: Call) -> Response:
    """PUT /jobs/{jobId}/tasks/{taskId}"""
    constraints = call.decode(TaskUpdate, empty=TaskUpdate()).constraints
    task = await _change(call, lambda tx, job_id, task_id, now: tasks.update(tx, job_id, task_id, constraints, now))
    return wire.nothing(200, modified=task.modified, resource=_url(call))


async def reactivate(call: Call) -> Response:
    """POST /jobs/{jobId}/tasks/{taskId}/reactivate"""
    return wire.nothing(204, modified=(await _change(call, tasks.reactivate)).modified)


async def subtasks(call: Call) -> Response:
    """GET /jobs/{jobId}/tasks/{taskId}/subtasksinfo: the primary is none, and an ordinary task has none (contract 9.5)."""
    selected = selection.of(call, selection.SUBTASK)
    job, task, found = await call.db.read(_instances, call.ids["job_id"], call.ids["task_id"])
    views = [subtask_views.subtask(row, job.id, task.id, call) for row in found if row.number]
    return wire.listing(call.base, "subtaskinfo", selected.all(views), None)


def _instances(reader: Reader, job_id: str, task_id: str) -> tuple[JobRow, TaskView, list[InstanceRow]]:
    job, task = find(reader, job_id, task_id)
    return job, task, instances.of_task(reader, task.pk)


async def delete(call: Call) -> Response:
    """DELETE /jobs/{jobId}/tasks/{taskId}"""
    await _change(call, tasks.delete)
    return wire.nothing(200)
