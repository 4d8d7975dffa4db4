"""Names of attempts: a run of a task or special task, as the server tells it to an agent and hears of it again."""

from __future__ import annotations

from typing import NamedTuple

_SPECIAL = "s"
_LONGEST = 18  # both numbers fit a column


class Run(NamedTuple):
    """The run that a name stands for."""

    special: bool
    pk: int
    run: int


def name(pk: int, run: int, *, special: bool = False) -> str:
    """Name of a run."""
    return f"{_SPECIAL if special else ''}{pk}.{run}"


def is_special(text: str) -> bool:
    """True for the name of a run of a start, job preparation or job release task."""
    return text.startswith(_SPECIAL)


def parse(text: str) -> Run | None:
    """The run that an agent names; None for what no server ever called one."""
    special = text.startswith(_SPECIAL)
    pk, _, run = text.removeprefix(_SPECIAL).partition(".")
    if len(text) > _LONGEST or not text.isascii() or not pk.isdigit() or not run.isdigit():
        return None
    return Run(special, int(pk), int(run))
