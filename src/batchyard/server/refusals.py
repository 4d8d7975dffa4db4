"""Why a server does not start, said in one sentence before anything is touched."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from batchyard.config import Config
from batchyard.disk import space, sqlite
from batchyard.store.db import StoreUnavailable

_LOCAL_NAMES = ("localhost",)


class Refused(Exception):
    """The server will not start like this; the message says what to change."""


def refuse_full_disk(directory: Path) -> None:
    """A server that cannot write what it begins with says so at once."""
    if reason := space.lacking(space.sample(directory), space.START_BYTES):
        raise Refused(f"{directory} is on a full disk ({reason}): make room there and start again")


def no_room(error: BaseException) -> bool:
    """True when an error says, or one of a group does, that the disk is full."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(no_room, error.exceptions))
    if isinstance(error, StoreUnavailable):
        return error.__cause__ is not None and no_room(error.__cause__)
    return sqlite.full(error) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))


@contextlib.contextmanager
def starting(directory: Path) -> Iterator[None]:
    """What fails before a server answers is said in one sentence. Raises Refused; an error of a full disk is left to who knows of those."""
    try:
        yield
    except (OSError, sqlite3.Error, StoreUnavailable) as error:
        if no_room(error):
            raise
        raise Refused(f"a server cannot start with what {directory} holds ({error})") from error


def refuse_exposure(config: Config) -> None:
    """Plain HTTP to others only when the operator says so."""
    if config.tls != "off" or config.insecure:
        return
    for host in (config.host, *([config.metrics[0]] if config.metrics else [])):
        if host not in _LOCAL_NAMES and not _loopback(host):
            raise Refused(
                f"{host} can be reached by others and the server speaks plain HTTP; say --tls auto, or --insecure if that is meant"
            )


def _loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
