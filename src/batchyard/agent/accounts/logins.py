"""Linux accounts of a node for logging in (contract 4.4, node users), made by the system's own tools.

Invariants: an account is changed or removed only when its GECOS field carries a node's mark, which only root can write;
passwords go to `chpasswd` through its standard input, never into a command line. Linux knows expiry in days, so it
refuses logins from the day after; the account itself goes at the minute. Nobody logs in while no agent is there: whether
the node comes back is not known to an agent that is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from batchyard.agent.accounts import accounts
from batchyard.agent.accounts.accounts import Account
from batchyard.agent.places import beneath, removals
from batchyard.agent.places.files import Found, Refused
from batchyard.agent.places.layout import Layout
from batchyard.model import times
from batchyard.model.node import NodeUserCreate, NodeUserUpdate
from batchyard.model.sync import FileHead, FileRequest

log = structlog.get_logger()

_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,19}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_DAY_US = 86_400_000_000
_NO_NUMBER, _NAME_TAKEN = 4, 9
UPKEEP_S = 60.0
END_S = 10.0
"""How long accounts may hold up an agent that ends."""


def due(expiries: Mapping[str, int], now: int) -> list[str]:
    """Accounts whose time is over; times are microseconds since 1970."""
    return sorted(name for name, expires in expiries.items() if expires <= now)


class Logins:
    """Accounts of one node; `able` is False when users could not enter its directories. Blocks: call it in threads.

    They get uids and gids of `uids`, which the tasks of no pool run as.
    """

    def __init__(self, layout: Layout, able: bool, uids: range) -> None:
        self._layout, self._able, self._uids = layout, able, uids
        self._mark = accounts.mark_of(layout.root)
        self._homes = layout.root + "/home"
        self._records = layout.volatile + "/users.json"
        self._lock = threading.Lock()
        self._deadline = accounts.Deadline()

    def hurry(self, seconds: float) -> None:
        """Have all that runs and all that follows be over in this many seconds: what cannot is refused."""
        self._deadline.at = time.monotonic() + seconds

    def add(self, user: NodeUserCreate, now: int) -> None:
        """Make an account. Raises Refused or OSError, and leaves nothing behind then."""
        with self._lock:
            self._check(user.name, user.password, user.ssh_public_key)
            if user.is_admin and shutil.which("sudo", path=accounts.PATH) is None:
                raise _impossible("sudo is not installed on this node, so it has no administrators to log in")
            if accounts.is_known(user.name):
                raise Refused("NodeUserExists", self._whose(user.name))
            expires = _expires(user.expiry_time, now)
            accounts.prune_rules()
            self._free_home(user.name)
            self._make(user.name, expires)
            try:
                account = self._mine(user.name)
                self._give_home(account)
                self._set(account, user.password, user.ssh_public_key)
                if user.is_admin:
                    accounts.make_admin(account)
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
            self._run("usermod", "--password", accounts.NO_PASSWORD, "--expiredate", accounts.expiry_day(expires), "--", name)
            self._set(account, update.password, update.ssh_public_key)
            log.info("node user updated", user=name, expires=times.iso(expires))

    def delete(self, name: str) -> None:
        """Remove an account with its processes and its home. Raises Refused or OSError."""
        with self._lock:
            self._check(name)
            accounts.prune_rules()
            self._mine(name)
            self._remove(name)
            log.info("node user deleted", user=name)

    def expire(self, now: int) -> None:
        """Remove what expired, and the rights of accounts that somebody else removed."""
        with self._lock:
            for name in due(self._noted(), now):
                self._remove(name)
                log.info("node user expired", user=name)
            accounts.prune_rules()

    def sweep(self) -> None:
        """Remove accounts that this root does not know (any more) or has no numbers for, and those of nodes whose root is gone."""
        with self._lock:
            known = self._noted()
            for account in accounts.marked():
                root = os.path.dirname(os.path.dirname(account.home))
                forgotten = account.mark == self._mark and (account.name not in known or account.uid not in self._uids)
                if forgotten or (account.mark == accounts.mark_of(root) and not os.path.exists(root)):
                    accounts.erase(account, self._deadline)
                    if forgotten:
                        self._leave_home(account.name)
                    log.info("account of an earlier node removed", user=account.name, root=root)
            accounts.prune_rules()

    def close(self) -> None:
        """Let nobody log in until `open`."""
        with self._lock:
            for name in self._own():
                self._run("usermod", "--expiredate", accounts.LONG_AGO, "--", name)

    def open(self) -> None:
        """Let those log in again that still may."""
        with self._lock:
            expiries = self._noted()
            for name in self._own():
                if name in expiries:
                    self._run("usermod", "--expiredate", accounts.expiry_day(expiries[name]), "--", name)

    def remove_all(self) -> None:
        """Remove every account of this node: it leaves for good."""
        with self._lock:
            for name in self._own():
                self._remove(name)
            accounts.prune_rules()

    def _run(self, tool: str, *arguments: str, stdin: str = "") -> None:
        accounts.run(tool, *arguments, stdin=stdin, deadline=self._deadline)

    def _own(self) -> list[str]:
        return [account.name for account in accounts.marked() if account.mark == self._mark]

    def _check(self, name: str, password: str | None = None, key: str | None = None) -> None:
        """Raises Refused for what this node cannot do, and for what must not get to the system's tools."""
        if os.geteuid() != 0:
            raise _impossible("the node's agent does not run as root, so it cannot make accounts")
        if not self._able:
            raise _impossible("users cannot enter the node's directory; the node's log says how to mend it")
        missing = [tool for tool in accounts.TOOLS if shutil.which(tool, path=accounts.PATH) is None]
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

    def _whose(self, name: str) -> str | None:
        """A sentence for names that this node itself has not given."""
        mark = next((account.mark for account in accounts.marked() if account.name == name), None)
        if mark == self._mark:
            return None
        owner = "the machine" if mark is None else "another node on the same machine"
        return f"{owner} has a user of that name, and all nodes on a machine share its accounts: choose another name"

    def _mine(self, name: str) -> Account:
        found = next((account for account in accounts.marked() if account.name == name and account.mark == self._mark), None)
        if found is None:
            raise Refused("NodeUserNotFound")
        return found

    def _make(self, name: str, expires: int) -> None:
        home = ["--no-create-home", "--home-dir", f"{self._homes}/{name}", "--shell", "/bin/bash"]
        who = ["--user-group", "--badname", "--comment", self._mark]
        login = ["--password", accounts.NO_PASSWORD, "--expiredate", accounts.expiry_day(expires)]
        bounds = ((f"{kind}_MIN={self._uids[0]}", f"{kind}_MAX={self._uids[-1]}") for kind in ("UID", "GID"))
        numbers = [word for bound in bounds for each in bound for word in ("--key", each)]
        try:
            self._run("useradd", *numbers, *home, *who, *login, "--", name)
        except accounts.ToolFailed as failed:
            if failed.exit_code == _NAME_TAKEN:  # a group has the name
                raise Refused("NodeUserExists") from failed
            if failed.exit_code == _NO_NUMBER:
                raise _impossible(f"the node has room for {len(self._uids)} accounts") from failed
            raise

    def _give_home(self, account: Account) -> None:
        os.makedirs(self._homes, exist_ok=True)
        os.chmod(self._homes, 0o711)
        with beneath.directory(self._homes) as fd:
            os.mkdir(account.name, 0o700, dir_fd=fd)  # a new one: what was there could be an earlier user's
            os.chown(account.name, account.uid, account.gid, dir_fd=fd, follow_symlinks=False)

    def _free_home(self, name: str) -> None:
        """Raises Refused when an earlier user's home stays where the new one has to be."""
        try:
            self._put_away(name)
        except OSError as error:
            raise _impossible(f"the home of an earlier user of that name cannot be moved away ({error.strerror})") from error

    def _leave_home(self, name: str) -> None:
        """Put a home away if that can be; it is tried again before anybody else gets the name."""
        try:
            self._put_away(name)
        except OSError as error:
            log.warning("home of a user not moved away", user=name, reason=error.strerror)

    def _put_away(self, name: str) -> None:
        """Move a home to what is deleted later, in one step, however much is in it. Raises OSError."""
        if os.path.lexists(f"{self._homes}/{name}"):
            removals.move_away(self._layout, ["home", name])

    def _set(self, account: Account, password: str | None, key: str | None) -> None:
        if password:
            self._run("chpasswd", stdin=f"{account.name}:{password}\n")
        with beneath.directory(self._homes) as homes:
            if key:
                with _given(homes, account.name, account) as home, _given(home, ".ssh", account) as fd:
                    _write_key(fd, account, key)
                return
            with contextlib.suppress(FileNotFoundError), beneath.directory(homes, [account.name, ".ssh"]) as fd:
                os.unlink("authorized_keys", dir_fd=fd)

    def _remove(self, name: str) -> None:
        for account in accounts.marked():
            if account.name == name and account.mark == self._mark:
                accounts.erase(account, self._deadline)
        accounts.prune_rules()
        self._leave_home(name)
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


@contextlib.contextmanager
def _given(above: int, name: str, account: Account) -> Iterator[int]:
    """Descriptor of a directory of an account, which is made when missing; what is given away was opened first. Raises OSError."""
    made = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=above)
        made = True
    with beneath.directory(above, [name]) as fd:
        if made:
            os.fchown(fd, account.uid, account.gid)
        yield fd


def _write_key(directory: int, account: Account, key: str) -> None:
    temporary = f".{secrets.token_hex(8)}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(file, "w", encoding="utf-8") as out:
        os.fchown(file, account.uid, account.gid)
        out.write(key.strip() + "\n")
    os.rename(temporary, "authorized_keys", src_dir_fd=directory, dst_dir_fd=directory)


def _impossible(reason: str) -> Refused:
    return Refused("OperationNotValidOnNode", reason)


def _expires(text: str | None, now: int) -> int:
    if text is None:
        return now + _DAY_US
    try:
        return times.from_iso(text)
    except ValueError as error:
        raise Refused("InvalidPropertyValue", f"the expiry time is not a time: {text}") from error


class LoginService:
    """The node's accounts for the conversation with the server: requests, upkeep, the end.

    `threads` is for accounts alone: nothing else waits for the password file. `empty` deletes the homes that were moved away.
    """

    def __init__(self, logins: Logins, threads: Executor, empty: Callable[[], Awaitable[None]]) -> None:
        self._logins, self._threads, self._empty = logins, threads, empty

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
        await self._quietly(self._logins.open)
        while True:
            await self._quietly(lambda: self._logins.expire(time.time_ns() // 1000))
            await self._safely(self._empty())
            await asyncio.sleep(UPKEEP_S)

    async def close(self) -> None:
        """Let nobody log in while the agent is away."""
        await self._at_last(self._logins.close)

    async def leave(self) -> None:
        """Remove every account: the node is gone for good."""
        await self._at_last(self._logins.remove_all)

    async def _at_last(self, step: Callable[[], None]) -> None:
        """The last step, within END_S: others may hold the password file for as long as they like."""
        self._logins.hurry(END_S)
        try:
            await asyncio.wait_for(self._quietly(step), END_S + 1)
        except TimeoutError:
            log.warning("accounts not kept as they should be", reason="the work on them takes too long")

    async def _quietly(self, step: Callable[[], None]) -> None:
        if os.geteuid() == 0:
            await self._safely(self._in_thread(step))

    async def _safely(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # whatever it is, it must end neither the upkeep nor the agent's way out
            unexpected = not isinstance(error, (Refused, OSError))
            log.warning("accounts not kept as they should be", reason=str(error) or type(error).__name__, exc_info=unexpected)

    async def _in_thread(self, step: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, step)
