"""An ordinary user on a machine whose interpreter and checkout may lie where only root can go."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

UID = 61_234
"""A user that has no account, which is as ordinary as can be."""


def become(*needed: Path) -> list[str]:
    """The words before a command that run it as an ordinary user who can read what is `needed`; nothing for who is one already."""
    if os.geteuid() != 0:
        return []
    programs = [shutil.which(name) for name in ("unshare", "setpriv")]
    if None in programs:
        pytest.skip("there is no unshare, or no setpriv, to become an ordinary user with")
    wanted = dict.fromkeys(path.resolve() for path in (Path(sys.base_prefix), Path(sys.prefix), *needed))
    script = ["set -e", "stage=$(mktemp -d)", "mount -t tmpfs -o mode=755 none $stage"]
    hidden = {path: top for path in wanted if (top := _closed(path))}
    for number, path in enumerate(hidden):
        script += [f"mkdir $stage/{number}", f"mount --bind '{path}' $stage/{number}"]
    script += [f"mount -t tmpfs -o mode=755 none '{top}'" for top in dict.fromkeys(hidden.values())]
    for number, path in enumerate(hidden):
        script += [f"mkdir -p '{path}'", f"mount --bind $stage/{number} '{path}'"]
    script.append(f'exec setpriv --reuid {UID} --regid {UID} --clear-groups --inh-caps=-all --no-new-privs "$@"')
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", "; ".join(script), "sh"]


def _closed(path: Path) -> Path | None:
    """The uppermost directory above a path that only its owner may pass."""
    return next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001), None)
