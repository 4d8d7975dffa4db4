"""`batchyard task`: tasks are added, changed, ended, run again and deleted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from batchyard.cli import bodies, daily, names, output, select, submit, tables
from batchyard.cli.client import Client
from batchyard.cli.layout import Column
from batchyard.cli.problem import Problem, Usage
from batchyard.cli.streams import confirmed, many

Shown = Mapping[str, Any]


def create(
    batch: Client,
    *,
    job: str,
    command: Sequence[str],
    id: str | None,
    slots: int | None,
    retries: int | None,
    env: list[str],
    file: str | None,
    dry_run: bool | None,
) -> None:
    """Add tasks."""
    many = bodies.given(file)
    if isinstance(many, dict) and isinstance(many.get("value"), list):
        many = many["value"]
    if isinstance(many, list):
        if command or id or slots or retries is not None or env:
            raise Usage("the file has several tasks; options say something of one only")
        _several(batch, job, many, dry=bool(dry_run))
        return
    over = {
        "id": id,
        "commandLine": shlex.join(command) or None,
        "requiredSlots": slots,
        "constraints": {"maxTaskRetryCount": retries},
        "environmentSettings": bodies.pairs(env, "--env"),
    }
    body = bodies.over(many, over)
    if not body.get("commandLine"):
        raise Usage("say what to run, behind --, or with a file")
    body = bodies.named(body, body.get("id") or submit.new_id(), "task")
    if bodies.send(batch, "task", body, "jobs", job, "tasks", dry=bool(dry_run)):
        print(body["id"])


def _several(batch: Client, job: str, many: Sequence[Any], *, dry: bool) -> None:
    for one in many:
        if not isinstance(one, dict) or not isinstance(one.get("id"), str):
            raise Problem("every task of the file wants an id")
        if dry:
            bodies.check("task", one)
            output.document(one, "jsonl")
    if not dry:
        for task in submit.send(batch, job, iter(many)):
            print(task)


def show(batch: Client, *, tasks: Sequence[str], job: str | None, shown: Shown) -> None:
    """Show tasks."""
    output.entries([_whole(batch, where, task) for where, task in select.tasks(batch, tasks, job)], tables.TASKS, shown)


def _whole(batch: Client, job: str, task: str) -> dict[str, Any]:
    """A task; a multi-instance task with its subtasks."""
    found = batch.get("jobs", job, "tasks", task)
    if found.get("multiInstanceSettings"):
        found["subtasks"] = batch.get("jobs", job, "tasks", task, "subtasksinfo").get("value") or []
    return found


def update(batch: Client, *, task: str, job: str | None, retries: int | None, file: str | None, dry_run: bool | None) -> None:
    """Change the constraints of a task."""
    where, id_ = names.the_task(batch, task, job)
    body = bodies.laid(file, {"constraints": {"maxTaskRetryCount": retries}})
    if not body:
        raise Usage("say what to change, with options or with a file")
    bodies.send(batch, "task update", body, "jobs", where, "tasks", id_, method="PUT", dry=bool(dry_run))


def delete(batch: Client, *, tasks: Sequence[str], job: str | None, pick: select.Pick, yes: bool | None) -> None:
    """Delete tasks and their files."""
    pairs = list(select.tasks(batch, tasks, job, pick))
    called = f"the task {pairs[0][1]}" if len(pairs) == 1 else many(len(pairs), "task")
    if pairs:
        confirmed(f"Delete {called} and their files?", yes=bool(yes))
    daily.each(pairs, "deleted", lambda job, task: batch.delete("jobs", job, "tasks", task), "{task}")


def cancel(batch: Client, *, tasks: Sequence[str], job: str | None, pick: select.Pick, yes: bool | None) -> None:
    """End tasks."""
    daily.cancel_tasks(batch, select.tasks(batch, tasks, job, pick), yes=bool(yes))


def retry(batch: Client, *, tasks: Sequence[str], job: str | None, pick: select.Pick) -> None:
    """Run tasks again that ended."""
    daily.retry_tasks(batch, select.tasks(batch, tasks, job, pick), " ".join(tasks))


_SUBTASKS = (
    Column("SUBTASK", lambda found, now: found.get("id", ""), keep=9),
    Column("STATE", lambda found, now: found.get("state", ""), keep=9),
    Column("RESULT", lambda found, now: found.get("result", "")),
    Column("EXIT", lambda found, now: found.get("exitCode", ""), number=True),
    Column("NODE", lambda found, now: (found.get("nodeInfo") or {}).get("nodeId", "")),
)


def subtasks(batch: Client, *, task: str, job: str | None, shown: Shown) -> None:
    """List the subtasks of a multi-instance task."""
    where, id_ = names.the_task(batch, task, job)
    found = batch.get("jobs", where, "tasks", id_, "subtasksinfo").get("value") or []
    output.show(lambda: [[output.raw(one) for one in found]], _SUBTASKS, shown)
