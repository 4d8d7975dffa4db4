"""Copies from other servers behind the answer: a few at a time, with progress, aborted on demand, begun anew after a crash.

What is under way stands in the store, so a copy whose server was killed goes on with the next. The bytes are written to a file first and
become the blob's in one step; until then the blob is empty, and nobody else may write it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime

from batchyard.blobs.base import BlobError, BlobStore, Fetch
from batchyard.blobs.edge.foreign import Foreign, ForeignReader
from batchyard.model import times

log = logging.getLogger(__name__)

MOST_PENDING = 100
"""Copies of an account that may wait or be under way."""
_AT_ONCE = 4
_TRIES = 5
_TELL_S = 1.0


class Fetches:
    """The copies from elsewhere of one store; `room` says why no content of so many bytes is taken at the moment."""

    def __init__(
        self, store: BlobStore, foreign: Foreign, now: Callable[[], datetime], room: Callable[[int], str | None] = lambda size: None
    ) -> None:
        self.foreign, self.room = foreign, room
        self._store, self._now = store, now
        self._lock = threading.Condition()
        self._waiting: deque[str] = deque()
        self._threads = 0
        self._stopped = threading.Event()

    def resume(self) -> None:
        """Go on with what an earlier server left."""
        for copy in self._store.fetches():
            self.begin(copy)

    def begin(self, copy: str) -> None:
        """Work on a copy that stands in the store."""
        with self._lock:
            self._waiting.append(copy)
            if self._threads < _AT_ONCE and not self._stopped.is_set():
                self._threads += 1
                threading.Thread(target=self._work, name="copies", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return self._threads > 0

    def close(self) -> None:
        """End what is under way, which the next server begins anew. A source that says nothing is not waited for."""
        with self._lock:
            self._stopped.set()
            self._waiting.clear()

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is under way; whether that is so."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._threads, seconds)

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    if not self._waiting or self._stopped.is_set():
                        return
                    copy = self._waiting.popleft()
                try:
                    self._one(copy)
                except Exception:
                    if not self._stopped.is_set():
                        log.exception("copy %s from elsewhere failed", copy)
        finally:
            with self._lock:
                self._threads -= 1
                self._lock.notify_all()

    def _one(self, copy: str) -> None:
        reason = ""
        for number in range(_TRIES):
            if self._stopped.wait(number):
                return
            found = self._store.fetch(copy)
            if found is None:
                return
            try:
                self._bring(found)
                return
            except BlobError as error:  # what the source or the store answers does not change by itself
                reason = error.message
                break
            except OSError as error:
                reason = str(error)
                log.warning("copy %s from elsewhere broke off: %s", copy, reason)
        self._while_open(lambda: self._store.end_fetch(copy, "failed", reason, times.micros(self._now())))

    def _bring(self, found: Fetch) -> None:
        headers = {"if-match": f'"{found.etag}"'} if found.etag else {}
        reader = self.foreign.open(found.url, headers)
        upload = self._store.fetched(found.id)
        try:
            if (reason := self.room(reader.length)) is not None:
                raise OSError(reason)
            if self._read(found.id, reader, upload.write):
                self._while_open(lambda: upload.commit(times.micros(self._now())))
        finally:
            reader.close()
            upload.abort()

    def _read(self, copy: str, reader: ForeignReader, write: Callable[[bytes], None]) -> bool:
        """Take in all content; False when the copy was aborted or this server ends."""
        done, told = 0, time.monotonic()
        while chunk := reader.read(0):
            write(chunk)
            done += len(chunk)
            if self._stopped.is_set():
                return False
            if time.monotonic() - told >= _TELL_S:
                told = time.monotonic()
                if not self._store.note_progress(copy, f"{done}/{reader.length}"):
                    return False
        return True

    def _while_open(self, work: Callable[[], object]) -> None:
        """Run what writes to the store, unless it is about to be closed."""
        with self._lock:
            if not self._stopped.is_set():
                work()
