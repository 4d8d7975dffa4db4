"""Which ready tasks are read: in the order of their addition whatever their sizes, a manager before all, none that is too large."""

from __future__ import annotations

import pytest
from store_rows import add_job, add_tasks

from batchyard.store import ready
from batchyard.store.db import Database
from batchyard.store.reader import Change
from batchyard.store.tx import Tx

SIZES = (4, 1, 2, 9, 1, 4, 9, 2)


def fill(tx: Tx) -> tuple[int, list[int]]:
    job, other = add_job(tx, "job"), add_job(tx, "other")
    add_tasks(tx, other, "theirs")
    return job, [add_tasks(tx, job, f"task-{number}", slots=slots) for number, slots in enumerate(SIZES)]


@pytest.mark.parametrize("largest", [0, 1, 3, 4, 8, 9, 2**31])
@pytest.mark.parametrize("n", [1, 3, 100])
def test_the_first_that_fit_in_the_order_of_their_addition(memory: Database, largest: int, n: int) -> None:
    job, keys = memory.call(fill)
    found = memory.call(ready.first, job, largest, n)
    assert [task.pk for task in found] == [key for key, slots in zip(keys, SIZES, strict=True) if slots <= largest][:n]


@pytest.mark.parametrize(("largest", "first"), [(9, 6), (8, 0)])
def test_a_manager_is_the_first_when_it_fits(memory: Database, largest: int, first: int) -> None:
    job, keys = memory.call(fill)
    memory.call(lambda tx: tx.change(Change("UPDATE task SET manager = 1, run = 1 WHERE pk = :pk"), pk=keys[6]))
    found = memory.call(ready.first, job, largest, 100)
    assert found[0].pk == keys[first]
    assert sorted(task.pk for task in found) == [key for key, slots in zip(keys, SIZES, strict=True) if slots <= largest]
    assert [task.restarted for task in found] == [int(task.pk == keys[6]) for task in found]
