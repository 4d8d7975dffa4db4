"""What a check finds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """The server works; something is missing, or less safe than it could be."""
    PROBLEM = "problem"
    """The server does not work, or loses what it acknowledged, until this is mended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence of what was found, and one of what mends it."""

    level: Level
    check: str
    finding: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server is, or is meant to be."""

    directory: Path
    host: str
    port: int

    @property
    def existing(self) -> Path:
        """The state directory, or the part of the way to it that exists."""
        return next(step for step in (self.directory, *self.directory.parents) if step.exists())


Check = Callable[[Place], Iterable[Finding]]


def ok(check: str, finding: str) -> Finding:
    """Nothing to do."""
    return Finding(Level.OK, check, finding)


def note(check: str, finding: str, mend: str = "") -> Finding:
    """Something to know."""
    return Finding(Level.NOTE, check, finding, mend)


def problem(check: str, finding: str, mend: str) -> Finding:
    """Something to mend first."""
    return Finding(Level.PROBLEM, check, finding, mend)


def size(n: float) -> str:
    """Bytes for people: 512 MiB, 23.4 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if n >= 100 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def root() -> bool:
    """True for the user that may do everything."""
    return os.geteuid() == 0
