"""A root directory belongs to one agent at a time."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator

import structlog

log = structlog.get_logger()

_PATIENCE_S = 15.0
"""How long an earlier agent may take to leave."""


@contextlib.contextmanager
def only_one(root: str, volatile: str) -> Iterator[None]:
    """Hold a root directory for this process alone, by a lock in its `volatile` one; waits a while. Raises OSError."""
    with open(volatile + "/agent.lock", "w") as file:
        deadline, told = time.monotonic() + _PATIENCE_S, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OSError(f"another agent uses {root}; end that one first, or choose another --root") from None
                if not told:
                    log.warning("another agent uses the root, which may just be leaving", root=root, seconds=_PATIENCE_S)
                    told = True
                time.sleep(0.1)
        yield
