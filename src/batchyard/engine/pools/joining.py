"""Machines that join a pool with a token: one use of a token is one node, however often the machine has to ask.

The use, the node and the machine's name for its join are written in one transaction: a server that dies behind it answers the same again.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection

from batchyard.engine.pools import capacity, resizing
from batchyard.model.errors import BatchError
from batchyard.model.joining import Join, JoinTokenCreate
from batchyard.model.states import NodeState, PoolState
from batchyard.providers.joined import JOINED
from batchyard.rules.offer import Offer
from batchyard.store import joining as rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import usage
from batchyard.store.joining import TokenRow
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

MOST_TOKENS = 1_000
"""Tokens that a pool may have."""
KEPT_US = 7 * 86_400_000_000
"""How long a token is listed that has ended; so long a machine whose answer was lost may ask again."""


def state(token: TokenRow, now: int) -> str:
    """active, used, expired or revoked."""
    if token.revoked is not None:
        return "revoked"
    if now >= token.expires:
        return "expired"
    return "active" if token.uses_left else "used"


def add_token(tx: Tx, pool_id: str, wish: JoinTokenCreate, now: int) -> tuple[PoolView, TokenRow, str]:
    """A new token of a pool, and its secret, which is kept nowhere. Raises PoolNotFound, PoolBeingDeleted, OperationNotValidOnPool."""
    pool = _pool(tx, pool_id)
    if pool.state == PoolState.DELETING:
        raise BatchError("PoolBeingDeleted")
    rows.forget(tx, pool.pk, now - KEPT_US)
    if rows.count(tx, pool.pk) >= MOST_TOKENS:
        raise BatchError("OperationNotValidOnPool", Reason=f"The pool has {MOST_TOKENS} join tokens already")
    secret, token_id = secrets.token_hex(24), secrets.token_hex(6)
    expires = now + wish.expires_in_seconds * 1_000_000
    values = {"uses": wish.uses, "uses_left": wish.uses, "created": now, "expires": expires}
    pk = rows.add(tx, id=token_id, pool_pk=pool.pk, hash=_hash(secret), **values)
    tx.log(now, "pool", pool.pk, "join token added", cause=token_id)
    token = rows.find(tx, token_id)
    assert token is not None, pk
    return pool, token, secret


def tokens(reader: Reader, pool_id: str) -> tuple[PoolView, list[TokenRow]]:
    """All tokens of a pool. Raises PoolNotFound."""
    pool = _pool(reader, pool_id)
    return pool, rows.of_pool(reader, pool.pk, MOST_TOKENS)


def revoke(tx: Tx, pool_id: str, token_id: str, now: int) -> None:
    """Have a token of a pool be good for nothing; nodes that joined with it stay. Raises PoolNotFound, ResourceNotFound."""
    pool, token = _pool(tx, pool_id), rows.find(tx, token_id)
    if token is None or token.pool_pk != pool.pk:
        raise BatchError("ResourceNotFound")
    rows.revoke(tx, token.pk, now)
    tx.log(now, "pool", pool.pk, "join token revoked", cause=token_id)


def join(tx: Tx, shown: tuple[str, str], wish: Join, outside: Collection[str], offer: Offer, now: int) -> tuple[NodeRow, PoolView]:
    """The node that a machine is from now on, and its pool; `shown` are id and secret of the token.

    `outside` are the providers whose nodes wait for agents that somebody else starts. Raises AuthenticationFailed,
    InsufficientAccountPermissions, PoolBeingDeleted, OperationNotValidOnPool; nothing is used up then.
    """
    token = rows.find(tx, shown[0])
    if token is None or not hmac.compare_digest(token.hash, _hash(shown[1])):
        raise _refused("The join token is not known here; it may be of another server or account, or of keys that were made anew")
    pool = pool_rows.get(tx, token.pool_pk)
    if pool is None:
        raise _refused("The pool of the join token is gone")
    if wish.pool is not None and wish.pool.lower() != pool.id.lower():
        raise BatchError("InsufficientAccountPermissions", Reason="The join token is for another pool")
    if token.revoked is not None:
        raise _refused("The join token was revoked")
    name = _hash(wish.name)
    earlier = rows.joined(tx, token.pk, name)
    if earlier is not None:
        node = node_rows.get(tx, earlier)
        if node is None or node.state == NodeState.LEAVING_POOL:
            raise _refused("The node that joined with this token is gone; join with a new one")
        return node, pool
    if now >= token.expires:
        raise _refused("The join token has expired")
    if not token.uses_left:
        raise _refused("The join token was used as often as it may be")
    if pool.state == PoolState.DELETING:
        raise BatchError("PoolBeingDeleted")
    node = _waiting(tx, pool, outside) or _new(tx, pool, offer, now)
    rows.use(tx, token.pk)
    rows.note(tx, token.pk, name, node.pk)
    tx.log(now, "node", node.pk, "machine joined", cause=f"join token {token.id}")
    return node, pool


def _waiting(tx: Tx, pool: PoolView, outside: Collection[str]) -> NodeRow | None:
    """A node that waits for an agent, and that no machine has joined as."""
    for node in node_rows.of_pool(tx, pool.pk):
        waits = node.state == NodeState.STARTING and node.booted is None and node.provider in outside and node.action is None
        if waits and not rows.is_joined(tx, node.pk):
            return node
    return None


def _new(tx: Tx, pool: PoolView, offer: Offer, now: int) -> NodeRow:
    """One more node, by which the pool is meant to be larger."""
    vm_size = pool_rows.content(pool.body).vm_size
    size = offer.sizes.find(vm_size)
    if size is None:
        raise BatchError("OperationNotValidOnPool", Reason=f"The account does not offer the size {vm_size} any more")
    quota = offer.quotas.dedicated_cores
    if quota is not None and usage.cores(tx, dedicated=True) + size.cores > quota:
        raise BatchError("OperationNotValidOnPool", Reason="The core quota of the account has been reached")
    [number] = node_rows.free_numbers(tx, pool.pk, 1)
    pk = resizing.add_node(tx, pool, vm_size, size, 1, number, now, provider=JOINED)
    pool_rows.move(tx, pool, target_dedicated=pool.target_dedicated + 1)
    capacity.launched(tx, pk, JOINED, now)
    node = node_rows.get(tx, pk)
    assert node is not None, pk
    return node


def _pool(reader: Reader, pool_id: str) -> PoolView:
    pool = pool_rows.find(reader, pool_id)
    if pool is None:
        raise BatchError("PoolNotFound")
    return pool


def _hash(secret: str) -> str:
    """Enough for what is drawn at random and cannot be guessed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _refused(why: str) -> BatchError:
    return BatchError("AuthenticationFailed", AuthenticationErrorDetail=why)
