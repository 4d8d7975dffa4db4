"""How outputs travel, of a command inside of a task or of many tasks: frames of a kind, a length (4 bytes, big endian) and bytes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

QUIET, STDOUT, STDERR, EXIT = range(4)
"""Kinds; a quiet frame is empty and only says that the command still runs. The last frame is an exit, with `Exited` as JSON."""
MISSING, WHOLE, START = range(3)
"""Kinds where the frames are files: one that cannot be read, all of it, or its start only."""
LARGEST = 1 << 20
_HEAD = 5


class Exited(msgspec.Struct, rename="camel", omit_defaults=True):
    """How the command ended."""

    exit_code: int
    reason: str | None = None
    """Present when it never ran, or did not end by itself."""


def frame(kind: int, data: bytes = b"") -> bytes:
    """One frame."""
    return bytes((kind,)) + len(data).to_bytes(4, "big") + data


class Frames:
    """Frames out of pieces that are cut anywhere; keeps one frame at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that are whole by now. Raises ValueError for what is none."""
        buffer = self._buffer
        buffer += piece
        at = 0
        while len(buffer) - at >= _HEAD:
            size = int.from_bytes(buffer[at + 1 : at + _HEAD], "big")
            if buffer[at] > EXIT or size > LARGEST:
                raise ValueError("this is no frame")
            if len(buffer) - at < _HEAD + size:
                break
            yield buffer[at], bytes(buffer[at + _HEAD : at + _HEAD + size])
            at += _HEAD + size
        del buffer[:at]
