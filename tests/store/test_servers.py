"""Which servers live and which worlds each has open: nobody closes for another, and what a dead one had open is opened in time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import databases
from batchyard.store import accounts, migrate, secrets, servers
from batchyard.store.accounts import AccountRow
from batchyard.store.db import MEMORY, Database, open_store
from batchyard.store.reader import Change
from batchyard.store.tx import Tx

LIFE_US = 6_000_000
LATER = 10**15


@pytest.fixture
def registry(driver: str) -> Iterator[Database]:
    db = open_store(databases.place(MEMORY), chain=migrate.REGISTRY)
    for name in ("a", "b"):
        db.call(servers.begin, name, f"{name}1", f"http://{name}", 3, alone=False)
    yield db
    db.close()


@pytest.fixture
def alpha(registry: Database) -> AccountRow:
    return registry.call(accounts.add, name="alpha", state=accounts.ACTIVE, location="x", storage="alphastorage", created=1)


def opened(registry: Database, account: AccountRow, server: str, *, unless_elsewhere: bool = False) -> AccountRow | None:
    return registry.call(servers.open_world, account.pk, server, LIFE_US, unless_elsewhere=unless_elsewhere)


def row(registry: Database, account: AccountRow) -> AccountRow:
    found = registry.call(accounts.get, account.pk)
    assert found is not None
    return found


def falls_silent(registry: Database, server: str) -> None:
    registry.call(lambda tx: tx.change(Change("UPDATE server SET seen = seen - 7000000 WHERE id = :id"), id=server))


def due(registry: Database) -> list[str]:
    return [found.name for found in registry.call(accounts.due, LATER, LIFE_US, 9)]


def test_the_last_one_that_closes_says_when_something_is_due(registry: Database, alpha: AccountRow) -> None:
    for server in ("a", "b"):
        assert opened(registry, alpha, server)
    seen = row(registry, alpha)
    assert seen.due == 0
    registry.call(servers.close_world, seen, "a", LIFE_US, 77)
    assert row(registry, alpha).due == 0, "the other one has it open"
    registry.call(servers.close_world, row(registry, alpha), "b", LIFE_US, 88)
    assert row(registry, alpha).due == 88


def test_who_saw_a_world_before_another_server_was_in_it_does_not_know_what_is_due(registry: Database, alpha: AccountRow) -> None:
    """It looked; the other one opened, left a deadline and closed; then the first one closes."""
    opened(registry, alpha, "a")
    seen = row(registry, alpha)
    opened(registry, alpha, "b")
    registry.call(servers.close_world, row(registry, alpha), "b", LIFE_US, 5)
    registry.call(servers.close_world, seen, "a", LIFE_US, None)
    assert row(registry, alpha).due == 0
    assert due(registry) == ["alpha"], "so it is opened and looked at again"


def test_one_server_opens_what_is_due(registry: Database, alpha: AccountRow) -> None:
    assert opened(registry, alpha, "a", unless_elsewhere=True)
    assert due(registry) == []
    assert opened(registry, alpha, "b", unless_elsewhere=True) is None
    assert opened(registry, alpha, "b"), "whoever is asked for it opens it too"


def test_what_a_dead_server_had_open_is_opened_by_another(registry: Database, alpha: AccountRow) -> None:
    opened(registry, alpha, "a")
    falls_silent(registry, "a")
    assert due(registry) == ["alpha"]
    assert opened(registry, alpha, "b", unless_elsewhere=True)
    assert due(registry) == []
    registry.call(servers.close_world, row(registry, alpha), "b", LIFE_US, 99)
    assert row(registry, alpha).due == 99
    assert registry.call(servers.beat, "a", "a1", 3, LIFE_US) == (True, True), "it was only paused, and has the world open still"
    assert registry.call(servers.beat, "a", "a1", 3, LIFE_US) == (True, False)
    assert row(registry, alpha).due == 0
    registry.call(servers.begin, "a", "a2", "http://a", 3, alone=False)
    assert due(registry) == ["alpha"], "a new life of it has nothing open"


def test_a_copy_of_a_server_takes_its_place_and_the_first_one_hears_of_it(registry: Database) -> None:
    registry.call(servers.begin, "a", "a2", "http://other", 3, alone=False)
    assert registry.call(servers.beat, "a", "a1", 3, LIFE_US) == (False, False)
    registry.call(servers.leave, "a", "a1")
    assert {found.url: found.seen > 0 for found in registry.call(servers.every)} == {"http://other": True, "http://b": True}
    registry.call(servers.leave, "a", "a2")
    assert {found.url: found.seen > 0 for found in registry.call(servers.every)} == {"http://other": False, "http://b": True}


def test_a_server_that_is_alone_lives_without_saying_so(registry: Database, alpha: AccountRow) -> None:
    registry.call(servers.begin, "only", "1", "http://only", 3, alone=True)
    opened(registry, alpha, "only")
    assert due(registry) == []


def test_an_account_that_goes_leaves_nothing_open(registry: Database, alpha: AccountRow) -> None:
    opened(registry, alpha, "a")

    def go(tx: Tx) -> None:
        servers.forget_openings(tx, alpha.pk)
        accounts.delete(tx, alpha.pk)

    registry.call(go)
    assert opened(registry, alpha, "a") is None
    assert registry.call(accounts.open_at, "a") == []


def test_the_first_secret_holds_until_another_is_kept(registry: Database) -> None:
    assert [registry.call(secrets.first, "k", text) for text in ("one", "two")] == ["one", "one"]
    registry.call(secrets.keep, "k", "three")
    assert registry.call(secrets.find, "k") == "three"
    assert registry.call(secrets.find, "none") is None
