"""Directories of a node (contract 4.1) and how a task's own is opened for its user and closed again.

Ids keep their spelling: a job that is deleted and made again as `A` after `a` gets a directory of its own, and the
server asks for files under the spelling that the order carried, so the two never meet.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Collection

import msgspec

from batchyard.agent.places import beneath
from batchyard.agent.places.users import User
from batchyard.disk import trees
from batchyard.model import ids
from batchyard.rules import places

_BELOW = {"applications": 0o755, "fsmounts": 0o755, "shared": 0o1777, "startup": 0o755, "volatile": 0o700, "workitems": 0o711}
_LEVELS = 100
"""How deep a task's directory changes its owner; each level holds two descriptors."""


class TaskPlace(msgspec.Struct, frozen=True):
    """Where a task lives on the node."""

    job_id: str
    """Empty for the node's start task, which has no id either."""
    task_id: str
    directory: str
    trash: str
    """Where what is no longer wanted is moved to."""
    mode: int = 0o750
    """Permissions of both directories."""
    always_same_user: bool = False
    """True when nothing of an attempt that ran as somebody else is kept."""
    fresh: bool = False
    """True when the working directory of an earlier attempt is not kept."""
    seen_at: str = ""
    """The directory by a path that is the same on all nodes that may share the task; empty where that is its own path."""

    @property
    def working(self) -> str:
        """The working directory."""
        return self.directory + "/wd"

    @property
    def shared(self) -> str:
        """The directory, as all instances of a multi-instance task call theirs."""
        return self.seen_at or self.directory


def tag_of(root: str) -> str:
    """Short name of a node on its machine, the same in every life: its root directory's."""
    return hashlib.sha256(root.encode()).hexdigest()[:12]


class Layout:
    """Paths below a root directory, which is made when missing."""

    def __init__(self, root: str, seen_at: str | None = None) -> None:
        """`seen_at` is another path of the root, which all nodes of the machine have, each for its own."""
        self.root, self._seen_at = os.path.abspath(root), seen_at
        self.shared = self.root + "/shared"
        self.startup = self.root + "/startup"
        self.mounts = self.root + "/fsmounts"
        self.volatile = self.root + "/volatile"
        self.trash = self.volatile + "/removed"
        self.tag = tag_of(self.root)

    def make(self) -> None:
        """Make the directories that every node has. Raises OSError."""
        os.makedirs(self.root, exist_ok=True)
        for name, mode in _BELOW.items():
            path = f"{self.root}/{name}"
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)

    def task(self, job_id: str, task_id: str) -> TaskPlace:
        """Place of a task; a job of a schedule is `schedule:job-n`. Raises ValueError for what is not an id."""
        work_item, colon, job = job_id.partition(":")
        number = job.removeprefix("job-") if colon else "1"
        named_so = not colon or job.startswith("job-")
        if not (named_so and ids.is_valid(work_item) and ids.is_valid(task_id) and number.isascii() and number.isdigit()):
            raise ValueError(f"not a job and a task: {job_id!r}, {task_id!r}")
        below = places.task_directory(job_id, task_id)
        seen_at = "" if self._seen_at is None else f"{self._seen_at}/{below}"
        return TaskPlace(job_id, task_id, f"{self.root}/{below}", self.trash, seen_at=seen_at)

    def start_task(self, *, fresh: bool) -> TaskPlace:
        """Place of the node's start task: every task may read what it leaves. A rerun, unlike a retry, finds it fresh (contract 4.1)."""
        return TaskPlace("", "", self.startup, self.trash, 0o755, always_same_user=True, fresh=fresh)


def former_user(place: TaskPlace) -> int:
    """Uid that an earlier attempt in this directory ran as; -1 when there was none."""
    try:
        return os.lstat(place.working).st_uid
    except OSError:
        return -1


def open_to(place: TaskPlace, user: User) -> None:
    """Make a task's directories, or take them over from an earlier attempt. Raises OSError."""
    if not make(place, user):
        take_over(place, user)


def make(place: TaskPlace, user: User) -> bool:
    """Make a task's directories; False when an earlier attempt left them. Raises OSError.

    The upper one stays root's to the last, so that nobody reaches what is not yet as it should be.
    """
    try:
        os.mkdir(place.directory, place.mode)
    except FileNotFoundError:
        job = os.path.dirname(place.directory)
        for path in (os.path.dirname(job), job):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
                os.chmod(path, 0o711)
        return make(place, user)
    except FileExistsError:
        return False
    os.mkdir(place.working, place.mode)
    if user.uid >= 0:
        os.chown(place.working, user.uid, user.group)
        os.chown(place.directory, user.uid, user.group)
    return True


def take_over(place: TaskPlace, user: User) -> None:
    """Open an earlier attempt's directories to this one's user; links in there are not followed. Raises OSError.

    What others may have put there must neither be run by root nor become its own, so then everything is new. The
    directory is closed meanwhile, so that nobody exchanges what is in it.
    """
    former = former_user(place)
    with beneath.directory(place.directory) as fd:
        others = {former} | {os.fstat(fd).st_uid} - {0}  # the directory itself is root's while it is closed
        if user.uid >= 0:
            _shut(fd)
        if user.uid >= 0 and (user.uid == 0 or place.always_same_user) and others - {-1, user.uid}:
            _set_aside(fd, place.trash, os.listdir(fd))
            former = -1
        elif place.fresh:
            _set_aside(fd, place.trash, ["wd"])
            former = -1
        _working_directory(fd, place.mode)
        if user.uid >= 0:
            if former not in (-1, user.uid):
                _hand_over(fd, former, user)
            with beneath.directory(fd, ["wd"]) as working:
                os.fchown(working, user.uid, user.group)
            os.fchown(fd, user.uid, user.group)
        os.fchmod(fd, place.mode)


def _shut(fd: int) -> None:
    """From now on nobody but root changes what is in a directory."""
    os.fchown(fd, os.geteuid(), os.getegid())
    os.fchmod(fd, 0o700)


def _set_aside(fd: int, trash: str, names: Collection[str]) -> None:
    """Move what is in a directory, which is shut if others could change it, to the trash; remove it where the disk has no room for that."""
    aside = f"{trash}/{secrets.token_hex(8)}"
    try:
        os.makedirs(aside, mode=0o700)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, f"{aside}/{name}", src_dir_fd=fd)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        for name in names:  # it may be what fills the disk
            with contextlib.suppress(FileNotFoundError):
                _remove(fd, name)


def _remove(fd: int, name: str) -> None:
    if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
        trees.remove(name, fd)
    else:
        os.unlink(name, dir_fd=fd)


def _working_directory(fd: int, mode: int) -> None:
    """Make `wd` anew when the earlier attempt removed it or put something else in its place."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat("wd", dir_fd=fd, follow_symlinks=False).st_mode):
            os.unlink("wd", dir_fd=fd)
    with contextlib.suppress(FileExistsError):
        os.mkdir("wd", mode, dir_fd=fd)


def _hand_over(top: int, former: int, user: User, levels: int = _LEVELS) -> None:
    """Give what belonged to the former user to the new one; files with other names elsewhere (hard links) stay.

    What is looked at and what is given are one descriptor: other tasks of the former user may still change things.
    """
    for name in os.listdir(top):
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            one = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            stack.callback(os.close, one)
            seen = os.fstat(one)
            directory = stat.S_ISDIR(seen.st_mode)
            if seen.st_uid == former and (directory or seen.st_nlink == 1):
                beneath.give(one, user.uid, user.group)
            if directory and levels:
                _hand_over(stack.enter_context(beneath.directory(one)), former, user, levels - 1)


def close(place: TaskPlace, user: User) -> None:
    """Shut the directory of a user that later tasks will get again."""
    if user.own:
        with contextlib.suppress(FileNotFoundError), beneath.directory(place.directory) as fd:
            _shut(fd)
