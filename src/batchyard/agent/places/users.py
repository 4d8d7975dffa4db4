"""Which user a task runs as: uids out of the node's own block, which need no accounts.

The block is base (shared by all tasks of pool scope), then one for each running task of task scope, those of the accounts
for logging in (`logins.py`), one for a start task of task scope, whose directory stays open, and at its end those of the
pool's named users. A uid that becomes free is taken again as late as possible, and a task's directory is closed when its attempt ends.
"""

from __future__ import annotations

import os
import pwd
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batchyard.model.common import UserIdentity
from batchyard.model.sync import NodeAccount
from batchyard.model.words import AutoUserScope, ElevationLevel

BLOCK = 1_000
"""Uids that a node takes."""
BLOCKS_FROM = 70_000
"""First uid that nodes of this machine may take."""
NAMED = 100
"""The last uids of the block, for named users."""
LOGINS = 100
"""Uids for accounts for logging in, which no named user of a pool may have."""
SINGLE = BLOCK - NAMED - LOGINS - 2
"""How many tasks of task scope may run at a time."""
_FIRST_OF_PEOPLE = 1_000
_NOBODY = (65_534, 65_535)


class NoSuchUser(Exception):
    """The task asks for a user that this node cannot give it."""


@dataclass(slots=True, frozen=True)
class User:
    """Who a task runs as; uid -1 is the agent's own user."""

    uid: int
    name: str
    own: bool = False
    """True when no other running task has this user."""
    gid: int | None = None
    """None for the group with the user's number."""

    @property
    def group(self) -> int:
        """Number of the only group that the user is in."""
        return self.uid if self.gid is None else self.gid


class Users:
    """Gives users to attempts and takes them back."""

    def __init__(self, base: int, switches: bool) -> None:
        self.base, self.switches = base, switches
        self._free = deque(range(base + 1, base + 1 + SINGLE))
        self._shared = User(base, "_azbatch")
        self._start = User(base + BLOCK - NAMED - 1, "_azbatchstart")
        self._admin = User(0, "root")
        self._agent = User(-1, _name(os.getuid()))
        self._named: dict[str, User | str] = {}

    def learn(self, accounts: Sequence[NodeAccount]) -> None:
        """Note the pool's named users; the same list gives each the same uid again."""
        self._named = {account.name: self._account(number, account) for number, account in enumerate(accounts)}

    def _account(self, number: int, account: NodeAccount) -> User | str:
        """The user, or why there cannot be one."""
        if not self.switches:
            return self._agent
        if account.admin:
            return self._admin
        if account.uid is None:
            uid = self.base + BLOCK - NAMED + number
            return User(uid, account.name) if number < NAMED else f"a node has room for {NAMED} named users"
        gid = account.uid if account.gid is None else account.gid
        return objection(account.name, account.uid, gid, self.base) or User(account.uid, account.name, gid=gid)

    def take(self, identity: UserIdentity | None, wanted: Callable[[], int] = lambda: -1) -> User:
        """User for an attempt, of task scope what `wanted` says if that is free. Raises NoSuchUser."""
        user = self._settled(identity)
        return self._of_its_own(wanted()) if user is None else user

    def of_start_task(self, identity: UserIdentity | None) -> User:
        """User for the start task, which is never that of another task unless it asks for that. Raises NoSuchUser."""
        return self._settled(identity) or self._start

    def _settled(self, identity: UserIdentity | None) -> User | None:
        """The user that an identity names; None for one of its own."""
        if identity is not None and identity.username is not None:
            return self._by_name(identity.username)
        if not self.switches:
            return self._agent
        auto = identity.auto_user if identity is not None else None
        if auto is None:
            return self._shared
        if auto.elevation_level is ElevationLevel.ADMIN:
            return self._admin
        return None if auto.scope is AutoUserScope.TASK else self._shared

    def _by_name(self, name: str) -> User:
        found = self._named.get(name)
        if found is None:
            raise NoSuchUser(f"the user {name!r} is not on this node: it is not one of the pool's user accounts")
        if isinstance(found, str):
            raise NoSuchUser(f"the user {name!r} is not on this node: {found}")
        return found

    def _of_its_own(self, wanted: int) -> User:
        if not self._free:
            raise NoSuchUser(f"all {SINGLE} users for single tasks are in use on this node")
        if wanted in self._free:
            self._free.remove(wanted)
            uid = wanted
        else:
            uid = self._free.popleft()
        return User(uid, f"_azbatch{uid - self.base}", own=True)

    def give_back(self, user: User) -> None:
        """Note that nothing runs as this user any more."""
        if user.own:
            self._free.append(user.uid)


def kind(identity: UserIdentity | None) -> str:
    """What tasks are told of the user that they asked for (contract 4.3): its scope and elevation, or its name."""
    if identity is not None and identity.username is not None:
        return identity.username
    auto = identity.auto_user if identity is not None else None
    own = auto is not None and auto.scope is AutoUserScope.TASK
    admin = auto is not None and auto.elevation_level is ElevationLevel.ADMIN
    return f"{'Task' if own else 'Pool'}{'Admin' if admin else 'NonAdmin'}"


def of_logins(base: int) -> range:
    """The uids, and gids, of accounts for logging in."""
    return range(base + 1 + SINGLE, base + 1 + SINGLE + LOGINS)


def objection(name: str, uid: int, gid: int, base: int) -> str | None:
    """Why a named user cannot have these numbers; None when it can. Whoever is on the machine already keeps its own."""
    for what, number in (("uid", uid), ("gid", gid)):
        if number < _FIRST_OF_PEOPLE:
            return f"its {what} {number} belongs to the system, choose one from {_FIRST_OF_PEOPLE} on"
        if number >= BLOCKS_FROM or base <= number < base + BLOCK or number in _NOBODY:
            return f"its {what} {number} is kept for the tasks of nodes, choose one below {min(BLOCKS_FROM, _NOBODY[0])}"
    owner = _name(uid)
    if owner not in (name, str(uid)):
        return f"its uid {uid} is that of {owner!r} on this machine, choose another"
    return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def obstacle(root: str, uid: int) -> str | None:
    """Why tasks cannot run as users of the range from `uid` on, as a sentence with its mend; None when they can.

    Tries it by becoming its last and its first for a moment, so call it before there are other threads.
    """
    if os.geteuid() != 0:
        return "Tasks share the agent's user and can read each other's files: start the agent as root to give them their own."
    group, last = os.getegid(), uid + BLOCK - 1
    try:
        os.setgroups([])
        for one in (last, uid):
            os.seteuid(0)
            os.setegid(one)
            os.seteuid(one)
        return _closed(root)
    except OSError as error:
        return (
            f"Tasks run as root: becoming user {one} failed ({error.strerror}); "
            f"give the agent's machine or container the users {uid} to {last}, or the agent others with `--uid-base`."
        )
    finally:
        os.seteuid(0)
        os.setegid(group)


def unprotected_names(setting: str = "/proc/sys/fs/protected_hardlinks") -> str | None:
    """Why a task may give somebody else's file a second name in its own directory, with its mend; None when it may not."""
    try:
        with open(setting, encoding="ascii") as file:
            allowed = file.read().strip() == "0"
    except OSError:
        allowed = False
    if not allowed:
        return None
    return (
        "A task may link other users' files into its directory, from where clients get them with root's rights: "
        "run `sysctl -w fs.protected_hardlinks=1`."
    )


def _closed(root: str) -> str | None:
    path = "/"
    for name in ["", *root.strip("/").split("/")]:
        path = os.path.join(path, name)
        if not os.access(path, os.X_OK, effective_ids=True):
            return f"Tasks run as root: other users cannot enter {path}; run `chmod o+x {path}` or choose another root directory."
    return None
