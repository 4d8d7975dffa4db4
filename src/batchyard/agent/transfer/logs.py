"""Upload of the agent's own log (contract 4.9, service logs): how many files is told at once, the bytes follow.

What becomes of them only the node's log and its events tell. The container's URL comes from the owner of the account, as
it does for output files. Lines without a time belong to the line before them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import BinaryIO

import msgspec
import structlog

from batchyard.agent.places.files import Found, Refused
from batchyard.agent.places.layout import Layout
from batchyard.agent.transfer import storage
from batchyard.agent.transfer.failures import plain
from batchyard.agent.transfer.stop import Cancelled, Stop
from batchyard.agent.transfer.storage import Unreachable
from batchyard.model import times
from batchyard.model.sync import FileHead, FileRequest, LogUpload, NodeNews

log = structlog.get_logger()

_TIME = re.compile(rb"timestamp='(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)'")
_LONGEST_LINE = 1 << 20


class ServiceLogs:
    """Uploads `log_file` (None: the agent writes no log that it knows of); `failed` hears of uploads that could not be made."""

    def __init__(self, log_file: str | None, layout: Layout, threads: Executor, failed: Callable[[NodeNews], None]) -> None:
        self._log_file, self._layout, self._threads, self._failed = log_file, layout, threads, failed
        self._stop = Stop()
        self._uploads: set[asyncio.Future[NodeNews | None]] = set()

    async def answer(self, request: FileRequest) -> Found:
        """Begin an upload and tell how many files it has. Raises Refused, OSError or msgspec.ValidationError."""
        if self._log_file is None:
            raise Refused("OperationNotValidOnNode", "the node's agent writes its log to no file")
        wanted = msgspec.json.decode(bytes(request.content), type=LogUpload)
        loop = asyncio.get_running_loop()
        piece = await loop.run_in_executor(self._threads, self._copy, self._log_file, wanted)
        if piece is not None:
            name = f"{wanted.directory.strip('/')}/{os.path.basename(self._log_file)}"
            upload = loop.run_in_executor(self._threads, self._upload, piece, wanted.container_url, name)
            self._uploads.add(upload)
            upload.add_done_callback(self._settled)
        return Found(FileHead(), body=msgspec.json.encode({"numberOfFilesUploaded": int(piece is not None)}))

    def _settled(self, upload: asyncio.Future[NodeNews | None]) -> None:
        self._uploads.discard(upload)
        if not upload.cancelled() and (news := upload.result()) is not None:
            self._failed(news)

    def stop(self) -> None:
        """Give up what is under way."""
        self._stop.set()

    def _copy(self, path: str, wanted: LogUpload) -> BinaryIO | None:
        """The lines of the time that is asked for, in a file without a name; None when there are none."""
        end = time.time_ns() // 1000 if wanted.end is None else wanted.end
        with contextlib.ExitStack() as stack:
            copy = stack.enter_context(tempfile.TemporaryFile(dir=self._layout.volatile))
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                copy.writelines(between(_lines(file), wanted.start, end))
            copy.flush()
            if not copy.tell():
                return None
            stack.pop_all()
        return copy

    def _upload(self, piece: BinaryIO, url: str, name: str) -> NodeNews | None:
        """Upload a piece; what there is to tell when that fails."""
        with piece:
            try:
                storage.check(url)
                self._stop.patiently(lambda: storage.write_blob(url, name, piece.fileno(), {"Content-Type": "text/plain"}))
                log.info("service log uploaded", container=plain(url), blob=name)
            except (Unreachable, OSError) as error:
                log.warning("service log not uploaded", container=plain(url), blob=name, reason=str(error))
                return NodeNews(happened="service log not uploaded", cause=f"{plain(url)}, blob {name}: {error}")
            except Cancelled:
                pass
        return None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.readline(_LONGEST_LINE), b"")


def between(lines: Iterator[bytes], start: int, end: int) -> Iterator[bytes]:
    """Lines written from start to end, microseconds since 1970, both included."""
    inside = False
    for line in lines:
        found = _TIME.search(line)
        if found is not None:
            inside = start <= times.from_iso(found[1].decode()) <= end
        if inside:
            yield line
