"""A small world for the engine's tests: an in-memory (or real) store, a clock that stands until it is moved, agents made of words.

`World` runs use cases and loops without ever acting on a wake-up: nothing happens that a test did not ask for, so every
test is also one of lost wake-ups. `check` holds all that must be true of the rows at any time.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import clear
import msgspec

import databases
from batchyard.engine import lookup
from batchyard.engine.auto_pools import auto_pools
from batchyard.engine.autoscale import settings as autoscale_settings
from batchyard.engine.autoscale.loop import Autoscale
from batchyard.engine.checks.auto_pools import Demand
from batchyard.engine.clock import Clock
from batchyard.engine.nodes import nodes
from batchyard.engine.nodes.node_changes import CHANGING
from batchyard.engine.pools import pools
from batchyard.engine.pools.capacity import Capacity
from batchyard.engine.schedules import schedules
from batchyard.engine.schedules.loop import Schedules
from batchyard.engine.scheduling import scheduler
from batchyard.engine.upkeep.upkeep import Upkeep
from batchyard.engine.work import jobs, tasks
from batchyard.model.errors import BatchError
from batchyard.model.job import JobCreateContent, JobPatch
from batchyard.model.jobschedule import JobScheduleCreateContent, JobSchedulePatch, JobScheduleUpdate
from batchyard.model.pool import NodeRemove, PoolCreateContent, PoolEnableAutoScale, PoolResize
from batchyard.model.states import NodeState, TaskState
from batchyard.model.sync import Ended, NodeSetup, Orders, Sync
from batchyard.model.task import TaskConstraints, TaskCreateContent, TaskFailureInformation
from batchyard.model.words import DisableJobOption
from batchyard.providers.base import Handle, NodeOrder, NodeProvider, Seen
from batchyard.providers.joined import JOINED, JoinedProvider
from batchyard.rules.offer import Offer
from batchyard.rules.sizes import SizeRule, Sizes
from batchyard.rules.transitions import SPECIAL_TASK, TABLES, Table
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import schedules as schedule_rows
from batchyard.store import special_tasks as special_rows
from batchyard.store.db import MEMORY, Database
from batchyard.store.jobs import JobCounts, JobRow
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolView
from batchyard.store.reader import Change, Statement
from batchyard.store.schedules import ScheduleRow
from batchyard.store.special_tasks import SpecialTaskRow
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Tx

P = ParamSpec("P")
T = TypeVar("T")

SECOND_US = 1_000_000
SETTING = nodes.Setting("account", b"key")
SILENCE_US = 30 * SECOND_US
JOIN_US = 300 * SECOND_US
START = 1_700_000_000 * SECOND_US
MACHINE = {
    "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"},
    "nodeAgentSKUId": "batch.node.ubuntu 24.04",
}
SMALL = SizeRule("small", cores=64)
OFFER = Offer(sizes=Sizes((SMALL,)))
"""Beside Azure's sizes one that is large enough for any number of slots."""
EXIT_1 = {"exit_code": 1, "failure": {"category": "usererror", "code": "FailureExitCode", "message": "bad"}}
NO_PROGRAM = {"failure": {"category": "usererror", "code": "CommandProgramNotFound", "message": "none"}, "stage": "preprocessing"}
NO_UPLOAD = {"exit_code": 0, "failure": {"category": "usererror", "code": "FileUploadAccessDenied", "message": "no"}, "stage": "upload"}


_NO_CHANGE = {
    "join token added",
    "join token revoked",
    "machine joined",
    "patched",
    "updated",
    "launch failed",
    "resize requested",
    "resize ended",
    "stop requested",
    "stopped",
    "removal asked",
    "errors",
    "stop failed",
    "autoscale enabled",
    "autoscale evaluated",
    "autoscale disabled",
    "service log not uploaded",
    "missed",
    "job added",
}
"""Events that change no state, or that of the allocation, which has none of its own in the log."""
_SUBJECTS = ("pool", "node", "job", "job_schedule", "task", "subtask", "start", "preparation", "release", "application")
_PLAIN = re.compile(r"[a-z]+( [a-z]+)*")
_TOPIC = re.compile(r"capacity|upkeep|schedules|lease|node:[0-9]+|(pool|demand):[a-z0-9_-]+")
_EVERY_WRITE_COUNTS = (
    "CREATE TEMP TRIGGER every_write_to_{0}_counts AFTER UPDATE ON main.{0} WHEN new.version <> old.version + 1"
    " BEGIN SELECT raise(ABORT, 'a write to a {0} that its version does not show'); END"
)
"""What is known of a row that is still at its version is all that there is: `store.tx` relies on it."""
_COUNTING = (
    "CREATE OR REPLACE FUNCTION every_write_counts() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN IF new.version <> old.version + 1"
    " THEN RAISE 'a write to a % that its version does not show', tg_table_name; END IF; RETURN new; END $body$"
)
_EACH_COUNTS = "CREATE OR REPLACE TRIGGER every_write_counts AFTER UPDATE ON {0} FOR EACH ROW EXECUTE FUNCTION every_write_counts()"
"""The same in PostgreSQL."""
_BOUNDS = {
    "node": "new.slots_used > new.slots OR new.slots_used < 0 OR new.tasks_running < 0",
    "job_counts": "new.running > old.running AND new.max_parallel >= 0 AND new.running > new.max_parallel",
}
"""What no write may ever leave behind, whatever who wrote had seen: more slots than there are, more tasks than a job may run."""
_BOUND = (
    "CREATE TEMP TRIGGER {0}_bounds AFTER UPDATE ON main.{0} WHEN {1} BEGIN SELECT raise(ABORT, 'a write to {0} beyond its bounds'); END"
)
_BOUNDING = (
    "CREATE OR REPLACE FUNCTION {0}_bounds() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN IF {1}"
    " THEN RAISE 'a write to {0} beyond its bounds'; END IF; RETURN new; END $body$"
)
_EACH_BOUNDED = "CREATE OR REPLACE TRIGGER {0}_bounds AFTER UPDATE ON {0} FOR EACH ROW EXECUTE FUNCTION {0}_bounds()"
AUTO_POOL = re.compile(r"(^|_)[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$")
"""Ids of pools that are made for jobs."""
_AWAY = (NodeState.LEAVING_POOL, NodeState.PREEMPTED, NodeState.DEALLOCATED)
_AT_WORK = (NodeState.IDLE, NodeState.RUNNING, NodeState.OFFLINE, NodeState.START_TASK_FAILED)


def _edges(table: Table[Any, Any]) -> set[tuple[str, str, str]]:
    """The legal changes as the log has them."""
    return {(old.value, happened.value, new.value) for (old, happened), new in table.changes.items()}


def _coming_back(node: NodeRow) -> bool:
    """True for a node that needs nothing but a few seconds; one that waits for retained data needs days."""
    return node.state in (NodeState.PREEMPTED, *CHANGING) and node.action_option != "retaineddata"


class StandingClock(Clock):
    """Time moves only when a test moves it."""

    def __init__(self) -> None:
        self._now = START

    def now(self) -> int:
        return self._now

    def advance(self, us: int) -> None:
        self._now += us


class Steady(NodeProvider):
    """A provider that always has machines, and remembers what it was asked."""

    def __init__(self) -> None:
        self.machines: dict[Handle, NodeOrder] = {}
        self.launched: list[str] = []
        self.released: list[Handle] = []
        self.gone: set[Handle] = set()

    async def launch(self, order: NodeOrder) -> Handle:
        self.launched.append(order.node_id)
        handle = f"machine of {order.node_id}"
        self.machines[handle] = order
        self.gone.discard(handle)
        return handle

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        return {handle: Seen.ALIVE if handle in self.machines and handle not in self.gone else Seen.GONE for handle in handles}

    async def stop(self, handles: Sequence[Handle]) -> None:
        self.gone.update(handles)

    async def release(self, handles: Sequence[Handle]) -> None:
        self.released += handles
        for handle in handles:
            self.machines.pop(handle, None)


class Agent:
    """What a node's agent says; it runs what it is told and ends only what a test ends."""

    def __init__(self, world: World, node_pk: int) -> None:
        self.world, self.node_pk = world, node_pk
        self.session, self.number = 0, 0
        self.has: list[str] = []
        self.setup: NodeSetup | None = None

    def sync(self, *ended: Ended, removed: Iterable[int] = (), **more: Any) -> Orders | None:
        """Say everything and take in the orders; None when fenced off."""
        self.number += 1
        said = Sync(session=self.session, number=self.number, has=[*self.has], ended=[*ended], removed=[*removed], **more)
        answer = self.world.run(nodes.hear, self.node_pk, said, SETTING, self.world.now)
        if answer is not None:
            self.setup = answer.setup or self.setup
            self.session = answer.session
            self.has = [*answer.wanted]
        return answer

    def join(self) -> Agent:
        """Begin a new session."""
        self.session, self.has = 0, []
        assert self.sync() is not None
        return self

    def end(self, *attempts: str, **how: Any) -> Orders | None:
        """Report ends, with exit code 0 unless told otherwise."""
        return self.sync(*(ended(attempt, **how) for attempt in attempts))

    def sync_all(self) -> list[str]:
        """Attempts that the node should hold now."""
        self.sync()
        return [*self.has]

    def end_all(self, **how: Any) -> Orders | None:
        """Fetch orders, then report the end of everything that runs."""
        self.sync()
        return self.end(*self.has, **how)


def ended(attempt: str, **how: Any) -> Ended:
    """A report; exit code 0 unless told otherwise."""
    how = {"exit_code": 0} | how if "failure" not in how else dict(how)
    if isinstance(how.get("failure"), dict):
        how["failure"] = msgspec.convert(how["failure"], TaskFailureInformation)
    return Ended(attempt=attempt, ended=START, **how)


class World:
    """Store, clock, provider and the loops, one step at a time."""

    def __init__(
        self, path: Path = MEMORY, provider: NodeProvider | None = None, offer: Offer = OFFER, location: str | None = None
    ) -> None:
        self.path, self.clock, self.offer = path, StandingClock(), offer
        self._location = location
        self.provider = Steady() if provider is None else provider
        self.topics: Counter[str] = Counter()
        self.kept_alive: set[str] = set()
        """Pools that were made for jobs and are to outlive them."""
        self._open()

    def _open(self) -> None:
        self.db = Database(databases.place(self.path) if self._location is None else self._location, self.topics.update)
        if self._location is None and databases.on_postgres():
            self._location = databases.last()
        once, each = (Change(_COUNTING), _EACH_COUNTS) if databases.on_postgres() else (None, _EVERY_WRITE_COUNTS)

        def watch(tx: Tx) -> None:
            if once is not None:
                tx.change(once)
            for table in ("task", "instance", "node", "job", "pool", "special_task", "job_schedule"):
                tx.change(Change(each.format(table)))

        self.db.call(watch)
        self.open_loops()

    def watch_bounds(self) -> None:
        """Have the database refuse every write that takes more slots or places than there are."""
        for table, wrong in _BOUNDS.items():
            for sql in (_BOUNDING, _EACH_BOUNDED) if databases.on_postgres() else (_BOUND,):
                self.run(Tx.change, Change(sql.format(table, wrong)))

    def open_loops(self) -> None:
        """Make the loops for the provider that there is."""
        self.upkeep_job = Upkeep(self.db, self.clock, SILENCE_US)
        self.capacity_job = Capacity(self.db, {"local": self.provider, JOINED: JoinedProvider()}, self.clock, b"key", JOIN_US, self.offer)
        self.autoscale_job = Autoscale(self.db, self.clock)
        self.schedules_job = Schedules(self.db, self.clock, lambda: self.demand)

    @property
    def demand(self) -> Demand:
        """What the account demands of pools that are made for jobs."""
        return Demand(self.offer)

    def reopen(self) -> None:
        """Start over from the file, as after a crash: no word of what was in memory."""
        assert self.path != MEMORY or self._location is not None
        self.db.close()
        self._open()

    def crash(self) -> None:
        """Go on with the files as a killed process leaves them: nothing is closed, nothing is moved out of the log."""
        before = self.db
        if databases.on_postgres():  # whoever is killed says nothing, and what it had begun is undone
            self._open()
            before.close()
            return
        place = self.path.with_name(f"{self.path.name}-after")
        place.mkdir()
        for file in self.path.parent.glob(f"{self.path.name}*"):
            if file.is_file():
                shutil.copyfile(file, place / file.name)
        self.path = place / self.path.name
        self._open()
        before.close()

    def close(self) -> None:
        self.db.close()

    @property
    def now(self) -> int:
        return self.clock.now()

    def advance(self, seconds: float) -> None:
        self.clock.advance(int(seconds * SECOND_US))

    def run(self, unit: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return self.db.call(unit, *args, **kwargs)
        except BatchError as error:
            clear.check(error)
            raise

    # loops

    def schedule(self) -> int:
        """One round of the scheduler for every pool; how many tasks started."""
        return sum(self.run(scheduler.run_once, key, self.now) for key in self.run(job_rows.pools_with_demand))

    def upkeep(self) -> None:
        asyncio.run(self.upkeep_job.run_once())

    def autoscale(self) -> None:
        asyncio.run(self.autoscale_job.run_once())

    def capacity(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            asyncio.run(self.capacity_round())

    async def capacity_round(self) -> None:
        """One round, and whatever it begins."""
        await self.capacity_job.run_once()
        await self.capacity_job.settle()

    def loops(self) -> None:
        """Every loop, a few rounds."""
        for _ in range(3):
            self.capacity()
            self.schedule()
            self.upkeep()
            self.autoscale()
            self.plans()

    def finish(self, rounds: int = 40) -> None:
        """Healthy nodes and all loops until nothing changes; tasks whose id begins with `f` exit with 1."""
        before = None
        for _ in range(rounds):
            self.advance(1)
            self.capacity()
            for node in self.nodes():
                if node.state not in _AWAY:
                    agent = Agent(self, node.pk)
                    agent.session = node.session
                    if node.state not in (*_AT_WORK, *CHANGING) or (agent.sync() is None and node.state not in CHANGING):
                        agent.join()
                    for attempt in agent.sync_all():
                        agent.end(attempt, **(EXIT_1 if self._id_of(attempt).startswith("f") else {}))
            self.schedule()
            self.upkeep()
            self.autoscale()
            self.plans()
            now = self.summary()
            if now == before and not any(_coming_back(node) for node in self.nodes()):
                return
            before = now
        raise AssertionError(f"it never ends: {before}")

    def _id_of(self, attempt: str) -> str:
        """Id of a task; special tasks go by their kind and succeed."""
        if attempt.startswith("s"):
            ((kind,),) = self.rows("SELECT kind FROM special_task WHERE pk = :pk", pk=int(attempt[1:].partition(".")[0]))
            return str(kind)
        ((name,),) = self.rows("SELECT id FROM task WHERE pk = :pk", pk=int(attempt.partition(".")[0]))
        return str(name)

    def summary(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that a client could see, but for times and keys."""
        return {
            "jobs": self.rows("SELECT id, state, terminate_reason FROM job ORDER BY id"),
            "schedules": self.rows("SELECT id, state, jobs, due FROM job_schedule ORDER BY id"),
            "tasks": self.rows(
                "SELECT job.id, task.id, task.state, result, exit_code, retries, requeues FROM task"
                " JOIN job ON job.pk = job_pk ORDER BY 1, 2"
            ),
            "pools": self.rows("SELECT id, state, allocation_state, target_dedicated, resize_errors FROM pool ORDER BY id"),
            "formulas": self.rows("SELECT id, autoscale_formula, autoscale_interval, autoscale_run IS NULL FROM pool ORDER BY id"),
            "special": self.rows(
                "SELECT job.id, kind, special_task.state, result, count(*) FROM special_task"
                " JOIN job ON job.pk = job_pk GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
            ),
            "nodes": self.rows("SELECT pool_pk, state, slots_used, count(*) FROM node GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"),
        }

    # pools and nodes

    def pool(self, pool_id: str = "pool", dedicated: int = 0, **more: Any) -> PoolView:
        sent = {"id": pool_id, "vmSize": "small", "virtualMachineConfiguration": MACHINE, "targetDedicatedNodes": dedicated, **more}
        return self.run(pools.add, msgspec.convert(sent, PoolCreateContent), self.now, self.offer)

    def pool_row(self, pool_id: str = "pool") -> PoolView | None:
        return self.run(pool_rows.find, pool_id)

    def resize(self, dedicated: int | None = None, pool_id: str = "pool", **more: Any) -> None:
        sent = msgspec.convert({k: v for k, v in {"targetDedicatedNodes": dedicated, **more}.items() if v is not None}, PoolResize)
        self.run(lambda tx: pools.resize(tx, pools.open_pool(tx, pool_id), sent, self.now))

    def stop_resize(self, pool_id: str = "pool") -> None:
        self.run(lambda tx: pools.stop_resize(tx, pools.open_pool(tx, pool_id), self.now))

    def remove_nodes(self, *pks: int, pool_id: str = "pool", **more: Any) -> None:
        sent = msgspec.convert({"nodeList": [self.node(pk).id for pk in pks], **more}, NodeRemove)
        self.run(lambda tx: pools.remove_nodes(tx, pools.open_pool(tx, pool_id), sent, self.now))

    def scaled_pool(self, formula: str, pool_id: str = "pool", **more: Any) -> PoolView:
        scaling = {"enableAutoScale": True, "autoScaleFormula": formula, "targetDedicatedNodes": None}
        return self.pool(pool_id, **{**scaling, **more})

    def enable_autoscale(self, pool_id: str = "pool", **wanted: Any) -> PoolView:
        sent = msgspec.convert(wanted, PoolEnableAutoScale)
        shortest = autoscale_settings.checks.SHORTEST_INTERVAL_US
        return self.run(lambda tx: autoscale_settings.enable(tx, pools.open_pool(tx, pool_id), sent, shortest, self.now))

    def disable_autoscale(self, pool_id: str = "pool") -> PoolView:
        return self.run(lambda tx: autoscale_settings.disable(tx, pools.open_pool(tx, pool_id), self.now))

    def delete_pool(self, pool_id: str = "pool") -> None:
        self.run(lambda tx: pools.delete(tx, pools.open_pool(tx, pool_id), self.now))

    def nodes(self) -> list[NodeRow]:
        return self.run(node_rows.every)

    def node(self, pk: int) -> NodeRow:
        found = self.run(node_rows.get, pk)
        assert found is not None
        return found

    def working_pool(self, nodes: int = 1, slots: int = 1, pool_id: str = "pool", **more: Any) -> list[Agent]:
        """A steady pool whose agents have joined."""
        self.pool(pool_id, nodes, taskSlotsPerNode=slots, **more)
        self.capacity(2)
        pool = self.pool_row(pool_id)
        assert pool is not None
        return [Agent(self, node.pk).join() for node in self.run(node_rows.of_pool, pool.pk)]

    def change(self, use: Callable[..., None], node_pk: int, *args: Any) -> None:
        """Run a use case of `node_changes` on a node."""
        self.run(lambda tx: use(tx, node_rows.get(tx, node_pk), *args, self.now))

    def start_task(self, node_pk: int) -> SpecialTaskRow | None:
        """The start task of a node, as it is now."""
        return self.run(special_rows.find, special_rows.NO_JOB, special_rows.START, node_pk)

    def node_events(self, node_pk: int) -> list[str]:
        """States that a node went through, oldest first."""
        return [new for happened, _, new in self.events("node", node_pk) if new is not None]

    # jobs and tasks

    def job(self, job_id: str = "job", pool_id: str = "pool", **more: Any) -> JobRow:
        sent = {"id": job_id, "poolInfo": {"poolId": pool_id}, "usesTaskDependencies": True, **more}
        return self.run(auto_pools.add, msgspec.convert(sent, JobCreateContent), self.now, self.demand)

    # job schedules

    def plan(self, schedule_id: str = "plan", spec: dict[str, Any] | None = None, *, schedule: Any = None, **more: Any) -> ScheduleRow:
        """Add a job schedule, whose jobs end at once unless told otherwise."""
        spec = {"poolInfo": {"poolId": "pool"}, "onAllTasksComplete": "terminatejob"} | (spec or {})
        given = {"recurrenceInterval": "PT1H"} if schedule is None else schedule
        sent = {"id": schedule_id, "schedule": given, "jobSpecification": spec, **more}
        return self.run(schedules.add, msgspec.convert(sent, JobScheduleCreateContent), self.now, self.demand)

    def plan_row(self, schedule_id: str = "plan") -> ScheduleRow:
        row = self.run(schedule_rows.find, schedule_id)
        assert row is not None, f"no schedule {schedule_id}"
        return row

    def change_plan(self, use: Callable[..., Any], *args: Any, schedule_id: str = "plan", **more: Any) -> Any:
        """A use case of an open schedule."""
        return self.run(lambda tx: use(tx, schedules.open_schedule(tx, schedule_id), *args, self.now, **more))

    def patch_plan(self, schedule_id: str = "plan", **changes: Any) -> ScheduleRow:
        sent = msgspec.convert(changes, JobSchedulePatch)
        return self.run(lambda tx: schedules.patch(tx, schedules.open_schedule(tx, schedule_id), sent, self.now, self.demand))

    def put_plan(self, schedule_id: str = "plan", **given: Any) -> ScheduleRow:
        sent = msgspec.convert(given, JobScheduleUpdate)
        return self.run(lambda tx: schedules.update(tx, schedules.open_schedule(tx, schedule_id), sent, self.now, self.demand))

    def delete_plan(self, schedule_id: str = "plan", *, force: bool = False) -> None:
        self.run(lambda tx: schedules.delete(tx, schedules.find(tx, schedule_id), self.now, force=force))

    def jobs_of(self, schedule_id: str = "plan") -> list[tuple[str, str]]:
        """Ids and states of the jobs of a schedule that are there."""
        both = "SELECT job.id, job.state FROM job JOIN job_schedule ON job_schedule.pk = schedule_pk"
        return self.rows(f"{both} WHERE job_schedule.id = :id ORDER BY job.pk", id=schedule_id)

    def plans(self) -> None:
        """One round of the loop of job schedules."""
        asyncio.run(self.schedules_job.run_once())

    def job_row(self, job_id: str = "job") -> JobRow | None:
        return self.run(job_rows.find, job_id)

    def job_state(self, job_id: str = "job") -> str | None:
        row = self.job_row(job_id)
        return None if row is None else str(row.state)

    def add(self, *specs: str | dict[str, Any], job_id: str = "job", **common: Any) -> list[tasks.Outcome]:
        """Add tasks, each an id or what the client would send."""
        sent = [{"commandLine": "true", **common, **({"id": spec} if isinstance(spec, str) else spec)} for spec in specs]
        outcomes = self.run(tasks.add, job_id, msgspec.convert(sent, list[TaskCreateContent]), self.now)
        for _, outcome in outcomes:
            if isinstance(outcome, BatchError):
                clear.check(outcome)
        return outcomes

    def task(self, task_id: str, job_id: str = "job") -> TaskRow:
        return self.run(tasks.find, job_id, task_id)[1]

    def state(self, task_id: str, job_id: str = "job") -> str:
        return str(self.task(task_id, job_id).state)

    def states(self, *task_ids: str) -> list[str]:
        return [self.state(task_id) for task_id in task_ids]

    def free(self, *task_ids: str) -> list[bool]:
        """Whether tasks may start, or did."""
        tasks = [self.task(task_id) for task_id in task_ids]
        return [bool(task.ready or task.run) for task in tasks]

    def attempt(self, task_id: str, job_id: str = "job") -> str:
        """Name of the present run of a task."""
        row = self.task(task_id, job_id)
        return f"{row.pk}.{row.run}"

    def counts(self, job_id: str = "job") -> JobCounts:
        job = self.job_row(job_id)
        assert job is not None
        return self.run(job_rows.counts, job.pk)

    def terminate(self, task_id: str, job_id: str = "job") -> TaskRow:
        return self.run(tasks.terminate, job_id, task_id, self.now)

    def reactivate(self, task_id: str, job_id: str = "job") -> TaskRow:
        return self.run(tasks.reactivate, job_id, task_id, self.now)

    def update(self, task_id: str, job_id: str = "job", **constraints: Any) -> TaskRow:
        return self.run(tasks.update, job_id, task_id, msgspec.convert(constraints, TaskConstraints), self.now)

    def patch(self, job_id: str = "job", **changes: Any) -> None:
        sent = msgspec.convert(changes, JobPatch)
        self.run(lambda tx: jobs.patch(tx, lookup.open_job(tx, job_id), sent, self.now, self.demand))

    def disable(self, option: str = "requeue", job_id: str = "job") -> None:
        self.run(lambda tx: jobs.disable(tx, lookup.open_job(tx, job_id), DisableJobOption(option), self.now))

    def enable(self, job_id: str = "job") -> None:
        self.run(lambda tx: jobs.enable(tx, lookup.open_job(tx, job_id), self.now))

    def special(self, kind: str = "preparation", job_id: str = "job") -> list[SpecialTaskRow]:
        job = self.job_row(job_id)
        assert job is not None
        return self.run(special_rows.of_job, job.pk, kind)

    def delete(self, task_id: str, job_id: str = "job") -> None:
        self.run(tasks.delete, job_id, task_id, self.now)

    def end_job(self, job_id: str = "job", reason: str | None = None, *, force: bool = False) -> None:
        self.run(lambda tx: jobs.terminate(tx, lookup.open_job(tx, job_id), reason, self.now, force=force))

    def delete_job(self, job_id: str = "job", *, force: bool = False) -> None:
        self.run(lambda tx: jobs.delete(tx, lookup.job(tx, job_id), self.now, force=force))

    # what happened

    def rows(self, sql: str, **params: Any) -> list[tuple[Any, ...]]:
        return self.run(lambda tx: tx.all(Statement(sql, lambda *values: values), **params))

    def events(self, what: str, subject: int) -> list[tuple[str, str | None, str | None]]:
        """(what happened, old state, new state) of one subject, oldest first."""
        return self.rows(
            "SELECT happened, old, new FROM event WHERE what = :what AND subject <= :pk AND :pk <= coalesce(until, subject) ORDER BY pk",
            what=what,
            pk=subject,
        )

    def task_events(self, task_id: str) -> list[str]:
        return [happened for happened, _, _ in self.events("task", self.task(task_id).pk)]

    def check(self) -> None:
        """Raise AssertionError unless every row agrees with every other."""
        self._check_counts()
        self._check_nodes()
        self._check_events()
        self._check_waiting()
        self._check_special()
        self._check_words()
        self._check_schedules()
        self._check_instances()

    def _check_schedules(self) -> None:
        """Never two active jobs, numbers without gaps, nothing left to do unseen, and every pool of a job's own has an owner that lives."""
        several = "SELECT schedule_pk FROM job WHERE schedule_pk IS NOT NULL AND state <> 'completed' GROUP BY 1 HAVING count(*) > 1"
        assert self.rows(f"SELECT id FROM job_schedule WHERE state <> 'deleting' AND pk IN ({several})") == []
        assert self.rows("SELECT id FROM job WHERE schedule_pk IS NOT NULL AND schedule_pk NOT IN (SELECT pk FROM job_schedule)") == []
        for pk, name, state, made, look, ended in self.rows("SELECT pk, id, state, jobs, look, ended FROM job_schedule"):
            found = self.rows("SELECT id, state FROM job WHERE schedule_pk = :pk ORDER BY pk", pk=pk)
            numbers = [int(job.rpartition("-")[2]) for job, _ in found]
            assert numbers == sorted(set(numbers)), name
            assert not numbers or numbers[-1] <= made, name
            open_jobs = [job for job, job_state in found if job_state != "completed"]
            assert ended is not None if state == "completed" else ended is None or state == "deleting", name
            if state == "completed":
                assert look is None, name
            if state in ("terminating", "deleting"):
                assert open_jobs or look is not None, f"{name} is {state} for ever"
        owners = "SELECT auto_pool FROM job WHERE state <> 'completed' AND auto_pool IS NOT NULL"
        shared = "SELECT pool_id FROM job_schedule WHERE state <> 'completed' AND pool_id IS NOT NULL"
        owned = {owner for (owner,) in self.rows(f"{owners} UNION {shared}")}
        for (pool_id,) in self.rows("SELECT id FROM pool WHERE state = 'active'"):
            if AUTO_POOL.search(pool_id):
                assert pool_id in owned or pool_id in self.kept_alive, f"pool {pool_id} is left behind"

    def _check_instances(self) -> None:
        """A multi-instance task has all of its instances or none, each on a node of its own; what ended holds nothing."""
        held = "SELECT pk, state, instances, unready, run, node_pk FROM task WHERE instances > 0"
        for pk, state, instances, unready, run, node_pk in self.rows(held):
            found = self.rows(
                "SELECT number, run, node_pk, state, ready, previous_state FROM instance WHERE task_pk = :pk ORDER BY number", pk=pk
            )
            if state not in ("preparing", "running"):
                assert all(one[3] == "completed" for one in found), f"instances of task {pk}, which is {state}"
                continue
            assert [one[0] for one in found] == list(range(instances)), f"a part of task {pk}"
            assert {one[1] for one in found} == {run}
            assert len({one[2] for one in found}) == instances
            assert (found[0][2], found[0][3]) == (node_pk, state)
            assert unready == sum(not one[4] for one in found)
            assert "completed" not in {one[3] for one in found}
        assert self.rows("SELECT pk FROM instance WHERE task_pk NOT IN (SELECT pk FROM task)") == []

    def _check_counts(self) -> None:
        sums = (
            "sum(ready), count(*) FILTER (WHERE {0}), count(*) FILTER (WHERE {1}), count(*) FILTER (WHERE {2}),"
            " count(*) FILTER (WHERE {3}), count(*) FILTER (WHERE {4}), sum(slots) FILTER (WHERE {0}), sum(slots) FILTER (WHERE {1}),"
            " sum(slots) FILTER (WHERE {2}), sum(slots) FILTER (WHERE {3}), sum(slots) FILTER (WHERE {4})"
        ).format(
            "state = 'active'",
            "state IN ('preparing', 'running')",
            "state = 'completed'",
            "state = 'completed' AND result = 'success'",
            "state = 'completed' AND result = 'failure'",
        )
        for (pk,) in self.rows("SELECT pk FROM job WHERE state <> 'deleting'"):
            (counted,) = self.rows(f"SELECT {sums} FROM task WHERE job_pk = :pk", pk=pk)
            kept = msgspec.structs.astuple(self.run(job_rows.counts, pk))[: len(counted)]
            assert tuple(number or 0 for number in counted) == kept, f"counters of job {pk}"
            (slots,) = self.rows("SELECT ready_slots FROM job_counts WHERE job_pk = :pk", pk=pk)
            assert slots == self.rows("SELECT coalesce(sum(slots), 0) FROM task WHERE job_pk = :pk AND ready = 1", pk=pk)[0], f"job {pk}"
        known = "open, counts.pool_key, counts.priority, counts.max_parallel, counts.preemptible, prepares"
        said = "job.state = 'active', job.pool_key, job.priority, job.max_parallel, job.preemptible, preparation_id IS NOT NULL"
        both = f"SELECT job.pk, {known}, {said} FROM job JOIN job_counts AS counts ON job_pk = job.pk"
        for pk, *values in self.rows(both):
            assert values[:6] == values[6:], f"what the counters of job {pk} know of it"
        smaller = (
            "SELECT job_pk FROM task JOIN job_counts USING (job_pk) LEFT JOIN pool ON lower(pool.id) = pool_key"
            " WHERE task.ready = 1 AND slots < smallest AND exclusive = 0"
            " AND CASE WHEN inter_node = 1 AND slots_per_node = 1 THEN instances > 0 OR slots = 1 ELSE instances = 0 END"
        )
        assert self.rows(smaller) == []

    def _check_nodes(self) -> None:
        held = (
            "SELECT coalesce(sum(held), 0), count(*) FROM (SELECT task.held FROM task"
            " WHERE node_pk = :pk AND state IN ('preparing', 'running')"
            " UNION ALL SELECT task.held FROM instance JOIN task ON task.pk = task_pk"
            " WHERE instance.node_pk = :pk AND instance.state <> 'completed' AND instance.number > 0) AS held"
        )
        for node in self.nodes():
            ((slots, running),) = self.rows(held, pk=node.pk)
            assert (node.slots_used, node.tasks_running) == (slots, running), f"node {node.pk}"
            assert 0 <= node.slots_used <= node.slots
            if node.state in (NodeState.IDLE, NodeState.RUNNING):
                assert (node.state == NodeState.RUNNING) == (running > 0), f"node {node.pk} is {node.state} with {running} tasks"
        homeless = "SELECT id FROM task WHERE state IN ('preparing', 'running') AND node_pk NOT IN (SELECT pk FROM node)"
        assert self.rows(homeless) == []

    def _check_events(self) -> None:
        """The log of every row leads, edge by legal edge, to the state that the row is in."""
        for table in TABLES:
            if table.name in ("allocation", "special task"):
                continue
            legal = _edges(table)
            rows = "instance" if table.name == "subtask" else table.name
            for pk, state in self.rows(f"SELECT pk, state FROM {rows}"):
                at: str | None = None
                for happened, old, new in self.events(table.name, pk):
                    if happened in _NO_CHANGE:
                        continue
                    assert old == at, f"{table.name} {pk}: {happened} from {old}, was {at}"
                    known = (old, happened, new) in legal or happened == "added" or (happened, new) == ("joined", "idle")
                    assert known, f"{table.name} {pk}: {old} {happened} {new}"
                    at = new
                assert at == state, f"{table.name} {pk} is {state}, its events say {at}"
        for pk, kind, state in self.rows("SELECT pk, kind, state FROM special_task"):
            at = None
            for happened, old, new in self.events(kind, pk):
                assert old == at, f"{kind} task {pk}: {happened} from {old}, was {at}"
                known = new is None or at is None or (old, happened, new) in _edges(SPECIAL_TASK)
                assert known, f"{kind} task {pk}: {old} {happened} {new}"
                at = new or at
            assert at == state, f"{kind} task {pk} is {state}, its events say {at}"

    def _check_words(self) -> None:
        """The log speaks of things that there are, in plain words; whoever is woken is a loop, a node, or the scheduler of a pool."""
        for what, happened in self.rows("SELECT DISTINCT what, happened FROM event"):
            assert what in _SUBJECTS, f"{what} {happened}"
            assert _PLAIN.fullmatch(happened), f"{what} {happened}"
        for topic in self.topics:
            assert _TOPIC.fullmatch(topic), f"nobody listens to {topic}"

    def _check_waiting(self) -> None:
        """`unmet` is the number of rows that say so; `ready` is active with nothing unmet."""
        waits = "SELECT (SELECT count(*) FROM dependency WHERE child = :pk) + (SELECT count(*) FROM dependency_range WHERE child = :pk)"
        for pk, state, ready, unmet in self.rows("SELECT pk, state, ready, unmet FROM task"):
            assert bool(ready) == (state == TaskState.ACTIVE and unmet == 0), f"task {pk}"
            assert self.rows(waits, pk=pk) == [(unmet,)], f"task {pk}"

    def _check_special(self) -> None:
        """Tasks prepare beside a preparation task that runs, run behind one that succeeded; nothing of an ended job runs on."""
        assert self.rows("SELECT pk FROM special_task WHERE state = 'running' AND node_pk NOT IN (SELECT pk FROM node)") == []
        ended = "SELECT special_task.pk FROM special_task JOIN job ON job.pk = job_pk"
        assert self.rows(f"{ended} WHERE job.state = 'completed' AND special_task.state = 'running'") == []
        assert self.rows(f"{ended} WHERE kind = 'release' AND job.state NOT IN ('terminating', 'completed', 'deleting')") == []
        assert self.rows("SELECT special_task.pk FROM special_task WHERE job_pk NOT IN (SELECT pk FROM job) AND kind <> 'start'") == []
        assert self.rows("SELECT pk FROM special_task WHERE kind = 'start' AND node_pk NOT IN (SELECT pk FROM node)") == []
        on_node = (
            "SELECT task.pk, task.state, prep.state, prep.result, job.body FROM task JOIN job ON job.pk = task.job_pk"
            " LEFT JOIN special_task AS prep ON prep.job_pk = job.pk AND prep.kind = 'preparation' AND prep.node_pk = task.node_pk"
            " WHERE task.state IN ('preparing', 'running') AND job.preparation_id IS NOT NULL AND job.state IN ('active', 'disabling')"
        )
        for pk, state, preparation, result, body in self.rows(on_node):
            waits = msgspec.json.decode(body)["jobPreparationTask"]["waitForSuccess"]
            if state == TaskState.PREPARING:
                assert waits, f"task {pk} waits for what it need not"
                assert preparation == "running", f"task {pk} waits for nothing"
            else:
                assert preparation is not None, f"task {pk} runs on a node that was never prepared"
                assert result == "success" or not waits, f"task {pk} runs on a node that is not prepared"
        each = "CASE WHEN instances > 0 THEN 1 ELSE task.slots END"
        whole = f"SELECT task.pk, held, {each}, exclusive, node.slots FROM task JOIN node ON node.pk = node_pk"
        for pk, held, slots, exclusive, all_slots in self.rows(f"{whole} WHERE task.state IN ('preparing', 'running')"):
            assert held == (all_slots if exclusive else slots), f"task {pk} holds {held}"


def refused(outcome: int | BatchError) -> str | None:
    """Code of a refusal."""
    return outcome.code if isinstance(outcome, BatchError) else None
