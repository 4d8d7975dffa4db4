"""Names of attempts: a run of a task or special task, or an instance of one of a multi-instance task, as the server tells it to an agent
and hears of it again."""

from __future__ import annotations

from typing import NamedTuple

_SPECIAL = "s"
_LONGEST = 18  # the numbers fit a column
_LARGEST_NUMBER = 6  # digits


class Run(NamedTuple):
    """The run that a name stands for."""

    special: bool
    pk: int
    run: int
    number: int | None = None
    """Which instance of a multi-instance task this is; None for the run of the task's own command line."""


def name(pk: int, run: int, number: int | None = None, *, special: bool = False) -> str:
    """Name of a run, or of an instance of it."""
    return f"{_SPECIAL if special else ''}{pk}.{run}{'' if number is None else f'.{number}'}"


def is_special(text: str) -> bool:
    """True for the name of a run of a start, job preparation or job release task."""
    return text.startswith(_SPECIAL)


def parse(text: str) -> Run | None:
    """The run that an agent names; None for what no server ever called one."""
    special = text.startswith(_SPECIAL)
    pk, _, rest = text.removeprefix(_SPECIAL).partition(".")
    run, dot, number = rest.partition(".")
    if not text.isascii() or len(pk) + len(run) > _LONGEST or not pk.isdigit() or not run.isdigit():
        return None
    if not dot:
        return Run(special, int(pk), int(run))
    if special or not number.isdigit() or len(number) > _LARGEST_NUMBER:
        return None
    return Run(special, int(pk), int(run), int(number))
