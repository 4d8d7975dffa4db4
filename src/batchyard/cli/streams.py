"""What goes to the person and what to the next program: data on stdout, talk on stderr; colours only where they are wanted."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def prepare() -> None:
    """Let no character that a locale does not know end a command, nor a stream that its caller has closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open, and keeps other files off its number
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Tell the person, aside of the output."""
    print(text, file=sys.stderr, flush=True)


def coloured(stream: TextIO) -> bool:
    """A terminal that shows colours, whose owner has not asked for none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str | None, stream: TextIO | None = None) -> str:
    """The text in a colour, where that is shown."""
    if not colour or not coloured(stream or sys.stdout):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def columns(stream: TextIO) -> int | None:
    """Width of the terminal, in characters; None where nothing is to be cut."""
    if not stream.isatty():
        return None
    try:
        return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def forget_output() -> None:
    """Nobody reads stdout any more: what is still buffered has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def confirmed(question: str, *, yes: bool) -> None:
    """Ask before something is lost, on a terminal only. Raises Interrupted when the answer is no."""
    from batchyard.cli.problem import Problem

    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Problem("nothing was done")


def many(n: int, what: str) -> str:
    """`1 node`, `1,200 nodes`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"
