"""Hot statements go by their index; none walks over all tasks."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from types import ModuleType

import pytest

from batchyard.drivers.sqlite import migrate
from batchyard.rules import odata
from batchyard.store import (
    applications,
    autoscale,
    due,
    events,
    explain,
    instances,
    jobs,
    leases,
    leftovers,
    nodes,
    overview,
    pools,
    ready,
    schedules,
    special_tasks,
    task_pages,
    tasks,
    tx,
    usage,
)
from batchyard.store.migrate import WORLD
from batchyard.store.reader import Change, Statement
from batchyard.store.tx import guarded_sql

MODULES = (
    *(applications, autoscale, due, events, explain, instances, jobs, leases, leftovers, nodes, overview, pools, ready, schedules),
    *(special_tasks, task_pages, tasks, tx, usage),
)
WALKED = {  # few rows, and read as a whole
    "applications._COUNT": {"application"},
    "applications._BLOBS": {"application_package"},
    "due._AT_ONCE": {"pool", "node", "job"},
    "due._OLDEST_OPEN": {"task"},  # the open ones: see HOT
    "overview._WORK": {"pool"},
    "overview._NODES": {"node"},
    "schedules._OPEN": {"job_schedule", "open"},
    "jobs._PAGE": set(),
    "jobs._POOLS_WITH_DEMAND": {"job_counts"},
    "jobs._CHANGING": {"job"},
    "nodes._ALL": {"node"},
    "nodes._OF_SERVER": {"node"},
    "nodes._SILENT": {"node"},
    "nodes._AWAITED": {"node"},
    "nodes._BY_START": {"node"},
    "pools._ALL": {"pool"},
    "pools._SCALED": {"pool"},
    "pools._PAGE": set(),
    "tasks._NODES_OF": {"node"},
    "ready._SIZES": {"size"},
    "ready._GANG_SIZES": {"size"},
    "jobs._SIZES": {"size"},
    "jobs._HIGHEST": {"size", "highest"},
    "explain._BLOCKERS": {"edge"},
    "explain._OTHERS": {"node", "pool"},
    "jobs._ACTIVE": {"job", "active"},
    "usage._FIRST": {"firsts"},
    "pools._COUNT": {"pool"},
    "nodes._COUNTS": {"shown"},
}
HOT = {
    "due._OLDEST_OPEN": ["task_ready", "task_blocked", "task_running"],
    "overview._WORK": ["job_of_pool"],
    "ready._NEXT_KIND": ["task_ready"],
    "ready._GANG_SIZES": ["task_ready"],
    "ready._GANGS_OF_SIZE": ["task_ready"],
    "ready._OF_SIZE": ["task_ready"],
    "ready._SIZES": ["task_ready"],
    "ready._MANAGER": ["task_manager"],
    "tasks._ANY_BLOCKED": ["task_blocked"],
    "jobs._HIGHEST": ["job_by_size_and_age"],
    "jobs._SIZES": ["job_by_size_and_age"],
    "jobs._FIRST": ["job_by_size_and_age"],
    "pools._ROOM_BY_ID": ["pool_by_id", "node_by_id"],
    "pools._ROOM_BY_PK": ["node_by_id"],
    "jobs._IN_TURN": ["job_by_size"],
    "jobs._BY_AGE": ["job_by_size_and_age"],
    "jobs._ABLE": ["job_by_size"],
    "jobs._BARRED": ["job_barred"],
    "jobs._RESTARTED": ["job_restarted"],
    "jobs._LOWEST_YIELDING": ["job_yielding"],
    "jobs._HOLDING": ["task_holding"],
    "ready._HOLDING": ["task_holding"],
    "jobs._POOLS_WITH_DEMAND": ["job_by_size_and_age"],
    "tasks._ON_NODE": ["task_on_node"],
    "tasks._ATTEMPTS": ["task_on_node"],
    "tasks._RUNNING_OF_JOB": ["task_running"],
    "tasks._PAGE": ["task_in_order"],
    "tasks._PAGE_OF_VIEWS": ["task_in_order"],
    "tasks._PKS_OF_JOB": ["task_in_order"],
    "tasks._BY_ID": ["task_by_id"],
    "tasks._VIEW_BY_ID": ["task_by_id"],
    "tasks._IDS_TAKEN": ["task_by_id"],
    "tasks._SATISFIED": ["task_by_id"],
    "tasks._SATISFIED_NUMBERS": ["task_by_number"],
    "tasks._NUMBER_MET": ["task_by_number"],
    "tasks._CLOSE_RANGES": ["dependency_range_by_low"],
    "tasks._REOPEN_RANGES": ["dependency_range_by_low"],
    "tasks._TAKE_RANGES": ["dependency_range_by_low"],
    "tasks._DROP_EDGES": ["dependency_by_child"],
    "tasks._DROP_RANGES": ["dependency_range_by_child"],
    "tasks._TAKE_EDGES": ["sqlite_autoindex_dependency_1"],
    "jobs._BY_ID": ["job_by_id"],
    "jobs._OVERDUE": ["job_by_deadline"],
    "jobs._CHANGING": ["job_changing"],
    "jobs._PURGE_EVENTS": ["event_by_time"],
    "events._LAST": ["event_by_subject"],
    "nodes._FREE": ["node_by_id"],
    "nodes._OF_POOL": ["node_by_id"],
    "nodes._NUMBERS": ["node_by_id"],
    "nodes._REMOVALS": ["removal_by_node"],
    "leftovers._TAKE": ["sqlite_autoindex_leftover_1"],
    "leftovers._FORGET": ["leftover_by_node"],
    "pools._BY_ID": ["pool_by_id"],
    "jobs._ACTIVE": ["job_of_pool"],
    "usage._CORES": ["node_usage_by_release"],
    "usage._END": ["node_usage_open"],
    "usage._OVERLAPPING": ["node_usage_by_release"],
    "usage._CORE_TIME": ["node_usage_by_pool"],
    "pools._SCALED": ["pool_scaled"],
    "autoscale._TASKS": ["job_of_pool"],
    "autoscale._PENDING": ["job_of_pool"],
    "autoscale._NODES": ["node_by_id"],
    "autoscale._HISTORY": ["sqlite_autoindex_autoscale_sample_1"],
    "autoscale._SAMPLED": ["sqlite_autoindex_autoscale_sample_1"],
    "autoscale._FORGET": ["sqlite_autoindex_autoscale_sample_1"],
    "autoscale._RUNS": ["autoscale_run_by_pool"],
    "autoscale._FORGET_RUNS": ["autoscale_run_by_pool"],
    "explain._NODE_GROUPS": ["node_by_id"],
    "explain._LAUNCH_FAILURE": ["node_by_id"],
    "explain._NAMED": ["node_by_id"],
    "explain._WAITING_JOBS": ["job_by_pool"],
    "explain._PARENTS": ["dependency_by_child"],
    "explain._BLOCKERS": ["dependency_by_child", "task_by_id"],
    "explain._RANGES": ["dependency_range_by_child"],
    "explain._BY_NUMBER": ["task_by_number"],
    "explain._CHILDREN": ["sqlite_autoindex_dependency_1"],
    "explain._RANGE_CHILDREN": ["dependency_range_by_low"],
    "explain._CLOSED_WORKING": ["special_task_by_job"],
    "explain._PREPARATION_FAILURE": ["special_task_by_job"],
}

SORTED = {
    "ready._OF_SIZE",
    "tasks._PAGE",
    "tasks._PKS_OF_JOB",
    "jobs._OVERDUE",
    "jobs._HIGHEST",
    "jobs._IN_TURN",
    "jobs._BY_AGE",
    "jobs._ABLE",
    "jobs._LOWEST_YIELDING",
}
"""Statements whose order is that of their index."""


def statements() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, Statement | Change) and isinstance(module, ModuleType):
                yield f"{module.__name__.rpartition('.')[2]}.{name}", value.sql
    for table in ("task", "job", "node", "pool"):
        yield f"guarded {table}", guarded_sql(table, ("state", "state_time"), "pk")


STATEMENTS = dict(statements())


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    migrate(connection, WORLD)
    yield connection
    connection.close()


def plan(connection: sqlite3.Connection, sql: str) -> list[str]:
    numbered = [int(number) for number in re.findall(r"\?(\d+)", sql)]
    params = [1] * max(numbered) if numbered else dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    return [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {sql}", params)]


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_walks_over_a_table(connection: sqlite3.Connection, name: str) -> None:
    steps = plan(connection, STATEMENTS[name])
    walked = {step.split()[1] for step in steps if step.startswith("SCAN") and "CONSTANT ROW" not in step}
    assert walked <= WALKED.get(name, set()), steps


@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_uses_its_index(connection: sqlite3.Connection, name: str) -> None:
    steps = plan(connection, STATEMENTS[name])
    for index in HOT[name]:
        assert any(f"INDEX {index} " in f"{step} " for step in steps), steps
    if name in SORTED:
        assert not any("TEMP B-TREE" in step for step in steps), steps


FILTERED = {
    "state eq 'active'": {"task_ready", "task_blocked"},
    "state eq 'completed'": {"task_completed"},
    "state eq 'running'": {"task_running"},
    "state eq 'preparing' or state eq 'running'": {"task_running"},
    "state ne 'completed'": {"task_ready", "task_blocked", "task_running"},
    "state ne 'active' and executionInfo/exitCode gt 0": {"task_running", "task_completed"},
    "state eq 'active' and startswith(id,'a') and creationTime gt DateTime'2024-01-01T00:00:00Z'": {"task_ready", "task_blocked"},
    "executionInfo/result eq 'failure'": {"task_failed"},
    "(state eq 'completed') and (executionInfo/result eq 'failure')": {"task_failed"},
    "executionInfo/exitCode gt 0": {"task_in_order"},
    "executionInfo/exitCode ne 0": {"task_in_order"},
    "state eq 'completed' and executionInfo/exitCode ne 0": {"task_completed"},
    "NOT (state eq 'active' OR state eq 'completed') AND id ne 'a'": {"task_running"},
    "not state ne 'completed' and not executionInfo/endTime lt DateTime'2024-01-01T00:00:00Z'": {"task_completed"},
    "not executionInfo/result ne 'failure'": {"task_failed"},
    "executionInfo/result ne 'failure'": {"task_in_order"},
    "state eq 'active' or executionInfo/exitCode gt 0": {"task_in_order"},
    "startswith(id,'a')": {"task_in_order"},
}


@pytest.mark.parametrize("text", FILTERED)
def test_a_filter_goes_by_the_indexes_of_its_states(connection: sqlite3.Connection, text: str) -> None:
    """In order of keys, so that a page costs no more than itself; nothing is sorted."""
    found = odata.parse(text, odata.TASKS)
    assert found is not None
    ways = task_pages.ways(found, lambda: task_pages.active_ways([(0, 1), (0, 3), (4, 4)], True))
    statement, _ = task_pages.statement(found, ways, tasks.TaskLine)
    steps = plan(connection, statement.sql)
    used = {index for step in steps for index in re.findall(r"SEARCH task USING (?:COVERING )?INDEX (\w+)", step)}
    assert used == FILTERED[text], steps
    assert not any("TEMP B-TREE" in step for step in steps), steps
    assert {step for step in steps if step.startswith("SCAN")} <= {"SCAN found"}, steps
    for way in ways:
        [step] = plan(connection, f"SELECT pk FROM task WHERE job_pk = :job_pk AND {way} AND pk > :after ORDER BY pk LIMIT 1 OFFSET :n")
        assert any(f"INDEX {index} " in step for index in FILTERED[text]), step


def test_ids_go_by_their_index(connection: sqlite3.Connection) -> None:
    [step] = plan(connection, task_pages.keys_of(2).sql)
    assert "INDEX task_by_id" in step
