"""Files of the node for clients: get, properties, list, delete, each confined to the base that the server names.

Links that stay below the base are followed, others do not exist for a client. Everything here blocks and is called in
threads; nothing reads a whole file or a whole tree into memory.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from batchyard.agent import beneath, listing
from batchyard.agent.listing import entry_of
from batchyard.disk import trees
from batchyard.model.sync import FileEntry, FileHead, FileRequest

CHUNK = 256 << 10


class Refused(Exception):
    """The request ends with this code of the catalogue; `reason` says more to the client."""

    def __init__(self, code: str, reason: str | None = None) -> None:
        super().__init__(code if reason is None else f"{code}: {reason}")
        self.code, self.reason = code, reason


@dataclass(slots=True)
class Found:
    """The head of an answer and, for `get`, the open file (to be closed by the taker); other operations may have a JSON body."""

    head: FileHead
    fd: int = -1
    body: bytes = b""


def answer(root: str, request: FileRequest) -> Found:
    """Do everything but the body. Errors become the head's error."""
    try:
        base = os.path.join(root, *beneath.parts(request.base))
        path = "/".join(beneath.parts(request.path.lstrip("/")))
        if request.operation == "get":
            return _get(base, path, request)
        if request.operation == "properties":
            return Found(FileHead(entry=_properties(base, path)))
        if request.operation == "list":
            with _opened(base, path):
                return Found(FileHead())
        if request.operation != "delete":
            raise Refused("OperationNotValidOnNode", f"this node's agent does not know the operation {request.operation!r}")
        _delete(base, path, request.recursive)
        return Found(FileHead())
    except Refused as refused:
        return refusal(refused)
    except (beneath.Outside, FileNotFoundError, NotADirectoryError):
        return Found(FileHead(error="FileNotFound"))
    except OSError:
        return Found(FileHead(error="IOError"))


def refusal(refused: Refused) -> Found:
    """The answer to a request that was refused."""
    return Found(FileHead(error=refused.code, reason=refused.reason))


def _opened(base: str, path: str) -> AbstractContextManager[int]:
    return beneath.directory(os.path.realpath(base), beneath.resolve(base, path))


def _get(base: str, path: str, request: FileRequest) -> Found:
    if not path:
        raise Refused("FileNotFound")
    fd = beneath.open_file(base, path)
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise Refused("FileNotFound")
        if request.offset < 0 or (request.offset and request.offset >= seen.st_size):
            raise Refused("InvalidRange")
        rest = seen.st_size - request.offset
        length = rest if request.length is None else max(0, min(request.length, rest))
        return Found(FileHead(entry=entry_of(path, seen), offset=request.offset, length=length), fd)
    except BaseException:
        os.close(fd)
        raise


def _properties(base: str, path: str) -> FileEntry:
    names = beneath.resolve(base, path)
    with beneath.directory(os.path.realpath(base), names[:-1]) as fd:
        seen = os.stat(names[-1], dir_fd=fd, follow_symlinks=False) if names else os.fstat(fd)
    if not (stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode)):
        raise Refused("FileNotFound")  # as for `get` and `list`: a link, pipe or socket is no file
    return entry_of(path, seen)


def _delete(base: str, path: str, recursive: bool) -> None:
    names = beneath.parts(path)
    if not names:
        raise Refused("OperationInvalidForCurrentState")
    parents = beneath.resolve(base, "/".join(names[:-1]))
    with beneath.directory(os.path.realpath(base), parents) as fd:  # the last name may be a link: that is what goes
        if not stat.S_ISDIR(os.stat(names[-1], dir_fd=fd, follow_symlinks=False).st_mode):
            os.unlink(names[-1], dir_fd=fd)
        elif recursive:
            remove(names[-1], fd)
        else:
            try:
                os.rmdir(names[-1], dir_fd=fd)
            except OSError as error:
                raise Refused("OperationInvalidForCurrentState") from error


remove = trees.remove


def entries(root: str, request: FileRequest) -> Iterator[FileEntry]:
    """A page of what is below the path, sorted by name, directories included; names are relative to base. Raises OSError or Outside."""
    base = os.path.join(root, *beneath.parts(request.base))
    path = "/".join(beneath.parts(request.path.lstrip("/")))
    with _opened(base, path) as fd:
        found = listing.below(fd, path + "/" if path else "", request.after, recursive=request.recursive)
        yield from itertools.islice(found, request.limit)


def read(fd: int, offset: int, length: int) -> Iterator[bytes]:
    """Pieces of an open file; fewer bytes come when it shrank meanwhile."""
    while length > 0:
        chunk = os.pread(fd, min(CHUNK, length), offset)
        if not chunk:
            return
        offset += len(chunk)
        length -= len(chunk)
        yield chunk
