"""One application package: fetched, unpacked where nobody looks, and moved to its place in one step (contract 4.6).

So a package is there as a whole or not at all, however the agent ends. What a machine that broke down had not written to its disk yet
cannot be told from what it had, so a package counts only in the life of the machine that unpacked it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets

import structlog

from batchyard.agent.places import beneath
from batchyard.agent.places.identity import boot
from batchyard.agent.places.layout import Layout
from batchyard.agent.transfer.download import Download
from batchyard.agent.transfer.failures import SERVER, USER, Failed, failure
from batchyard.agent.transfer.stop import Stop
from batchyard.agent.transfer.storage import Unreachable
from batchyard.disk import trees, zips
from batchyard.disk.zips import Limits
from batchyard.model.states import ErrorCategory
from batchyard.model.sync import Package

log = structlog.get_logger()

CODE = "ApplicationPackageError"
_BOOT, _JOB = "boot", "job."


class Shelf:
    """The packages of a node: directories below `applications`, and what is noted of each below `volatile/packages`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.top = layout.root + "/applications"
        self._notes = layout.volatile + "/packages"
        self._unpacking = layout.volatile + "/unpacking"

    def path(self, package: Package) -> str:
        """Where a package lies, or will."""
        return f"{self.top}/{package.directory}"

    def clear(self) -> None:
        """Set aside what an agent that was ended had begun, and what is not known to be whole. Raises OSError."""
        self._set_aside(self._unpacking)
        for name in _listed(self.top):
            if not self._is_whole(name):
                self.remove(name)

    def names(self) -> list[str]:
        """Directories of the packages that are there."""
        return _listed(self.top)

    def remove(self, name: str) -> None:
        """Take a package away; its content goes with the node's trash. Raises OSError."""
        self._set_aside(f"{self.top}/{name}")
        self._set_aside(f"{self._notes}/{name}")

    def jobs(self, name: str) -> set[str]:
        """Jobs whose tasks were given a package."""
        return {each.removeprefix(_JOB) for each in _listed(f"{self._notes}/{name}") if each.startswith(_JOB)}

    def note_job(self, name: str, job_id: str) -> None:
        """Note that a job's tasks are given a package. Raises OSError."""
        os.makedirs(f"{self._notes}/{name}", exist_ok=True)
        with open(f"{self._notes}/{name}/{_JOB}{job_id}", "ab"):
            pass

    def forget_job(self, name: str, job_id: str) -> None:
        """Note that nothing of a job is left. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._notes}/{name}/{_JOB}{job_id}")

    def bring(self, package: Package, limits: Limits, stop: Stop) -> None:
        """Have a package there as a whole; in a thread. Raises Failed or Cancelled, and leaves nothing behind then."""
        name = package.application if package.asked is None else f"{package.application} {package.asked}"
        if not package.directory:
            raise _failed("The specified application package does not exist", package, USER)
        aside = f"{self._unpacking}/{secrets.token_hex(8)}"
        try:
            if self._is_whole(package.directory):
                return
            os.makedirs(aside + "/content", mode=0o700)
            self._fetch(package, aside + "/zip", limits, stop)
            with open(aside + "/zip", "rb") as file:
                opened, entries = zips.look_through(file, limits)
                zips.unpack(opened, entries, aside + "/content", limits, stop.check)
            self._put_in_place(aside + "/content", package.directory)
            log.info("application package unpacked", package=name, directory=package.directory, entries=len(entries))
        except zips.Refused as refused:
            raise _failed(f"The application package cannot be unpacked: {refused}", package, USER) from refused
        except Unreachable as error:
            raise _failed(f"The application package could not be fetched: {error}", package, SERVER) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Failed("preprocessing", failure("DiskFull", "The disk of the node is full")) from error
            raise _failed(f"The application package could not be written: {error.strerror}", package, SERVER) from error
        finally:
            with contextlib.suppress(OSError), beneath.trusted(self._unpacking) as parent:
                trees.remove(os.path.basename(aside), parent)

    def _fetch(self, package: Package, path: str, limits: Limits, stop: Stop) -> None:
        most = min(package.bytes, limits.bytes)

        def grown(size: int) -> None:
            if size > most:
                raise zips.Refused(f"It has more than {most} bytes")

        with open(path, "wb", buffering=0) as file:
            Download(package.url, file.fileno(), stop, grown).run()

    def _put_in_place(self, content: str, name: str) -> None:
        os.makedirs(f"{self._notes}/{name}", exist_ok=True)
        with open(f"{self._notes}/{name}/{_BOOT}", "w", encoding="ascii") as file:
            file.write(boot())
        os.chmod(content, 0o755)
        os.rename(content, f"{self.top}/{name}")

    def _is_whole(self, name: str) -> bool:
        try:
            with open(f"{self._notes}/{name}/{_BOOT}", encoding="ascii") as file:
                return file.read() == boot() and os.path.isdir(f"{self.top}/{name}")
        except (OSError, ValueError):
            return False

    def _set_aside(self, path: str) -> None:
        """Move to the node's trash what may not be there."""
        os.makedirs(self._layout.trash, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, f"{self._layout.trash}/{secrets.token_hex(8)}")


def _listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def _failed(message: str, package: Package, category: ErrorCategory) -> Failed:
    details = {"ApplicationId": package.application} | ({} if package.asked is None else {"Version": package.asked})
    return Failed("preprocessing", failure(CODE, message, category, **details))
