"""The agents' endpoint: one long poll that carries the node's full picture both ways (decision D5)."""

from __future__ import annotations

import asyncio
import urllib.parse

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from batchyard.api.wire.call import Services, decode
from batchyard.engine import wakes
from batchyard.engine.nodes import linked_storage, nodes
from batchyard.engine.nodes.nodes import NotThisNode, Occupied, Setting
from batchyard.model.errors import BatchError
from batchyard.model.sync import FILE_HEADER, FileHead, Orders, Sync, gone
from batchyard.store.db import StoreUnavailable

LONGEST_WAIT_S = 30.0
LARGEST_SYNC = 16 << 20
"""A node with 256 slots says some ten thousand bytes; failures with long details may add to that."""
_SUPERSEDED = Response(status_code=204)
_encoder = msgspec.json.Encoder()


class Agents:
    """Answers agents; remembers only which poll of a node is the newest and which ends it was told of."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._setting = Setting(services.account.name, services.node_key, services.node_silence_us, services.clock.now())
        self._newest: dict[int, int] = {}
        self._told: dict[int, set[str]] = {}
        self._warned: set[int] = set()
        self._closing = False

    def close(self) -> None:
        """Answer every poll that waits; later ones do not wait."""
        self._closing = True
        self._services.wakes([wakes.node(node_pk) for node_pk in self._newest])

    async def __call__(self, request: Request) -> Response:
        """Dispatch `/agent/sync` and `/agent/files/{id}`."""
        known = b""
        try:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                raise NotThisNode
            node_pk = nodes.identify(self._services.node_key, token.strip())
            known = gone(token.strip())
            parts = request.scope["path"].strip("/").split("/")
            if request.method != "POST":
                return Response(status_code=405)
            if parts[1:] == ["sync"]:
                return await self._sync(request, node_pk)
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
        order = self._newest[node_pk] = self._newest.get(node_pk, 0) + 1
        topic = wakes.node(node_pk)
        services.wakes.at_once(topic)  # the older poll of this node gives way, this one must not wake itself
        with services.wakes.listen(topic) as event:
            answer = await services.db.run(nodes.hear_and_refill, node_pk, sync, self._setting, services.clock.now())
            if answer is None:
                return _json(Orders(session=sync.session, number=sync.number, fenced=True))
            if answer.setup is not None:
                answer.setup.account_url = str(request.base_url).rstrip("/")
            deadline = asyncio.get_running_loop().time() + min(sync.wait_s, LONGEST_WAIT_S)
            while sync.wait_s > 0 and not self._has_news(answer, sync, node_pk):
                if self._closing or not await _woken(event, deadline):
                    break
                if self._newest[node_pk] != order:
                    return _SUPERSEDED
                event.clear()
                answer = await services.db.read(nodes.present_orders, node_pk, sync, services.node_key)
                if answer is None:
                    return _json(Orders(session=sync.session, number=sync.number, fenced=True))
        (self._warned.discard if answer.notice_s is None else self._warned.add)(node_pk)
        answer.files = services.relay.waiting(node_pk)
        if services.linked_storage is not None:
            linked_storage.open_to_node(answer.orders, services.linked_storage, str(request.base_url), services.clock.now())
        self._told[node_pk] = set(sync.has) - set(answer.wanted)
        return _json(answer)

    def _has_news(self, answer: Orders, sync: Sync, node_pk: int) -> bool:
        """True when the agent has to hear this now: a report acknowledged, something to start, end, remove or read.

        What it was told to end and still holds is no news: a process that does not die must not make the poll spin.
        """
        return bool(
            sync.session == 0
            or sync.ended
            or sync.removed
            or answer.orders
            or answer.removals
            or (answer.notice_s is not None and node_pk not in self._warned)
            or set(sync.has) - set(answer.wanted) - self._told.get(node_pk, set())
            or self._services.relay.waiting(node_pk)
        )

    async def _file(self, request: Request, node_pk: int, request_id: str) -> Response:
        """The agent's answer to a file request; taken in as fast as the client reads."""
        head = decode(urllib.parse.unquote(request.headers.get(FILE_HEADER, "{}")).encode(), FileHead)
        exchange = self._services.relay.answer(node_pk, request_id, head)
        if exchange is None:
            return Response(status_code=410)
        await exchange.feed(request.stream())
        return Response(status_code=204)


async def _woken(event: asyncio.Event, deadline: float) -> bool:
    """Wait for the event; False when the deadline came first."""
    try:
        async with asyncio.timeout_at(deadline):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _json(orders: Orders) -> Response:
    return Response(_encoder.encode(orders), media_type="application/json")
