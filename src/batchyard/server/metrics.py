"""What Prometheus asks of a server, on a listener of its own: counters since the start, and what the accounts do at the moment.

No label has a value for every job or task, and those that clients choose are bounded: accounts beyond MOST_ACCOUNTS stand together
under OTHERS, and so do pools beyond MOST_POOLS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from batchyard import __version__
from batchyard.disk import space
from batchyard.engine.loops import Loops
from batchyard.measures import BOUNDS, Durations
from batchyard.server.door import Answers
from batchyard.server.worlds import Worlds
from batchyard.store import overview
from batchyard.store.db import Database, StoreUnavailable
from batchyard.store.overview import PoolNodes, PoolWork

PATH = "/metrics"
OTHERS = "_others"
"""No account and no pool has such a name."""
MOST_ACCOUNTS, MOST_POOLS = 100, 200
_LOOK_S = 5.0
_GAUGES = {
    "tasks": ("Tasks that are not completed.", "account", "pool", "state"),
    "tasks_ready": ("Those that wait for nothing but a node.", "account", "pool"),
    "jobs_open": ("Jobs whose tasks may start.", "account", "pool"),
    "nodes": ("Compute nodes.", "account", "pool", "state"),
    "task_slots": ("Task slots of all nodes.", "account", "pool"),
    "task_slots_used": ("Those that run a task.", "account", "pool"),
    "account_leads": ("1 where this server does the background work of the account.", "account"),
}
"""What is shown of accounts as they are: what a gauge says, and its labels."""


@dataclass
class Open:
    """An account that is open; `work` and `nodes` are what its database said for this scrape."""

    name: str
    db: Database
    loops: Loops
    leads: bool
    work: Sequence[PoolWork] = ()
    nodes: Sequence[PoolNodes] = ()


def opened(worlds: Worlds) -> list[Open]:
    """The accounts that are open, the default one first."""
    found = sorted(worlds.open_worlds(), key=lambda pair: (pair[0].name != worlds.default, pair[0].name))
    return [Open(row.name, world.db, world.loops, world.leads) for row, world in found]


class Metrics:
    """The ASGI application of the listener; `opened` names the accounts that are open."""

    def __init__(
        self,
        directory: Path,
        loops: Loops,
        answers: Answers,
        opened: Callable[[], Iterable[Open]],
        ready: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._directory, self._loops, self._answers, self._opened, self._ready = directory, loops, answers, opened, ready
        self._process = ProcessCollector(registry=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a scrape."""
        if scope["type"] == "http":
            await (await self._answer(scope))(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response:
        if scope["path"] != PATH:
            return PlainTextResponse(f"The metrics are at {PATH}.\n", 404)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("", 405, {"allow": "GET, HEAD"})
        reason = await self._ready()
        found = [*self._opened()]
        accounts = [account for account, told in zip(found, await asyncio.gather(*map(_looked_at, found)), strict=True) if told]
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._process)
        registry.register(_Snapshot(lambda: self._measured(accounts, reason is None)))
        accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
        encode, content_type = choose_encoder(accept)
        return Response(await asyncio.to_thread(encode, registry), 200, {"content-type": content_type})

    def _measured(self, accounts: list[Open], ready: bool) -> Iterator[Metric]:
        yield InfoMetricFamily("batchyard_build", "The release of this server.", {"version": __version__})
        yield GaugeMetricFamily("batchyard_ready", "1 while requests are answered as they should be.", int(ready))
        yield from _disk(self._directory)
        yield from _requests(self._answers)
        kept = {account.name for account in accounts[:MOST_ACCOUNTS]}

        def name(account: Open) -> str:
            return account.name if account.name in kept else OTHERS

        yield from _loops([("", self._loops), *((name(account), account.loops) for account in accounts)])
        yield from _store([(name(account), account.db) for account in accounts])
        yield from _events([(name(account), account.db.happened) for account in accounts])
        yield from _accounts([(name(account), account) for account in accounts])


class _Snapshot(Collector):
    """What was gathered for one scrape."""

    def __init__(self, measured: Callable[[], Iterator[Metric]]) -> None:
        self._measured = measured

    def collect(self) -> Iterable[Metric]:
        """All of it."""
        return self._measured()


async def _looked_at(account: Open) -> bool:
    """Whether its database said what the account does; one that does not answer is left out, and the rest is told."""
    with contextlib.suppress(StoreUnavailable, TimeoutError):
        async with asyncio.timeout(_LOOK_S):
            account.work, account.nodes = await account.db.read(overview.account)
            return True
    return False


def _disk(directory: Path) -> Iterator[Metric]:
    found = space.sample(directory)
    yield GaugeMetricFamily("batchyard_disk_bytes", "Size of the file system that holds the server's directory.", found.bytes)
    yield GaugeMetricFamily("batchyard_disk_free_bytes", "What is free of it.", found.free_bytes)


def _requests(answers: Answers) -> Iterator[Metric]:
    counts = CounterMetricFamily("batchyard_http_requests", "Requests that were answered.", labels=("service", "code"))
    for (service, code), number in sorted(dict(answers.codes).items()):
        counts.add_metric((service, str(code)), number)
    yield counts
    times = HistogramMetricFamily(
        "batchyard_http_request_duration_seconds", "From the head of a request to the end of its answer.", labels=("service",)
    )
    for service, durations in sorted(dict(answers.durations).items()):
        times.add_metric((service,), _buckets(durations), durations.seconds)
    yield times


def _loops(owners: Iterable[tuple[str, Loops]]) -> Iterator[Metric]:
    labels = ("account", "loop")
    rounds = SummaryMetricFamily("batchyard_loop_round_duration_seconds", "Rounds of the background work.", labels=labels)
    failures = CounterMetricFamily("batchyard_loop_failures", "Rounds that failed.", labels=labels)
    last = GaugeMetricFamily("batchyard_loop_last_success_timestamp_seconds", "When a round ended well.", labels=labels)
    found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0, 0, 0.0])
    for account, loops in owners:
        for pulse in loops.pulses:
            sums = found[account, pulse.name]
            sums[0] += pulse.rounds.upto[-1]
            sums[1] += pulse.rounds.seconds
            sums[2] += pulse.failures
            sums[3] = max(sums[3], pulse.last)
    for key, (count, seconds, failed, ended) in found.items():
        rounds.add_metric(key, int(count), seconds)
        failures.add_metric(key, failed)
        last.add_metric(key, ended)
    yield from (rounds, failures, last)


def _store(databases: Iterable[tuple[str, Database]]) -> Iterator[Metric]:
    commits = HistogramMetricFamily("batchyard_store_commit_duration_seconds", "Group commits.", labels=("account",))
    units = CounterMetricFamily("batchyard_store_units", "Units of work that were committed.", labels=("account",))
    failures = CounterMetricFamily("batchyard_store_failed_commits", "Commits that failed.", labels=("account",))
    waiting = GaugeMetricFamily("batchyard_store_waiting_units", "Units of work that wait for the writer.", labels=("account",))
    durations: dict[str, Durations] = {}
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for account, db in databases:
        durations.setdefault(account, Durations()).include(db.commits)
        sums[account] = [sum(pair) for pair in zip(sums[account], (db.units, db.failures, db.waiting), strict=True)]
    for account, found in durations.items():
        commits.add_metric((account,), _buckets(found), found.seconds)
        for family, value in zip((units, failures, waiting), sums[account], strict=True):
            family.add_metric((account,), value)  # type: ignore[attr-defined]
    yield from (commits, units, failures, waiting)


def _events(accounts: Iterable[tuple[str, Mapping[tuple[str, str], int]]]) -> Iterator[Metric]:
    events = CounterMetricFamily("batchyard_events", "Events of the log, by what they happened to.", labels=("account", "object", "event"))
    sums: Counter[tuple[str, str, str]] = Counter()
    for account, happened in accounts:
        for (what, event), number in dict(happened).items():
            sums[account, what, event] += number
    for key, number in sorted(sums.items()):
        events.add_metric(key, number)
    yield events


def _accounts(accounts: Iterable[tuple[str, Open]]) -> Iterator[Metric]:
    values: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in _GAUGES}
    for name, account in accounts:
        named = _pools(account)
        for work in account.work:
            key = (name, work.pool_key if work.pool_key in named else OTHERS)
            values["tasks"][*key, "active"] += work.active
            values["tasks"][*key, "running"] += work.running
            values["tasks_ready"][key] += work.ready
            values["jobs_open"][key] += work.open_jobs
        for found in account.nodes:
            key = (name, found.pool_key if found.pool_key in named else OTHERS)
            values["nodes"][*key, found.state] += found.nodes
            values["task_slots"][key] += found.slots
            values["task_slots_used"][key] += found.slots_used
        values["account_leads"][(name,)] += int(account.leads)
    for name, (help_, *labels) in _GAUGES.items():
        family = GaugeMetricFamily(f"batchyard_{name}", help_, labels=labels)
        for labelled, value in values[name].items():
            family.add_metric(labelled, value)
        yield family


def _pools(account: Open) -> set[str]:
    """The pools that have a label of their own: those with nodes come first."""
    keys = dict.fromkeys([*(found.pool_key for found in account.nodes), *(work.pool_key for work in account.work)])
    return set(list(keys)[:MOST_POOLS])


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    return [(str(bound), number) for bound, number in zip((*BOUNDS, "+Inf"), durations.upto, strict=True)]
