"""Files of the node for clients: get, properties, list, delete, each confined to the base that the server names.

Links that stay below the base are followed, others do not exist for a client. The base is opened once, and everything
below it is found from that descriptor. Everything here blocks and is called in threads; nothing reads a whole file or a
whole tree into memory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from batchyard.agent.places import beneath, listing
from batchyard.agent.places.listing import entry_of
from batchyard.disk import trees
from batchyard.model import frames
from batchyard.model.sync import FileEntry, FileHead, FileRequest, Starts

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
    if request.operation == "starts":
        return _starts(root, request)
    try:
        path = _path(request)
        with _base(root, request) as (top, known_as):
            if request.operation == "get":
                return _get(top, known_as, path, request)
            if request.operation == "properties":
                return Found(FileHead(entry=_properties(top, known_as, path)))
            if request.operation == "list":
                with _opened(top, known_as, path):
                    return Found(FileHead())
            if request.operation != "delete":
                raise Refused("OperationNotValidOnNode", f"this node's agent does not know the operation {request.operation!r}")
            _delete(top, known_as, path, request.recursive)
            return Found(FileHead())
    except Refused as refused:
        return refusal(refused)
    except (beneath.Outside, FileNotFoundError, NotADirectoryError):
        return Found(FileHead(error="FileNotFound"))
    except OSError:
        return Found(FileHead(error="IOError"))


def _starts(root: str, request: FileRequest) -> Found:
    """The first bytes of many files; what of them cannot be read is a frame that says so."""
    try:
        wanted = msgspec.json.decode(request.content, type=Starts)
    except msgspec.DecodeError as error:
        return refusal(Refused("InvalidRequestBody", str(error)))
    most = min(wanted.most, frames.LARGEST)
    names = itertools.product(wanted.directories, wanted.files)
    return Found(FileHead(), body=b"".join(_start(root, directory, name, most) for directory, name in names))


def _start(root: str, directory: str, name: str, most: int) -> bytes:
    found = answer(root, FileRequest(id="", operation="get", base=directory, path=name, length=most))
    if found.fd < 0 or found.head.entry is None:
        return frames.frame(frames.MISSING)
    try:
        data = b"".join(read(found.fd, found.head.offset, found.head.length))
    except OSError:
        return frames.frame(frames.MISSING)
    finally:
        os.close(found.fd)
    return frames.frame(frames.START if len(data) < found.head.entry.size else frames.WHOLE, data)


def refusal(refused: Refused) -> Found:
    """The answer to a request that was refused."""
    return Found(FileHead(error=refused.code, reason=refused.reason))


def _path(request: FileRequest) -> str:
    return "/".join(beneath.parts(request.path.lstrip("/")))


@contextlib.contextmanager
def _base(root: str, request: FileRequest) -> Iterator[tuple[int, list[str]]]:
    """Descriptor of the directory that a request is confined to, and the paths that it is known by."""
    names = beneath.parts(request.base)
    known_as = ["/".join((top, *names)) for top in dict.fromkeys((root, os.path.realpath(root)))]
    with beneath.trusted(root) as top, beneath.directory(top, names) as fd:
        yield fd, known_as


@contextlib.contextmanager
def _opened(top: int, known_as: list[str], path: str) -> Iterator[int]:
    with beneath.chased(top, path, known_as) as (fd, name), beneath.directory(fd, [] if name == "." else [name]) as found:
        yield found


def _get(top: int, known_as: list[str], path: str, request: FileRequest) -> Found:
    with beneath.chased(top, path, known_as) as (holder, name):
        if name == ".":
            raise Refused("FileNotFound")
        fd = os.open(name, beneath.READ, dir_fd=holder)
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


def _properties(top: int, known_as: list[str], path: str) -> FileEntry:
    with beneath.chased(top, path, known_as) as (fd, name):
        seen = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if not (stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode)):
        raise Refused("FileNotFound")  # as for `get` and `list`: a link, pipe or socket is no file
    return entry_of(path, seen)


def _delete(top: int, known_as: list[str], path: str, recursive: bool) -> None:
    above, _, name = path.rpartition("/")
    if not name:
        raise Refused("OperationInvalidForCurrentState")
    with _opened(top, known_as, above) as fd:  # the last name may be a link: that is what goes
        if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=fd)
        elif recursive:
            remove(name, fd)
        else:
            try:
                os.rmdir(name, dir_fd=fd)
            except OSError as error:
                raise Refused("OperationInvalidForCurrentState") from error


remove = trees.remove


def entries(root: str, request: FileRequest) -> Iterator[FileEntry]:
    """A page of what is below the path, sorted by name, directories included; names are relative to base. Raises OSError or Outside."""
    path = _path(request)
    with _base(root, request) as (top, known_as), _opened(top, known_as, path) as fd:
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
