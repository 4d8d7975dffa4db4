"""What a node is told: all that it should run, and how to run what it does not have yet."""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from batchyard.engine.nodes import packages
from batchyard.engine.nodes.node_changes import Action
from batchyard.engine.settling import gangs, special_tasks, start_tasks
from batchyard.model.sync import Gang, Order, Orders, Removal, Sync
from batchyard.rules import attempts, places
from batchyard.store import instances as instance_rows
from batchyard.store import nodes as node_rows
from batchyard.store import special_tasks as special_rows
from batchyard.store import tasks as task_rows
from batchyard.store.nodes import NodeRow
from batchyard.store.reader import Reader
from batchyard.store.tasks import OrderRow

REMOVALS_PER_SYNC = 100


def task_token(key: bytes, pk: int, run: int) -> str:
    """What one run of a task shows as its own: good for its job while it runs (contract 8.4)."""
    return f"task.{pk}.{run}.{hmac.new(key, f'task {pk} {run}'.encode(), hashlib.sha256).hexdigest()}"


def orders(reader: Reader, node: NodeRow, sync: Sync, key: bytes) -> Orders:
    """All that a node should run, with the orders that it does not have yet."""
    has, notice_s = set(sync.has), _notice(node)
    removed, ran = node_rows.removals(reader, node.pk, REMOVALS_PER_SYNC), task_rows.attempts(reader, node.pk)
    specials = special_rows.running(reader, node.pk)
    removals = [Removal(number=number, directory=path) for number, path in removed]
    named = {attempts.name(pk, run, number): (pk, number) for pk, run, number in ran}
    wanted = [*named]
    missing = {name: which for name, which in named.items() if name not in has}
    rows = task_rows.orders(reader, list({pk for pk, _ in missing.values()}))
    clearing = node.pk if removals else None
    made = (_order(reader, rows[pk], name, number, key, clearing) for name, (pk, number) in missing.items())
    fresh = [order for order in made if order is not None]
    for special in specials:
        name = attempts.name(special.pk, special.run, special=True)
        wanted.append(name)
        if name not in has and notice_s is None:  # on a machine that goes none is begun; it runs when the node is back
            fresh.append(_start_order(node, name) if special.kind == special_rows.START else _special_order(reader, special.pk, name))
    return Orders(session=sync.session, number=sync.number, wanted=wanted, orders=fresh, removals=removals, notice_s=notice_s)


def _notice(node: NodeRow) -> float | None:
    """How long before its machine is taken away a node is told of that, in seconds."""
    if node.action != Action.PREEMPT or node.action_since is None or node.action_after is None:
        return None
    return (node.action_after - node.action_since) / 1e6


def _start_order(node: NodeRow, name: str) -> Order:
    return Order(attempt=name, job_id="", task=msgspec.Raw(start_tasks.order_body(node)), start=True)


def _order(reader: Reader, row: OrderRow, name: str, number: int | None, key: bytes, clearing: int | None) -> Order | None:
    """The order to run a task, or an instance of one; None while node `clearing` has yet to remove what was left in its directory."""
    there = [places.job_directory(row.job_id), places.task_directory(row.job_id, row.id)]
    if clearing is not None and node_rows.must_remove(reader, clearing, there):
        return None
    instance = number is not None
    return Order(
        attempt=name,
        job_id=row.job_id,
        task=msgspec.Raw(gangs.order_body(row.body) if instance else row.body),
        environment=msgspec.Raw(row.environment or b"[]"),
        preparation_id=row.preparation_id,
        token=task_token(key, row.pk, row.run) if row.wants_token else None,
        packages=[] if instance else packages.of_task(reader, row.body),
        gang=_gang(reader, row, number) if row.instances else None,
    )


def _gang(reader: Reader, row: OrderRow, number: int | None) -> Gang:
    addresses = instance_rows.addresses(reader, row.pk)
    return Gang(number=number or 0, addresses=addresses, within=attempts.name(row.pk, row.run, 0) if number is None else None)


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
