"""What a server tells of itself: metrics for Prometheus, and whether it should be asked anything."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as parsed
from tests.conftest import Server, SmallDisk, wait_for
from tests.several.several_servers import client, idle, make_pool

from batchyard.engine.loops import Loops
from batchyard.measures import BOUNDS, Durations
from batchyard.server import metrics
from batchyard.server.door import Answers
from batchyard.server.metrics import MOST_ACCOUNTS, MOST_POOLS, OTHERS, Metrics, Open
from batchyard.store.db import MEMORY, Database, open_store
from batchyard.store.overview import PoolNodes, PoolWork

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {(one.name, frozenset(one.labels.items())): one.value for family in parsed(text) for one in family.samples}


def at(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


@pytest.fixture
def scraped() -> Iterator[tuple[Server, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server("--metrics", str(port), nodes=1)
    yield server, f"http://127.0.0.1:{port}"
    server.stop()


def test_what_happened_is_counted_and_what_goes_on_is_shown(scraped: tuple[Server, str]) -> None:
    server, url = scraped
    with client(server) as batch, httpx.Client(base_url=url) as ask:
        make_pool(batch, "Pool", 1)
        idle(batch, "Pool", 1)
        batch.post("jobs", body={"id": "job-with-a-name", "poolInfo": {"poolId": "pool"}})
        for name, command in (("one", "true"), ("two", "false"), ("long", "sleep 1000")):
            batch.post("jobs", "job-with-a-name", "tasks", body={"id": name, "commandLine": command})
        account = server.account

        def running() -> Samples | None:
            found = samples(ask.get("/metrics").text)
            done = at(found, "batchyard_events_total", account=account, object="task", event="ended") == 2
            return found if done and at(found, "batchyard_tasks", account=account, pool="pool", state="running") == 1 else None

        found = wait_for(running, "the two ends")
        assert at(found, "batchyard_nodes", account=account, pool="pool", state="running") == 1
        assert at(found, "batchyard_jobs_open", account=account, pool="pool") == 1
        assert at(found, "batchyard_task_slots_used", account=account, pool="pool") == 1
        assert at(found, "batchyard_events_total", account=account, object="task", event="started") == 3
        assert at(found, "batchyard_account_leads", account=account) == at(found, "batchyard_ready") == 1
        assert at(found, "batchyard_http_requests_total", service="batch", code="201") >= 2
        assert at(found, "batchyard_http_requests_total", service="agent", code="200") >= 1
        assert at(found, "batchyard_http_request_duration_seconds_bucket", service="batch", le="+Inf") >= 4
        assert at(found, "batchyard_store_units_total", account=account) > 0
        assert at(found, "batchyard_loop_last_success_timestamp_seconds", account=account, loop="scheduler") > 0
        assert at(found, "batchyard_loop_round_duration_seconds_count", account="", loop="worlds") > 0
        assert at(found, "process_resident_memory_bytes") > 0
        assert not [text for text in ("job-with-a-name", "long", "two") if f'"{text}"' in ask.get("/metrics").text]
        answer = ask.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert "batchyard_tasks" in {family.name for family in open_metrics(answer.text)}
        assert (ask.get("/jobs").status_code, ask.post("/metrics").status_code) == (404, 405)
        assert httpx.get(f"{server.endpoint}/metrics").status_code != 200, "clients' address does not show them"


async def test_accounts_and_pools_beyond_the_bounds_stand_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = open_store(MEMORY)
    try:
        pools = [PoolWork(f"pool{n:04}", 1, 2, 3, 4) for n in range(MOST_POOLS + 50)]
        nodes = [PoolNodes("pool0249", "idle", 7, 7, 0)]

        async def looked_at(account: Open) -> bool:
            account.work, account.nodes = pools, nodes
            return True

        monkeypatch.setattr(metrics, "_looked_at", looked_at)
        accounts = [Open(f"account{n:04}", db, Loops(), leads=True) for n in range(MOST_ACCOUNTS + 5)]
        found = samples(await _scrape(tmp_path, accounts))
    finally:
        db.close()
    ready = {labels: value for (name, labels), value in found.items() if name == "batchyard_tasks_ready"}
    assert len(ready) == (MOST_ACCOUNTS + 1) * (MOST_POOLS + 1)
    assert at(found, "batchyard_tasks_ready", account="account0000", pool=OTHERS) == 51 * 2 - 2
    assert sum(ready.values()) == (MOST_ACCOUNTS + 5) * (MOST_POOLS + 50) * 2
    assert at(found, "batchyard_nodes", account="account0000", pool="pool0249", state="idle") == 7, "those with nodes come first"


async def test_an_account_whose_database_is_away_is_left_out(tmp_path: Path) -> None:
    here, away = open_store(MEMORY), open_store(MEMORY)
    away.close()
    try:
        text = await _scrape(tmp_path, [Open("here", here, Loops(), leads=True), Open("away", away, Loops(), leads=True)])
    finally:
        here.close()
    assert 'batchyard_account_leads{account="here"} 1.0' in text
    assert '"away"' not in text


async def _scrape(directory: Path, accounts: list[Open], answers: Answers | None = None) -> str:
    async def ready() -> str | None:
        return None

    app = Metrics(directory, Loops(), answers or Answers(), lambda: accounts, ready)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as ask:
        return (await ask.get("/metrics")).text


def test_durations_fall_into_classes() -> None:
    found, others = Durations(), Durations()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, BOUNDS[-1], BOUNDS[-1] + 1):
        found.add(seconds)
    others.add(0.3)
    found.include(others)
    assert (found.upto[0], found.upto[1], found.upto[-2], found.upto[-1]) == (2, 3, 5, 6)
    assert found.seconds == pytest.approx(2 * BOUNDS[0] + 2 * BOUNDS[-1] + 1.3)


async def test_a_loop_that_fails_or_hangs_is_named() -> None:
    loops, hangs, wake = Loops(), asyncio.Event(), asyncio.Event()
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds <= 2:
            raise OSError(errno.EIO, "no luck")
        if rounds == 4:
            await hangs.wait()

    async def until(look: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not look():
                wake.set()
                await asyncio.sleep(0)

    running = asyncio.create_task(loops.every("work", 1000, work, wake, stuck_s=0.0))
    await until(lambda: rounds >= 1 and loops.pulses[0].failures >= 1)
    await until(lambda: loops.why_not == "the loop work fails")
    await until(lambda: rounds == 3 and loops.pulses[0].last > 0)
    assert loops.pulses[0].failures == 2
    await until(lambda: loops.why_not == "the loop work is stuck for 0 s")
    hangs.set()
    await until(lambda: rounds > 5)
    running.cancel()


def test_a_server_whose_disk_is_full_says_so_and_goes_on(small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(64 << 20)
    server = Server(nodes=0, below=disk.path)
    try:
        with httpx.Client(base_url=server.endpoint) as ask:
            wait_for(lambda: ask.get("/readyz").status_code == 200, "it to be ready")
            disk.fill(leave=1 << 20)
            answer = wait_for(lambda: found if (found := ask.get("/readyz")).status_code == 503 else None, "it to notice")
            assert "bytes of free space left" in answer.text
            assert ask.get("/healthz").text == "ok"
            disk.relieve()
            wait_for(lambda: ask.get("/readyz").status_code == 200, "it to go on")
    finally:
        server.stop()


def test_what_was_undone_is_not_counted() -> None:
    db: Database = open_store(MEMORY)
    try:

        def logs(tx: object, fail: bool) -> None:
            tx.log(1, "task", 5, "added", until=14)  # type: ignore[attr-defined]
            if fail:
                raise ValueError("undone")

        db.call(logs, False)
        with pytest.raises(ValueError, match="undone"):
            db.call(logs, True)
        assert dict(db.happened) == {("task", "added"): 10}
        assert (db.units, db.commits.upto[-1]) == (1, 2)
    finally:
        db.close()


def test_metrics_by_plain_http_stay_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="can be reached by others"):
        Server("--metrics", "0.0.0.0:9", nodes=0)


CONTRIB = Path(__file__).parents[2] / "contrib"


async def test_the_dashboard_and_the_alerts_name_only_what_there_is(tmp_path: Path) -> None:
    db = open_store(MEMORY)
    loops, answers = Loops(), Answers()
    loops.every("work", 1.0, asyncio.Event().wait).close()  # type: ignore[arg-type]
    answers.add("batch", 200, 0.1)
    try:
        text = await _scrape(tmp_path, [Open("a", db, loops, leads=True)], answers)
    finally:
        db.close()
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    known |= {f"{name}_{suffix}" for name in known for suffix in ("bucket", "count", "sum")}
    for path in ("grafana-dashboard.json", "prometheus-alerts.yml"):
        named = set(re.findall(r"\b(?:batchyard|process)_[a-z_]+\b", (CONTRIB / path).read_text()))
        assert named
        assert named <= known, named - known
    assert json.loads((CONTRIB / "grafana-dashboard.json").read_text())["panels"]
    rules = yaml.safe_load((CONTRIB / "prometheus-alerts.yml").read_text())["groups"][0]["rules"]
    assert all(rule["expr"] and rule["annotations"]["summary"] for rule in rules)
