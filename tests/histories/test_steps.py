"""Blobs and queues do, one step after the other, just what the models say: steps drawn by hypothesis, with restarts between them."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from tests.blobs.conftest import ACCOUNT, KEY, Clock
from tests.blobs.conftest import serve as serve_blobs
from tests.histories import blob_model, blob_storm, queue_model, queue_storm
from tests.histories.checker import Op
from tests.histories.clients import Caller, Place
from tests.histories.queue_model import GONE, Miss
from tests.queues.conftest import serve as serve_queues

import databases
from batchyard.blobs.base import ContainerRef
from batchyard.blobs.queues.base import QueueRef
from batchyard.blobs.queues.store import QueueStore
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.model import times

STEPS = settings(max_examples=6, stateful_step_count=30)
_numbers = itertools.count(1)
blobs = st.sampled_from(blob_storm.BLOBS[:2])
who = st.integers(0, 1)
picks = st.integers(0, 100)


class Endpoint:
    """A server in a thread that is ended and started again on what it left, and by whose clock clients go."""

    def __init__(self, service: str, open_store: Callable[[], Any]) -> None:
        self._service, self._open = service, open_store
        self._ahead = timedelta()
        self._stack = contextlib.ExitStack()
        self.restart()

    def restart(self) -> None:
        self._stack.close()
        self.store = self._open()
        if self._service == "blob":
            self._running = self._stack.enter_context(contextlib.contextmanager(serve_blobs)(self.store, Clock()))
        else:
            self._running = self._stack.enter_context(serve_queues(self.store))
        self.pass_time(0)

    def close(self) -> None:
        self._stack.close()

    def pass_time(self, seconds: int) -> None:
        self._ahead += timedelta(seconds=seconds)
        self._running.clock.ahead = self._ahead

    def now_us(self) -> int:
        return times.micros(self._running.clock())

    def caller(self, number: int) -> Caller:
        parts = {"AccountName": ACCOUNT, "AccountKey": KEY, f"{self._service.title()}Endpoint": self._running.url}
        told = ";".join(f"{name}={value}" for name, value in parts.items())
        caller = Caller(number, 0, self._service, Place(SimpleNamespace(storage_connection_string=told)))
        caller.now_us = self.now_us
        return caller


@pytest.fixture
def blob_endpoint(driver: str, tmp_path: Path) -> Iterator[Endpoint]:
    place = databases.place(tmp_path / "store" / "catalogue.db") if databases.on_postgres() else None
    endpoint = Endpoint("blob", lambda: LocalBlobStore(tmp_path / "store", place))
    yield endpoint
    endpoint.close()


@pytest.fixture
def queue_endpoint(driver: str, tmp_path: Path) -> Iterator[Endpoint]:
    place = databases.place(tmp_path / "queues.db")
    endpoint = Endpoint("queue", lambda: QueueStore(place))
    yield endpoint
    endpoint.close()


class Blobs(RuleBasedStateMachine):
    """Two clients that take turns, whose leases and tags may be those of long ago."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._endpoint, self._box = endpoint, f"box-{next(_numbers)}"
        self._states = dict.fromkeys(blob_storm.BLOBS, blob_model.NOTHING)
        self._leases, self._found = [str(uuid.UUID(int=1))], [("none", '"0x1"')]
        self._contents: dict[str, str] = {}
        endpoint.store.create_container(ContainerRef(ACCOUNT, self._box), {}, endpoint.now_us())
        self._callers = [endpoint.caller(number) for number in range(2)]

    def teardown(self) -> None:
        for caller in self._callers:
            caller.close()

    def _do(self, act: Callable[[blob_storm.Client], object], number: int) -> None:
        client = blob_storm.Client(self._callers[number], self._box)
        act(client)
        for seen in client.seen:
            source = self._states[seen.source].version if seen.source else ""
            state = blob_model.after(self._states[seen.blob], seen.op)
            assert state is not None, (seen, self._states[seen.blob])
            self._states[seen.blob] = state
            if seen.op.answer == "ok":
                self._keep(seen, source)

    def _keep(self, seen: blob_storm.Seen, source: str) -> None:
        """What a version holds is what its writer, or the source of its copy, put into it."""
        if isinstance(seen.op.call, blob_model.Write):
            version = seen.op.call.version
            self._contents[version] = self._contents[source] if source else version
        elif seen.content:
            [version] = seen.op.call.versions
            assert seen.content == self._contents[version]

    @rule(number=who, blob=blobs, lease=st.none() | picks, found=st.none() | picks)
    def put(self, number: int, blob: str, lease: int | None, found: int | None) -> None:
        held = "" if lease is None else self._leases[lease % len(self._leases)]
        match = ("", "") if found is None else self._found[found % len(self._found)]
        self._do(lambda client: client.put(blob, held, match), number)

    @rule(number=who, blob=blobs)
    def read(self, number: int, blob: str) -> None:
        def act(client: blob_storm.Client) -> None:
            found = client.read(blob)
            self._found.extend([found] if found[0] else [])

        self._do(act, number)

    @rule(number=who, blob=blobs)
    def create(self, number: int, blob: str) -> None:
        self._do(lambda client: client.create(blob), number)

    @rule(number=who, blob=blobs, other=blobs)
    def copy(self, number: int, blob: str, other: str) -> None:
        self._do(lambda client: client.copy(blob, other), number)

    @rule(number=who, blob=blobs, lease=st.none() | picks)
    def delete(self, number: int, blob: str, lease: int | None) -> None:
        held = "" if lease is None else self._leases[lease % len(self._leases)]
        self._do(lambda client: client.delete(blob, held), number)

    @rule(number=who, blob=blobs, old=st.none() | picks)
    def acquire(self, number: int, blob: str, old: int | None) -> None:
        held = str(uuid.UUID(int=len(self._leases) + 1)) if old is None else self._leases[old % len(self._leases)]
        self._leases.append(held)
        given = {"x_ms_proposed_lease_id": held, "x_ms_lease_duration": "-1"}
        self._do(lambda client: client.leasing(blob, "acquire", held, **given), number)

    @rule(number=who, blob=blobs, pick=picks)
    def release(self, number: int, blob: str, pick: int) -> None:
        held = self._leases[pick % len(self._leases)]
        self._do(lambda client: client.leasing(blob, "release", held, x_ms_lease_id=held), number)

    @rule(number=who, blob=blobs)
    def part(self, number: int, blob: str) -> None:
        self._do(lambda client: client.part(blob), number)

    @rule()
    def restart(self) -> None:
        self._endpoint.restart()
        names = [caller.names for caller in self._callers]
        self.teardown()
        self._callers = [self._endpoint.caller(number) for number in range(2)]
        for caller, count in zip(self._callers, names, strict=True):
            caller.names = count


class Queues(RuleBasedStateMachine):
    """One client, to whom time passes."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._endpoint, self._queue = endpoint, f"queue-{next(_numbers)}"
        self._states: dict[str, queue_model.State] = {}
        endpoint.store.create(QueueRef(ACCOUNT, self._queue), {})
        self._caller = endpoint.caller(0)
        self._client = queue_storm.Client(self._caller)
        self._checked = 0

    def teardown(self) -> None:
        self._caller.close()

    def _check(self) -> None:
        for seen in self._client.seen[self._checked :]:
            if seen.text:
                self._step(seen.text, seen.op)
            elif seen.short:
                for text in self._states.keys() - seen.gave:
                    self._step(text, Op(seen.op.begun_us, seen.op.ended_us, Miss(), "ok"))
        self._checked = len(self._client.seen)

    def _step(self, text: str, op: Op) -> None:
        before = self._states.get(text, queue_model.NOTHING)
        state = queue_model.after(before, op)
        assert state is not None, (text, op, before)
        self._states[text] = state

    @rule()
    def put(self) -> None:
        self._client.put(self._queue)
        self._check()

    @rule(seconds=st.sampled_from([1, 30, 7 * 86_400]), most=st.sampled_from([1, 2, 32]))
    def get(self, seconds: int, most: int) -> None:
        self._client.get(self._queue, seconds, most)
        self._check()

    @rule(pick=picks, forget=st.booleans())
    def remove(self, pick: int, *, forget: bool) -> None:
        """Also with a receipt of long ago, and twice."""
        if self._client.held:
            held = self._client.held[pick % len(self._client.held)]
            self._client.held.append(held)
            self._client.remove(self._queue)
            if forget:
                self._client.held.remove(held)
            self._check()

    @rule(pick=picks, seconds=st.sampled_from([0, 1, 100]))
    def update(self, pick: int, seconds: int) -> None:
        if self._client.held:
            self._client.change(*self._client.held[pick % len(self._client.held)], seconds)
            self._check()

    @rule(seconds=st.sampled_from([1, 29, 31, 3600]))
    def wait(self, seconds: int) -> None:
        self._endpoint.pass_time(seconds)

    @rule()
    def clear(self) -> None:
        self._client.clear(self._queue)
        self._states = dict.fromkeys(self._states, GONE)

    @rule()
    def restart(self) -> None:
        self._endpoint.restart()
        held, names = self._client.held, self._caller.names
        self._caller.close()
        self._caller = self._endpoint.caller(0)
        self._caller.names = names
        self._client, self._checked = queue_storm.Client(self._caller), 0
        self._client.held.extend(held)


def test_blobs(blob_endpoint: Endpoint) -> None:
    run_state_machine_as_test(lambda: Blobs(blob_endpoint), settings=STEPS)


def test_queues(queue_endpoint: Endpoint) -> None:
    run_state_machine_as_test(lambda: Queues(queue_endpoint), settings=STEPS)
