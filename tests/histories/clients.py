"""Clients that ask servers which are killed meanwhile, and write down what they asked, what they were told, and when."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas
from tests.conftest import Server
from tests.histories.checker import NEVER

CLIENTS = 16
_PATIENCE_S = 90.0
T = TypeVar("T")


def now_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """What was told, and when it was asked and answered; `status` is None when nobody answered."""

    begun_us: int
    ended_us: float
    status: int | None
    headers: http.client.HTTPMessage
    body: bytes = b""

    @property
    def code(self) -> str | None:
        """`ok`, the code of the error, or None when nobody answered."""
        if self.status is None:
            return None
        return "ok" if self.status < 300 else self.headers.get("x-ms-error-code", str(self.status))


class Place:
    """A server that is killed and started again."""

    def __init__(self, server: Server, *, outlived: bool = False) -> None:
        """`outlived`: what was asked of it may take effect after its end, as its database goes on."""
        self.server, self._outlived = server, outlived
        self._deaths: list[float] = []
        self._lives = 1
        self._changed = threading.Condition()

    @property
    def life(self) -> int:
        return len(self._deaths)

    def kill(self) -> None:
        """End it with SIGKILL and start it again."""
        self.server.kill()
        self._deaths.append(NEVER if self._outlived else now_us())
        self.server.start()
        with self._changed:
            self._lives += 1
            self._changed.notify_all()

    def died(self, life: int) -> float:
        """The moment behind which nothing of a life takes effect any more, once the server is there again."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._lives > life + 1, _PATIENCE_S), "a server that nobody killed did not answer"
        return self._deaths[life]


class Caller:
    """One client of the blob or the queue service: a connection of its own to one of the servers, and a random order of what it does."""

    def __init__(self, number: int, seed: int, service: str, place: Place, tick: Callable[[], None] = lambda: None) -> None:
        self.number, self._service, self._place, self._tick = number, service, place, tick
        self.random = random.Random(f"{seed} {number}")
        self.names = 0
        parts = dict(part.split("=", 1) for part in place.server.storage_connection_string.split(";") if part)
        url = urlsplit(parts[f"{service.title()}Endpoint"])
        self.host, self.base = url.netloc, url.path
        self._connection = http.client.HTTPConnection(self.host, timeout=_PATIENCE_S)
        permission = AccountSasPermissions.from_string("rwdlacup")
        kinds = ResourceTypes(service=True, container=True, object=True)
        until = datetime.now(UTC) + timedelta(days=1)
        self._token = generate_account_sas(parts["AccountName"], parts["AccountKey"], kinds, permission, until, services=service[0])

    def name(self) -> str:
        """A name that no other client and no other call has."""
        self.names += 1
        return f"{self.number}-{self.names}"

    def now_us(self) -> int:
        """The time by which answers are judged: that of the servers."""
        return now_us()

    def signed(self, path: str, query: str = "") -> str:
        return f"{path}?{query}{'&' if query else ''}{self._token}"

    def ask(self, method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> Answer:
        """Send a request once; again only when the server was not there. `x_ms_y` is the header x-ms-y, left out when it is empty."""
        self._tick()
        named = {name.replace("_", "-"): value for name, value in headers.items() if value}
        while True:
            life, begun = self._place.life, self.now_us()
            try:
                self._connection.request(method, self.signed(path, query), body, named)
                answer = self._connection.getresponse()
                content = answer.read()
                return Answer(begun, self.now_us(), answer.status, answer.headers, content)
            except ConnectionRefusedError:
                self._connection.close()
                self._place.died(life)
            except (OSError, http.client.HTTPException):
                self._connection.close()
                return Answer(begun, self._place.died(life), None, http.client.HTTPMessage())

    def close(self) -> None:
        self._connection.close()


class Storm:
    """Clients at work, and a count of what they asked."""

    def __init__(self, service: str, places: Sequence[Place], seed: int) -> None:
        self._service, self._places, self._seed = service, places, seed
        self._asked = 0
        self._over = False
        self._changed = threading.Condition()

    def _tick(self) -> None:
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def run(self, work: Callable[[Caller], list[T]], kill_at: Sequence[int]) -> list[T]:
        """What all clients wrote down; the servers are killed in turn when so many requests were made."""

        def one(number: int) -> list[T]:
            caller = Caller(number, self._seed, self._service, self._places[number % len(self._places)], self._tick)
            try:
                return work(caller)
            finally:
                caller.close()

        with ThreadPoolExecutor(CLIENTS + 1) as threads:
            killing = threads.submit(self._kill, kill_at)
            try:
                found = [each for written in threads.map(one, range(CLIENTS)) for each in written]
            finally:
                with self._changed:
                    self._over = True
                    self._changed.notify_all()
            assert killing.result() == len(kill_at), "the clients were done before the servers were killed"
        return found

    def _kill(self, kill_at: Sequence[int]) -> int:
        for number, asked in enumerate(kill_at):
            with self._changed:
                self._changed.wait_for(lambda least=asked: self._asked >= least or self._over)
                if self._over:
                    return number
            self._places[number % len(self._places)].kill()
        return len(kill_at)


def told(ops: Sequence[Any]) -> str:
    """Operations as lines, for a failure."""
    return "\n".join(map(str, ops))
