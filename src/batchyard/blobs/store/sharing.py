"""Data files in a directory that several servers see, with a catalogue in PostgreSQL: who lives, what is read, what may go.

No lock of a file system is used, so network file systems will do. Each server has a session, a row whose `beats` grow, and its files
have the session in their names.

- A name gets into the catalogue only while its session lives, in the same transaction (`vouch`). One whose beats were not seen to grow
  is taken for dead first, and only then the files that it wrote and nobody named are swept: a server that was paused finds out at
  its commit.
- What no row names any more is doomed in the same transaction, under a number that grows (`doom`). A session says up to which number
  it reads nothing (its `mark`), and no file above the smallest mark of all goes.
- Silence is counted in beats of who watches, not by anybody's clock. Nobody can beat while the database is away, nor watch.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from batchyard.blobs.errors import Fenced
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.files import FANOUT, DataFiles, Pin
from batchyard.disk.trees import sync_directory
from batchyard.drivers.base import Connection

log = logging.getLogger(__name__)

PLACE, ANNOUNCED = "place", "place.moving"
"""Files of the directory that say whose bytes these are, and whose they are to be."""
BEAT_S = 2.0
SILENT_BEATS = 6
"""A session is dead that did not beat while another one did so often."""
_AT_ONCE = 500
_SWEPT_EVERY_US = 86_400_000_000


class SharedFiles(DataFiles):
    """The directory as one of its servers has it; a thread of its own beats, removes and sweeps."""

    def __init__(self, directory: Path, catalogue: Catalogue, *, beating: bool = True) -> None:
        self._catalogue = catalogue
        self._marks: Counter[int] = Counter()
        self._guard = threading.Lock()
        self._newest = 0
        self._silent: dict[str, tuple[int, int]] = {}
        self._failing = False
        catalogue.write(lambda tx: claim(tx, directory))
        super().__init__(directory / "data")
        self._session = self._begin()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="data-files", daemon=True)
        if beating:
            self._thread.start()

    @property
    def owner(self) -> str:
        """Its session."""
        return self._session

    def new_name(self) -> str:
        """A name that says whose it is."""
        return f"{super().new_name()}.{self._session}"

    @contextmanager
    def looking(self) -> Iterator[Pin]:
        """Around a look into the catalogue: nothing goes that it finds, as long as the pin holds."""
        with self._guard:
            pin = _Mark(self, self._newest)
            self._marks[pin.mark] += 1
        try:
            yield pin
        except BaseException:
            pin.release()
            raise
        if not pin.holds:
            pin.release()

    def let_go(self, mark: int) -> None:
        """End of reading."""
        with self._guard:
            self._marks[mark] -= 1
            if not self._marks[mark]:
                del self._marks[mark]

    def vouch(self, tx: Connection, names: Iterable[str]) -> None:
        """New files are there as long as their server was not taken for dead. Raises Fenced."""
        for session in {_session_of(name) for name in names}:
            if tx.execute("SELECT 1 FROM session WHERE id = ? AND beats >= 0", (session,)).fetchone() is None:
                raise Fenced("this server was silent for so long that the others took it for dead")

    def doom(self, tx: Connection, names: Iterable[str]) -> None:
        """Files that go once nobody reads them."""
        gone = [(name,) for name in names]
        if gone:
            tx.executemany("INSERT INTO doomed (file) VALUES (?)", gone)

    def give_up(self, names: Iterable[str]) -> None:
        """Nothing: what is doomed goes when all servers say that they do not read it."""

    def close(self) -> None:
        """End the session. What waits to go is left to the others, or to the next."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(Exception):  # then it is taken for dead
            self._catalogue.write(lambda tx: tx.execute("DELETE FROM session WHERE id = ? AND beats >= 0", (self._session,)))

    # what the thread does

    def tend(self) -> None:
        """Say that this server lives; take others for dead; remove what nobody reads, and what the dead left behind."""
        with self._catalogue.reading() as tx:
            newest = _newest(tx)
        with self._guard:  # whoever looks from now on finds nothing that was doomed before
            self._newest = max(self._newest, newest)
            mark = min(self._marks, default=self._newest)
        if not self._catalogue.write(lambda tx: _beat(tx, self._session, mark)):
            log.error("other servers took this one for dead: uploads that were under way are refused")
            self._session = self._begin()
        with self._catalogue.reading() as tx:
            sessions = {row["id"]: row["beats"] for row in tx.execute("SELECT id, beats FROM session")}
        dead = self._dead(sessions)
        if dead:
            self._catalogue.write(lambda tx: _bury(tx, dead))
        self._reap()
        self._sweep_dead()
        self._sweep_old()

    def _begin(self) -> str:
        session = secrets.token_hex(8)
        with self._guard:
            mark = min(self._marks, default=self._newest)
        self._catalogue.write(lambda tx: tx.execute("INSERT INTO session (id, beats, mark) VALUES (?, 0, ?)", (session, mark)).rowcount)
        return session

    def _beat_on(self) -> None:
        while True:
            try:
                self.tend()
                if self._failing:
                    log.warning("data files are looked after again")
                self._failing = False
            except Exception as error:
                if not self._failing:
                    log.error("data files cannot be looked after for now: %s", error)
                self._failing = True
            if self._ending.wait(BEAT_S):
                return

    def _dead(self, sessions: dict[str, int]) -> list[tuple[str, int]]:
        """Sessions that did not beat since this one did so a few times, with the beats that were seen."""
        known, self._silent = self._silent, {}
        for session, beats in sessions.items():
            if session == self._session or beats < 0:
                continue
            before, silence = known.get(session, (None, 0))
            self._silent[session] = (beats, silence + 1 if before == beats else 0)
        return [(session, beats) for session, (beats, silence) in self._silent.items() if silence >= SILENT_BEATS]

    def _reap(self) -> None:
        """Remove the files that no session may read."""
        while True:
            with self._catalogue.reading() as tx:
                (mark,) = tx.execute("SELECT COALESCE(MIN(mark), 0) FROM session WHERE beats >= 0").fetchone()
                found = tx.execute("SELECT number, file FROM doomed WHERE number <= ? ORDER BY number LIMIT ?", (mark, _AT_ONCE)).fetchall()
            if found:
                self._remove_for_good({row["file"] for row in found})
                self._change_many("DELETE FROM doomed WHERE number = ?", [row["number"] for row in found])
            if len(found) < _AT_ONCE:
                return

    def _change_many(self, sql: str, keys: list[Any]) -> None:
        self._catalogue.write(lambda tx: tx.executemany(sql, [(key,) for key in keys]).rowcount)

    def _remove_for_good(self, names: set[str]) -> None:
        self.remove(names)
        for directory in {self.path(name).parent for name in names}:
            sync_directory(directory)

    def _sweep_dead(self) -> None:
        with self._catalogue.reading() as tx:
            dead = [row["id"] for row in tx.execute("SELECT id FROM session WHERE beats < 0")]
        if dead:
            self._sweep_all()
            self._change_many("DELETE FROM session WHERE id = ? AND beats < 0", dead)

    def _sweep_old(self) -> None:
        """Once a day a look at all that is there, whoever left it."""
        now = time.time_ns() // 1000
        with self._catalogue.reading() as tx:
            (swept,) = tx.execute("SELECT swept FROM place").fetchone()
        if abs(now - swept) > _SWEPT_EVERY_US:
            self._catalogue.write(lambda tx: tx.execute("UPDATE place SET swept = ?", (now,)).rowcount)
            self._sweep_all()

    def _sweep_all(self) -> None:
        """Remove what no row names and no server that lives may be about to name."""
        for number in range(FANOUT):
            low = f"{number:02x}"
            present = set(os.listdir(self.path(low).parent))
            if not present or self._ending.is_set():
                continue
            with self._catalogue.reading() as tx:  # behind the look at the directory: who began since has nothing in it
                living = {row["id"] for row in tx.execute("SELECT id FROM session WHERE beats >= 0")}
                known = set(names_between(tx, low, f"{low}g"))
            left = {name for name in present - known if _session_of(name) not in living}
            if left:
                log.warning("%d data files that no blob has are removed", len(left))
                self._remove_for_good(left)


class _Mark:
    """A pin that holds back what was not doomed when it was made."""

    def __init__(self, files: SharedFiles, mark: int) -> None:
        self._files, self.mark = files, mark
        self.holds = self._over = False

    def hold(self, names: Iterable[str]) -> None:
        self.holds = any(True for _ in names)

    def release(self) -> None:
        if not self._over:
            self._over = True
            self._files.let_go(self.mark)


def claim(tx: Connection, directory: Path) -> None:
    """See to it that the directory is that of the catalogue, which a new one becomes. Raises RuntimeError."""
    row = tx.execute("SELECT id FROM place").fetchone()
    told = _told(directory / PLACE)
    if row is not None:
        announced = _told(directory / ANNOUNCED)
        if told is None and announced == row["id"]:  # what `migrate` moved is opened for the first time
            (directory / ANNOUNCED).replace(directory / PLACE)
            sync_directory(directory)
        elif told != row["id"]:
            raise RuntimeError(f"{directory} is not the directory of blobs that the servers of this catalogue share: mount that one there")
        return
    if any(names for _, _, names in os.walk(directory / "data")):
        raise RuntimeError(f"{directory / 'data'} holds bytes that this catalogue does not know; `batchyard migrate` moves both")
    tx.execute("INSERT INTO place (id) VALUES (?)", (told or mark_place(directory),))


def _told(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def mark_place(directory: Path, name: str = PLACE) -> str:
    """Write into a directory whose bytes these are; what that is."""
    made = secrets.token_hex(16)
    descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(directory)
    return made


def announce_place(directory: Path) -> str:
    """The same, for a catalogue that is being made: until it is opened, the directory stays that of whose it is."""
    (directory / ANNOUNCED).unlink(missing_ok=True)
    return mark_place(directory, ANNOUNCED)


def names_between(tx: Connection, low: str, high: str) -> list[str]:
    """The data files that rows name, or that wait to go, from a name up to (not including) another."""
    sql = "SELECT file FROM {} WHERE file >= ? AND file < ?"
    return [row["file"] for table in ("segments", "staged", "doomed") for row in tx.execute(sql.format(table), (low, high))]


def _session_of(name: str) -> str:
    return name.partition(".")[2]


def _newest(tx: Connection) -> int:
    (number,) = tx.execute("SELECT COALESCE(MAX(number), 0) FROM doomed").fetchone()
    return int(number)


def _beat(tx: Connection, session: str, mark: int) -> bool:
    return tx.execute("UPDATE session SET beats = beats + 1, mark = ? WHERE id = ? AND beats >= 0", (mark, session)).rowcount == 1


def _bury(tx: Connection, dead: list[tuple[str, int]]) -> None:
    """Take sessions for dead unless they have beaten meanwhile."""
    if tx.executemany("UPDATE session SET beats = -1 WHERE id = ? AND beats = ?", dead).rowcount:
        log.warning("servers that are silent are taken for dead; what they left is swept")
