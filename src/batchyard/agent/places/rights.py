"""Acting on files with a task's user's rights, in one thread for a moment.

Linux keeps the user that files are accessed as for each thread (`setfsuid`), and takes root's rights to other users'
files from a thread that is not root there. Nobody gets to signal the agent by it. The agent has no further groups.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator

_LIBC = ctypes.PyDLL(None)
_ASK = 0xFFFF_FFFF
"""No user or group: the call changes nothing and answers with the present one."""
for _call in (_LIBC.setfsuid, _LIBC.setfsgid):
    _call.argtypes, _call.restype = (ctypes.c_uint32,), ctypes.c_uint32


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Let this thread have a user's rights to files, and what it makes be that user's; uids up to 0 change nothing.

    What is within must not import, await, yield or start threads, which would stay that user. Raises PermissionError
    when the agent may not become that user.
    """
    if uid <= 0:
        yield
        return
    group, user = _LIBC.setfsgid(gid), _LIBC.setfsuid(uid)
    try:
        if (_LIBC.setfsuid(_ASK), _LIBC.setfsgid(_ASK)) != (uid, gid):
            raise PermissionError(errno.EPERM, f"the agent may not act as the user {uid}")
        yield
    finally:
        _LIBC.setfsuid(user)
        _LIBC.setfsgid(group)
        if (_LIBC.setfsuid(_ASK), _LIBC.setfsgid(_ASK)) != (user, group):
            os._exit(70)  # as the wrong user nothing may be done any more
