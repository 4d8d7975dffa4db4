"""Tasks that may start, as placement looks for them: by size, each from its own beginning, whatever else waits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from batchyard.store.reader import Change, Reader, Statement
from batchyard.store.tasks import ALL
from batchyard.store.tx import Tx


class ReadyTask(msgspec.Struct):
    """What placement has to know of a task."""

    pk: int
    slots: int
    exclusive: int
    dedicated_only: int
    affinity: str | None
    restarted: int
    """True for a job manager that ran before: it is first in line (contract 3.5)."""
    manager: int
    since: int
    """When it became active."""
    holds: int
    """True when a node is held for it against its equals."""
    instances: int
    """Of a multi-instance task; 0 for an ordinary one."""
    held_since: int | None


_COLUMNS = (
    "SELECT pk, slots, exclusive, dedicated_only, affinity, manager = 1 AND run > 0, manager, state_time, holds, instances, held_since"
    " FROM task"
)
_IN_LINE = f"{_COLUMNS} WHERE job_pk = :job_pk AND ready = 1"
_OF_SIZE = Statement(f"{_IN_LINE} AND instances = 0 AND slots = :slots AND pk > :after ORDER BY pk LIMIT :n", ReadyTask)
_GANGS_OF_SIZE = Statement(  # an instance takes one slot
    f"{_IN_LINE} AND instances = :instances AND slots = :instances AND pk > :after ORDER BY pk LIMIT :n", ReadyTask
)
_HOLDING = Statement(f"{_COLUMNS} WHERE job_pk = :job_pk AND holds = 1 AND ready = 1", ReadyTask)
_HOLD = Change("UPDATE task SET holds = :holds, version = version + 1 WHERE pk = :pk AND holds <> :holds")
_HELD_SINCE = Change("UPDATE task SET held_since = :now, version = version + 1 WHERE pk = :pk AND held_since IS NULL AND ready = 1")
_MANAGER = Statement(
    f"{_COLUMNS} WHERE job_pk = :job_pk AND manager = 1 AND ready = 1 AND (+slots <= :largest OR exclusive = 1)", ReadyTask
)
# One step through the index for each size that occurs, however many tasks have it.
_SIZES = Statement(
    "WITH RECURSIVE size (slots) AS ("
    "SELECT min(slots) FROM task WHERE job_pk = :job_pk AND ready = 1 AND instances = 0 UNION ALL"
    " SELECT (SELECT min(slots) FROM task WHERE job_pk = :job_pk AND ready = 1 AND instances = 0 AND slots > size.slots) FROM size"
    " WHERE size.slots < :largest)"
    " SELECT slots FROM size WHERE slots <= :largest",
    int,
)
_GANG_SIZES = Statement(
    "WITH RECURSIVE size (nodes) AS ("
    "SELECT min(instances) FROM task WHERE job_pk = :job_pk AND ready = 1 AND instances > 0 UNION ALL"
    " SELECT (SELECT min(instances) FROM task WHERE job_pk = :job_pk AND ready = 1 AND instances > size.nodes) FROM size"
    " WHERE size.nodes < :largest)"
    " SELECT nodes FROM size WHERE nodes <= :largest",
    int,
)
_NEXT_KIND = Statement(
    "SELECT instances, slots FROM task WHERE job_pk = :job_pk AND ready = 1 AND (instances, slots) > (:instances, :slots)"
    " ORDER BY instances, slots LIMIT 1",
    lambda instances, slots: (instances, slots),
)


def first(reader: Reader, job_pk: int, largest: int, n: int) -> list[ReadyTask]:
    """The first `n` tasks of a job that may start and need at most `largest` slots, behind its manager if that may start too.

    Costs the same however many tasks wait, those that are too large included: each size is read from its own beginning.
    """
    known = sizes(reader, job_pk, largest)
    found = [task for slots in known for task in of_size(reader, job_pk, slots, 0, n + 1)]
    if len(known) > 1:
        found.sort(key=_by_key)
    # Beyond the `n`, so that a manager that finds no node keeps nobody else from starting.
    return [*managers(reader, job_pk, largest), *[task for task in found if not task.manager][:n]]


def managers(reader: Reader, job_pk: int, largest: int) -> Sequence[ReadyTask]:
    """The manager of a job, if it may start and needs at most `largest` slots or a whole node."""
    return reader.soon(_MANAGER, job_pk=job_pk, largest=largest)


def holding(reader: Reader, job_pk: int) -> list[ReadyTask]:
    """Tasks of a job for which nodes are held against their equals, whatever they need."""
    return reader.all(_HOLDING, job_pk=job_pk)


def of_size(reader: Reader, job_pk: int, slots: int, after: int, n: int) -> list[ReadyTask]:
    """The next `n` tasks of a job behind key `after` that may start and need so many slots, its manager among them."""
    return reader.all(_OF_SIZE, job_pk=job_pk, slots=slots, after=after, n=n)


def gangs(reader: Reader, job_pk: int, instances: int, after: int, n: int) -> list[ReadyTask]:
    """The next `n` multi-instance tasks of a job behind key `after` that may start and have so many instances."""
    return reader.all(_GANGS_OF_SIZE, job_pk=job_pk, instances=instances, after=after, n=n)


def gang_sizes(reader: Reader, job_pk: int, largest: int) -> Sequence[int]:
    """How many instances the multi-instance tasks of a job that may start have, each number up to `largest` once."""
    return reader.soon(_GANG_SIZES, job_pk=job_pk, largest=largest)


def sizes(reader: Reader, job_pk: int, largest: int = ALL) -> Sequence[int]:
    """How many slots the tasks of a job that may start need, each size up to `largest` once; one step through an index for each."""
    return reader.soon(_SIZES, job_pk=job_pk, largest=largest)


def kinds(reader: Reader, job_pk: int, most: int) -> list[tuple[int, int]]:
    """Instances and slots of the tasks of a job that may start, at most so many pairs; one step through an index for each."""
    found: list[tuple[int, int]] = []
    behind: tuple[int, int] | None = (-1, 0)
    while behind is not None and len(found) < most:
        behind = reader.first(_NEXT_KIND, job_pk=job_pk, instances=behind[0], slots=behind[1])
        found += [] if behind is None else [behind]
    return found


def least(reader: Reader, job_pk: int, managers: Sequence[ReadyTask], sizes: Sequence[int], whole: int) -> int | None:
    """What the smallest task of a job needs, of `sizes` and `managers` as they were read; a manager may need a `whole` node."""
    # The size of one that takes a node whole stands among the others, and nothing else may have it.
    alone = {one.slots for one in managers if one.exclusive and all(task.manager for task in of_size(reader, job_pk, one.slots, 0, 2))}
    needs = [size for size in sizes if size not in alone][:1] + [whole if one.exclusive else one.slots for one in managers]
    return min(needs, default=None)


def _by_key(task: ReadyTask) -> int:
    return task.pk


def hold(tx: Tx, keys: Iterable[int], lost: Iterable[int]) -> None:
    """Note that a node is held for tasks against their equals too, until they start; for those of `lost` none is any more."""
    tx.change_many(_HOLD, [{"pk": pk, "holds": 1} for pk in keys] + [{"pk": pk, "holds": 0} for pk in lost])


def note_held(tx: Tx, keys: Iterable[int], now: int) -> None:
    """Note that nodes are kept free for multi-instance tasks from now on, unless they were before."""
    tx.change_many(_HELD_SINCE, [{"pk": pk, "now": now} for pk in keys])
