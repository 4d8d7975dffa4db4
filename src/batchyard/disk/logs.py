"""Where servers and agents write what they log: a line is written or lost, and no call that logs ever raises.

A full disk is when errors are logged most, so the path of an error must not run into it again (a write that fails inside
of an `except` would skip what follows there). What was lost is counted, and told as soon as a line can be written again.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from typing import Any, TextIO, cast

import structlog


class Sink(io.TextIOBase):
    """A text stream over a descriptor that holds nothing back and drops what cannot be written."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._torn = False
        """The last write ended in the middle."""
        self.lost = 0
        """Writes that were dropped since the last one that was not."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """UTF-8, whatever the locale says; what it cannot say is escaped."""
        return "utf-8"

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """True on a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Write all of it or count it as lost; raises nothing."""
        with self._lock:
            if self._torn or self.lost:
                told = f"{self.lost} writes to this log were lost\n" if self.lost else ""
                self._torn = not self._put(("\n" if self._torn else "") + told)
                self.lost = self.lost if self._torn else 0
            if self._torn or not self._put(text):
                self.lost += 1
        return len(text)

    def _put(self, text: str) -> bool:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        whole = len(data)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._torn = self._torn or len(data) < whole
            return False
        return True


class Logger(structlog.BoundLoggerBase):
    """What `structlog.get_logger()` gives; a value that cannot be shown or a sink that fails costs the line."""

    def debug(self, event: str, **values: Any) -> None:
        """Log for who looks for a fault."""
        self._say("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """Log what happened."""
        self._say("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Log what should not be."""
        self._say("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Log what failed."""
        self._say("error", event, values)

    def exception(self, event: str, **values: Any) -> None:
        """Log what failed, with the exception that is being handled."""
        self._say("error", event, {"exc_info": True, **values})

    def _say(self, level: str, event: str, values: dict[str, Any]) -> None:
        try:
            self._proxy_to_logger(level, event, **values)
        except Exception:
            if isinstance(sys.stderr, Sink):
                sys.stderr.lost += 1


class _Handler(logging.Handler):
    """Lines of libraries, to the same place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line or lose it."""
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            if isinstance(sys.stderr, Sink):
                sys.stderr.lost += 1


def begin(descriptor: int = 2) -> None:
    """Send all that this process logs or prints to a descriptor, from now on and for good."""
    sink = cast(TextIO, Sink(descriptor))
    # Python flushes these at its end and would make a full disk its exit code.
    sys.stdout = sys.stderr = sink
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=Logger,
        logger_factory=structlog.WriteLoggerFactory(sink),
    )
