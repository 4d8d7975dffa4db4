"""Which agent this is and where its server is: what tells a root directory from every other one, and the address that may change."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from pathlib import Path

import msgspec

from batchyard.agent.places.layout import Layout


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


class Address:
    """Base URL of the server; `file` is that server's `server.json`, which says it anew when it changes."""

    def __init__(self, url: str, file: str | os.PathLike[str] | None = None) -> None:
        self.url, self._file = url, file

    def look(self) -> bool:
        """Read the file, where there is one; True when the server is elsewhere now."""
        if self._file is None:
            return False
        try:
            found = msgspec.json.decode(Path(self._file).read_bytes(), type=_Announcement).url
        except (OSError, msgspec.DecodeError):
            return False  # the server does not run, so there is nothing to know
        changed = found.rstrip("/") != self.url.rstrip("/")
        if changed:
            self.url = found
        return changed
