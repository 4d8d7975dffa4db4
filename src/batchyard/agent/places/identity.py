"""Which agent this is and where its server is: what tells a root directory from every other one, and the address that may change."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from functools import lru_cache
from pathlib import Path

import msgspec

from batchyard.agent.places.layout import Layout


@lru_cache(maxsize=1)
def boot() -> str:
    """The life of the machine; the same for ever where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def of_root(layout: Layout) -> str:
    """The same in every life of an agent on this root directory, another for a copy of it and on a machine of another name. Raises OSError.

    A copy of a whole disk under the same host name is not told from it: give such machines names, or roots, of their own.

    To be called by who holds the root's lock, so that two agents never tell the same.
    """
    path = Path(layout.volatile, "identity")
    try:
        own = path.read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        own = ""
    if not own:
        own = secrets.token_hex(16)
        new = path.with_suffix(".new")
        new.write_text(own, encoding="ascii")
        new.replace(path)
    words = own, socket.gethostname(), layout.root, str(os.stat(layout.root).st_ino)
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]


class _Announcement(msgspec.Struct):
    """What is needed of a server's `server.json`."""

    url: str
    others: list[str] = []
    """Where other servers are that will do as well."""


def servers(text: str) -> list[str]:
    """The base URLs of one or more servers, with commas between them."""
    return [part.strip().rstrip("/") for part in text.split(",") if part.strip()]


class Address:
    """Base URL of the server that is asked, among those that will do.

    `text` has one or more; `file` is the `server.json` of one on this machine, which says anew where it is, and where others are.
    """

    def __init__(self, text: str, file: str | os.PathLike[str] | None = None) -> None:
        self._known, self._file = servers(text) or [text], file
        self.url = self._known[0]
        self._tried = 1

    def move_on(self) -> bool:
        """Turn to another server, for this one does not answer; False when all were tried since the last one that did."""
        known = self._read() or self._known
        self._known = known
        if self.url not in known:
            self.url, self._tried = known[0], 1
            return True
        if len(known) == 1:
            return False
        self.url = known[(known.index(self.url) + 1) % len(known)]
        self._tried += 1
        if self._tried > len(known):
            self._tried = 1
            return False
        return True

    def answered(self) -> None:
        """The server that is asked answers."""
        self._tried = 1

    def _read(self) -> list[str]:
        """What the file says; nothing when the server does not run, or there is no file."""
        if self._file is None:
            return []
        try:
            found = msgspec.json.decode(Path(self._file).read_bytes(), type=_Announcement)
        except (OSError, msgspec.DecodeError):
            return []
        return list(dict.fromkeys(url.rstrip("/") for url in (found.url, *found.others)))
