"""The server of one state directory: starting it in the background, finding it, ending it.

A running server holds an exclusive lock on `server.lock`, so there is never a second one; it writes `server.json` when it is
ready to answer. Who reads `server.json` compares the start time, because a pid alone may belong to somebody else by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchyard.cli import processes
from batchyard.cli.problem import Problem

if TYPE_CHECKING:
    import subprocess

    from batchyard.model.endpoints import Ways

READY_S = 30.0
"""How long a server may take until it answers, in seconds."""
_REWRITTEN_PER_S = 10_000_000
"""Bytes of a database of an earlier release that are written anew at its first start, in a second, at the least."""
_FIRST_FREE_PORT = 1024
"""The system gives no lower one to whoever asks for any port, so no server of ours had it that way."""
PATIENCE_S = 20.0
"""How long a server may take to end itself and its local nodes, in seconds."""
_POLL_S = 0.02


class Server(NamedTuple):
    """A server that runs."""

    pid: int
    started: int
    url: str
    """For this machine."""
    public: str = ""
    """For others."""
    domain: str | None = None
    """Domain of the host names of accounts."""
    authority: str | None = None
    """File of the authority, where it is not the server's own."""
    queue: str | None = None
    """URL of the Queue service's own port, for others."""
    table: str | None = None

    def ways(self, url: str) -> Ways:
        """How clients that reach the server by this URL reach its storage."""
        from batchyard.model.endpoints import Ways

        return Ways(url, self.domain, self.queue, self.table)


class Account(NamedTuple):
    """The account of a state directory, made at its server's first start."""

    name: str
    keys: tuple[str, ...]
    storage_name: str
    storage_key: str


class Stopped(NamedTuple):
    """What ended: the server, if one ran, whether it went by itself, and the agents that had lost their server."""

    server: Server | None
    willing: bool
    agents: int


def default_directory() -> Path:
    """BATCHYARD_DIR, else the system's place for root, else the user's own."""
    if chosen := os.environ.get("BATCHYARD_DIR"):
        return Path(chosen)
    return Path("/var/lib/batchyard") if os.geteuid() == 0 else Path.home() / ".local/share/batchyard"


def running(directory: Path) -> Server | None:
    """The server of this directory, if it runs."""
    try:
        found = json.loads((directory / "server.json").read_bytes())
        url = str(found["url"])
        server = Server(
            int(found["pid"]),
            int(found["started"]),
            url,
            str(found.get("public") or url),
            *(found.get(name) for name in ("domain", "authority", "queue", "table")),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return server if processes.start_time(server.pid) == server.started else None


def authorities(directory: Path) -> Path | None:
    """The file with the authority of a server that speaks TLS and all others that this machine trusts; None when there is none."""
    bundle = directory / "tls" / "bundle.pem"
    return bundle if bundle.exists() else None


def trust(directory: Path, server: Server) -> None:
    """Have all that this process asks by TLS believe the server of a state directory."""
    if server.url.startswith("https:") and (bundle := authorities(directory)) is not None:
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            os.environ[name] = str(bundle)


def trust_named(url: str) -> None:
    """The same, where a URL that the environment or an option names is that of this machine's server."""
    from urllib.parse import urlsplit

    directory = default_directory().resolve()
    if not url.startswith("https:") or "SSL_CERT_FILE" in os.environ or (server := running(directory)) is None:
        return
    if urlsplit(url).netloc in (urlsplit(server.url).netloc, urlsplit(server.public).netloc):
        trust(directory, server)


def former_port(directory: Path) -> int:
    """Port of the server that was killed here, or 0: its agents may live on and look for it there."""
    from urllib.parse import urlsplit

    try:
        port = urlsplit(str(json.loads((directory / "server.json").read_bytes())["url"])).port or 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return port if port >= _FIRST_FREE_PORT else 0


def account(directory: Path) -> Account:
    """The account. Raises Problem when there is none yet or it may not be read."""
    path = directory / "account.json"
    try:
        found = json.loads(path.read_bytes())
        named = [found["name"], *found["keys"], found["storageName"], found["storageKey"]]
        if len(named) < 4 or not all(isinstance(text, str) and text for text in named):
            raise ValueError("a name or a key is missing")
        return Account(found["name"], tuple(found["keys"]), found["storageName"], found["storageKey"])
    except FileNotFoundError:
        raise Problem(f"there is no account in {directory} yet; start the server once with: batchyard up --dir {directory}") from None
    except PermissionError:
        raise Problem(f"{path} belongs to another user; use that user, or another directory with --dir") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem(f"{path} cannot be read ({error})") from error


def storage_connection_string(account: Account, ways: Ways) -> str:
    """Connection string of the storage account that is linked to an account."""
    from batchyard.model.endpoints import connection_string, endpoints

    return connection_string(endpoints(ways, account.storage_name), account.storage_name, account.storage_key)


def prepare(directory: Path) -> None:
    """Make the directory unless it exists. Raises Problem when a server could not write there."""
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)  # 711: tasks run as other users and pass through it to their files
        with contextlib.suppress(FileExistsError):
            (directory / "server.lock").touch(mode=0o600)
        os.close(os.open(directory / "server.lock", os.O_RDWR))
    except OSError as error:
        raise Problem(f"cannot write to {directory} ({error.strerror}); choose another directory with --dir") from None


def check_room(directory: Path) -> None:
    """Raises Problem when the disk has no room for what a server begins with."""
    from batchyard.disk import space

    if lacking := space.lacking(space.sample(directory), space.START_BYTES):
        raise Problem(f"{directory} is on a full disk ({lacking}): make room there and start again")


def not_passable(directory: Path) -> Path | None:
    """The first directory on the way that other users may not enter; as root, tasks run as other users and would be kept out."""
    if os.geteuid() != 0:
        return None
    return next((step for step in reversed([directory, *directory.parents]) if not step.stat().st_mode & 0o001), None)


def check_port(host: str, port: int) -> None:
    """Raises Problem when nobody can listen there."""
    import socket

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        wanted = f"port {port} of {host} is taken" if port else f"cannot listen on {host}"
        raise Problem(f"{wanted} ({error.strerror}); choose another with --port, or --port 0 for a free one") from None


@contextlib.contextmanager
def sole_server(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which the kernel drops with the process. Raises Problem when another server has it."""
    with (directory / "server.lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise already_running(directory) from None
        yield


def already_running(directory: Path) -> Problem:
    """The sentence for a second server in one directory."""
    server = running(directory)
    where = f" at {server.url}" if server else " and is just starting"
    return Problem(f"a server of {directory} already runs{where}; end it with: batchyard down --dir {directory}")


def start(directory: Path, address: tuple[str, int], options: Sequence[str], environment: Mapping[str, str]) -> Server:
    """Start a server in the background, with options of `serve`; returns when it answers. Raises Problem."""
    import subprocess

    prepare(directory)
    if running(directory):
        raise already_running(directory)
    check_room(directory)
    check_port(*address)
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", "serve", "--dir", str(directory), *options]
    log = directory / "server.log"
    log.touch(mode=0o600)
    seen = log.stat().st_size
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory, env=environment, start_new_session=True
        )
    try:
        return _when_ready(directory, child, log, seen)
    except BaseException:  # Ctrl-C too: nothing half-started stays
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE_S)
        child.kill()
        child.wait()
        raise


def _when_ready(directory: Path, child: subprocess.Popen[bytes], log: Path, seen: int) -> Server:
    patience_s = READY_S + _bytes(directory / "batchyard.db") / _REWRITTEN_PER_S
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        server = running(directory)
        if server and server.pid == child.pid:
            child.returncode = 0  # it lives on after this process, so there is nothing to wait for
            return server
        if child.poll() is not None:
            told = _tail(log, seen)
            if said := re.search(r"^  batchyard: (.+)\Z", told, re.MULTILINE):  # its own sentence says it all
                raise Problem(said[1])
            raise Problem(f"the server ended at once (exit code {child.returncode}); {told}")
        time.sleep(_POLL_S)
    raise Problem(f"the server did not get ready within {patience_s:.0f} s; {_tail(log, seen)}")


def _bytes(path: Path) -> int:
    """Size of a file, 0 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tail(log: Path, seen: int) -> str:
    """The last lines that were written to the log after its first `seen` bytes."""
    with log.open("rb") as text:
        text.seek(seen)
        lines = text.read()[-4000:].decode("utf-8", "replace").splitlines()[-8:]
    return f"the end of {log}:\n" + "\n".join(f"  {line}" for line in lines) if lines else f"{log} says nothing"


def stop(directory: Path) -> Stopped:
    """End the server, and whatever agents a crashed one left behind. Raises Problem."""
    from concurrent.futures import ThreadPoolExecutor

    server = running(directory)
    try:
        willing = processes.end(server.pid, server.started, PATIENCE_S) if server else True
        left = list(processes.agents_below(directory))
        with ThreadPoolExecutor(max_workers=max(1, len(left))) as at_once:
            list(at_once.map(lambda agent: processes.end(agent[0], agent[1], PATIENCE_S / 4), left))
    except PermissionError:
        raise Problem(f"the server of {directory} belongs to another user; only that user or root can end it") from None
    with contextlib.suppress(IsADirectoryError):  # somebody else's: what starts a server says so
        (directory / "server.json").unlink(missing_ok=True)
    return Stopped(server, willing, len(left))
