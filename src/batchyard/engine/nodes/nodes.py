"""Use cases of compute nodes: what their agents say, and what becomes of nodes that stay silent."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from batchyard.engine import wakes
from batchyard.engine.changes.nodes import change_node
from batchyard.engine.checks.pools import input_cache_bytes
from batchyard.engine.nodes import health, packages
from batchyard.engine.nodes.node_changes import CHANGING
from batchyard.engine.nodes.orders import orders, task_token
from batchyard.engine.scheduling import scheduler
from batchyard.engine.settling import gangs, start_tasks
from batchyard.engine.settling.ends import lose, report
from batchyard.engine.settling.moves import back_to_work
from batchyard.model.pool import PoolCreateContent, UserAccount
from batchyard.model.states import NodeState, TaskState
from batchyard.model.sync import NodeAccount, NodeContainers, NodeSetup, Orders, Sync
from batchyard.model.words import ElevationLevel
from batchyard.rules import transitions
from batchyard.rules.transitions import NodeHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store.nodes import NodeRow
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

SILENCE_US = 60_000_000
"""How long a node may say nothing before its tasks run elsewhere, unless the operator says otherwise."""
SEEN_EVERY_US = 1_000_000
"""How exactly it is known when a node spoke last: a poll that says nothing new then costs no write to the disk."""
_GONE = (NodeState.LEAVING_POOL, NodeState.PREEMPTED, NodeState.DEALLOCATED)


class Setting(msgspec.Struct, frozen=True):
    """What nodes are told of the account, and the key that tokens are made with."""

    account: str
    key: bytes
    silence_us: int = SILENCE_US
    package_limits: tuple[int, int] = (4 << 30, 100_000)
    """Bytes and entries that an application package may have."""
    since: int = 0
    """When the server began to listen: what nodes did not say before is no silence."""


class NotThisNode(Exception):
    """The token is not that of a node of ours, or the node has left its pool."""


class Occupied(Exception):
    """An agent on another root directory or machine is this node, and has spoken lately."""


@lru_cache(maxsize=1024)
def token(key: bytes, node_pk: int) -> str:
    """What a node shows as its own: `{key of the node}.{HMAC}`; the same at every launch, so none has to be stored."""
    return f"{node_pk}.{hmac.new(key, f'node {node_pk}'.encode(), hashlib.sha256).hexdigest()}"


def identify(key: bytes, shown: str) -> int:
    """Key of the node that a token belongs to; whether the node is still ours is for `hear`. Raises NotThisNode."""
    node, _, _ = shown.partition(".")
    if not (node.isascii() and node.isdigit()) or len(node) > 18 or not hmac.compare_digest(token(key, int(node)).encode(), shown.encode()):
        raise NotThisNode
    return int(node)


def run_of_token(key: bytes, shown: str) -> tuple[int, int] | None:
    """The task and the number of the run that a token was made for; None when it was not made with this key."""
    kind, _, rest = shown.partition(".")
    pk, _, rest = rest.partition(".")
    run, _, _ = rest.partition(".")
    if kind != "task" or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in (pk, run)):
        return None
    if not hmac.compare_digest(task_token(key, int(pk), int(run)).encode(), shown.encode()):
        return None
    return int(pk), int(run)


def job_of_token(reader: Reader, key: bytes, shown: str) -> tuple[str, int] | None:
    """Id of the job that a task's token is good for, and the task's key; None when it is wrong or the run is over."""
    meant = run_of_token(key, shown)
    task = None if meant is None else task_rows.get(reader, meant[0])
    if task is None or (task.pk, task.run) != meant or task.state != TaskState.RUNNING or not task.wants_token:
        return None
    return job_rows.get(reader, task.job_pk).id, task.pk


def hear(tx: Tx, node_pk: int, sync: Sync, setting: Setting, now: int, *, refill: bool = False) -> Orders | None:
    """Take in what an agent says; what it should run, None when the session is over. Raises NotThisNode or Occupied.

    `refill` fills the room that ended attempts leave in the same commit, so that the answer brings the next orders.
    """
    node = node_rows.get(tx, node_pk)
    if node is None or node.state in _GONE or (sync.session == 0 and node.state in CHANGING):
        raise NotThisNode
    if sync.session in (0, node.session):
        health.note_news(tx, node.pk, sync.news, now)
    if sync.session == 0:
        if sync.root is not None and _is_occupied(node, sync.root, setting, now):
            raise Occupied
        return _join(tx, node, sync, setting, now)
    if sync.session != node.session:
        return None
    if node.last_seen is None or abs(now - node.last_seen) >= SEEN_EVERY_US:
        node_rows.seen(tx, node.pk, now)
        node = node_rows.get(tx, node.pk) or node  # what is reported may change it, as it is by now
    if sync.removed:
        node_rows.removed(tx, node.pk, sync.removed)
    if sync.ended or sync.ready:
        _report(tx, node, sync, now)
    if sync.leaving:
        _unheard(tx, node.pk, NodeHappened.AGENT_STOPPED, now)
        node_rows.move(tx, node_rows.get(tx, node.pk) or node, last_seen=None)  # it is gone, or soon will be: that is no silence
        return Orders(session=sync.session, number=sync.number)
    if (sync.problems is not None or sync.clock is not None) and (fresh := node_rows.get(tx, node.pk)) is not None:
        health.hear(tx, fresh, sync, now)
    if refill and sync.ended:
        _refill(tx, node.pool_pk, now)
    return orders(tx, node, sync, setting.key)


def _report(tx: Tx, node: NodeRow, sync: Sync, now: int) -> None:
    report(tx, node, sync.ended, now)
    gangs.hear(tx, node, sync.ready, sync.ended, now)


def _refill(tx: Tx, pool_pk: int, now: int) -> None:
    pool = pool_rows.room(tx, pool_pk)
    if pool is not None:
        key = pool.id.lower()
        tx.wakes.discard(wakes.pool(key))  # what the ends would wake is done here
        scheduler.place(tx, pool, now)
        tx.wake(wakes.demand(key))


def _is_occupied(node: NodeRow, root: str, setting: Setting, now: int) -> bool:
    """True when an agent of another root is alive as far as is known; of the same root it is dead, for who joins holds that root's lock."""
    if node.root in (None, root) or node.last_seen is None or node.state == NodeState.UNKNOWN:
        return False
    return min(abs(now - node.last_seen), abs(now - setting.since)) < setting.silence_us


def _join(tx: Tx, node: NodeRow, sync: Sync, setting: Setting, now: int) -> Orders:
    """Begin a session: of what an earlier agent of the node ran, ends that it noted count, the rest runs again, and the start task too."""
    _report(tx, node, sync, now)
    node = lose(tx, node_rows.get(tx, node.pk) or node, now, unwatched=sync.unwatched)
    pool = pool_rows.get(tx, node.pool_pk)
    assert pool is not None, f"node {node.pk} has no pool"
    body = pool_rows.content(pool.body)
    if node.state != NodeState.STARTING and transitions.NODE.allows(node.state, NodeHappened.LOST):
        node = change_node(tx, node, NodeHappened.LOST, now)
    node = node_rows.move(
        tx,
        node,
        session=node.session + 1,
        booted=now,
        last_seen=now,
        launches=0,
        launch_error=None,
        errors=None,
        blocked=0,
        root=sync.root,
        facts=None if sync.facts is None else msgspec.json.encode(sync.facts),
        start_task=None if body.start_task is None else msgspec.json.encode(body.start_task),
    )
    happened = start_tasks.begin(tx, node, body.start_task, pool.id, now)
    node = health.hear(tx, back_to_work(tx, node, happened, now), sync, now)
    answer = orders(tx, node, sync, setting.key)
    return msgspec.structs.replace(answer, session=node.session, setup=_setup(tx, node, pool.id, body, setting))


def _setup(reader: Reader, node: NodeRow, pool_id: str, body: PoolCreateContent, setting: Setting) -> NodeSetup:
    """What the agent has to know; the API fills in the URL that the agent knows the server by."""
    return NodeSetup(
        pool_id=pool_id,
        node_id=node.id,
        is_dedicated=bool(node.dedicated),
        account_name=setting.account,
        account_url="",
        slots=node.slots,
        cores=node.cores,
        memory_bytes=node.memory,
        task_disk_bytes=node.task_disk,
        accounts=[_account(account) for account in body.user_accounts or ()],
        packages=packages.of_references(reader, body.application_package_references or ()),
        package_bytes=setting.package_limits[0],
        package_entries=setting.package_limits[1],
        input_cache_bytes=input_cache_bytes(body.metadata),
        containers=_containers(body),
    )


def _containers(body: PoolCreateContent) -> NodeContainers | None:
    machine = body.virtual_machine_configuration
    given = None if machine is None else machine.container_configuration
    if given is None:
        return None
    return NodeContainers(images=given.container_image_names or [], registries=given.container_registries or [])


def _account(account: UserAccount) -> NodeAccount:
    linux = account.linux_user_configuration
    admin = account.elevation_level is ElevationLevel.ADMIN
    return NodeAccount(name=account.name, admin=admin, uid=linux.uid if linux else None, gid=linux.gid if linux else None)


def present_orders(reader: Reader, node_pk: int, sync: Sync, key: bytes) -> Orders | None:
    """What a node that waits should run by now; None when its session is over. Raises NotThisNode."""
    node = node_rows.get(reader, node_pk)
    if node is None or node.state in _GONE:
        raise NotThisNode
    return orders(reader, node, sync, key) if node.session == sync.session else None


def gone(tx: Tx, node_pk: int, now: int) -> NodeRow | None:
    """The node's agent has ended: whoever speaks in its name is fenced off, and its tasks wait a short while for the next agent.

    That one may know how they ended, and ends those that run on with nobody watching. The node, when it is to be started again.
    It keeps its handle, for whatever it left has to be released one day.
    """
    node = node_rows.get(tx, node_pk)
    if node is not None and node.state in CHANGING:
        _fence(tx, node, now)
        return None
    if node is None or not transitions.NODE.allows(node.state, NodeHappened.LOST):
        return None
    if node.state == NodeState.STARTING:
        return node
    if node.action is not None:  # no agent may come: the node is to leave, or to lose its machine
        node = lose(tx, node, now)
    node = change_node(tx, node, NodeHappened.LOST, now, session=node.session + 1, last_seen=None, blocked=0)
    tx.wake(wakes.CAPACITY)
    return node


def not_back(tx: Tx, node_pk: int, now: int) -> None:
    """No agent came after the last one had ended: its tasks run elsewhere."""
    node = node_rows.get(tx, node_pk)
    if node is not None and node.state == NodeState.STARTING:
        lose(tx, node, now)


def silent(tx: Tx, node_pk: int, now: int) -> None:
    """The node has not spoken for too long: nobody knows what it does, so its tasks run elsewhere and it is fenced off."""
    _unheard(tx, node_pk, NodeHappened.SILENT, now)


def _unheard(tx: Tx, node_pk: int, happened: NodeHappened, now: int) -> None:
    """Nobody speaks for the node: its tasks run elsewhere, and whoever speaks for it next has to join.

    An agent that was told to stop is no fault of its tasks, so it does not count towards the losses that they may have.
    """
    blame = happened is NodeHappened.SILENT
    node = node_rows.get(tx, node_pk)
    if node is not None and node.state in CHANGING:
        _fence(tx, node, now, blame=blame)
        return
    if node is None or not transitions.NODE.allows(node.state, happened):
        return
    node = lose(tx, node, now, blame=blame)
    change_node(tx, node, happened, now, session=node.session + 1)
    tx.wake(wakes.CAPACITY)


def still_silent(reader: Reader, lives: Mapping[int, int]) -> set[int]:
    """Which of these nodes, each with the session in which it was unknown, have said nothing since."""
    rows = [node_rows.get(reader, pk) for pk in lives]
    return {node.pk for node in rows if node is not None and node.state == NodeState.UNKNOWN and node.session == lives[node.pk]}


def silenced(tx: Tx, lives: Mapping[int, int], now: int) -> None:
    """The agents of silent nodes were ended, so that others may start in their place."""
    for pk in still_silent(tx, lives):
        gone(tx, pk, now)


def _fence(tx: Tx, node: NodeRow, now: int, *, blame: bool = True) -> None:
    """The node takes no tasks and is about to stop: what it still ran is made elsewhere."""
    if node.last_seen is None and not node.tasks_running:
        return  # it was fenced off before
    node = lose(tx, node, now, blame=blame)
    node_rows.move(tx, node, session=node.session + 1, last_seen=None)
    tx.wake(wakes.CAPACITY)
