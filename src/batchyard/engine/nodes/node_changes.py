"""What clients and providers do to nodes: reboot, reimage, deallocate, start, scheduling on and off, preemption (contract 2.2).

The state that the client waits to leave is written before the answer. What needs the node's machine is a note in the
node's row (`action`), which the capacity loop carries out once the tasks have left the node as the option says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from batchyard.engine import wakes
from batchyard.engine.changes.nodes import change_node
from batchyard.engine.settling import special_tasks
from batchyard.engine.settling.ends import lose, vacate
from batchyard.model.errors import BatchError
from batchyard.model.states import NodeState, SchedulingState
from batchyard.model.words import NodeDeallocationOption, NodeDisableSchedulingOption
from batchyard.rules import transitions
from batchyard.rules.transitions import NodeHappened
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store import usage
from batchyard.store.nodes import NodeRow
from batchyard.store.tx import Tx

PREEMPTED_PAUSE_US = 10_000_000
"""How long a preempted node stays away at least before its provider is asked for a machine again."""

_STATE_ERRORS: Mapping[NodeState, str] = MappingProxyType(
    {
        NodeState.CREATING: "NodeBeingCreated",
        NodeState.STARTING: "NodeBeingStarted",
        NodeState.WAITING_FOR_START_TASK: "NodeBeingStarted",
        NodeState.REBOOTING: "NodeBeingRebooted",
        NodeState.REIMAGING: "NodeBeingReimaged",
        NodeState.UNUSABLE: "NodeStateUnusable",
        NodeState.UNKNOWN: "NodeStateUnusable",
        NodeState.PREEMPTED: "NodeStateUnusable",
    }
)

CHANGING = (NodeState.REBOOTING, NodeState.REIMAGING, NodeState.DEALLOCATING)
"""States in which the machine is about to stop; whoever joins meanwhile is an agent that does not know it yet."""

_KEEPS_TASKS = (NodeDeallocationOption.TASK_COMPLETION, NodeDeallocationOption.RETAINED_DATA)
_NEVER_SCHEDULES = (NodeState.DEALLOCATING, NodeState.DEALLOCATED, NodeState.PREEMPTED, NodeState.LEAVING_POOL, NodeState.UNKNOWN)


class Action(StrEnum):
    """What happens to a node once its tasks have left it."""

    REBOOT = "reboot"
    REIMAGE = "reimage"
    DEALLOCATE = "deallocate"
    REMOVE = "remove"
    PREEMPT = "preempt"


def reboot(tx: Tx, node: NodeRow, option: str | None, now: int, restarting: Collection[str] = ()) -> None:
    """Stop and start the node's machine; its files stay. Raises NodeBeing…, NodeStateUnusable, OperationInvalidForCurrentState.

    `restarting` names the providers that can start an agent anew even when nobody knows what became of it.
    """
    _require_known(node, restarting)
    _begin(tx, node, Action.REBOOT, NodeHappened.REBOOT_REQUESTED, option, now)


def reimage(tx: Tx, node: NodeRow, option: str | None, now: int, restarting: Collection[str] = ()) -> None:
    """Set the node up afresh; its files go. Raises what `reboot` raises, with the same `restarting`."""
    _require_known(node, restarting)
    _begin(tx, node, Action.REIMAGE, NodeHappened.REIMAGE_REQUESTED, option, now)


def deallocate(tx: Tx, node: NodeRow, option: str | None, now: int) -> None:
    """Give the node's machine back but keep the node. Raises what `reboot` raises."""
    _begin(tx, node, Action.DEALLOCATE, NodeHappened.DEALLOCATE_REQUESTED, option, now)


def _begin(tx: Tx, node: NodeRow, action: Action, happened: NodeHappened, option: str | None, now: int) -> None:
    _require(node, happened)
    _require_staying(node)
    option = option or NodeDeallocationOption.REQUEUE
    if option not in _KEEPS_TASKS:
        node = vacate(tx, node, now, terminate=option == NodeDeallocationOption.TERMINATE)
    change_node(tx, node, happened, now, cause=option, action=action, action_option=option, action_since=now, action_after=None)
    tx.wake(wakes.node(node.pk))
    tx.wake(wakes.CAPACITY)


def _require(node: NodeRow, happened: NodeHappened) -> None:
    if not transitions.NODE.allows(node.state, happened):
        raise refused(node.state)


def _require_known(node: NodeRow, restarting: Collection[str]) -> None:
    if node.state == NodeState.UNKNOWN and node.provider not in restarting:
        raise refused(node.state)


def _require_staying(node: NodeRow) -> None:
    if node.action == Action.REMOVE:
        raise BatchError("OperationInvalidForCurrentState", Reason="The node is leaving its pool")


def refused(state: NodeState) -> BatchError:
    """What is answered to a request that a node's state does not allow (contract 2.9)."""
    return BatchError(_STATE_ERRORS.get(state, "OperationInvalidForCurrentState"))


def start(tx: Tx, node: NodeRow, now: int) -> None:
    """Get a machine for a deallocated node again. Raises OperationInvalidForCurrentState."""
    if not transitions.NODE.allows(node.state, NodeHappened.START_REQUESTED):
        raise BatchError("OperationInvalidForCurrentState")
    change_node(tx, node, NodeHappened.START_REQUESTED, now, launches=0, launch_error=None)
    usage.resume(tx, node.pk, now)
    tx.wake(wakes.CAPACITY)


def disable_scheduling(tx: Tx, node: NodeRow, option: NodeDisableSchedulingOption | None, now: int) -> None:
    """Keep new tasks off a node. Raises NodeAlreadyInTargetSchedulingState, OperationInvalidForCurrentState."""
    _require_scheduling(node, SchedulingState.ENABLED)
    if option is not NodeDisableSchedulingOption.TASK_COMPLETION:
        node = vacate(tx, node, now, terminate=option is NodeDisableSchedulingOption.TERMINATE)
    if not node.tasks_running and transitions.NODE.allows(node.state, NodeHappened.WENT_OFFLINE):
        change_node(tx, node, NodeHappened.WENT_OFFLINE, now, scheduling_state=SchedulingState.DISABLED)
    else:
        node_rows.move(tx, node, scheduling_state=SchedulingState.DISABLED)
    tx.wake(wakes.node(node.pk))


def enable_scheduling(tx: Tx, node: NodeRow, now: int) -> None:
    """Let a node take tasks again. Raises NodeAlreadyInTargetSchedulingState, OperationInvalidForCurrentState."""
    _require_scheduling(node, SchedulingState.DISABLED)
    if transitions.NODE.allows(node.state, NodeHappened.SCHEDULING_ENABLED):
        change_node(tx, node, NodeHappened.SCHEDULING_ENABLED, now, scheduling_state=SchedulingState.ENABLED)
    else:
        node_rows.move(tx, node, scheduling_state=SchedulingState.ENABLED)
    pool = pool_rows.get(tx, node.pool_pk)
    assert pool is not None, f"node {node.pk} has no pool"
    tx.wake(wakes.pool(pool.id.lower()))


def _require_scheduling(node: NodeRow, present: SchedulingState) -> None:
    if node.state in _NEVER_SCHEDULES:
        raise BatchError("OperationInvalidForCurrentState")
    if node.scheduling_state != present:
        raise BatchError("NodeAlreadyInTargetSchedulingState")


def preempt(tx: Tx, node: NodeRow, notice_us: int, now: int) -> None:
    """Tell a spot node that its machine will be taken away. Raises OperationNotValidOnNode for a dedicated one, NodeBeing…"""
    if node.dedicated:
        raise BatchError("OperationNotValidOnNode", Reason="Only spot nodes are preempted")
    _require(node, NodeHappened.PREEMPTED)
    _require_staying(node)
    if node.action != Action.PREEMPT:
        node_rows.move(tx, node, action=Action.PREEMPT, action_option=None, action_since=now, action_after=now + notice_us)
        tx.wake(wakes.node(node.pk))
    tx.wake(wakes.CAPACITY)


def preempted(tx: Tx, node_pk: int, now: int, life: tuple[int, int] | None = None) -> bool:
    """The machine was taken away: the tasks wait again, uncounted, and the node stays listed until there is capacity.

    `life` is the session and the number of launches that this was seen of; an older one changes nothing, then False.
    """
    node = node_rows.get(tx, node_pk)
    if node is None or not transitions.NODE.allows(node.state, NodeHappened.PREEMPTED):
        return False
    if life is not None and (node.session, node.launches) != life:
        return False
    node = lose(tx, node, now, blame=False)
    change_node(
        tx,
        node,
        NodeHappened.PREEMPTED,
        now,
        session=node.session + 1,
        launches=0,
        last_seen=None,
        errors=None,
        blocked=0,
        **_done(node) | ({} if node.action == Action.REMOVE else {"action_after": now + PREEMPTED_PAUSE_US}),
    )
    usage.end(tx, node, now)
    tx.wake(wakes.node(node_pk))
    tx.wake(wakes.CAPACITY)
    return True


def _done(node: NodeRow) -> dict[str, Any]:
    """An action that was carried out is forgotten; a removal that was asked for meanwhile is still to come, with nothing to retain."""
    if node.action == Action.REMOVE:
        return {"action_option": NodeDeallocationOption.REQUEUE}
    return dict.fromkeys(("action", "action_option", "action_since", "action_after"))


def due(tx: Tx, node: NodeRow, now: int) -> bool:
    """True when nothing holds up the action any more: the tasks are gone and, if asked for, so is what they retain."""
    waits = node.action != Action.PREEMPT and not node.tasks_running and node.action_option == NodeDeallocationOption.RETAINED_DATA
    if waits and node.action_after is None:
        node = node_rows.move(tx, node, action_after=task_rows.retained_until(tx, node.pk) or now)
    return is_due(node, now)


def is_due(node: NodeRow, now: int) -> bool:
    """The same, as far as the row says it already."""
    if node.action == Action.PREEMPT:
        return not node.tasks_running or now >= (node.action_after or 0)
    if node.tasks_running:
        return False
    retains = node.action_option == NodeDeallocationOption.RETAINED_DATA
    return not retains or (node.action_after is not None and now >= node.action_after)


def stopped(tx: Tx, node_pks: Iterable[int], now: int) -> None:
    """Machines that were to be rebooted, reimaged or deallocated have stopped."""
    for pk in node_pks:
        node = node_rows.get(tx, pk)
        if node is not None and node.state in CHANGING:
            _stopped(tx, node, now)
        elif node is not None and node.state == NodeState.PREEMPTED:
            special_tasks.emptied(tx, node, now)
            node_rows.forget_removals(tx, pk)
            node_rows.move(tx, node, handle=None)
    tx.wake(wakes.CAPACITY)


def _stopped(tx: Tx, node: NodeRow, now: int) -> None:
    """A reboot keeps the handle, so that the watch finds the machine gone and launches it again; the others give it back."""
    node = lose(tx, node, now, blame=False)
    changes: dict[str, Any] = {}
    if node.state == NodeState.REBOOTING:
        special_tasks.rebooted(tx, node)
    else:
        special_tasks.emptied(tx, node, now)
        node_rows.forget_removals(tx, node.pk)
        changes = {"handle": None}
    happened = NodeHappened.DEALLOCATED if node.state == NodeState.DEALLOCATING else NodeHappened.RESTARTED
    after = change_node(
        tx,
        node,
        happened,
        now,
        session=node.session + 1,
        launches=0,
        launch_error=None,
        last_seen=None,
        errors=None,
        blocked=0,
        **_done(node),
        **changes,
    )
    if after.state == NodeState.DEALLOCATED:
        usage.end(tx, node, now)
    tx.wake(wakes.node(node.pk))
