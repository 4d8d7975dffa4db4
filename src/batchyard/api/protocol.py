"""HTTP/1.1 with a bound on what a client may send before it has said who it is."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 65_536
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """Breaks off when request line and headers together exceed LARGEST_HEAD bytes; uvicorn itself would gather them without end."""

    _head = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        """Take in bytes and count those of an unfinished head."""
        self._head += len(data)
        super().data_received(data)
        if not self._in_head:
            self._head = 0
        elif self._head > LARGEST_HEAD and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What follows on this connection is another head."""
        self._in_head, self._head = True, 0
        super().on_message_complete()
