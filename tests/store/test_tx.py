"""What a unit of work may change and how: guarded rows, counters, keys, events, and a way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from store_rows import NOW, add_job, numbers

from batchyard.store import jobs, pools
from batchyard.store.db import Database
from batchyard.store.reader import Change, Insertion, Reader, Statement
from batchyard.store.tx import Conflict, Tx, Versioned

OTHER_TIME = NOW + 5


def counts_of(tx: Reader, pk: int) -> dict[str, int]:
    names = ("ready", "active", "running", "active_slots", "running_slots", "smallest")
    row = tx.first(Statement(f"SELECT {', '.join(names)} FROM job_counts WHERE job_pk = :pk", lambda *values: values), pk=pk)
    assert row is not None
    return dict(zip(names, row, strict=True))


def settled(tx: Tx, change: Callable[[], object]) -> None:
    """A change, and what it raises: where an answer costs a way and back it shows at the unit's end at the latest."""
    change()
    tx.settle()


class TestGuardedChanges:
    """A row changes only while it is as it was seen."""

    def test_the_row_is_what_it_has_become(self, memory: Database) -> None:
        def unit(tx: Tx) -> None:
            one, other = add_job(tx, "one"), add_job(tx, "other")
            untouched, seen = jobs.get(tx, other), jobs.get(tx, one)
            fresh = tx.move(jobs.ROWS, seen, {"priority": 7, "max_parallel": 3})
            assert (fresh.priority, fresh.max_parallel, fresh.version) == (7, 3, seen.version + 1)
            assert (seen.priority, fresh) == (0, jobs.get(tx, one))
            assert jobs.get(tx, other) == untouched
            assert tx.set_state(jobs.ROWS, fresh, {"state": "disabling"}) == jobs.get(tx, one)
            assert jobs.get(tx, one).state == "disabling"

        memory.call(unit)

    def test_several_rows_are_what_they_have_become(self, memory: Database) -> None:
        def unit(tx: Tx) -> None:
            seen = [jobs.get(tx, add_job(tx, name)) for name in ("one", "two")]
            fresh = tx.set_states(jobs.ROWS, [(row, {"state": "disabling", "priority": n}) for n, row in enumerate(seen)])
            tx.settle()
            assert [(row.state, row.priority, row.version) for row in fresh] == [("disabling", n, seen[n].version + 1) for n in (0, 1)]
            assert fresh == [jobs.get(tx, row.pk) for row in seen]
            with pytest.raises(Conflict):
                settled(tx, lambda: tx.set_states(jobs.ROWS, [(fresh[0], {"state": "active"}), (seen[1], {"state": "active"})]))

        memory.call(unit)

    @pytest.mark.parametrize("column", ["priority", "state"])
    def test_who_saw_an_older_one_changes_nothing(self, memory: Database, column: str) -> None:
        def unit(tx: Tx) -> None:
            pk = add_job(tx, "one")
            stale = jobs.get(tx, pk)
            fresh = tx.move(jobs.ROWS, stale, {"priority": 7})
            with pytest.raises(Conflict, match=f"^job {pk} is no longer at version {stale.version}$"):
                settled(tx, lambda: tx.set_state(jobs.ROWS, stale, {column: 9}))
            assert jobs.get(tx, pk) == fresh

        memory.call(unit)

    def test_a_row_that_is_gone(self, memory: Database) -> None:
        def unit(tx: Tx) -> None:
            pk = add_job(tx, "one")
            seen = jobs.get(tx, pk)
            tx.change(Change("DELETE FROM job WHERE pk = :pk"), pk=pk)
            with pytest.raises(Conflict):
                settled(tx, lambda: tx.move(jobs.ROWS, seen, {"priority": 7}))

        memory.call(unit)

    @pytest.mark.parametrize("rows", [jobs.ROWS, pools.ROWS], ids=["known", "read again"])
    def test_a_state_changes_by_its_own_call_alone(self, memory: Database, rows: Versioned[Any]) -> None:
        def unit(tx: Tx) -> None:
            seen = jobs.get(tx, add_job(tx, "one"))
            for state in rows.states:
                with pytest.raises(TypeError, match=f"^a state of {rows.table} changes by engine.changes alone$"):
                    tx.move(rows, seen, {"priority": 7, state: "odd"})
            assert jobs.get(tx, seen.pk) == seen

        memory.call(unit)
        assert rows.states == ({"state"} if rows is jobs.ROWS else {"state", "allocation_state"})


class TestCounters:
    """Gathered, and written once when the unit ends."""

    def test_deltas_add_up_over_the_unit(self, memory: Database) -> None:
        def unit(tx: Tx) -> int:
            pk = add_job(tx, "one")
            tx.count(pk, active=2, active_slots=6)
            tx.count(pk, active=-1, running=1, active_slots=-3, running_slots=3)
            assert counts_of(tx, pk)["active"] == 0, "not yet"
            tx.flush()
            assert counts_of(tx, pk)["active"] == 1
            return pk

        pk = memory.call(unit)
        found = memory.call(counts_of, pk)
        assert (found["active"], found["running"], found["active_slots"], found["running_slots"]) == (1, 1, 3, 3), "and only once"

    @pytest.mark.parametrize(("ready", "known"), [(1, 0), (0, 5), (-1, 5)])
    def test_what_becomes_ready_may_be_smaller_than_all_that_was_looked_at(self, memory: Database, ready: int, known: int) -> None:
        def unit(tx: Tx) -> int:
            pk = add_job(tx, "one")
            tx.change(Change("UPDATE job_counts SET smallest = 5, ready = 3 WHERE job_pk = :pk"), pk=pk)
            tx.count(pk, ready=ready, active=0)
            return pk

        found = memory.call(counts_of, memory.call(unit))
        assert (found["smallest"], found["ready"]) == (known, 3 + ready)

    def test_one_that_comes_as_another_goes_is_looked_at_too(self, memory: Database) -> None:
        def unit(tx: Tx) -> int:
            pk = add_job(tx, "one")
            tx.change(Change("UPDATE job_counts SET smallest = 5 WHERE job_pk = :pk"), pk=pk)
            tx.count(pk, ready=1)
            tx.count(pk, ready=-1)
            return pk

        assert memory.call(counts_of, memory.call(unit))["smallest"] == 0

    @pytest.mark.parametrize(
        ("most", "open_", "running", "starts", "allowed"),
        [
            (-1, True, 1000, 1000, True),
            (3, True, 0, 3, True),
            (3, True, 2, 1, True),
            (3, True, 0, 4, False),
            (3, True, 3, 1, False),
            (0, True, 0, 1, False),
            (-1, False, 0, 1, False),
            (3, True, 5, 0, True),
            (3, True, 5, -1, True),
            (3, False, 5, -1, True),
            (-1, False, 5, 0, True),
        ],
    )
    def test_a_job_runs_no_more_than_it_may_and_only_while_it_is_open(
        self, memory: Database, most: int, open_: bool, running: int, starts: int, allowed: bool
    ) -> None:
        def unit(tx: Tx) -> None:
            other, pk = add_job(tx, "other"), add_job(tx, "one")
            known = Change("UPDATE job_counts SET running = :running, max_parallel = :most, open = :open WHERE job_pk = :pk")
            tx.change(known, pk=pk, running=running, most=most, open=int(open_))
            tx.count(pk, running=starts, active=1)
            if allowed:
                tx.flush()
                assert (counts_of(tx, pk)["running"], counts_of(tx, pk)["active"]) == (running + starts, 1)
            else:
                with pytest.raises(Conflict, match=f"^job {pk} may not run so many tasks any more$"):
                    tx.flush()
                tx._counts.clear()
                assert counts_of(tx, pk)["running"] == running
            assert counts_of(tx, other)["running"] == 0

        memory.call(unit)

    def test_a_job_that_is_gone_counts_no_longer(self, memory: Database) -> None:
        memory.call(lambda tx: tx.count(999, running=-1, completed=1))
        with pytest.raises(Conflict):
            memory.call(lambda tx: tx.count(999, running=1))


def test_keys_are_given_out_once(memory: Database) -> None:
    def unit(tx: Tx) -> list[int]:
        return [tx.reserve("a", 3), tx.reserve("a", 1), tx.reserve("b", 2), tx.reserve("a", 5)]

    first = memory.call(unit)
    assert [first[1] - first[0], first[3] - first[1]] == [3, 1]
    assert memory.call(lambda tx: tx.reserve("a", 1)) == first[3] + 5
    assert memory.call(lambda tx: tx.reserve("b", 1)) == first[2] + 2


def test_an_event_is_written_as_it_was_said(memory: Database) -> None:
    def unit(tx: Tx) -> None:
        tx.log(NOW, "task", 1, "ended", old="running", new="completed", until=4, cause="exit 1")
        tx.log(OTHER_TIME, "node", 2, "errors")

    memory.call(unit)
    columns = "at, what, subject, until, happened, old, new, cause"
    rows = memory.call(lambda tx: tx.all(Statement(f"SELECT {columns} FROM event ORDER BY pk", lambda *values: values)))
    assert rows == [
        (NOW, "task", 1, 4, "ended", "running", "completed", "exit 1"),
        (OTHER_TIME, "node", 2, None, "errors", None, None, None),
    ]


def test_changes_say_how_many_rows_they_reached(memory: Database) -> None:
    def unit(tx: Tx) -> None:
        keys = [add_job(tx, f"job-{number}") for number in range(4)]
        change = Change("UPDATE job SET priority = :priority, version = version + 1 WHERE pk <= :pk")
        assert [tx.changed(change, pk=pk, priority=1) for pk in (0, keys[0], keys[-1])] == [0, 1, 4]
        tx.change_many(change, [{"pk": keys[1], "priority": 2}, {"pk": keys[0], "priority": 3}])
        assert [jobs.get(tx, pk).priority for pk in keys] == [3, 2, 1, 1]

    memory.call(unit)


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 200])
def test_any_number_of_rows_is_inserted_as_it_is(memory: Database, n: int) -> None:
    into = Insertion("event", ("at", "what", "subject", "until", "happened", "cause"))
    rows = [(NOW, "task", number, None, "added", "why" if number == n - 1 else None) for number in range(n)]

    def unit(tx: Tx) -> int:
        return sum(answer.rowcount for answer in tx.insert_many(into, rows))

    assert memory.call(unit) == n
    columns = ", ".join(into.columns)
    assert memory.call(lambda tx: tx.all(Statement(f"SELECT {columns} FROM event ORDER BY pk", lambda *row: row))) == rows


def test_back_to_a_mark(memory: Database) -> None:
    def unit(tx: Tx) -> None:
        kept = add_job(tx, "kept")
        tx.mark("here")
        add_job(tx, "gone")
        tx.back_to("here")
        assert numbers(tx, "SELECT pk FROM job") == [kept]

    memory.call(unit)
