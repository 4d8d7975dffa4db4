"""Linux accounts of a node for logging in (contract 4.4, node users), made by the system's own tools.

Invariants: an account is changed or removed only when its GECOS field carries a node's mark, which only root can write;
passwords go to `chpasswd` through its standard input, never into a command line. Linux knows expiry in days, so it
refuses logins from the day after; the account itself goes at the minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from batchyard.agent import beneath, control, files
from batchyard.agent.files import Found, Refused
from batchyard.agent.layout import Layout, tag_of
from batchyard.model import times
from batchyard.model.node import NodeUserCreate, NodeUserUpdate
from batchyard.model.sync import FileHead, FileRequest

log = structlog.get_logger()

_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,19}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_TOOLS = ("useradd", "usermod", "userdel", "chpasswd")
_SUDOERS = Path("/etc/sudoers.d")
_NO_PASSWORD = "*"
"""In the place of a hash: no password fits, but keys do; `!` would make some SSH servers refuse keys as well."""
_DAY_US = 86_400_000_000
_TRIES, _PAUSE_S = 20, 0.1
_LAST_US = 253_370_764_800_000_000
"""The year 9999, to which later expiries are cut."""
_NAME_TAKEN = 9
_FIRST_OF_PEOPLE = 1_000
UPKEEP_S = 60.0


@dataclass(slots=True, frozen=True)
class Account:
    """A line of /etc/passwd that carries a node's mark."""

    name: str
    uid: int
    gid: int
    mark: str
    home: str


def mark_of(root: str) -> str:
    """What marks the accounts of the node with this root directory."""
    return f"batchyard {tag_of(root)}"


def due(expiries: Mapping[str, int], now: int) -> list[str]:
    """Accounts whose time is over; times are microseconds since 1970."""
    return sorted(name for name, expires in expiries.items() if expires <= now)


def expiry_day(expires: int) -> str:
    """First day on which Linux refuses logins: whole days, never too early."""
    return times.moment(-(-min(expires, _LAST_US) // _DAY_US) * _DAY_US).date().isoformat()


class Logins:
    """Accounts of one node; `able` is False when users could not enter its directories. Blocks: call it in threads."""

    def __init__(self, layout: Layout, able: bool) -> None:
        self._layout, self._able = layout, able
        self._mark = mark_of(layout.root)
        self._homes = layout.root + "/home"
        self._records = layout.volatile + "/users.json"
        self._lock = threading.Lock()

    def add(self, user: NodeUserCreate, now: int) -> None:
        """Make an account. Raises Refused or OSError, and leaves nothing behind then."""
        with self._lock:
            self._check(user.name, user.password, user.ssh_public_key)
            if user.is_admin and shutil.which("sudo", path=_PATH) is None:
                raise _impossible("sudo is not installed on this node, so it has no administrators to log in")
            if _entry(user.name) is not None:
                raise Refused("NodeUserExists")
            expires = _expires(user.expiry_time, now)
            self._make(user.name, expires)
            try:
                account = self._mine(user.name)
                self._give_home(account)
                self._set(account, user.password, user.ssh_public_key)
                if user.is_admin:
                    _make_admin(account)
                self._note(user.name, expires)
            except BaseException:
                self._remove(user.name)
                raise
            log.info("node user added", user=user.name, expires=times.iso(expires))

    def update(self, name: str, update: NodeUserUpdate, now: int) -> None:
        """Replace password, key and expiry; what is absent is removed. Raises Refused or OSError."""
        with self._lock:
            self._check(name, update.password, update.ssh_public_key)
            account = self._mine(name)
            expires = _expires(update.expiry_time, now)
            self._note(name, expires)
            _run("usermod", "--password", _NO_PASSWORD, "--expiredate", expiry_day(expires), "--", name)
            self._set(account, update.password, update.ssh_public_key)
            log.info("node user updated", user=name, expires=times.iso(expires))

    def delete(self, name: str) -> None:
        """Remove an account with its processes and its home. Raises Refused or OSError."""
        with self._lock:
            self._check(name)
            self._mine(name)
            self._remove(name)
            log.info("node user deleted", user=name)

    def expire(self, now: int) -> None:
        """Remove what expired."""
        with self._lock:
            for name in due(self._noted(), now):
                self._remove(name)
                log.info("node user expired", user=name)

    def sweep(self) -> None:
        """Remove accounts that this root does not know (any more), and those of nodes whose root is gone."""
        with self._lock:
            known = self._noted()
            for account in _accounts():
                root = os.path.dirname(os.path.dirname(account.home))
                forgotten = account.mark == self._mark and account.name not in known
                if forgotten or (account.mark == mark_of(root) and not os.path.exists(root)):
                    _erase(account)
                    log.info("account of an earlier node removed", user=account.name, root=root)

    def remove_all(self) -> None:
        """Remove every account of this node: it leaves for good."""
        with self._lock:
            for account in _accounts():
                if account.mark == self._mark:
                    self._remove(account.name)

    def _check(self, name: str, password: str | None = None, key: str | None = None) -> None:
        """Raises Refused for what this node cannot do, and for what must not get to the system's tools."""
        if os.geteuid() != 0:
            raise _impossible("the node's agent does not run as root, so it cannot make accounts")
        if not self._able:
            raise _impossible("users cannot enter the node's directory; the node's log says how to mend it")
        missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]
        if missing:
            raise _impossible(f"the node lacks {', '.join(missing)}; install the package passwd")
        if not _NAME.fullmatch(name):
            raise Refused(
                "InvalidPropertyValue", "a user's name has 1 to 20 letters, digits, '_', '-' or '.', and begins with a letter or '_'"
            )
        if password is not None and _UNPRINTABLE.search(password):
            raise Refused("InvalidPropertyValue", "a password has no control characters")
        if key is not None and "\0" in key:
            raise Refused("InvalidPropertyValue", "an SSH public key is text")

    def _mine(self, name: str) -> Account:
        found = next((account for account in _accounts() if account.name == name and account.mark == self._mark), None)
        if found is None:
            raise Refused("NodeUserNotFound")
        return found

    def _make(self, name: str, expires: int) -> None:
        options = ["--no-create-home", "--home-dir", f"{self._homes}/{name}", "--shell", "/bin/bash", "--user-group", "--badname"]
        try:
            _run(
                "useradd", *options, "--comment", self._mark, "--password", _NO_PASSWORD, "--expiredate", expiry_day(expires), "--", name
            )  # fmt: skip
        except _ToolFailed as failed:
            if failed.exit_code == _NAME_TAKEN:  # a group has the name
                raise Refused("NodeUserExists") from failed
            raise

    def _give_home(self, account: Account) -> None:
        os.makedirs(self._homes, exist_ok=True)
        os.chmod(self._homes, 0o711)
        _empty(account.home)
        with beneath.directory(self._homes, [account.name], (account.uid, account.gid), 0o700):
            pass

    def _set(self, account: Account, password: str | None, key: str | None) -> None:
        if password:
            _run("chpasswd", stdin=f"{account.name}:{password}\n")
        owner = account.uid, account.gid
        place = [account.name, ".ssh"]
        if not key:
            with contextlib.suppress(FileNotFoundError), beneath.directory(self._homes, place) as fd:
                os.unlink("authorized_keys", dir_fd=fd)
            return
        with beneath.directory(self._homes, place, owner, 0o700) as fd:
            temporary = f".{secrets.token_hex(8)}"
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
            with open(file, "w", encoding="utf-8") as out:
                os.fchown(file, *owner)
                out.write(key.strip() + "\n")
            os.rename(temporary, "authorized_keys", src_dir_fd=fd, dst_dir_fd=fd)

    def _remove(self, name: str) -> None:
        for account in _accounts():
            if account.name == name and account.mark == self._mark:
                _erase(account)
        self._write({other: expires for other, expires in self._noted().items() if other != name})

    def _note(self, name: str, expires: int) -> None:
        self._write(self._noted() | {name: expires})

    def _noted(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(Path(self._records).read_bytes(), type=dict[str, int])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def _write(self, expiries: Mapping[str, int]) -> None:
        Path(self._records + ".new").write_bytes(msgspec.json.encode(expiries))
        os.replace(self._records + ".new", self._records)


class _ToolFailed(Refused):
    """One of the system's tools refused."""

    def __init__(self, tool: str, code: int, text: str) -> None:
        super().__init__("OperationNotValidOnNode", f"{tool} ended with {code}: {text}")
        self.exit_code = code


def _impossible(reason: str) -> Refused:
    return Refused("OperationNotValidOnNode", reason)


def _run(tool: str, *arguments: str, stdin: str = "") -> None:
    """Run one of the system's tools; waits while another one holds the password file. Raises Refused."""
    environment = {"PATH": _PATH, "LC_ALL": "C"}
    for _ in range(_TRIES):
        done = subprocess.run([tool, *arguments], input=stdin.encode(), capture_output=True, env=environment, cwd="/", timeout=30)
        text = done.stderr.decode(errors="replace").strip()
        if done.returncode == 0:
            return
        if "lock" not in text:
            break
        time.sleep(_PAUSE_S)
    raise _ToolFailed(tool, done.returncode, text.rpartition("\n")[2])


def _entry(name: str) -> str | None:
    """What the system knows under a name, from wherever it takes its users."""
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        return None


def _accounts() -> Iterator[Account]:
    """All accounts of nodes on this machine; directories of users elsewhere cannot hold any."""
    for line in Path("/etc/passwd").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(":")
        mark = fields[4].partition(",")[0] if len(fields) == 7 else ""
        if mark.startswith("batchyard "):
            yield Account(fields[0], int(fields[2]), int(fields[3]), mark, fields[5])


def _expires(text: str | None, now: int) -> int:
    if text is None:
        return now + _DAY_US
    try:
        return times.from_iso(text)
    except ValueError as error:
        raise Refused("InvalidPropertyValue", f"the expiry time is not a time: {text}") from error


def _sudoers(account: Account) -> Path:
    return _SUDOERS / f"{account.mark.replace(' ', '-')}-{account.uid}"


def _make_admin(account: Account) -> None:
    """Root for an account, by its number: a name could mean something else to sudo."""
    path = _sudoers(account)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o440), "w", encoding="ascii") as file:
        file.write(f"#{account.uid} ALL=(ALL:ALL) NOPASSWD: ALL\n")


def _erase(account: Account) -> None:
    """Remove an account with its rights, processes and home; what is gone already is no error."""
    _sudoers(account).unlink(missing_ok=True)
    try:
        _run("usermod", "--password", _NO_PASSWORD, "--expiredate", "1970-01-02", "--", account.name)
        _end_processes(account.uid)
        _run("userdel", "--force", "--", account.name)
    except _ToolFailed as failed:
        if _entry(account.name) is not None:
            raise
        log.debug("account was gone", user=account.name, reason=str(failed))
    _empty(account.home)


def _end_processes(uid: int) -> None:
    for _ in range(_TRIES if uid >= _FIRST_OF_PEOPLE else 0):
        found = [pid for pid in control.processes() if _owner(pid) == uid]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(_PAUSE_S / 5)


def _owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def _empty(home: str) -> None:
    with contextlib.suppress(OSError), beneath.directory(os.path.dirname(home), []) as fd:
        files.remove(os.path.basename(home), fd)


class LoginService:
    """The node's accounts for the conversation with the server: requests, upkeep, the end."""

    def __init__(self, logins: Logins, threads: Executor) -> None:
        self._logins, self._threads = logins, threads

    async def answer(self, request: FileRequest) -> Found:
        """Do what a request about a user asks. Raises Refused, OSError or msgspec.ValidationError."""
        content, now = bytes(request.content), time.time_ns() // 1000
        if request.operation == "add_user":
            await self._in_thread(lambda: self._logins.add(msgspec.json.decode(content, type=NodeUserCreate), now))
        elif request.operation == "update_user":
            await self._in_thread(lambda: self._logins.update(request.path, msgspec.json.decode(content, type=NodeUserUpdate), now))
        else:
            await self._in_thread(lambda: self._logins.delete(request.path))
        return Found(FileHead())

    @property
    def services(self) -> dict[str, Callable[[FileRequest], Awaitable[Found]]]:
        """Operations that this answers."""
        return dict.fromkeys(("add_user", "update_user", "delete_user"), self.answer)

    async def upkeep(self) -> None:
        """Remove what an earlier node left, then what expires; runs until it is cancelled."""
        await self._quietly(self._logins.sweep)
        while True:
            await self._quietly(lambda: self._logins.expire(time.time_ns() // 1000))
            await asyncio.sleep(UPKEEP_S)

    async def leave(self) -> None:
        """Remove every account: the node is gone for good."""
        await self._quietly(self._logins.remove_all)

    async def _quietly(self, step: Callable[[], None]) -> None:
        if os.geteuid() != 0:
            return
        try:
            await self._in_thread(step)
        except (Refused, OSError) as error:
            log.warning("accounts not removed", reason=str(error))

    async def _in_thread(self, step: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, step)
