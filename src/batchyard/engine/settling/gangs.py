"""Multi-instance tasks (contract 3.10): an instance on each of several nodes, all of which run the coordination command; once it has
succeeded everywhere, the primary's node runs the task's own command line. Whatever ends one instance ends the run.

Invariants: the instances of a run begin in one transaction, and end in the one in which the task leaves its state; a node is believed
only of the run that the task is in now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from batchyard.engine import wakes
from batchyard.engine.settling import ends as ends_
from batchyard.engine.settling.completions import Completion, complete
from batchyard.engine.settling.moves import RAN, end_instance, give_back
from batchyard.model.common import NameValuePair
from batchyard.model.sync import Ended, NodeFacts, Outcome
from batchyard.model.task import TaskCreateContent, TaskFailureInformation
from batchyard.model.words import JobAction, SubtaskState
from batchyard.rules import attempts
from batchyard.rules.attempts import Run
from batchyard.rules.transitions import TaskHappened
from batchyard.store import instances as rows
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import tasks as task_rows
from batchyard.store.instances import InstanceRow
from batchyard.store.nodes import NodeRow
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Conflict, Tx

_body = msgspec.json.Decoder(TaskCreateContent)
_facts = msgspec.json.Decoder(NodeFacts)


def begin(tx: Tx, task_pk: int, job_pk: int, pool_id: str, places: Sequence[tuple[int, TaskHappened]], now: int) -> None:
    """The instances of a task that has just been given to these nodes, the primary's first, and what happens to it on each."""
    made = []
    first = tx.reserve("instance", len(places))
    for number, (node_pk, happened) in enumerate(places):
        node = node_rows.get(tx, node_pk)
        if node is None:
            raise Conflict(f"node {node_pk} is gone")
        state = SubtaskState.RUNNING if happened is TaskHappened.STARTED else SubtaskState.PREPARING
        made.append(
            {
                "pk": first + number,
                "number": number,
                "node_pk": node_pk,
                "node_id": node.id,
                "pool_id": pool_id,
                "address": "" if node.facts is None else _facts.decode(node.facts).ip_address,
                "state": state,
                "started": now if state is SubtaskState.RUNNING else None,
                "now": now,
            }
        )
        tx.log(now, "subtask", first + number, "added", new=state, cause=f"task {task_pk} on node {node_pk}")
    rows.replace(tx, task_pk, job_pk, made)


def order_body(task_body: bytes) -> bytes:
    """An instance in the form in which nodes are told of tasks: it brings the common files and runs the coordination command."""
    task = _body.decode(task_body)
    settings = task.multi_instance_settings
    assert settings is not None, f"task {task.id} has one instance"
    return msgspec.json.encode(
        TaskCreateContent(
            id=task.id,
            command_line=settings.coordination_command_line,
            resource_files=settings.common_resource_files,
            environment_settings=task.environment_settings,
            user_identity=task.user_identity,
            constraints=task.constraints,
        )
    )


def hear(tx: Tx, node: NodeRow, ready: Sequence[str], ends: Sequence[Ended], now: int) -> None:
    """Take in of which instances on a node the coordination command has succeeded, and which have ended. What is told twice is no news."""
    for name in ready:
        if (run := attempts.parse(name)) is not None and (found := _present(tx, node, run)) is not None:
            _note_ready(tx, *found)
    for ended in ends:
        run = attempts.parse(ended.attempt)
        if run is not None and run.number is not None and (found := _present(tx, node, run)) is not None:
            _note_end(tx, *found, ended, now)


def _present(tx: Tx, node: NodeRow, run: Run) -> tuple[TaskRow, InstanceRow] | None:
    """A task and an instance of its newest run on this node."""
    row = None if run.number is None else rows.find(tx, run.pk, run.run, run.number)
    task = None if row is None or row.node_pk != node.pk else task_rows.get(tx, run.pk)
    return None if row is None or task is None or task.run != run.run else (task, row)


def _note_ready(tx: Tx, task: TaskRow, row: InstanceRow) -> None:
    if row.ready or row.state != SubtaskState.RUNNING or task.state not in RAN:
        return
    rows.move(tx, row, ready=1)
    task = task_rows.move(tx, task, unready=task.unready - 1)
    if task.unready == 0 and task.node_pk is not None:
        tx.wake(wakes.node(task.node_pk))


def _note_end(tx: Tx, task: TaskRow, row: InstanceRow, ended: Ended, now: int) -> None:
    if row.told:
        return
    row = rows.move(tx, row, told=1)
    used = _cost(ended)
    if row.state == SubtaskState.COMPLETED or task.state not in RAN:
        tx.count(task.job_pk, **used)
        task_rows.move(tx, task, **{name: getattr(task, name) + us for name, us in used.items()})
    else:
        _fail(tx, task, row, ended, used, now)


def _cost(ended: Ended) -> dict[str, int]:
    """What an instance cost beside the primary's wall clock time, in microseconds."""
    return {"user_us": ended.user_cpu_us, "kernel_us": ended.kernel_cpu_us}


def _fail(tx: Tx, task: TaskRow, row: InstanceRow, ended: Ended, used: Mapping[str, int], now: int) -> None:
    """An instance ended before its task did, which ends the run; a bad exit code counts as a try of the task (contract 3.10)."""
    job = job_rows.get(tx, task.job_pk)
    verdict = ends_.verdict_of(task, ended)
    known = ended.failure is not None and ended.outcome is not Outcome.UNKNOWN
    end_instance(tx, row, now, ended.exit_code, msgspec.json.encode(ended.failure) if ended.failure is not None else None)
    final = known and verdict.happened is TaskHappened.ENDED
    if not known:
        ends_.lost(tx, job, task, now, blame=not ended.stopped)
    elif not final:
        ends_.wait_again(tx, job, task, verdict.happened, ended, used, now)
    else:
        how = Completion(verdict.happened, _of_instance(ended, row), ended.exit_code, verdict.satisfies, used)
        complete(tx, job, [(task, how)], now)
        if verdict.job_action is not JobAction.NONE and job.acts_on_failure:
            ends_.act(tx, job, verdict.job_action, now)
    give_back(tx, task.node_pk or 0, slots=task.held, tasks=1, now=now, run=int(final))


def _of_instance(ended: Ended, row: InstanceRow) -> TaskFailureInformation:
    """The failure of an instance, which says where it was."""
    assert ended.failure is not None
    where = [NameValuePair(name="SubtaskId", value=str(row.number)), NameValuePair(name="NodeId", value=row.node_id)]
    return msgspec.structs.replace(ended.failure, details=[*(ended.failure.details or ()), *where])
