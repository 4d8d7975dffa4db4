"""What a container of a task without admin elevation may have mounted, and where it may begin (contract 4.8).

The engine mounts and makes mount points as root, and follows links of an image while it does: so only what is known is mounted,
and no mount point is made in a directory of the host.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from batchyard.rules.containers import Bind, NotAllowed

READABLE = ("/etc/ssl/certs", "/etc/pki")
"""Of the host, for everybody to read: whom to trust, as Nextflow's executor mounts it."""
_OF_THE_ENGINE = ("/", "/etc", "/run")
"""The engine puts files of its own into these."""
_OF_THE_KERNEL = ("/dev", "/proc", "/sys")


def of_everybody(bind: Bind) -> Bind:
    """The bind of what everybody may read, which nobody may write to. Raises NotAllowed for other paths of the host."""
    source = posixpath.normpath(bind.source)
    if any(_within(source, each) for each in READABLE) and ".." not in bind.source.split("/"):
        return Bind(source, bind.target, True)
    raise NotAllowed(f"{bind.source[:100]}: mounting it needs elevation level admin; others may mount {' and '.join(READABLE)}")


def mounts(given: Sequence[Bind], binds: Sequence[Bind], empty: Sequence[str]) -> None:
    """Refuse mount points inside of each other, of what is `given` anyway and what a task asks for. Raises NotAllowed."""
    for bind in binds:
        target = _plain(bind.target)
        if target in _OF_THE_ENGINE or any(_within(target, each) for each in _OF_THE_KERNEL):
            raise NotAllowed(f"{target[:100]}: nothing of the host is mounted there without elevation level admin")
    wanted = [_plain(target) for target in (*(bind.target for bind in binds), *empty)]
    others = [bind.target for bind in given]
    for number, target in enumerate(wanted):
        for other in (*others, *wanted[:number]):
            if _within(target, other) or _within(other, target):
                raise NotAllowed(f"{target[:100]}: the mount is inside of another, or around it: {other[:100]}")


def working(path: str, mounted: Sequence[Bind], own: str) -> str | None:
    """A working directory relative to the task's `own`, whose links are to be looked at; None for one of the image. Raises NotAllowed."""
    path = _plain(path)
    for bind in mounted:
        if not _within(path, bind.target):
            continue
        if bind.source != own:
            raise NotAllowed(f"{path[:100]}: a working directory on the host is the task's own or below that")
        return posixpath.relpath(path, bind.target)
    return None


def _plain(path: str) -> str:
    """Raises NotAllowed for a path with steps back, which are taken behind links."""
    if ".." in path.split("/"):
        raise NotAllowed(f"{path[:100]}: paths must not have ..")
    return "/" + posixpath.normpath(path).strip("/")


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith(other.rstrip("/") + "/")
