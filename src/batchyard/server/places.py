"""Where worlds lie on this machine: the one place that knows what the location in a row of the registry means.

An account's world is a directory below `accounts/` of the state directory or, where the operator said so, anywhere else; that of the
default account is the state directory itself, and the nodes of all are below it, because only this machine has them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from batchyard.disk import space
from batchyard.disk.trees import remove_tree, sync_directory
from batchyard.engine.wakes import Wakes
from batchyard.server import account_file
from batchyard.server.account_file import AccountFile
from batchyard.server.refusals import Refused
from batchyard.server.state import ACCOUNTS, BLOBS, DATABASE, DEFAULT, QUEUES, State, open_state
from batchyard.store.accounts import AccountRow

_NODES = "nodes"


class Places:
    """The worlds below and beside one state directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def chosen(self, name: str, location: str | None) -> str:
        """The location of a new account. Raises ValueError with what is wrong with the directory that the operator named."""
        if location is None:
            return f"{ACCOUNTS}/{name}"
        path = Path(location)
        if not path.is_absolute() or ".." in path.parts or "\0" in location:
            raise ValueError("A location is the absolute path of a directory")
        path = path.parent.resolve() / path.name
        if path.is_relative_to(self._directory.resolve()):
            raise ValueError("The server has the places in its state directory to give")
        if not path.parent.is_dir():
            raise ValueError("The directory that it would be in is not there")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError("There is something already")
        return str(path)

    def make(self, row: AccountRow) -> None:
        """Make the directory of a new account, with its keys and databases. Raises Refused, OSError."""
        path = self._directory / row.location
        for directory in (self._directory / ACCOUNTS, self.nodes(row).parent, path):
            directory.mkdir(mode=0o711, exist_ok=True)
            sync_directory(directory.parent)
        if any(path.iterdir()):
            raise Refused(f"{path} is not empty")
        for part in self.open(row, Wakes())[1:]:
            part.close()

    def open(self, row: AccountRow, hub: Wakes) -> State:
        """What the world of an account holds. Raises Refused."""
        return open_state(self._directory / row.location, hub, lambda: account_file.fresh(row.name, row.storage))

    def secrets(self, row: AccountRow) -> AccountFile:
        """The keys of an account, without opening its world. Raises Unusable."""
        path = self._directory / row.location / account_file.NAME
        found = account_file.read(path)
        if found is None:
            raise account_file.Unusable(f"{path} is missing")
        return found

    def keep(self, row: AccountRow, account: AccountFile) -> None:
        """Write the keys of an account. Raises OSError."""
        account_file.store(self._directory / row.location / account_file.NAME, account)

    def nodes(self, row: AccountRow) -> Path:
        """The directory of an account's nodes."""
        return (self._directory if row.location == DEFAULT else self._directory / ACCOUNTS / row.name) / _NODES

    def room(self, row: AccountRow) -> space.Room | None:
        """The room of a world on a disk of its own; None for one that shares the server's."""
        path = self._directory / row.location
        return None if path.stat().st_dev == self._directory.stat().st_dev else space.Room(path)

    def count_nodes(self) -> int:
        """Nodes of all accounts."""
        return sum(1 for nodes in self._all_nodes() for home in nodes.iterdir() if home.is_dir())

    def remove(self, row: AccountRow) -> None:
        """Take a world away, its keys last; what is not the server's stays. May be repeated. Raises OSError."""
        path = self._directory / row.location
        if row.location == DEFAULT:
            raise ValueError("the default account stays")
        for name in (BLOBS, _NODES):
            _gone(path / name)
        _gone(self.nodes(row))
        for name in (f"{file}{end}" for file in (DATABASE, QUEUES) for end in ("", "-wal", "-shm")):
            (path / name).unlink(missing_ok=True)
        for name in ("reserve", account_file.UNFINISHED, f"{account_file.NAME}.part"):
            (path / name).unlink(missing_ok=True)
        (path / account_file.NAME).unlink(missing_ok=True)
        for directory in (path, self.nodes(row).parent):
            with contextlib.suppress(OSError):  # not empty, or gone
                directory.rmdir()

    def _all_nodes(self) -> Iterator[Path]:
        for nodes in (self._directory / _NODES, *(self._directory / ACCOUNTS).glob(f"*/{_NODES}")):
            if nodes.is_dir():
                yield nodes


def _gone(path: Path) -> None:
    if path.exists():
        remove_tree(path)
