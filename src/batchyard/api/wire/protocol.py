"""HTTP/1.1 with bounds on what a client may hold before it has said who it is: bytes, time, connections.

uvicorn itself gathers a head without end, waits for the rest of a head or of a refused body for ever, and takes connections until
there are no descriptors left, also for those that are there.
"""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from batchyard.blobs.edge.request import METADATA_NAMES

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

LARGEST_HEAD = 65_536
"""Bytes of request line and headers together, and of anything else that is neither them nor body."""
HEAD_S = 60.0
"""How long a client may take from its first byte, or from connecting, to the end of its headers."""
REFUSED_BODY_S = 30.0
"""How long a client may go on sending a body after the answer to it."""
_LINGER_S = 2.0
"""How long a refused client may take to read why and to hang up; hanging up on bytes that it still sends would lose the answer."""
_MOST_AFTER = 4 << 20
"""How many bytes a refused client may still send."""
_METADATA = b"x-ms-meta-"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def most_connections() -> int:
    """Connections that may be open at once; a quarter of the descriptors, at least 128, stays for files, databases and agents."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(descriptors - _kept(descriptors), 16)


def most_lingering() -> int:
    """Refused clients that get the time to read why at once; the other half of what is kept is never theirs."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _kept(descriptors) // 2


def _kept(descriptors: int) -> int:
    return max(descriptors // 4, 128)


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    head_s = HEAD_S
    refused_body_s = REFUSED_BODY_S
    _lingering: ClassVar[dict[BoundedHttp, None]] = {}
    """Refused connections, the oldest first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0
        """Bytes of the head that is arriving."""
        self._idle = 0
        """Bytes since something came of them: a whole head, body, the end of a message."""
        self._in_head = self._in_message = False
        """A head has begun; its end is there and that of the body is not."""
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            self._refuse(_TOO_MANY)
        else:
            self._due(self.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that runs, which uvicorn only does when it is also the one that came last."""
        self._cancel_deadline()
        self._lingering.pop(self, None)
        self.pipeline.clear()
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; what comes after a refusal is not looked at."""
        self._idle += len(data)
        if self._refused:
            if self._idle > _MOST_AFTER:
                self.transport.abort()
            return
        super().data_received(data)
        if self._over():
            return
        if self._idle > LARGEST_HEAD:
            self._refuse(_TOO_LARGE)
        elif not self._in_message and self._deadline is None and not self._under_way():
            self._due(self.head_s)

    def send_400_response(self, msg: str) -> None:
        """These bytes are no HTTP, which is of no interest once the connection is refused."""
        if not self._refused:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head, self._in_head = 0, True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind the body; what is too large is not kept."""
        self._head += len(name) + len(value) + len(b": \r\n")
        if self._head <= LARGEST_HEAD:
            if name[: len(_METADATA)].lower() == _METADATA:  # ASGI has all names in lower case, and these are a client's data
                names = self.scope.setdefault("extensions", {}).setdefault(METADATA_NAMES, {})
                names[name.lower().decode("latin-1")] = name.decode("latin-1")
            super().on_header(name, value)
        elif not self._refused:
            self._refuse(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._refused:
            return
        self._idle, self._in_head, self._in_message = 0, False, True
        self._cancel_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._idle = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """What follows on this connection is another head."""
        self._idle, self._in_message = 0, False
        if not self._refused:
            self._cancel_deadline()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out; what the client still sends has its time, which keep-alive would give it anew with every byte."""
        super().on_response_complete()
        if (self._in_message or self._in_head) and not self._under_way() and not self._over():
            self._due(self.refused_body_s if self._in_message else self.head_s)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _over(self) -> bool:
        return self._refused or self.transport.is_closing()

    def _under_way(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _due(self, seconds: float) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, answer: bytes) -> None:
        """Say why, then take in nothing but the client's hanging up; whoever was refused first has had the most time to read."""
        self._refused = True
        self._unset_keepalive_if_required()
        if self.transport.is_closing() or self._under_way():
            self.transport.abort()
            return
        self._lingering[self] = None
        if len(self._lingering) > most_lingering():
            oldest = next(iter(self._lingering))
            del self._lingering[oldest]
            oldest.transport.close()  # what is written goes out before
        self.transport.write(answer)
        if self.transport.can_write_eof():  # TLS has no half of a connection; the client is told to close
            self.transport.write_eof()
        self.flow.resume_reading()
        self._due(_LINGER_S)
