"""What is wrong with a node, by its agent's own word and by its clock: kept in the node's row, shown as its errors; and its news.

A problem that keeps tasks from starting makes the node unusable until the agent says that it is gone. Tasks that run go on.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from batchyard.engine.changes.nodes import change_node
from batchyard.engine.settling.moves import back_to_work
from batchyard.model.common import NameValuePair
from batchyard.model.node import ComputeNodeError
from batchyard.model.states import NodeState
from batchyard.model.sync import NodeNews, NodeProblem, Sync
from batchyard.rules.transitions import NodeHappened
from batchyard.store import events
from batchyard.store import nodes as node_rows
from batchyard.store.nodes import NodeRow
from batchyard.store.tx import Tx

MOST_SKEW_US = 5_000_000
"""Clocks that differ by more make leases and signatures fail sooner or later."""
CLOCK_SKEW = "ClockSkew"
MOST_NEWS = 100
"""News that are taken in at once."""
_LONGEST = 1_000
_WORKING = (NodeState.IDLE, NodeState.RUNNING, NodeState.OFFLINE)
_errors = msgspec.json.Decoder(list[ComputeNodeError])


def hear(tx: Tx, node: NodeRow, sync: Sync, now: int) -> NodeRow:
    """Take in the problems that an agent names and what its clock says; writes only what changed. The node then."""
    skewed = sync.clock is not None and abs(sync.clock - now) > MOST_SKEW_US
    if sync.problems is None and node.errors is None and not skewed:
        return node
    known = [] if node.errors is None else _errors.decode(node.errors)
    errors = [error for error in known if error.code != CLOCK_SKEW] if sync.problems is None else [_error(each) for each in sync.problems]
    if skewed:
        before = [error for error in known if error.code == CLOCK_SKEW]
        errors += before or [_skew((sync.clock or 0) - now)]
    if errors != known:
        node = node_rows.move(tx, node, errors=msgspec.json.encode(errors) if errors else None)
        tx.log(now, "node", node.pk, "errors", cause=", ".join(error.code or "" for error in errors) or "none")
    return node if sync.problems is None else _weigh(tx, node, sync.problems, now)


def note_news(tx: Tx, node_pk: int, news: Sequence[NodeNews], now: int) -> None:
    """Keep what an agent says that happened among the node's events; news that were told before change nothing."""
    known = {event.cause for event in events.last(tx, "node", node_pk, MOST_NEWS)} if news else set()
    for each in news[:MOST_NEWS]:
        cause = each.cause[:_LONGEST]
        if cause not in known:
            known.add(cause)
            tx.log(now, "node", node_pk, each.happened[:_LONGEST], cause=cause)


def _error(problem: NodeProblem) -> ComputeNodeError:
    details = [NameValuePair(name=name, value=value) for name, value in problem.details.items()] or None
    return ComputeNodeError(code=problem.code, message=problem.message, error_details=details)


def _skew(us: int) -> ComputeNodeError:
    ahead = "ahead of" if us > 0 else "behind"
    message = f"The node's clock is {abs(us) / 1e6:.0f} s {ahead} the server's; set it by NTP"
    return ComputeNodeError(code=CLOCK_SKEW, message=message)


def _weigh(tx: Tx, node: NodeRow, problems: list[NodeProblem], now: int) -> NodeRow:
    """Take a node out of service, or back into it; the node then."""
    blocking = any(problem.blocking for problem in problems)
    if bool(node.blocked) != blocking:
        node = node_rows.move(tx, node, blocked=int(blocking))
    if blocking and node.state in _WORKING:
        return change_node(tx, node, NodeHappened.BROKEN, now)
    if not blocking and node.state == NodeState.UNUSABLE:
        return back_to_work(tx, node, NodeHappened.HEALED, now)
    return node
