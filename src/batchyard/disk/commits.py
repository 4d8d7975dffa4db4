"""Group commit: many units of work in one transaction, a savepoint each, because what a commit costs is its way to the disk.

A unit that raises is undone alone. One that breaks the transaction of all is set aside and has a transaction of its own after the
others', so units may run more than once and change nothing but what the transaction holds. Whatever happens, every unit knows in the
end how it went, and the next commit finds what the last acknowledged one left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)

_MOST_ASIDE = 3
"""Units of a commit that are tried apart from the others; when more break it, it is not theirs to mend."""


class Journal(Protocol[C_co]):
    """The one connection that writes, as far as a group commit has to know it. All but `abandon` may raise what its driver raises."""

    def begin(self) -> C_co:
        """Begin a transaction in which nobody else writes; the connection, opened anew when the last one was given up."""
        ...

    def mark(self) -> None:
        """A point that `undo` comes back to."""
        ...

    def undo(self) -> None:
        """Undo what was written since the mark."""
        ...

    def keep(self) -> None:
        """Forget the mark. Raises when the transaction is not there any more: what follows would be in one that nobody commits for all."""
        ...

    def commit(self, topics: Sequence[str]) -> None:
        """Returns when all is on disk; `topics` are told to whoever else follows this database."""
        ...

    def abandon(self, error: BaseException) -> None:
        """Undo a transaction that failed; a connection that may hold something else than what is on disk is given up."""
        ...

    def spoils(self, error: BaseException) -> bool:
        """True for an error that no unit is to blame for, and after which the whole transaction is in doubt: a full disk."""
        ...


class Unit(Generic[C]):
    """A piece of work on its way into a commit, and how it went."""

    __slots__ = ("error", "wakes")

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.wakes: Iterable[str] = ()

    def run(self, connection: C) -> None:
        """Do the work within a transaction that is there; what it raises undoes it alone."""
        raise NotImplementedError

    def refuse(self, error: BaseException) -> None:
        """Nothing of it is stored, whatever it did; what it raised itself is its error all the same."""
        self.error = self.error or error


def commit(journal: Journal[C], batch: Sequence[Unit[C]]) -> list[BaseException]:
    """Run units and commit; what whole transactions failed of, whose units were refused. Raises nothing."""
    rest = batch
    aside: list[Unit[C]] = []
    culprit, failed = _together(journal, rest)
    while culprit is not None and len(rest) > 1 and len(aside) < _MOST_ASIDE:
        aside.append(culprit)
        rest = [unit for unit in rest if unit is not culprit]
        culprit, failed = _together(journal, rest)
    if failed is not None:
        return [_refuse([*rest, *aside], failed)]
    failures = []
    for unit in aside:
        _, failed = _together(journal, [unit])
        if failed is not None:
            failures.append(_refuse([unit], failed))
    return failures


def _together(journal: Journal[C], units: Sequence[Unit[C]]) -> tuple[Unit[C] | None, BaseException | None]:
    """Commit, or undo all; what went wrong, and in which unit. Whatever it is, a writer that ended of it would leave all waiting."""
    current: Unit[C] | None = None
    try:
        connection = journal.begin()
        for current in units:
            _run(journal, connection, current)
        current = None
        journal.commit([*dict.fromkeys(topic for unit in units for topic in unit.wakes)])
    except BaseException as error:
        journal.abandon(error)
        return current, error
    return None, None


def _run(journal: Journal[C], connection: C, unit: Unit[C]) -> None:
    journal.mark()
    unit.error, unit.wakes = None, ()
    try:
        unit.run(connection)
    except Exception as error:
        if journal.spoils(error):
            raise
        unit.error, unit.wakes = error, ()
        journal.undo()
    journal.keep()


def _refuse(units: Iterable[Unit[C]], error: BaseException) -> BaseException:
    for unit in units:
        unit.wakes = ()
        unit.refuse(error)
    return error
