"""What clients ask of servers that are killed all the time, and who kills them: whatever was acknowledged is written down."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import AzureError, HttpResponseError
from several_servers import Cluster
from tests.conftest import Server

import postgres

T = TypeVar("T")
JOB = "chaos"
PER_CALL = 50
EVERY_FAILING, EVERY_LONG, CHAIN = 7, 40, 10
"""Of so many tasks one fails when it runs first, and one never ends by itself; those of a chain wait for one another."""
PATIENCE_S = 120.0


class Client:
    """The service's SDK, at whichever server answers; what is asked again may have been done before."""

    def __init__(self, servers: list[Server], stop: threading.Event) -> None:
        self._account = AzureNamedKeyCredential(servers[0].account, servers[0].key)
        self._servers, self._stop, self._at = servers, stop, 0

    def ask(self, call: Callable[[BatchClient], T]) -> T:
        """The first answer. Raises what is no passing error."""
        while True:
            server = self._servers[self._at % len(self._servers)]
            try:
                with BatchClient(server.endpoint, self._account, retry_total=0) as batch:
                    return call(batch)
            except AzureError as error:
                if isinstance(error, HttpResponseError) and error.status_code is not None and error.status_code < 500:
                    raise
                self._at += 1
                if self._stop.wait(0.1):
                    raise


class Work:
    """Tasks with retries and dependencies, some of which clients end; and a job that is patched meanwhile."""

    def __init__(self, cluster: Cluster, tasks: int, marks: Path) -> None:
        self._cluster, self._tasks, self._marks = cluster, tasks, marks
        self._stop = threading.Event()
        self.added: set[str] = set()
        """Acknowledged; the same below."""
        self.ended: set[str] = set()
        self.patched = 0
        self.asked = 0
        """The last value that a patch asked for, acknowledged or not."""
        self.errors: list[BaseException] = []
        self.share = 0.0
        """How much of the tasks may be added by now: so that there is work until the last kill."""
        self._threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in (self._add, self._end, self._patch)]

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(PATIENCE_S)

    @property
    def asked_for(self) -> bool:
        """True once every task is added and each that never ends was told to."""
        return not any(thread.is_alive() for thread in self._threads[:2])

    def _guarded(self, work: Callable[[Client], None]) -> None:
        try:
            work(Client(self._cluster.servers, self._stop))
        except BaseException as error:
            if not self._stop.is_set():
                self.errors.append(error)

    @staticmethod
    def behind(n: int) -> list[str]:
        """What a task waits for."""
        return [str(n - 1)] if n % CHAIN and (n - 1) % EVERY_LONG != 1 else []

    def _task(self, n: int) -> models.BatchTaskCreateOptions:
        command = "bash -c 'sleep 0.1'"
        if n % EVERY_LONG == 1:
            command = "sleep 100000"
        elif n % EVERY_FAILING == 0:
            mark = f"{self._marks}/$AZ_BATCH_TASK_ID"
            command = f"bash -c 'test -e {mark} || {{ touch {mark}; exit 3; }}'"
        return models.BatchTaskCreateOptions(
            id=str(n),
            command_line=command,
            constraints=models.BatchTaskConstraints(max_task_retry_count=5),
            depends_on=models.BatchTaskDependencies(task_ids=self.behind(n)),
        )

    def _add(self, client: Client) -> None:
        for at in range(0, self._tasks, PER_CALL):
            while at > self._tasks * self.share:
                if self._stop.wait(0.05):
                    return
            tasks = [self._task(n) for n in range(at, min(at + PER_CALL, self._tasks))]
            answer = client.ask(lambda batch, tasks=tasks: batch.create_task_collection(JOB, models.BatchTaskGroup(task_values=tasks)))
            for result in answer.result_values or ():
                assert result.error is None or result.error.code == "TaskExists", result
                self.added.add(result.task_id)

    def _end(self, client: Client) -> None:
        for n in range(1, self._tasks, EVERY_LONG):
            while str(n) not in self.added:
                if self._stop.wait(0.05):
                    return
            try:
                client.ask(lambda batch, n=n: batch.terminate_task(JOB, str(n)))
            except HttpResponseError as error:
                if error.error is None or error.error.code != "TaskCompleted":  # the answer of the first time was lost
                    raise
            self.ended.add(str(n))

    def _patch(self, client: Client) -> None:
        while not self._stop.wait(0.2):
            self.asked += 1
            pairs = [models.BatchMetadataItem(name="n", value=str(self.asked))]
            client.ask(lambda batch, pairs=pairs: batch.update_job(JOB, models.BatchJobUpdateOptions(metadata=pairs)))
            self.patched = self.asked


class Killer:
    """Kills what it started, and starts it again."""

    def __init__(self, cluster: Cluster, database: postgres.Cluster, seed: int) -> None:
        self._cluster, self._database, self._random = cluster, database, random.Random(seed)
        self.killed: list[str] = []
        self._next: list[str] = []

    def kill(self) -> None:
        """One of the servers, the one that does the background work most often, an agent, or PostgreSQL."""
        if not self._next:
            self._next = ["holder"] * 4 + ["server"] + ["agent"] * 2 + ["database"] * 3
            self._random.shuffle(self._next)
        what = self._next.pop()
        self.killed.append(what)
        if what == "agent":
            agents = [pid for server in self._cluster.servers for pid in server.agents().values()]
            if agents:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(sorted(agents)), signal.SIGKILL)
        elif what == "database":
            self._database.kill()
            self._database.start()
        else:
            server = self._holder() if what == "holder" else None
            self._again(server or self._random.choice(self._cluster.servers))

    def _holder(self) -> Server | None:
        rows = self._cluster.ask("SELECT holder FROM lease")
        return next((server for server in self._cluster.servers if rows and self._cluster.id(server) == rows[0][0]), None)

    def _again(self, server: Server) -> None:
        """Whoever takes over its work does so before it is back."""
        server.kill()
        self._cluster.holder(but=server)
        server.start()


def counts(cluster: Cluster) -> dict[str, int]:
    """Tasks by state, asked of the database itself."""
    return {str(state): int(n) for state, n in cluster.ask("SELECT state, count(*) FROM task GROUP BY state")}


def longest_gap(cluster: Cluster) -> float:
    """The longest time in which no task was started although one could be, in seconds."""
    starts = [at for (at,) in cluster.ask("SELECT at FROM event WHERE what = 'task' AND new = 'running' ORDER BY at")]
    ends = dict(cluster.ask("SELECT subject, max(at) FROM event WHERE what = 'task' AND new = 'completed' GROUP BY subject"))
    first = dict(cluster.ask("SELECT subject, min(at) FROM event WHERE what = 'task' AND new = 'running' GROUP BY subject"))
    tasks = {name: (pk, created) for name, pk, created in cluster.ask("SELECT id, pk, created FROM task")}
    ready = []
    for name, (pk, created) in tasks.items():
        behind = Work.behind(int(name))
        ready.append((first.get(pk, 0), max([created, *(ends[tasks[each][0]] for each in behind)])))
    ready.sort()
    longest, waiting = 0, starts[-1]
    for before, at in reversed([*pairwise(starts)]):
        while ready and ready[-1][0] >= at:
            waiting = min(waiting, ready.pop()[1])
        longest = max(longest, at - max(before, waiting))
    return longest / 1e6


def story(cluster: Cluster) -> Iterator[str]:
    """What there is when something went wrong."""
    yield f"tasks: {counts(cluster)}"
    for table, columns in (
        ("node", "id, state, session, tasks_running, last_seen, action, launch_error, errors"),
        ("lease", "*"),
        ("job_counts", "*"),
        ("special_task", "*"),
        ("task", "id, state, run, node_pk, ready, unmet"),
    ):
        where = " WHERE state <> 'completed' ORDER BY pk LIMIT 20" if table == "task" else ""
        yield f"{table}: {cluster.ask(f'SELECT {columns} FROM {table}{where}')}"
    for server in cluster.servers:
        yield f"{server.endpoint}: {server.process.poll()} {server.agents()}\n{server.log()[-6000:]}"
