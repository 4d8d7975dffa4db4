"""Linux accounts with a node's mark, made, changed and removed by the system's own tools.

Invariant: whatever is changed or removed here was listed in `/etc/passwd` with a mark in its GECOS field, which only root
can write. Everything blocks.
"""

from __future__ import annotations

import contextlib
import math
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from batchyard.agent.places.files import Refused
from batchyard.agent.places.layout import tag_of
from batchyard.agent.process import control
from batchyard.model import times

log = structlog.get_logger()

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = ("useradd", "usermod", "userdel", "chpasswd")
NO_PASSWORD = "*"
"""In the place of a hash: no password fits, but keys do; `!` would make some SSH servers refuse keys as well."""
LONG_AGO = "1970-01-02"
"""Expiry of accounts that nobody may use."""
_SUDOERS = Path("/etc/sudoers.d")
_RULE = re.compile(r"batchyard-[0-9a-f]{12}-[0-9]+")
_DAY_US = 86_400_000_000
_LAST_US = 253_370_764_800_000_000
"""The year 9999, to which later expiries are cut."""
_FIRST_OF_PEOPLE = 1_000
_TRIES, _PAUSE_S = 20, 0.1
_LONGEST_S = 30.0
"""How long one run of a tool may take."""


class Deadline:
    """When all work on accounts has to be over, in seconds of the monotonic clock; moved up when the agent ends."""

    def __init__(self) -> None:
        self.at = math.inf

    def left(self) -> float:
        """Seconds that are left, at most 30, never less than nothing."""
        return max(0.0, min(_LONGEST_S, self.at - time.monotonic()))


NEVER = Deadline()


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


def expiry_day(expires: int) -> str:
    """First day on which Linux refuses logins: whole days, never too early."""
    return times.moment(-(-max(0, min(expires, _LAST_US)) // _DAY_US) * _DAY_US).date().isoformat()


class ToolFailed(Refused):
    """One of the system's tools refused."""

    def __init__(self, tool: str, code: int, text: str) -> None:
        super().__init__("OperationNotValidOnNode", f"{tool} ended with {code}: {text}")
        self.exit_code = code


def run(tool: str, *arguments: str, stdin: str = "", deadline: Deadline = NEVER) -> None:
    """Run one of the system's tools; waits while another one holds the password file. Raises Refused."""
    for _ in range(_TRIES):
        code, text = _once(tool, arguments, stdin, deadline.left())
        if code == 0:
            return
        if "lock" not in text or not deadline.left():
            break
        time.sleep(_PAUSE_S)
    raise ToolFailed(tool, code, text.rpartition("\n")[2])


def _once(tool: str, arguments: Sequence[str], stdin: str, seconds: float) -> tuple[int, str]:
    """Exit code and what the tool complains about. Raises ToolFailed for one that hangs."""
    environment = {"PATH": PATH, "LC_ALL": "C"}
    if not seconds:
        raise ToolFailed(tool, -signal.SIGKILL, "there was no time left for it")
    try:
        done = subprocess.run([tool, *arguments], input=stdin.encode(), capture_output=True, env=environment, cwd="/", timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ToolFailed(tool, -signal.SIGKILL, f"it did not end within {seconds:.3g} s") from None
    return done.returncode, done.stderr.decode(errors="replace").strip()


def is_known(name: str) -> bool:
    """True when the system has a user of that name, from wherever it takes its users."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def marked() -> Iterator[Account]:
    """All accounts of nodes on this machine; directories of users elsewhere cannot hold any."""
    for line in Path("/etc/passwd").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(":")
        mark = fields[4].partition(",")[0] if len(fields) == 7 else ""
        if mark.startswith("batchyard "):
            yield Account(fields[0], int(fields[2]), int(fields[3]), mark, fields[5])


def _sudoers(account: Account) -> Path:
    return _SUDOERS / f"{account.mark.replace(' ', '-')}-{account.uid}"


def make_admin(account: Account) -> None:
    """Root for an account, by its number: a name could mean something else to sudo."""
    path = _sudoers(account)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o440), "w", encoding="ascii") as file:
        file.write(f"#{account.uid} ALL=(ALL:ALL) NOPASSWD: ALL\n")


def prune_rules() -> None:
    """Remove the rules of accounts that are gone, of whichever node: the next account with that number would be root."""
    rules = [path for path in _SUDOERS.glob("batchyard-*") if _RULE.fullmatch(path.name)]
    there = {_sudoers(account) for account in marked()}  # read after the rules: whoever gets one is listed before
    for path in rules:
        if path not in there:
            path.unlink(missing_ok=True)
            log.warning("rights of an account that is gone removed", rule=path.name)


def erase(account: Account, deadline: Deadline = NEVER) -> None:
    """Remove an account with its rights and processes, not its home; what is gone already is no error."""
    _sudoers(account).unlink(missing_ok=True)
    try:
        run("usermod", "--password", NO_PASSWORD, "--expiredate", LONG_AGO, "--", account.name, deadline=deadline)
        _end_processes(account.uid)
        run("userdel", "--force", "--", account.name, deadline=deadline)
    except ToolFailed as failed:
        if is_known(account.name):
            raise
        log.debug("account was gone", user=account.name, reason=str(failed))


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
