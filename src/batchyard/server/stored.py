"""Where a storage account lies that is not the linked one of its Batch account: beside that one's blobs and queues, in the same world.

Its place is called by the key of its row, which is never given twice: who comes too late to remove it, after the name was given again,
finds nothing of the new one.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from batchyard import drivers
from batchyard.blobs.queues.schema import SCHEMA as QUEUES_SCHEMA
from batchyard.blobs.queues.store import QueueStore
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.blobs.store.schema import SCHEMA as BLOBS_SCHEMA
from batchyard.disk.trees import remove_tree, sync_directory
from batchyard.drivers.migrations import Chain, NewerSchema
from batchyard.server.refusals import Refused
from batchyard.server.state import CATALOGUE, drop_storage, keep_private, open_storage, refuse_damaged
from batchyard.store.storage import StorageRow


class Stored(NamedTuple):
    """The directory of its blobs, and what is beside it: the file of its queues, or the URL that its schemas are called by."""

    blobs: Path
    beside: Path | str

    @property
    def databases(self) -> tuple[tuple[Chain, Path | str], ...]:
        """Its queues, then the catalogue of its blobs, each with its chain."""
        if isinstance(self.beside, str):
            found: tuple[Path | str, ...] = drivers.beside(self.beside, "queues"), drivers.beside(self.beside, "blobs")
        else:
            found = self.beside, self.blobs / CATALOGUE
        return tuple(zip((QUEUES_SCHEMA, BLOBS_SCHEMA), found, strict=True))


def place_of(at: Path | str, blobs: Path, row: StorageRow) -> Stored:
    """The place of a storage account in the world that lies `at` a directory or a URL, with the blobs of its linked one in `blobs`."""
    beside = at / f"queues.{row.slot}.db" if isinstance(at, Path) else drivers.beside(at, f"s{row.pk}")
    return Stored(blobs.with_name(f"{blobs.name}.{row.slot}"), beside)


def make(place: Stored) -> None:
    """Make an empty one; what a restored backup may have there is nobody's. Raises Refused, OSError."""
    remove(place)
    with _Refusing(place):
        _close(*_opened(place))


def open_stored(place: Stored) -> tuple[LocalBlobStore, QueueStore]:
    """One that was made: its blobs and queues. Raises Refused, also when something of it is lost."""
    with _Refusing(place):
        if isinstance(place.beside, Path):
            for chain, database in place.databases:
                if not Path(database).exists():
                    raise Refused(f"{database} is missing although there is a storage account: put it back")
                refuse_damaged(Path(database), chain)
        return _opened(place)


def remove(place: Stored) -> None:
    """Take one away; may be repeated. Raises Refused, OSError."""
    if isinstance(place.beside, str):
        with _Refusing(place):
            drop_storage(place.beside)
    if place.blobs.exists():
        remove_tree(place.blobs)
    if isinstance(place.beside, Path):
        for end in ("", "-wal", "-shm"):
            place.beside.with_name(place.beside.name + end).unlink(missing_ok=True)
    if place.blobs.parent.exists():
        sync_directory(place.blobs.parent)


def _opened(place: Stored) -> tuple[LocalBlobStore, QueueStore]:
    place.blobs.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    return open_storage(place.blobs, place.beside if isinstance(place.beside, str) else keep_private(place.beside))


def _close(store: LocalBlobStore, queues: QueueStore) -> None:
    store.close()
    queues.close()


class _Refusing:
    """Says in one sentence why a place cannot be used."""

    def __init__(self, place: Stored) -> None:
        self._place = place

    def __enter__(self) -> None:
        """Nothing is done yet."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NewerSchema):
            raise Refused(f"{self._place.blobs} was written by a newer release ({error}); install that one") from None
        if isinstance(error, OSError | sqlite3.Error | RuntimeError | drivers.Unusable) or (error and drivers.of_postgres(error)):
            raise Refused(f"the storage in {self._place.blobs} cannot be opened ({' '.join(str(error).split())})") from None
