"""Use cases of compute nodes: what their agents say, and what becomes of nodes that stay silent."""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from batchyard.engine import scheduler, special_tasks, wakes
from batchyard.engine.ends import attempt_name, lose, report
from batchyard.engine.tasks import directory, job_directory
from batchyard.model.states import NodeState, TaskState
from batchyard.model.sync import NodeSetup, Order, Orders, Removal, Sync
from batchyard.rules import transitions
from batchyard.rules.transitions import NodeHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import special_tasks as special_rows
from batchyard.store import tasks as task_rows
from batchyard.store.nodes import NodeRow
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

REMOVALS_PER_SYNC = 100
SEEN_EVERY_US = 1_000_000
"""How exactly it is known when a node spoke last: a poll that says nothing new then costs no write to the disk."""
_GONE = (NodeState.LEAVING_POOL, NodeState.PREEMPTED, NodeState.DEALLOCATED)


class Setting(msgspec.Struct, frozen=True):
    """What nodes are told of the account, and the key that tokens are made with."""

    account: str
    key: bytes


class NotThisNode(Exception):
    """The token is not that of a node of ours, or the node has left its pool."""


def token(key: bytes, node_pk: int) -> str:
    """What a node shows as its own: `{key of the node}.{HMAC}`; the same at every launch, so none has to be stored."""
    return f"{node_pk}.{hmac.new(key, f'node {node_pk}'.encode(), hashlib.sha256).hexdigest()}"


def identify(key: bytes, shown: str) -> int:
    """Key of the node that a token belongs to; whether the node is still ours is for `hear`. Raises NotThisNode."""
    node, _, _ = shown.partition(".")
    if not (node.isascii() and node.isdigit()) or len(node) > 18 or not hmac.compare_digest(token(key, int(node)).encode(), shown.encode()):
        raise NotThisNode
    return int(node)


def task_token(key: bytes, pk: int, run: int) -> str:
    """What one run of a task shows as its own: good for its job while it runs (contract 8.4)."""
    return f"task.{pk}.{run}.{hmac.new(key, f'task {pk} {run}'.encode(), hashlib.sha256).hexdigest()}"


def job_of_token(reader: Reader, key: bytes, shown: str) -> str | None:
    """Id of the job that a task's token is good for; None when it is wrong or the run is over."""
    kind, _, rest = shown.partition(".")
    pk, _, rest = rest.partition(".")
    run, _, _ = rest.partition(".")
    if kind != "task" or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in (pk, run)):
        return None
    if not hmac.compare_digest(task_token(key, int(pk), int(run)).encode(), shown.encode()):
        return None
    task = task_rows.get(reader, int(pk))
    if task is None or task.run != int(run) or task.state != TaskState.RUNNING or not task.wants_token:
        return None
    return job_rows.get(reader, task.job_pk).id


def hear(tx: Tx, node_pk: int, sync: Sync, setting: Setting, now: int) -> Orders | None:
    """Take in what an agent says; what it should run, None when the session is over. Raises NotThisNode."""
    node = node_rows.get(tx, node_pk)
    if node is None or node.state in _GONE:
        raise NotThisNode
    if sync.session == 0:
        return _join(tx, node, sync, setting, now)
    if sync.session != node.session:
        return None
    if node.last_seen is None or abs(now - node.last_seen) >= SEEN_EVERY_US:
        node_rows.seen(tx, node.pk, now)
    if sync.removed:
        node_rows.removed(tx, node.pk, sync.removed)
    if sync.ended:
        report(tx, node, sync.ended, now)
    return orders(tx, node.pk, sync, setting.key)


def hear_and_refill(tx: Tx, node_pk: int, sync: Sync, setting: Setting, now: int) -> Orders | None:
    """`hear`, and fill the room that ended attempts leave in the same commit, so that the answer brings the next orders."""
    answer = hear(tx, node_pk, sync, setting, now)
    node = node_rows.view_of(tx, node_pk) if sync.ended else None
    if answer is None or answer.setup is not None or node is None:
        return answer
    scheduler.run_once(tx, node.pool_id.lower(), now)
    return orders(tx, node_pk, sync, setting.key)


def _join(tx: Tx, node: NodeRow, sync: Sync, setting: Setting, now: int) -> Orders:
    """Begin a session: whatever an earlier agent of the node ran is lost and runs again."""
    lose(tx, node, now)
    node = node_rows.get(tx, node.pk) or node
    state = node.state
    if transitions.NODE.allows(state, NodeHappened.LOST):
        state = transitions.NODE.after(state, NodeHappened.LOST)
    state = transitions.NODE.after(state, NodeHappened.JOINED)
    facts = None if sync.facts is None else msgspec.json.encode(sync.facts)
    node_rows.move(tx, node, session=node.session + 1, state=state, state_time=now, booted=now, last_seen=now, facts=facts, launches=0)
    tx.log(now, "node", node.pk, NodeHappened.JOINED, old=node.state, new=state)
    view = node_rows.view_of(tx, node.pk)
    assert view is not None
    tx.wake(wakes.pool(view.pool_id.lower()))
    tx.wake(wakes.CAPACITY)
    setup = NodeSetup(
        pool_id=view.pool_id,
        node_id=view.id,
        is_dedicated=bool(view.dedicated),
        account_name=setting.account,
        account_url="",
        slots=view.slots,
    )
    answer = orders(tx, node.pk, sync, setting.key)
    return msgspec.structs.replace(answer, session=node.session + 1, setup=setup)


def present_orders(reader: Reader, node_pk: int, sync: Sync, key: bytes) -> Orders | None:
    """What a node that waits should run by now; None when its session is over. Raises NotThisNode."""
    node = node_rows.get(reader, node_pk)
    if node is None or node.state in _GONE:
        raise NotThisNode
    return orders(reader, node_pk, sync, key) if node.session == sync.session else None


def orders(reader: Reader, node_pk: int, sync: Sync, key: bytes) -> Orders:
    """All that a node should run, with the orders that it does not have yet."""
    has = set(sync.has)
    removals = [Removal(number=number, directory=path) for number, path in node_rows.removals(reader, node_pk, REMOVALS_PER_SYNC)]
    wanted: list[str] = []
    fresh: list[Order] = []
    for pk, run in task_rows.attempts(reader, node_pk):
        name = attempt_name(pk, run)
        wanted.append(name)
        if name not in has and (order := _order(reader, pk, name, key, node_pk if removals else None)) is not None:
            fresh.append(order)
    for special in special_rows.running(reader, node_pk):
        name = special_tasks.attempt_name(special.pk, special.run)
        wanted.append(name)
        if name not in has:
            fresh.append(_special_order(reader, special.pk, name))
    return Orders(session=sync.session, number=sync.number, wanted=wanted, orders=fresh, removals=removals)


def _order(reader: Reader, pk: int, name: str, key: bytes, clearing: int | None) -> Order | None:
    """The order to run a task; None while node `clearing` has yet to remove what an earlier task left in its directory."""
    row = task_rows.order(reader, pk)
    if clearing is not None and node_rows.must_remove(reader, clearing, [job_directory(row.job_id), directory(row.job_id, row.id)]):
        return None
    return Order(
        attempt=name,
        job_id=row.job_id,
        task=msgspec.Raw(row.body),
        environment=msgspec.Raw(row.environment or b"[]"),
        preparation_id=row.preparation_id,
        token=task_token(key, row.pk, row.run) if row.wants_token else None,
    )


def _special_order(reader: Reader, pk: int, name: str) -> Order:
    row = special_rows.order(reader, pk)
    return Order(
        attempt=name,
        job_id=row.job_id,
        task=msgspec.Raw(special_tasks.order_body(row.body, row.kind)),
        environment=msgspec.Raw(row.environment or b"[]"),
        preparation_id=None if row.kind == special_rows.PREPARATION else row.preparation_id,
        after_others=row.kind == special_rows.RELEASE,
    )


def gone(tx: Tx, node_pk: int, now: int) -> bool:
    """The node's agent has ended: its tasks run elsewhere, and whoever speaks in its name is fenced off.

    True when the node is to be started again. It keeps its handle, for whatever it left has to be released one day.
    """
    node = node_rows.get(tx, node_pk)
    if node is None or not transitions.NODE.allows(node.state, NodeHappened.LOST):
        return False
    if node.state == NodeState.STARTING:
        return True
    lose(tx, node, now)
    node = node_rows.get(tx, node_pk) or node
    state = transitions.NODE.after(node.state, NodeHappened.LOST)
    node_rows.move(tx, node, state=state, state_time=now, session=node.session + 1)
    tx.log(now, "node", node_pk, NodeHappened.LOST, old=node.state, new=state)
    tx.wake(wakes.CAPACITY)
    return True


def silent(tx: Tx, node_pk: int, now: int) -> None:
    """The node has not spoken for too long: nobody knows what it does, so its tasks run elsewhere and it is fenced off."""
    node = node_rows.get(tx, node_pk)
    if node is None or not transitions.NODE.allows(node.state, NodeHappened.SILENT):
        return
    lose(tx, node, now)
    node = node_rows.get(tx, node_pk) or node
    state = transitions.NODE.after(node.state, NodeHappened.SILENT)
    node_rows.move(tx, node, state=state, state_time=now, session=node.session + 1)
    tx.log(now, "node", node_pk, NodeHappened.SILENT, old=node.state, new=state)
