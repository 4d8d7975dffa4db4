"""Machines that join a pool: one use of a token is one node, and what may not join changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from engine_world import OFFER, SECOND_US, World

from batchyard.engine.pools import joining
from batchyard.model.errors import BatchError
from batchyard.model.joining import Join, JoinToken, JoinTokenCreate, read
from batchyard.model.states import NodeState
from batchyard.providers.joined import JOINED
from batchyard.rules.offer import Offer, Quotas
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

A, B = "a" * 48, "b" * 48
HOUR_US = 3600 * SECOND_US


def token(world: World, pool: str = "p", uses: int = 1) -> tuple[str, str]:
    """Id and secret of a new token that is good for an hour."""
    _, row, secret = world.run(joining.add_token, pool, JoinTokenCreate(uses=uses), world.now)
    return row.id, secret


def join(world: World, shown: tuple[str, str], name: str = A, pool: str | None = None, offer: Offer = OFFER) -> Any:
    node, _ = world.run(joining.join, shown, Join(name, pool), {JOINED}, offer, world.now)
    return node


def picture(reader: Reader) -> list[object]:
    """All that a refused join must leave as it was."""
    found = reader.all(joining.rows._OF_POOL, pool_pk=1, n=100) + reader.all(joining.rows._OF_POOL, pool_pk=2, n=100)
    return [pool_rows.every(reader), node_rows.every(reader), found]


def test_a_machine_that_joins_is_one_more_node_which_works_at_once(world: World) -> None:
    world.pool("p", 1)
    node = join(world, token(world))
    assert (node.state, node.provider, node.dedicated) == (NodeState.STARTING, JOINED, 1)
    world.capacity()
    pool = world.run(pool_rows.find, "p")
    assert pool is not None
    assert (pool.target_dedicated, pool.current_dedicated) == (2, 2)
    assert {row.provider for row in world.run(node_rows.every)} == {JOINED, "local"}


def test_a_join_that_is_repeated_is_one_node_also_when_the_token_is_over(world: World) -> None:
    world.pool("p")
    shown = token(world)
    first = join(world, shown)
    assert (join(world, shown)).pk == first.pk
    world.clock.advance(2 * HOUR_US)
    assert (join(world, shown)).pk == first.pk
    assert len(world.run(node_rows.every)) == 1


def test_a_counted_token_lets_so_many_machines_in(world: World) -> None:
    world.pool("p")
    shown = token(world, uses=2)
    assert (join(world, shown, A)).pk != (join(world, shown, B)).pk
    with pytest.raises(BatchError) as refused:
        join(world, shown, "c" * 48)
    assert refused.value.code == "AuthenticationFailed"


def used(world: World) -> tuple[str, str]:
    shown = token(world)
    join(world, shown, B)
    return shown


def expired(world: World) -> tuple[str, str]:
    shown = token(world)
    world.clock.advance(HOUR_US)
    return shown


def revoked(world: World) -> tuple[str, str]:
    shown = token(world)
    world.run(joining.revoke, "p", shown[0], world.now)
    return shown


def guessed(world: World) -> tuple[str, str]:
    return (token(world))[0], "0" * 48


def unknown(world: World) -> tuple[str, str]:
    return "none", "0" * 48


def of_another_pool(world: World) -> tuple[str, str]:
    return token(world, "other")


def of_a_deleted_pool(world: World) -> tuple[str, str]:
    shown = token(world)
    world.delete_pool("p")
    return shown


def good(world: World) -> tuple[str, str]:
    return token(world)


FULL = Offer(sizes=OFFER.sizes, quotas=Quotas(dedicated_cores=0))


@pytest.mark.parametrize(
    ("case", "offer", "code", "why"),
    [
        (used, OFFER, "AuthenticationFailed", "used as often as it may be"),
        (expired, OFFER, "AuthenticationFailed", "expired"),
        (revoked, OFFER, "AuthenticationFailed", "revoked"),
        (guessed, OFFER, "AuthenticationFailed", "not known here"),
        (unknown, OFFER, "AuthenticationFailed", "not known here"),
        (of_another_pool, OFFER, "InsufficientAccountPermissions", "for another pool"),
        (of_a_deleted_pool, OFFER, "PoolBeingDeleted", ""),
        (good, FULL, "OperationNotValidOnPool", "core quota"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_who_may_not_join_is_told_why_and_changes_nothing(
    world: World, case: Callable[[World], Any], offer: Offer, code: str, why: str
) -> None:
    world.pool("p")
    world.pool("other")
    shown = case(world)
    before = world.run(picture)
    with pytest.raises(BatchError) as refused:
        join(world, shown, A, "p", offer)
    assert refused.value.code == code
    assert why in " ".join(refused.value.values.values())
    assert world.run(picture) == before


def test_a_pool_that_goes_takes_its_tokens_along(world: World) -> None:
    world.pool("p")
    shown = token(world)
    world.delete_pool("p")
    world.capacity()

    def left(tx: Tx) -> object:
        return joining.rows.find(tx, shown[0])

    assert world.run(left) is None


@pytest.mark.parametrize(
    "text", ["", "byj1", "byj1.a.b.c", "byj2.a.b.c.d", "byj1..b.c.d", "byj1.a.b.c.d.e", "byj1.a.b.c.\n", "byj1.a.b." + 600 * "c"]
)
def test_what_is_no_token_is_none(text: str) -> None:
    assert read(text) is None
    assert read(str(JoinToken("a", "b", "c", ""))) == JoinToken("a", "b", "c", "")
