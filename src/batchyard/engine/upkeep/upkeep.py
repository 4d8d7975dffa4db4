"""What time and endings ask for: silent nodes, spent wall clocks, jobs on their way out, old events."""

from __future__ import annotations

import asyncio

import structlog

from batchyard.engine import wakes
from batchyard.engine.changes.jobs import change_job
from batchyard.engine.clock import Clock
from batchyard.engine.nodes import nodes as node_cases
from batchyard.engine.settling import special_tasks
from batchyard.engine.settling.completions import ENDED_BY_USER, Completion, terminate
from batchyard.engine.settling.job_ends import complete_job, end_job, end_when_complete, ended
from batchyard.engine.settling.moves import give_back, requeue
from batchyard.engine.work.tasks import clear_up, remove
from batchyard.model.states import ErrorCategory, JobState
from batchyard.model.task import TaskFailureInformation
from batchyard.model.words import DisableJobOption
from batchyard.rules.places import job_directory, task_directory
from batchyard.rules.transitions import JobHappened, TaskHappened
from batchyard.store import instances as instance_rows
from batchyard.store import jobs as job_rows
from batchyard.store import leftovers, usage
from batchyard.store import nodes as node_rows
from batchyard.store import special_tasks as special_rows
from batchyard.store import tasks as task_rows
from batchyard.store.db import Database
from batchyard.store.jobs import JobRow
from batchyard.store.tx import Tx

log = structlog.get_logger()

TASKS_PER_UNIT = 500
"""Bound on what one unit of work touches, so that a job of a million tasks, or a thousand jobs, do not hold up the others."""
JOBS_PER_UNIT = 100
EVENTS_KEPT_US = 30 * 86_400_000_000
USAGE_KEPT_US = 90 * 86_400_000_000
"""How long it is known what pools used that are gone."""
TASK_LIFETIME_US = 180 * 86_400_000_000
_TOO_OLD = Completion(
    TaskHappened.TERMINATED,
    TaskFailureInformation(
        category=ErrorCategory.SERVER_ERROR, code="TaskEnded", message="The task was ended because it was added more than 180 days ago"
    ),
)
RETURN_US = 15 * 1_000_000
"""How long the tasks of a node whose agent has ended wait for the next one to say what became of them."""
LONGEST_GAP_US = 30 * 1_000_000
"""Upkeep runs every few seconds; after a longer gap the machine slept or its clock was set."""
PAGES_PER_UNIT = 250
UNITS_PER_ROUND = 40
"""Bounds on giving free space of the database back: some ten milliseconds each, some forty megabytes a round."""
MAX_WALL_CLOCK = "MaxWallClockTimeExpiry"


class Upkeep:
    """The upkeep loop's work; `node_silence_us` is how long a node may say nothing."""

    def __init__(self, db: Database, clock: Clock, node_silence_us: int) -> None:
        self._db, self._clock, self._node_silence_us = db, clock, node_silence_us
        self._since, self._ahead = clock.now(), clock.ahead
        self._last_round = clock.now()
        self._failures = db.failures

    async def run_once(self) -> None:
        """One round of everything."""
        now = self._clock.now()
        await self._silent_nodes(now)
        await self._db.run(end_overdue, now)
        for expired in (remove_expired, remove_expired_specials):
            while await self._db.run(expired, now) == TASKS_PER_UNIT:
                pass
        for job_pk in await self._db.read(job_rows.older_than, now - TASK_LIFETIME_US):
            while await self._db.run(end_old_tasks, job_pk, now) == TASKS_PER_UNIT:
                pass
        while await self._advance_all():
            pass
        while await self._db.run(job_rows.forget_events, now - EVENTS_KEPT_US, TASKS_PER_UNIT) == TASKS_PER_UNIT:
            pass
        while await self._db.run(usage.forget, now - USAGE_KEPT_US, TASKS_PER_UNIT) == TASKS_PER_UNIT:
            pass
        await self._give_space_back()

    async def _advance_all(self) -> bool:
        """Every ending job a step on, in units that are bounded however many jobs there are; True when some has further to go."""
        further = False
        behind: int | None = 0
        while behind is not None:
            touched, behind = await self._db.run(advance_jobs, self._clock.now(), behind)
            further = further or touched > 0
        return further

    async def _give_space_back(self) -> None:
        """What deleted rows left free at the end of the database goes back to the disk, a bounded part each round."""
        given = 0
        for _ in range(UNITS_PER_ROUND):
            given += (step := await self._db.run(Tx.shrink, PAGES_PER_UNIT))
            if step < PAGES_PER_UNIT:
                break
        if given:
            await asyncio.to_thread(self._db.checkpoint, empty=True)

    async def _silent_nodes(self, now: int) -> None:
        """Time in which the server did not run, asleep or down, or could not note who spoke, or that its clock skipped: no silence."""
        deaf = self._db.failures != self._failures or not self._last_round <= now <= self._last_round + LONGEST_GAP_US
        self._last_round, self._failures = now, self._db.failures
        if deaf or self._clock.ahead != self._ahead:
            self._ahead, self._since = self._clock.ahead, now
            return
        if now - RETURN_US >= self._since:
            for node_pk in await self._db.read(node_rows.awaited, now - RETURN_US):
                log.warning("node not back", node=node_pk)
                await self._db.run(node_cases.not_back, node_pk, now)
        before = now - self._node_silence_us
        if before >= self._since:
            for node_pk in await self._db.read(node_rows.silent, before):
                if await self._db.run(give_up, node_pk, before, now):
                    log.warning("node silent", node=node_pk)


def give_up(tx: Tx, node_pk: int, before: int, now: int) -> bool:
    """Take a node for silent that still has said nothing since `before`; False when it spoke while this waited for its turn."""
    node = node_rows.get(tx, node_pk)
    if node is None or node.last_seen is None or node.last_seen >= before:
        return False
    node_cases.silent(tx, node_pk, now)
    return True


def end_overdue(tx: Tx, now: int) -> None:
    """Begin to end jobs whose wall clock is spent."""
    for job in job_rows.overdue(tx, now, TASKS_PER_UNIT):
        end_job(tx, job, MAX_WALL_CLOCK, now)


def remove_expired(tx: Tx, now: int) -> int:
    """Have nodes remove the directories of tasks whose retention time is over; how many."""
    expired = task_rows.expired(tx, now, TASKS_PER_UNIT)
    for task in expired:
        clear_up(tx, job_rows.get(tx, task.job_pk), task_rows.move(tx, task, expires=None))
    gone = instance_rows.expired(tx, now, TASKS_PER_UNIT)
    instance_rows.forget_expired(tx, [row.pk for row in gone])
    for row in gone:
        remove(tx, [row.node_pk], task_directory(row.job_id, row.task_id))
    return max(len(expired), len(gone))


def remove_expired_specials(tx: Tx, now: int) -> int:
    """The same for preparation and release tasks of completed jobs; how many."""
    expired = special_rows.expired(tx, now, TASKS_PER_UNIT)
    for row in expired:
        job = job_rows.get(tx, row.job_pk)
        id_ = job.preparation_id if row.kind == special_rows.PREPARATION else job.release_id
        remove(tx, [row.node_pk], task_directory(job.id, id_ or ""))
        special_rows.move(tx, row, expires=None)
    return len(expired)


def end_old_tasks(tx: Tx, job_pk: int, now: int) -> int:
    """End tasks that were added more than 180 days ago, in whatever state they are (contract 3.3); how many."""
    old = task_rows.open_since(tx, job_pk, now - TASK_LIFETIME_US, TASKS_PER_UNIT)
    if not old:
        return 0  # nor need the job be there any more
    job = job_rows.get(tx, job_pk)
    for task in old:
        terminate(tx, job, task, _TOO_OLD, now)
    return len(old)


def advance_jobs(tx: Tx, now: int, behind: int = 0) -> tuple[int, int | None]:
    """Take ending jobs behind a key a step on, touching so many tasks at most in all.

    How many tasks those were, 0 when none of the jobs has further to go; and the key of the last job, None when there are no more.
    """
    touched = done = 0
    jobs = job_rows.changing(tx, behind, JOBS_PER_UNIT)
    for job in jobs:
        taken = _advance(tx, job, TASKS_PER_UNIT - done, now)
        touched, done = touched + taken, done + max(1, taken)
        if done >= TASKS_PER_UNIT:
            return touched, job.pk
    return touched, jobs[-1].pk if len(jobs) == JOBS_PER_UNIT else None


def _advance(tx: Tx, job: JobRow, n: int, now: int) -> int:
    """End what runs, then complete or remove the job; how many tasks were touched, at most `n`, 0 when it has no further to go."""
    if job.state == JobState.ENABLING:
        end_when_complete(tx, change_job(tx, job, JobHappened.ENABLED, now), now)
        tx.wake(wakes.pool(job.pool_key))
        return 0
    running = task_rows.running_of_job(tx, job.pk, n)
    if job.state == JobState.DISABLING and job.disable_option == DisableJobOption.WAIT and running:
        return 0
    for task in running:
        if job.state == JobState.DISABLING and job.disable_option == DisableJobOption.REQUEUE:
            requeue(tx, job, task, TaskHappened.REQUEUED, now, requeues=task.requeues + 1, last_requeue=now)
            give_back(tx, task.node_pk or 0, slots=task.held, tasks=1, now=now)
        else:
            terminate(tx, job, task, ENDED_BY_USER, now)
    return len(running) or _conclude(tx, job, n, now)


def _conclude(tx: Tx, job: JobRow, n: int, now: int) -> int:
    """Bring a job in which nothing runs to the state that it is on its way to; how many tasks were removed for that."""
    if job.state == JobState.DISABLING:
        change_job(tx, job, JobHappened.DISABLED, now)
    elif special_tasks.release(tx, job, now):
        return 0
    elif job.state == JobState.TERMINATING:
        special_tasks.retain(tx, job, now)
        complete_job(tx, job, now)
    else:
        return _remove(tx, job, n, now)
    return 0


def _remove(tx: Tx, job: JobRow, n: int, now: int) -> int:
    """Remove a deleted job's tasks bit by bit, the job last; how many tasks, at most `n`."""
    keys = task_rows.first_keys(tx, job.pk, n)
    if keys:
        nodes = leftovers.take(tx, job.pk, keys[0], keys[-1]) | set(task_rows.nodes_of(tx, job.pk, keys[-1]))
        remove(tx, nodes, job_directory(job.id))
        task_rows.delete(tx, keys)
        return len(keys)
    nodes = leftovers.take(tx, job.pk, leftovers.SPECIAL, leftovers.SPECIAL) | set(special_rows.nodes_of(tx, job.pk))
    remove(tx, nodes, job_directory(job.id))
    special_rows.delete_of_job(tx, job.pk)
    job_rows.delete(tx, job.pk)
    tx.log(now, "job", job.pk, "gone", old=job.state)
    ended(tx, job, now)
    return 0
