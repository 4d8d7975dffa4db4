"""What has an index in SQLite has one in PostgreSQL: nothing that no few rows bound is read row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from test_plans import FILTERED, STATEMENTS, WALKED

import postgres
from batchyard import drivers
from batchyard.drivers.postgres import connect
from batchyard.drivers.postgres_words import locate, translated
from batchyard.rules import odata
from batchyard.store import task_pages, tasks
from batchyard.store.db import open_store


@pytest.fixture(scope="module")
def connection() -> Iterator[psycopg.Connection[Any]]:
    """One that reads row by row only where there is no other way, and plans for any parameters."""
    place = postgres.fresh()
    open_store(place).close()
    with closing(connect(locate(place))) as made:
        made.prepare_threshold = None
        made.execute("SELECT set_config('enable_seqscan', 'off', false), set_config('plan_cache_mode', 'force_generic_plan', false)")
        yield made
    drivers.drop(place)


def read_row_by_row(connection: psycopg.Connection[Any], sql: str) -> set[str]:
    """Tables of which every row is looked at."""
    text, _ = translated(sql)
    connection.execute(f"PREPARE looked_at AS {text}")
    try:
        (count,) = connection.execute(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'looked_at'"
        ).fetchone() or (0,)
        params = f"({', '.join(['NULL'] * count)})" if count else ""
        plan = [row[0] for row in connection.execute(f"EXPLAIN (COSTS OFF) EXECUTE looked_at{params}").fetchall()]
    finally:
        connection.execute("DEALLOCATE looked_at")
    return {line.split("Seq Scan on ")[1].split()[0] for line in plan if "Seq Scan on " in line}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_walks_over_a_table(connection: psycopg.Connection[Any], name: str) -> None:
    sql = STATEMENTS[name].replace(":keys", "?, ?")
    assert read_row_by_row(connection, sql) <= WALKED.get(name, set())


@pytest.mark.parametrize("text", FILTERED)
def test_no_filter_walks_over_all_tasks(connection: psycopg.Connection[Any], text: str) -> None:
    found = odata.parse(text, odata.TASKS)
    assert found is not None
    ways = task_pages.ways(found, lambda: task_pages.active_ways([(0, 1), (0, 3), (4, 4)], True))
    statement, _ = task_pages.statement(found, ways, tasks.TaskLine)
    assert read_row_by_row(connection, statement.sql) == set()
