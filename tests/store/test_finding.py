"""Rows are found by their ids in any case, each only where it belongs."""

from __future__ import annotations

from typing import Any

import pytest
from store_rows import NOW, add_job, add_pool, add_tasks

from batchyard.model.errors import BatchError
from batchyard.store import nodes, tasks
from batchyard.store.db import Database
from batchyard.store.tx import Tx


def add_node(tx: Tx, pool_pk: int, node_id: str, **more: Any) -> int:
    own = {"state": "idle", "state_time": NOW, "allocated": NOW, "scheduling_state": "enabled", "dedicated": 1, "slots": 1}
    return nodes.add(tx, pool_pk=pool_pk, id=node_id, **own | more)


def test_a_task_of_its_own_job(memory: Database) -> None:
    def fill(tx: Tx) -> dict[int, int]:
        jobs = add_job(tx, "one"), add_job(tx, "two")
        return {job: add_tasks(tx, job, "Task", f"only-{job}") for job in jobs}

    made = memory.call(fill)
    one, two = made
    for job in made:
        found = memory.call(tasks.view, job, "tASK")
        assert found is not None
        assert (found.id, found.pk) == ("Task", made[job])
    assert memory.call(tasks.view, two, f"only-{one}") is None


class TestNodes:
    @pytest.fixture
    def pks(self, memory: Database) -> dict[str, int]:
        def fill(tx: Tx) -> dict[str, int]:
            first, second, third = add_pool(tx, "first"), add_pool(tx, "second"), add_pool(tx, "third")
            made = {name: add_node(tx, first, name) for name in ("Node_1", "node_12", "other")}
            add_node(tx, second, "node_1", state="running", dedicated=0)
            return {**made, "first": first, "second": second, "third": third}

        return memory.call(fill)

    def test_of_its_own_pool(self, memory: Database, pks: dict[str, int]) -> None:
        found = memory.call(nodes.view, pks["first"], "NODE_1")
        assert found is not None
        assert (found.pk, found.id) == (pks["Node_1"], "Node_1")
        assert memory.call(nodes.view, pks["second"], "node_12") is None

    @pytest.mark.parametrize(("start", "found"), [("o", "other"), ("OTHER", "other"), ("node_12", "node_12"), ("NODE_12", "node_12")])
    def test_by_the_beginning_of_its_id_in_any_pool(self, memory: Database, pks: dict[str, int], start: str, found: str) -> None:
        assert memory.call(nodes.by_start, start).id == found

    @pytest.mark.parametrize("start", ["node", "node_1", "x", "ther", "node_123"])
    def test_not_by_what_several_begin_with_or_none(self, memory: Database, pks: dict[str, int], start: str) -> None:
        with pytest.raises(BatchError) as refused:
            memory.call(nodes.by_start, start)
        several = start in ("node", "node_1")
        assert (refused.value.code, refused.value.values.get("Reason")) == (
            "NodeNotFound",
            "More than one node's id begins so" if several else None,
        )

    def test_counted_by_kind_and_state_pool_by_pool(self, memory: Database, pks: dict[str, int]) -> None:
        def seen(after: int, n: int) -> list[tuple[Any, ...]]:
            return [(row.pool_id, row.dedicated, row.state, row.count) for row in memory.call(nodes.counts, after, n)]

        first, second, third = ("first", 1, "idle", 3), ("second", 0, "running", 1), ("third", None, None, 0)
        assert seen(0, 9) == [first, second, third]
        assert seen(0, 2) == [first, second]
        assert seen(pks["first"], 1) == [second]
        assert seen(pks["third"], 9) == []
