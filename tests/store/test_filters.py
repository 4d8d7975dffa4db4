"""Pages by `$filter`: SQL finds what the filter means, page by page, whatever the page's size and however little it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_rows import NOW, add_job, add_pool, add_tasks
from tests import filters

from batchyard.model.states import TaskState
from batchyard.rules import odata
from batchyard.rules.odata import Properties
from batchyard.store import jobs, nodes, pools, special_tasks, task_pages
from batchyard.store.db import Database
from batchyard.store.filters import Page, sift
from batchyard.store.reader import Change, Reader
from batchyard.store.tx import Tx

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Row = Mapping[str, Any]


def rows(properties: Properties) -> st.SearchStrategy[list[dict[str, Any]]]:
    """A few items of a list; not every property is there."""
    one = st.fixed_dictionaries({name: st.none() | st.sampled_from(filters.values(known)) for name, known in properties.items()})
    return st.lists(one, max_size=7)


def cases(properties: Properties) -> st.SearchStrategy[tuple[list[dict[str, Any]], filters.Tree, int]]:
    return st.tuples(rows(properties), filters.trees(properties), st.integers(1, 4))


def parsed(tree: filters.Tree, properties: Properties) -> odata.Filter:
    found = odata.parse(filters.text(tree, properties, lambda choices: choices[0]), properties)
    assert found is not None
    return found


def walk(read: Callable[[int], Page[Any]], most: int, key: Callable[[Any], int] = lambda row: int(row.pk)) -> Iterator[int]:
    """Keys of all pages, as a client that follows the links sees them."""
    after = 0
    while True:
        page = read(after)
        assert len(page.rows) <= most
        yield from map(key, page.rows)
        if page.more is None:
            return
        assert page.more > after, "the list never ends"
        after = page.more


@given(st.sets(st.integers(1, 60)).map(sorted), st.sets(st.integers(1, 60)), st.integers(1, 5), st.integers(1, 9))
def test_what_is_sifted_is_all_there_is_however_little_each_page_looks_at(keys: list[int], kept: set[int], most: int, look_at: int) -> None:
    read: list[int] = []

    def behind(after: int, n: int) -> list[int]:
        found = [key for key in keys if key > after][:n]
        read.extend(found)
        return found

    def page(after: int) -> Page[int]:
        read.clear()
        found = sift(behind, kept.__contains__, int, after, most, look_at)
        assert len(read) <= look_at
        return found

    assert list(walk(page, most, int)) == [key for key in keys if key in kept]


def checked(
    db: Database, case: tuple[Sequence[Row], filters.Tree, int], properties: Properties, keys: Sequence[int], read: Callable[..., Page[Any]]
) -> None:
    items, tree, most = case
    found = parsed(tree, properties)
    wanted = [key for key, item in zip(keys, items, strict=True) if filters.wanted(tree, properties, item)]
    assert list(walk(lambda after: db.call(read, found, after, most), most)) == wanted


def test_two_ids_at_once_are_no_task(memory: Database) -> None:
    job = memory.call(lambda tx: add_job(tx, f"job-{tx.reserve('job name', 1)}"))
    found = odata.parse("id eq 'a' and id eq 'b'", odata.TASKS)
    assert memory.call(lambda tx: task_pages.filtered(tx, job, found, 0, 9)) == Page([], None)


def change(tx: Tx, table: str, pk: int, values: Row) -> None:
    tx.change(Change(f"UPDATE {table} SET {', '.join(f'{name} = :{name}' for name in values)} WHERE pk = :pk"), pk=pk, **values)


@MANY
@given(cases(odata.TASKS), st.integers(1, 3))
def test_tasks(memory: Database, case: tuple[list[dict[str, Any]], filters.Tree, int], looked_at: int) -> None:
    items = case[0]
    for n, item in enumerate(items):
        item["id"], item["state"] = f"{item['id'] or 'x'}{n}", item["state"] or "active"
        item["lastModifiedTime"] = item["lastModified"] = item["lastModified"] or NOW
        for always in ("creationTime", "stateTransitionTime"):
            item[always] = item[always] or NOW

    def fill(tx: Tx) -> tuple[int, list[int]]:
        job, other = (add_job(tx, f"job-{tx.reserve('job name', 1)}") for _ in range(2))
        keys = []
        for item in items:
            add_tasks(tx, other, f"other-{len(keys)}")
            keys.append(add_tasks(tx, job, item["id"], slots=1 + len(keys) * looked_at % 5))
            changes = {column.partition(".")[2]: item[name] for name, column in task_pages.COLUMNS.items()}
            change(
                tx,
                "task",
                keys[-1],
                changes | {"ready": item["state"] == "active" and len(keys) % 3 > 0, "instances": len(keys) % 2 * 2},
            )
        return job, keys

    job, keys = memory.call(fill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_pages, "LOOKED_AT", looked_at)
        patch.setattr(task_pages, "MOST_KINDS", 3)
        checked(memory, case, odata.TASKS, keys, lambda reader, found, after, most: task_pages.filtered(reader, job, found, after, most))


@MANY
@given(cases(odata.JOBS), st.integers(1, 3))
def test_jobs(memory: Database, case: tuple[list[dict[str, Any]], filters.Tree, int], looked_at: int) -> None:
    items = case[0]
    for item in items:
        item |= {name: item[name] or NOW for name in ("creationTime", "stateTransitionTime", "lastModified", "executionInfo/startTime")}
        item |= {"state": item["state"] or "active", "executionInfo/poolId": (item["executionInfo/poolId"] or "pool").lower()}

    def fill(tx: Tx) -> list[int]:
        tx.change(Change("DELETE FROM job"))
        for n, item in enumerate(items):
            item["id"] = f"{item['id'] or 'x'}{n}"
        return [
            add_job(tx, item["id"], **{jobs.FILTERED_BY[name]: value for name, value in item.items() if name != "id"}) for item in items
        ]

    keys = memory.call(fill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_LOOKED_AT", looked_at)
        checked(memory, case, odata.JOBS, keys, jobs.filtered)


@MANY
@given(cases(odata.NODES))
def test_nodes(memory: Database, case: tuple[list[dict[str, Any]], filters.Tree, int]) -> None:
    items = case[0]
    for item in items:
        item |= {name: item[name] or NOW for name in ("stateTransitionTime", "allocationTime")}
        item["state"] = item["state"] or "idle"
        if item["startTaskInfo/state"] is None or item["startTaskInfo/startTime"] is None:
            item |= dict.fromkeys([name for name in item if name.startswith("startTaskInfo/")])

    def fill(tx: Tx) -> tuple[int, list[int]]:
        pool, keys = add_pool(tx, f"pool-{tx.reserve('pool name', 1)}"), []
        for n, item in enumerate(items):
            own = {column.partition(".")[2]: item[name] for name, column in nodes.FILTERED_BY.items() if column.startswith("node.")}
            keys.append(nodes.add(tx, pool_pk=pool, id=f"n{n}", scheduling_state="enabled", dedicated=1, slots=1, **own))
            its = {column.partition(".")[2]: item[name] for name, column in nodes.FILTERED_BY.items() if column.startswith("begun.")}
            common = {"node_pk": keys[-1], "node_id": f"n{n}", "pool_id": "p"}
            if its["state"] is not None:
                special_tasks.add(tx, job_pk=0, kind="start", **common, started=its["started"])
                tx.change(
                    Change(
                        "UPDATE special_task SET state = :state, ended = :ended, exit_code = :exit_code, result = :result"
                        " WHERE node_pk = :node_pk AND kind = 'start'"
                    ),
                    node_pk=keys[-1],
                    **{k: v for k, v in its.items() if k != "started"},
                )
            special_tasks.add(tx, job_pk=7, kind="preparation", **common, started=NOW)
        return pool, keys

    pool, keys = memory.call(fill)
    checked(memory, case, odata.NODES, keys, lambda reader, found, after, most: nodes.filtered(reader, pool, found, after, most))


@pytest.mark.parametrize("most", [1, 2, 3, 5, 6])
def test_pages_without_a_filter(memory: Database, most: int) -> None:
    def fill(tx: Tx) -> tuple[list[int], int, list[int]]:
        pool = add_pool(tx, "pool")
        same: dict[str, Any] = {"pool_pk": pool, "state": "idle", "state_time": NOW, "allocated": NOW, "scheduling_state": "enabled"}
        made = [nodes.add(tx, id=f"n{n}", dedicated=1, slots=1, **same) for n in range(5)]
        return [add_job(tx, f"j{n}") for n in range(5)], pool, made

    jobs_made, pool, nodes_made = memory.call(fill)
    assert list(walk(lambda after: memory.call(jobs.filtered, None, after, most), most)) == jobs_made
    assert list(walk(lambda after: memory.call(nodes.filtered, pool, None, after, most), most)) == nodes_made
    shown = [memory.call(nodes.view, pool, f"n{n}") for n in range(5)]
    assert shown == memory.call(nodes.filtered, pool, None, 0, 5).rows


def test_every_property_has_a_column() -> None:
    assert set(jobs.FILTERED_BY) == set(odata.JOBS)
    assert set(nodes.FILTERED_BY) == set(odata.NODES)
    assert set(task_pages.COLUMNS) == set(odata.TASKS)
    assert {*task_pages._BY_STATE, TaskState.ACTIVE} == set(TaskState)


def test_pools_by_what_only_their_body_has(memory: Database) -> None:
    def fill(tx: Tx) -> list[int]:
        bodies = [b'{"vmSize":"a"}', b'{"vmSize":"B","enableAutoScale":true}', b'{"vmSize":"b","enableInterNodeCommunication":true}']
        return [add_pool(tx, f"p{n}", body=body) for n, body in enumerate(bodies)]

    first, second, third = memory.call(fill)

    def found(text: str, most: int = 1) -> list[int]:
        asked = odata.parse(text, odata.POOLS)
        return list(walk(lambda after: memory.call(pools.filtered, asked, after, most), most))

    assert found("") == [first, second, third]
    assert found("vmSize eq 'b'") == [second, third]
    assert found("vmSize ne 'b'") == [first]
    assert found("enableAutoScale eq true") == [second]
    assert found("enableAutoScale eq false and enableInterNodeCommunication eq false") == [first]
    assert found("state eq 'deleting'") == []
    assert found("id gt 'P0' and allocationState eq 'steady'") == [second, third]


def test_nodes_of_a_job_by_its_preparation_and_release(memory: Database) -> None:
    def fill(tx: Tx) -> None:
        for node in range(1, 5):
            special_tasks.add(tx, job_pk=1, kind="preparation", node_pk=node, node_id=f"n{node}", pool_id="Pool", started=NOW)
        special_tasks.add(tx, job_pk=1, kind="release", node_pk=2, node_id="n2", pool_id="Pool", started=NOW + 5_000_000)
        tx.change(Change("UPDATE special_task SET state = 'completed', exit_code = node_pk, result = 'success' WHERE node_pk < 4"))

    memory.call(fill)

    def found(text: str) -> list[int]:
        asked = odata.parse(text, odata.SPECIAL_TASKS)
        read: Callable[[int], Page[Any]] = lambda after: memory.call(special_tasks.filtered, 1, asked, after, 1)  # noqa: E731
        return list(walk(read, 1, lambda runs: runs[0].node_pk))

    assert found("") == [1, 2, 3, 4]
    assert found("poolId eq 'pool' and nodeId ne 'N1'") == [2, 3, 4]
    assert found("jobPreparationTaskExecutionInfo/exitCode ge 2") == [2, 3]
    assert found("jobPreparationTaskExecutionInfo/result ne 'success'") == [4]
    assert found("jobReleaseTaskExecutionInfo/state eq 'completed'") == [2]
    assert found("jobReleaseTaskExecutionInfo/result ne 'success'") == [1, 3, 4]


def test_a_page_looks_at_no_more_than_its_share(memory: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is rare is found in short pages, each with the place to go on."""
    monkeypatch.setattr(task_pages, "LOOKED_AT", 10)
    job = memory.call(lambda tx: add_job(tx, "j"))
    first = memory.call(add_tasks, job, *(f"t{n}" for n in range(45)))
    memory.call(lambda tx: tx.change(Change("UPDATE task SET exit_code = 3 WHERE pk = :pk"), pk=first + 37))
    asked = odata.parse("executionInfo/exitCode eq 3", odata.TASKS)
    pages = []
    after: int | None = 0
    while after is not None:
        page = memory.call(task_pages.filtered, job, asked, after, 5)
        pages.append([row.pk - first for row in page.rows])
        after = page.more
    assert pages == [[], [], [], [37], []]


def test_a_state_is_found_at_once_wherever_it_is(memory: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of many is on the first page, because its index has nothing else."""
    monkeypatch.setattr(task_pages, "LOOKED_AT", 2)
    job = memory.call(lambda tx: add_job(tx, "j"))
    first = memory.call(add_tasks, job, *(f"t{n}" for n in range(20)))
    memory.call(
        lambda tx: tx.change(Change("UPDATE task SET state = 'completed', ready = 0, result = 'success' WHERE pk < :pk"), pk=first + 19)
    )

    def read(text: str) -> Page[Any]:
        return memory.call(task_pages.filtered, job, odata.parse(text, odata.TASKS), 0, 3)

    def ids(reader: Reader, text: str) -> list[str]:
        return [row.id for row in task_pages.filtered(reader, job, odata.parse(text, odata.TASKS), 0, 3).rows]

    assert ([row.id for row in read("state eq 'active'").rows], read("state eq 'active'").more) == (["t19"], None)
    assert ([row.id for row in read("state eq 'completed'").rows], read("state eq 'completed'").more) == (["t0", "t1", "t2"], first + 2)
    assert (read("state eq 'running'").rows, read("state eq 'running'").more) == ([], None)
    assert (read("state eq 'active' and state eq 'running'").rows, read("id eq 'none'").more) == ([], None)
    assert memory.call(ids, "state ne 'completed'") == ["t19"]
    assert memory.call(ids, "id eq 'T17' or id eq 't3'") == ["t3", "t17"]
    assert memory.call(ids, "executionInfo/result eq 'failure'") == []
