"""What the store and the catalogues ask of a database: connections, one transaction at a time that writes, snapshots that read.

Statements are written once, with `:name`, `?1` or `?` parameters; what a database wants otherwise is its driver's to translate. Whatever
may fail and be over by itself (a full disk, a server that is away) is told from what is wrong by `passing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar

from batchyard.disk.commits import Journal
from batchyard.drivers.migrations import Chain

T = TypeVar("T")
Wakes = Callable[[Iterable[str]], None]


class Use(NamedTuple):
    """What a database is opened for."""

    chain: Chain
    named: bool = False
    """Rows are asked by the names of their columns."""
    tended: bool = True
    """Somebody calls `checkpoint` every few seconds; else the log of a file is moved into it as it grows."""
    cache_kib: tuple[int, int] = (65_536, 8_192)
    """Of a file: for who writes, and for each who reads, what a page of a list touches several times over."""


class Row(Protocol):
    """A row of which the columns have names."""

    def __getitem__(self, column: str | int, /) -> Any:
        """What a column holds."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """What all columns hold."""
        ...


class Answer(Protocol):
    """What a statement gives."""

    @property
    def rowcount(self) -> int:
        """How many rows it reached."""
        ...

    def fetchone(self) -> Any:
        """The next row, None when there is none."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """All rows that are left."""
        ...


class Connection(Protocol):
    """A connection within a transaction."""

    lazy: bool
    """True when a look at an answer costs a way to the database and back, so that who need not look does not."""

    @property
    def Error(self) -> type[Exception]:  # noqa: N802 - so the drivers' own connections have it
        """All errors of the database."""
        ...

    def execute(self, sql: str, params: Mapping[str, Any] | Sequence[Any] = ..., /) -> Answer:
        """Run a statement."""
        ...

    def executemany(self, sql: str, rows: Iterable[Any], /) -> Answer:
        """Run a statement for each row of parameters."""
        ...

    def settle(self) -> None:
        """Wait for all answers. Raises what the statements so far raised."""
        ...

    def last_given(self, table: str, column: str) -> int:
        """The highest key that the database ever gave to a row, 0 for none."""
        ...

    def give_after(self, table: str, column: str, number: int) -> None:
        """Give keys above that number from now on."""
        ...

    def moment(self) -> int:
        """Microseconds since 1970 by the clock that all who share the database have."""
        ...

    def shrink(self, pages: int) -> int:
        """Give free pages of a file back to the disk; how many."""
        ...


class Driver(Protocol):
    """A database that is open."""

    readers: int
    """How many threads may read at once; 0 where only the connection that writes sees anything."""

    @property
    def journal(self) -> Journal[Connection]:
        """The connection that writes, for one thread."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """A snapshot on a connection of its own: all that was acknowledged before, and nothing that comes later."""
        ...

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query on such a snapshot."""
        ...

    def passing(self, error: BaseException) -> bool:
        """True for what is over by itself, without anybody mending the database or the program."""
        ...

    def checkpoint(self, *, empty: bool) -> None:
        """Upkeep of the files, from a thread that may wait; with `empty` what takes room is given back if nobody reads just now."""
        ...

    def close(self) -> None:
        """Close all connections; nobody writes or reads any more."""
        ...
