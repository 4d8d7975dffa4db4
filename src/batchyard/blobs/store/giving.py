"""Changes after which no row names some data files any more."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.files import DataFiles
from batchyard.drivers.base import Connection

T = TypeVar("T")


class Giving:
    """The part of a store that makes them."""

    _catalogue: Catalogue
    _files: DataFiles

    def _and_give_up(self, work: Callable[[Connection], tuple[T, Collection[str]]]) -> T:
        """Run `work`, which says what files nobody needs behind it."""

        def forgetting(tx: Connection) -> tuple[T, Collection[str]]:
            result, gone = work(tx)
            self._files.doom(tx, gone)
            return result, gone

        result, gone = self._catalogue.write(forgetting)
        self._files.give_up(gone)
        return result
