"""How far long work has come, as one line on a terminal; nothing elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from batchyard.cli import streams, tables

_PERIOD_S = 0.2
_BAR = 24


class Progress:
    """A line on stderr that is drawn over and over, and wiped at the end."""

    def __init__(self, label: str, total: int | None, *, least: int = 2) -> None:
        self._label, self._total = label, total
        self._shown = sys.stderr.isatty() and (total is None or total >= least)
        self._started = self._next = time.monotonic()
        self._drawn = False
        self.done = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.wipe()

    def add(self, more: int = 1) -> None:
        """So much more is done."""
        self.at(self.done + more)

    def at(self, done: int, total: int | None = None) -> None:
        """So much is done."""
        self.done, self._total = done, total or self._total
        now = time.monotonic()
        if self._shown and now >= self._next:
            self._next, self._drawn = now + _PERIOD_S, True
            print(
                f"\r{line(self._label, done, self._total, now - self._started)}\x1b[K"[: (streams.columns(sys.stderr) or 80) + 4],
                end="",
                file=sys.stderr,
                flush=True,
            )

    def wipe(self) -> None:
        """Make room for other lines."""
        if self._drawn:
            self._drawn = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def print(self, text: str, stream: TextIO | None = None, *, flush: bool = True) -> None:
        """Print a line, on stdout unless another stream is named, that the progress does not get in the way of."""
        stream = stream or sys.stdout
        if self._drawn and stream.isatty():
            self.wipe()
        print(text, file=stream, flush=flush)


def line(label: str, done: int, total: int | None, passed_s: float) -> str:
    """The line: bar, counts, rate, time left."""
    rate = done / passed_s if passed_s > 0 else 0.0
    if not total:
        return f"{label}  {done:,}  {rate:,.0f}/s"
    full = min(_BAR, _BAR * done // total)
    left = f"  {tables.span((total - done) / rate)} left" if rate and done < total else ""
    return f"{label}  [{'#' * full}{'.' * (_BAR - full)}]  {done:,} of {total:,}  {rate:,.0f}/s{left}"
