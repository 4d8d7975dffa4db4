"""The words of every reason: a sentence, what the user can do, and the commands for it, with the places that facts fill in.

docs/explain.md shows this table; a test holds one against the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from batchyard.model.explain import Code, Reason


class Words(msgspec.Struct, frozen=True):
    """A sentence and the next action, with `{places}`; `command` mends it, `look` shows more, and either may be nothing."""

    sentence: str
    action: str
    command: str = ""
    look: str = ""


WORDS: Mapping[Code, Words] = MappingProxyType({
    Code.RUNNING: Words("{it} runs{where} since {since}", "Nothing has to be done; batchyard top shows what runs", look="{look}"),
    Code.PREPARING: Words(
        "{it} waits for the job preparation task, which runs on node {node_id} since {since}",
        "Wait; if it hangs, look at its stdout.txt and stderr.txt on the node",
        look="batchyard node cp {pool_id}/{node_id} {directory}/stderr.txt -",
    ),
    Code.COMPLETED: Words("{it} is completed since {since}{how}", "Nothing has to be done; what is completed does not run again"),
    Code.FAILED: Words(
        "{it} failed at {since}{how}", "Mend the cause, then reactivate the task (batchyard retry)",
        "{retry}", "batchyard logs --stderr {task}",
    ),
    Code.READY: Words("{it} may start: a node has room for it", "Wait; the scheduler is about to start it"),
    Code.JOB_DISABLED: Words("Job {job_id} is disabled since {since}", "Enable the job", "batchyard job enable {job_id}"),
    Code.JOB_DISABLING: Words(
        "Job {job_id} is being disabled since {since}", "Wait until it is disabled, then enable it",
        "batchyard job enable {job_id}", "batchyard job show {job_id}",
    ),
    Code.JOB_ENABLING: Words("Job {job_id} is being enabled since {since}", "Wait; its tasks may start in a moment"),
    Code.JOB_TERMINATING: Words(
        "Job {job_id} is being terminated since {since}{how}; its active tasks never run", "Add the tasks to another job",
        "batchyard job create {again} --pool {pool_id}",
    ),
    Code.JOB_COMPLETED: Words(
        "Job {job_id} is completed since {since}{how}; its active tasks never run", "Add the tasks to another job",
        "batchyard job create {again} --pool {pool_id}",
    ),
    Code.JOB_DELETING: Words(
        "Job {job_id} is being deleted since {since}; its active tasks never run", "Add the tasks to another job",
        "batchyard job create {again} --pool {pool_id}",
    ),
    Code.AUTO_POOL_FAILED: Words(
        "Job {job_id} never began, because its pool could not be made: {failure}",
        "Mend autoPoolSpecification, or make room for the pool (batchyard pool delete, a higher quota), then add the job again",
        look="batchyard job show {job_id}",
    ),
    Code.NO_TASKS: Words(
        "Job {job_id} has no tasks", "Add tasks (batchyard submit --job), or terminate the job",
        "batchyard submit --job {job_id} -- COMMAND",
    ),
    Code.ALL_TASKS_COMPLETED: Words(
        "Job {job_id} has completed all of its tasks ({n})",
        "Add more, or terminate the job; onAllTasksComplete=terminatejob does so by itself",
        "batchyard submit --job {job_id} -- COMMAND",
    ),
    Code.BLOCKED_BY_FAILURE: Words(
        "{it} waits for task {task_id}, which {how} and blocks what depends on it",
        "Mend {task_id} and reactivate it (batchyard retry), or terminate what depends on it; dependencyAction=satisfy lets that run",
        "{retry}", "batchyard logs --stderr {job_id}/{task_id}",
    ),
    Code.DEPENDENCY_CYCLE: Words(
        "{it} waits for itself: {cycle}", "Terminate or delete one of these tasks and add it again without the dependency",
        "batchyard task delete --yes {job_id}/{name}", "batchyard task show {job_id}/{name}",
    ),
    Code.WAITS_FOR_MISSING_TASK: Words(
        "{it} waits for task {task_id}, which does not exist (yet)", "Add {task_id}, or delete the task and add it with another dependency",
        "batchyard task create {job_id} --id {task_id} -- COMMAND",
    ),
    Code.WAITS_FOR_TASK: Words(
        "{it} waits for task {task_id}, which is {state}", "Wait for {task_id}; what follows says why it is not done",
        look="batchyard explain task {job_id}/{task_id}",
    ),
    Code.WAITS_FOR_RANGE: Words(
        "{it} waits for {left} of the tasks {low} to {high}; the first missing is {first}",
        "Wait for them, or add what is missing; what follows says what holds them up",
        look="batchyard tasks {job_id} {low}-{high}",
    ),
    Code.MAX_PARALLEL_TASKS: Words(
        "Job {job_id} runs {running}, as many as its maxParallelTasks of {limit} allows, and {waiting} more could run",
        "Wait for one to end, or raise maxParallelTasks",
        "batchyard job update {job_id} --parallel {more}",
    ),
    Code.POOL_NOT_FOUND: Words(
        "Pool {pool_id} does not exist", "Create the pool, or disable the job and move it to another pool",
        "batchyard pool create {pool_id} --nodes 1",
    ),
    Code.POOL_DELETING: Words(
        "Pool {pool_id} is being deleted", "Create it anew when it is gone, or move the job to another pool",
        "batchyard pool create {pool_id} --nodes 1",
    ),
    Code.POOL_EMPTY: Words(
        "Pool {pool_id} has no nodes and asks for none", "Resize the pool, or mend its formula (autoscale trace)", "{grow}", "{trace}"
    ),
    Code.POOL_RESIZING: Words(
        "Pool {pool_id} is resizing since {since}: {ready} of {target} take tasks{states}", "Wait; nodes are on their way",
        look="batchyard nodes {pool_id}",
    ),
    Code.ALLOCATION_FAILED: Words(
        "Pool {pool_id} has {current} of {target}; allocation failed: {failure}{others}",
        "Make room (quota, or batchyard up --nodes, or nodes of other pools) and resize the pool again, or ask for fewer nodes",
        "{again}", "{trace}",
    ),
    Code.LAUNCH_FAILS: Words(
        "Node {node_id} could not be launched, {times} by now: {failure}", "See the server's log; it is tried again, later each time",
        look="batchyard node show {pool_id}/{node_id}",
    ),
    Code.NODES_STARTING: Words(
        "Pool {pool_id} waits for {n} to start since {since}{states}", "Wait; if it takes long, see the logs of the nodes",
        look="batchyard nodes {pool_id}",
    ),
    Code.START_TASK_FAILED: Words(
        "The start task failed on {n} of pool {pool_id}{how}",
        "Read startup/stdout.txt and stderr.txt on the node, mend the start task (batchyard pool start-task), then reboot the nodes",
        "batchyard node reboot --yes {nodes}", "batchyard node logs --stderr {node}",
    ),
    Code.NODES_PREEMPTED: Words(
        "Pool {pool_id} has {n} preempted", "Wait until there is capacity again, or resize the pool to dedicated nodes", "{dedicated}"
    ),
    Code.NODES_DEALLOCATED: Words(
        "Pool {pool_id} has {n} deallocated", "Start the nodes, or resize the pool", "batchyard node start {nodes}"
    ),
    Code.NODES_UNUSABLE: Words(
        "Pool {pool_id} has {n} unable to take tasks{states}{how}",
        "See the errors and logs of the nodes; mend them, or let the nodes go and resize the pool again",
        "{reboot}", "batchyard node show {node}",
    ),
    Code.NODE_SILENT: Words(
        "Node {node_id} of pool {pool_id} has said nothing for {n} s{more}; its tasks run elsewhere once it counts as lost",
        "See whether its machine and its agent are alive, and what the agent's log says",
        look="batchyard node show {pool_id}/{node_id}",
    ),
    Code.NODE_LEAVES: Words(
        "Node {node_id} of pool {pool_id} takes no more tasks: it is to {what} when those that run there are done with",
        "Wait; batchyard top shows what runs",
        look="batchyard node show {pool_id}/{node_id}",
    ),
    Code.NODE_WORKS: Words(
        "Node {node_id} of pool {pool_id} takes tasks: {used} of {slots} in use{how}", "Nothing has to be done",
        look="batchyard node show {pool_id}/{node_id}",
    ),
    Code.SCHEDULING_DISABLED: Words(
        "Pool {pool_id} has {n} with scheduling disabled{states}", "Enable scheduling on the nodes, or resize the pool",
        "batchyard node enable {nodes}", "batchyard nodes {pool_id}",
    ),
    Code.TOO_BIG: Words(
        "{it} needs {slots}, no node of pool {pool_id} has more than {largest}",
        "Add the task with fewer requiredSlots, or move the job to a pool with more taskSlotsPerNode",
        "batchyard pool create {pool_id}-{needs} --slots {needs} --nodes 1 && batchyard job disable --yes {job_id}"
        " && batchyard job update {job_id} --pool {pool_id}-{needs} && batchyard job enable {job_id}",
    ),
    Code.PREPARATION_FAILED: Words(
        "The job preparation task of job {job_id} failed on {n} of {nodes} in service{how}",
        "Mend the preparation task and add the job anew, or add nodes to the pool",
        "{grow}", "batchyard job preparation {job_id}",
    ),
    Code.WANTS_DEDICATED_NODE: Words(
        "{it} takes only a dedicated node, pool {pool_id} has none that takes tasks",
        "Resize the pool to a dedicated node, or set allowLowPriorityNode",
        "{grow}",
    ),
    Code.WANTS_EMPTY_NODE: Words(
        "{it} is a job manager that wants a whole node, none of pool {pool_id} is empty",
        "Wait for a node to become empty, add nodes, or add the job with runExclusive=false",
        "{grow}", "batchyard top --once",
    ),
    Code.NOT_ENOUGH_FREE: Words(
        "No node of pool {pool_id} has {slots} free, the largest room is {largest}",
        "Wait for tasks to end, add nodes, or pack the pool (nodeFillType) so that whole nodes stay free",
        "{grow}", "batchyard top --once",
    ),
    Code.NODES_BUSY: Words(
        "All nodes of pool {pool_id} are busy: {busy} of {slots} in use, {ahead} of the same job ahead",
        "Wait for tasks to end, or add nodes to the pool",
        "{grow}", "batchyard top --once",
    ),
    Code.HIGHER_PRIORITY: Words(
        "Behind {n} of job {job_id}, which has the higher priority {priority}{more}", "Wait, raise the priority of the job, or add nodes",
        "{rise}", "batchyard top --once",
    ),
    Code.NODE_HELD: Words(
        "{it} needs {needs}, and node {node_id} is held for it: {free} are free there, and nothing else starts there until it does",
        "Wait for the tasks there to end; batchyard top shows what runs",
        "{grow}", "batchyard top --once",
    ),
    Code.HELD_FOR_OTHERS: Words(
        "Node {node_id} has room, but is held for task {task_id} of job {job_id}, which needs {needs} there and has {free}{more}",
        "Wait, raise the priority of the job, or add nodes",
        "{grow}", "batchyard top --once",
    ),
    Code.WANTS_INTER_NODE_COMMUNICATION: Words(
        "{it} is a multi-instance task, for a pool with enableInterNodeCommunication and one slot on each node; pool {pool_id} has {has}",
        "Move the job to such a pool, or change this one while it has no nodes",
        "", "batchyard pool show {pool_id}",
    ),
    Code.TOO_FEW_NODES: Words(
        "{it} needs {needs} at once, but pool {pool_id} has {usable} that may run it; none is kept free for it",
        "Add nodes, or add the task with fewer instances",
        "{grow}", "batchyard nodes {pool_id}",
    ),
    Code.NODES_AT_ONCE: Words(
        "{it} needs {needs} at once: {free} free in pool {pool_id}, {kept}{way}",
        "Wait for tasks to end, raise the priority of the job, or add nodes",
        "{grow}", "batchyard top --once",
    ),
    Code.KEPT_FOR_OTHERS: Words(
        "Node {node_id} is free, but kept for task {task_id} of job {job_id}, which needs {needs} at once{more}",
        "Wait, raise the priority of the job, or add nodes",
        "{grow}", "batchyard top --once",
    ),
    Code.BEHIND_OTHERS: Words(
        "What is free in pool {pool_id} goes to others first: {ahead} of the same job ahead, {turns} to take turns with",
        "Wait for tasks to end, raise the priority of the job, or add nodes",
        "{grow}", "batchyard top --once",
    ),
    Code.IDLE_WHILE_TASKS_WAIT: Words(
        "Pool {pool_id} has {n} idle while {waiting} cannot start", "What follows says what the tasks wait for"
    ),
    Code.NOTHING_WAITS: Words(
        "No task waits for pool {pool_id}; those of disabled and ended jobs do not count", "Add tasks, or resize the pool to no nodes",
        "batchyard submit --pool {pool_id} -- COMMAND",
    ),
    Code.POOL_WORKS: Words(
        "Pool {pool_id} has the {n} that it asks for and works", "Nothing has to be done", look="batchyard nodes {pool_id}"
    ),
    Code.SCHEDULE_WAITS: Words(
        "Job schedule {job_schedule_id} makes its next job at {due}", "Nothing has to be done",
        look="batchyard schedule show {job_schedule_id}",
    ),
    Code.NEVER_DUE: Words(
        "Job schedule {job_schedule_id} makes no more jobs", "Give it another schedule, or delete it",
        "batchyard schedule update {job_schedule_id} --every 1h", "batchyard schedule show {job_schedule_id}",
    ),
    Code.PREVIOUS_JOB_ACTIVE: Words(
        "A job is due since {due}, but {job_id} is {state} since {since}, and there is never more than one; {until}",
        "Wait, or end that job; one that ends by itself has a job manager with killJobOnCompletion, onAllTasksComplete=terminatejob"
        " or a maxWallClockTime",
        "batchyard job terminate --yes {job_id}", "batchyard explain job {job_id}",
    ),
    Code.ACTIVE_JOB_QUOTA: Words(
        "A job is due since {due}, but the account has as many active jobs and job schedules as its quota allows;"
        " it is tried every {retry} s",
        "End what is not needed, or raise the quota",
        look="batchyard jobs --state active",
    ),
    Code.DUE_TIME_MISSED: Words(
        "No job was made for {due}: {why}",
        "Nothing has to be done for the next one; without startWindow, or with a longer one, a job may be made later than it is due",
        look="batchyard schedule jobs {job_schedule_id}",
    ),
    Code.SCHEDULE_DISABLED: Words(
        "Job schedule {job_schedule_id} is disabled since {since}", "Enable it; what was due meanwhile is not made up for",
        "batchyard schedule enable {job_schedule_id}",
    ),
    Code.SCHEDULE_TERMINATING: Words(
        "Job schedule {job_schedule_id} is being terminated since {since}, and waits for the end of {job_id}", "Wait for that job to end",
        look="batchyard explain job {job_id}",
    ),
    Code.SCHEDULE_COMPLETED: Words(
        "Job schedule {job_schedule_id} is completed since {since}", "Nothing has to be done; what is completed makes no more jobs",
        look="batchyard schedule jobs {job_schedule_id}",
    ),
    Code.SCHEDULE_DELETING: Words(
        "Job schedule {job_schedule_id} is being deleted since {since}", "Wait; it is gone when its jobs are",
        look="batchyard schedule jobs {job_schedule_id}",
    ),
})  # fmt: skip

_SHOWN = ("job_id", "task_id", "node_id", "job_schedule_id", "since")


def reason(code: Code, because: Sequence[Reason] = (), **facts: object) -> Reason:
    """A reason in words; facts that name something stand in its fields too."""
    words = WORDS[code]
    sentence = words.sentence.format_map(facts)
    shown = {name: str(facts[name]) for name in _SHOWN if facts.get(name) is not None and "{" + name + "}" in words.sentence}
    return Reason(
        code=code,
        sentence=f"{sentence[:1].upper()}{sentence[1:]}.",
        action=words.action.format_map(facts) + ".",
        look=words.look.format_map(facts) or None,
        command=words.command.format_map(facts) or None,
        because=list(because) or None,
        **shown,
    )


def counted(n: int, what: str, *, more: bool = False) -> str:
    """`1 slot`, `3 slots`, `1000 or more tasks`."""
    return f"{n}{' or more' if more else ''} {what}{'' if n == 1 and not more else 's'}"
