"""How a machine joins a pool: the token that allows it, what it says, what it is told."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from batchyard.model.common import Shape, Timestamp

JOIN_PATH, AUTHORITY_PATH = "/agent/join", "/agent/authority"
PREFIX = "byj1"
MOST_USES = 10_000
LONGEST_S = 30 * 86_400
DEFAULT_S = 3_600


class JoinToken(NamedTuple):
    """A join token, taken apart."""

    account: str
    id: str
    secret: str
    fingerprint: str
    """SHA-256 of the server's authority in hexadecimal; empty where clients know it anyway, or there is no TLS."""

    def __str__(self) -> str:
        return ".".join((PREFIX, self.account, self.id, self.secret, self.fingerprint))


def read(text: str) -> JoinToken | None:
    """The parts of a token; None for what is none."""
    prefix, *parts = text.split(".")
    if prefix != PREFIX or len(parts) != 4 or not all(parts[:3]) or len(text) > 512 or not (text.isascii() and text.isprintable()):
        return None
    return JoinToken(*parts)


class JoinTokenCreate(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """What a token is asked for."""

    uses: Annotated[int, msgspec.Meta(ge=1, le=MOST_USES)] = 1
    expires_in_seconds: Annotated[int, msgspec.Meta(ge=1, le=LONGEST_S)] = DEFAULT_S


class JoinTokenInfo(Shape, kw_only=True):
    """A token as it is listed; the token itself is only in the answer to its making."""

    id: str
    pool_id: str
    state: str
    """active, used, expired or revoked."""
    uses: int
    uses_left: int
    creation_time: Timestamp
    expiry_time: Timestamp
    token: str | None = None
    server: str | None = None
    """Where the machine that joins finds the server."""


class Join(msgspec.Struct, rename="camel"):
    """What a machine says that joins."""

    name: Annotated[str, msgspec.Meta(min_length=32, max_length=64, pattern="^[0-9a-f]+$")]
    """Made up by the machine, and the same until it is answered; who knows it gets that node again."""
    pool: str | None = None
    """The pool that is meant; None for that of the token."""


class Joined(msgspec.Struct, rename="camel"):
    """What it is told."""

    token: str
    """That of the node, which it shows from now on."""
    node_id: str
    pool_id: str
    account: str


class JoinRefused(msgspec.Struct, rename="camel"):
    """Why a machine may not join."""

    code: str
    message: str
