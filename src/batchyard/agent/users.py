"""Which user a task runs as: uids out of the node's own block, which need no accounts.

The block is base (shared by all tasks of pool scope), then one for each running task of task scope. A uid that
becomes free is taken again as late as possible, and a task's directory is closed when its attempt ends.
"""

from __future__ import annotations

import os
import pwd
from collections import deque
from dataclasses import dataclass

from batchyard.model.common import UserIdentity
from batchyard.model.words import AutoUserScope, ElevationLevel

BLOCK = 1_000
"""Uids that a node takes."""


class NoSuchUser(Exception):
    """The task asks for a user that this node cannot give it."""


@dataclass(slots=True, frozen=True)
class User:
    """Who a task runs as; uid -1 is the agent's own user. Group and user have the same number."""

    uid: int
    name: str
    own: bool = False
    """True when no other running task has this user."""


class Users:
    """Gives users to attempts and takes them back."""

    def __init__(self, base: int, switches: bool) -> None:
        self.base, self.switches = base, switches
        self._free = deque(range(base + 1, base + BLOCK))
        self._shared = User(base, "_azbatch")
        self._admin = User(0, "root")
        self._agent = User(-1, _name(os.getuid()))

    def take(self, identity: UserIdentity | None, wanted: int = -1) -> User:
        """User for an attempt, of task scope `wanted` if that is free. Raises NoSuchUser."""
        if identity is not None and identity.username is not None:
            raise NoSuchUser(f"the user {identity.username!r} is not on this node: named users are not set up here")
        if not self.switches:
            return self._agent
        auto = identity.auto_user if identity is not None else None
        if auto is None:
            return self._shared
        if auto.elevation_level is ElevationLevel.ADMIN:
            return self._admin
        return self._of_its_own(wanted) if auto.scope is AutoUserScope.TASK else self._shared

    def _of_its_own(self, wanted: int) -> User:
        if not self._free:
            raise NoSuchUser(f"all {BLOCK - 1} users for single tasks are in use on this node")
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


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def obstacle(root: str, uid: int) -> str | None:
    """Why tasks cannot run as users from `uid` on, as a sentence with its mend; None when they can.

    Tries it by becoming that user for a moment, so call it before there are other threads.
    """
    if os.geteuid() != 0:
        return "Tasks share the agent's user and can read each other's files: start the agent as root to give them their own."
    group = os.getegid()
    try:
        os.setgroups([])
        os.setegid(uid)
        os.seteuid(uid)
        return _closed(root)
    except OSError as error:
        return f"Tasks run as root: becoming user {uid} failed ({error.strerror}); give the agent a range of users from {uid} on."
    finally:
        os.seteuid(0)
        os.setegid(group)


def _closed(root: str) -> str | None:
    path = "/"
    for name in ["", *root.strip("/").split("/")]:
        path = os.path.join(path, name)
        if not os.access(path, os.X_OK, effective_ids=True):
            return f"Tasks run as root: other users cannot enter {path}; run `chmod o+x {path}` or choose another root directory."
    return None
