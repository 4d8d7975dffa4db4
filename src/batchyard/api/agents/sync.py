"""The agents' endpoint: one long poll that carries the node's full picture both ways (decision D5)."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import OrderedDict

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from batchyard.api.agents import joining, starts
from batchyard.api.wire.accounts import PREFIX, PREFIXED
from batchyard.api.wire.call import Services, decode
from batchyard.engine import wakes
from batchyard.engine.nodes import linked_storage, nodes
from batchyard.engine.nodes.nodes import NotThisNode, Occupied, Setting
from batchyard.model.errors import BatchError
from batchyard.model.joining import AUTHORITY_PATH, JOIN_PATH
from batchyard.model.sync import FILE_HEADER, FileHead, FileRequest, Orders, Sync, gone
from batchyard.model.tokens import marked
from batchyard.store.db import StoreUnavailable

LONGEST_WAIT_S = 30.0
LOOK_EVERY_S = 5.0
"""A poll that waits looks by itself so often: a wake-up that was lost, or went to another server, costs no more."""
LARGEST_SYNC = 16 << 20
"""A node with 256 slots says some ten thousand bytes; failures with long details may add to that."""
log = structlog.get_logger()
_SUPERSEDED = Response(status_code=204)
_encoder = msgspec.json.Encoder()


class _Talk(msgspec.Struct):
    """What is remembered of a node between its polls."""

    at: float = 0.0
    """When it polled last, by the loop's clock."""
    newest: int = 0
    """Number of its newest poll."""
    waiting: int = 0
    """Polls that are not answered yet."""
    told: frozenset[str] = frozenset()
    """Attempts that it holds and was told to end."""
    warned: bool = False
    """It was told that its machine goes."""


class Agents:
    """Answers agents; remembers of a node only how the talk with it goes, and that no longer than it may be silent."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._setting = Setting(
            services.account.name, services.node_key, services.node_silence_us, services.package_limits, services.clock.now()
        )
        self._talks: OrderedDict[int, _Talk] = OrderedDict()
        """By node, who spoke last at the end."""
        self._closing = False

    def close(self) -> None:
        """Answer every poll that waits; later ones do not wait."""
        self._closing = True
        self._services.wakes([wakes.node(node_pk) for node_pk in self._talks])

    async def __call__(self, request: Request) -> Response:
        """Dispatch `/agent/join`, `/agent/authority`, `/agent/sync`, `/agent/starts` and `/agent/files/{id}`."""
        known, path = b"", request.scope["path"].removeprefix(request.scope.get(PREFIXED, ""))
        try:
            if (request.method, path) == ("GET", AUTHORITY_PATH):
                return joining.authority(self._services)
            if (request.method, path) == ("POST", JOIN_PATH):
                return await joining.join(request, self._services)
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                raise NotThisNode
            node_pk = nodes.identify(self._services.node_key, token.strip())
            known = gone(token.strip())
            parts = path.strip("/").split("/")
            if request.method != "POST":
                return Response(status_code=405)
            if parts[1:] == ["sync"]:
                return await self._sync(request, node_pk)
            if parts[1:] == ["starts"]:
                return await starts.start(request, self._services, node_pk)
            if len(parts) == 3 and parts[1] == "files":
                return await self._file(request, node_pk, parts[2])
        except NotThisNode:
            return Response(known, status_code=403)
        except Occupied:
            return Response("another agent with this token is the node", status_code=409)
        except BatchError as error:
            return Response(error.code, status_code=error.status)
        except (ClientDisconnect, OverflowError):  # a number that no column holds is as good as a broken message
            return Response(status_code=400)
        except StoreUnavailable:
            return Response(status_code=503)
        return Response(status_code=404)

    async def _sync(self, request: Request, node_pk: int) -> Response:
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 12) or int(length) > LARGEST_SYNC:
            return Response(status_code=413)
        sync = decode(await request.body(), Sync)
        services = self._services
        if sync.clock is not None:
            sync.clock += services.clock.ahead  # a clock that tests moved is no skew
        talk = self._begin(node_pk)
        try:
            return await self._poll(request, node_pk, sync, talk)
        except NotThisNode:
            self._talks.pop(node_pk, None)
            raise
        finally:
            talk.waiting -= 1

    def _begin(self, node_pk: int) -> _Talk:
        """Go on with what is known of a node; of those that were silent for too long nothing is known any more."""
        now = asyncio.get_running_loop().time()
        talk = self._talks.setdefault(node_pk, _Talk())
        self._talks.move_to_end(node_pk)
        talk.at, talk.newest, talk.waiting = now, talk.newest + 1, talk.waiting + 1
        forgotten = now - self._setting.silence_us / 1e6 - LONGEST_WAIT_S
        while (oldest := next(iter(self._talks.items())))[1].at < forgotten and not oldest[1].waiting:
            del self._talks[oldest[0]]
        return talk

    async def _poll(self, request: Request, node_pk: int, sync: Sync, talk: _Talk) -> Response:
        """Take in what an agent says, and answer as soon as there is news for it. Raises NotThisNode."""
        services, order = self._services, talk.newest
        topic = wakes.node(node_pk)
        services.wakes.at_once(topic)  # the older poll of this node gives way, this one must not wake itself
        with services.wakes.listen(topic) as event:
            answer = await services.db.run(nodes.hear, node_pk, sync, self._setting, services.clock.now(), refill=True)
            if answer is None:
                return _json(Orders(session=sync.session, number=sync.number, fenced=True))
            if answer.setup is not None:
                below = f"/{PREFIX}/{services.named}" if services.named else ""
                answer.setup.account_url = str(request.base_url).rstrip("/") + below
            deadline = asyncio.get_running_loop().time() + min(sync.wait_s, LONGEST_WAIT_S)
            while sync.wait_s > 0 and not self._has_news(answer, sync, node_pk, talk):
                if self._closing or not await _waited(event, deadline):
                    break
                if talk.newest != order:
                    return _SUPERSEDED
                event.clear()
                answer = await services.db.read(nodes.present_orders, node_pk, sync, services.node_key)
                if answer is None:
                    return _json(Orders(session=sync.session, number=sync.number, fenced=True))
        talk.warned = answer.notice_s is not None
        answer.files = services.relay.waiting(node_pk)
        services.relay.told(answer.files)
        if services.linked_storage is not None:
            linked_storage.open_to_node(answer.orders, services.linked_storage, str(request.base_url), services.clock.now())
            if answer.setup is not None:
                linked_storage.open_packages(answer.setup.packages, services.linked_storage, str(request.base_url), services.clock.now())
        if services.named:
            for each in answer.orders:
                each.token = None if each.token is None else marked(services.named, each.token)
        answer.ends = self._closing
        talk.told = frozenset(sync.has) - frozenset(answer.wanted)
        return _json(answer)

    def _has_news(self, answer: Orders, sync: Sync, node_pk: int, talk: _Talk) -> bool:
        """True when the agent has to hear this now: a report acknowledged, something to start, end, remove or read.

        What it was told to end and still holds is no news: a process that does not die must not make the poll spin.
        """
        return bool(
            sync.session == 0
            or sync.ended
            or sync.ready
            or sync.removed
            or answer.orders
            or answer.removals
            or (answer.notice_s is not None and not talk.warned)
            or set(sync.has) - set(answer.wanted) - talk.told
            or self._services.relay.waiting(node_pk)
        )

    async def peer(self, request: Request) -> Response:
        """What another server asks, whose word counts: `POST /cluster/ACCOUNT/NODE/wanted` and `.../answers/ID`."""
        parts = request.scope["path"].strip("/").split("/")
        if request.method != "POST" or len(parts) < 4 or not (parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 19):
            return Response(status_code=404)
        try:
            if parts[3:] == ["wanted"]:
                self._services.relay.hear(int(parts[2]), decode(await request.body(), FileRequest))
                return Response(status_code=204)
            if parts[3] == "answers" and len(parts) == 5:
                return await self._file(request, int(parts[2]), parts[4])
        except (BatchError, ClientDisconnect):
            return Response(status_code=400)
        return Response(status_code=404)

    async def _file(self, request: Request, node_pk: int, request_id: str) -> Response:
        """The agent's answer to a file request; taken in as fast as the client reads."""
        said = request.headers.get(FILE_HEADER, "{}")
        head = decode(urllib.parse.unquote(said).encode(), FileHead)
        exchange = self._services.relay.answer(node_pk, request_id, head)
        whole: bool | None
        try:
            whole = (
                await self._services.relay.pass_on(node_pk, request_id, said, request.stream())
                if exchange is None
                else await exchange.feed(request.stream())
            )
        except OSError as error:
            log.warning("answer not passed on", request=request_id, reason=str(error) or type(error).__name__)
            return Response(status_code=503, headers={"connection": "close"})
        if whole is None:
            return Response(status_code=410)
        if not whole and self._closing:
            return Response(status_code=503, headers={"connection": "close"})  # who asked may still be there
        return Response(status_code=204, headers=None if whole else {"connection": "close"})  # an agent that sends on is to notice


async def _waited(event: asyncio.Event, deadline: float) -> bool:
    """Wait for the event, or for the time to look without one; False when the deadline came first."""
    look = asyncio.get_running_loop().time() + LOOK_EVERY_S
    try:
        async with asyncio.timeout_at(min(look, deadline)):
            await event.wait()
    except TimeoutError:
        return look < deadline
    return True


def _json(orders: Orders) -> Response:
    return Response(_encoder.encode(orders), media_type="application/json")
