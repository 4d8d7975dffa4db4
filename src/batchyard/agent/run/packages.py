"""Application packages of the node: each is brought once, however many tasks wait for it, and goes when nothing refers to it.

What refers to a package is the pool, as the node was told of it when it joined, and jobs of which the node still has a directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import structlog

from batchyard.agent.places.layout import Layout
from batchyard.agent.transfer.failures import SERVER, Failed, failure
from batchyard.agent.transfer.packages import CODE, Shelf
from batchyard.agent.transfer.stop import Cancelled, Stop
from batchyard.disk.zips import Limits
from batchyard.model.sync import UNKNOWN, NodeProblem, NodeSetup, Package
from batchyard.rules import packages as rules
from batchyard.rules import places

log = structlog.get_logger()

_AGAIN_S = 60.0
"""After so long it is tried again to bring what the pool needs."""


class Packages:
    """`changed` is set when `problems` are others. All methods are called from the agent's loop."""

    def __init__(self, layout: Layout, threads: Executor, changed: asyncio.Event) -> None:
        self._root, self._shelf, self._threads, self._changed = layout.root, Shelf(layout), threads, changed
        self._stop = Stop()
        self._limits = Limits(0, 0)
        self._pool: Sequence[Package] = ()
        self._coming: dict[str, asyncio.Task[None]] = {}
        """Packages that are there or on their way, by directory."""
        self._jobs: dict[str, set[str]] = {}
        """Jobs that refer to each."""
        self._bringing: asyncio.Task[None] | None = None
        self._ready, self._hopeless = asyncio.Event(), asyncio.Event()
        self._failed: Failed | None = None

    def learn(self, setup: NodeSetup) -> None:
        """The node has joined: what the pool no longer refers to goes, what it refers to comes. Raises nothing."""
        first, self._limits = self._limits.entries == 0, Limits(setup.package_bytes, setup.package_entries)
        self._pool, self._failed = setup.packages, None
        self._ready, self._hopeless = asyncio.Event(), asyncio.Event()
        if self._bringing is not None:
            self._bringing.cancel()
        with _logged("packages of an earlier life not removed"):
            if first:
                self._shelf.clear()
                self._jobs = {name: self._shelf.jobs(name) for name in self._shelf.names()}
            self._sweep()
        self._changed.set()
        self._bringing = asyncio.create_task(self._bring_pool())

    @property
    def is_free(self) -> bool:
        """True when tasks need nothing but what they name themselves."""
        return not self._pool

    def problems(self) -> list[NodeProblem]:
        """What the node lacks of its pool's packages."""
        if self._failed is None:
            return []
        info = self._failed.info
        details = {pair.name or "": pair.value or "" for pair in info.details or ()}
        return [NodeProblem(code=CODE, message=info.message or CODE, details=details, blocking=True)]

    def told(self, problems: Collection[NodeProblem]) -> None:
        """The server will hear of these problems with the next word: tasks that came too early may be given back."""
        if self._failed is not None and any(problem.code == CODE for problem in problems):
            self._hopeless.set()

    async def of_pool(self) -> dict[str, str]:
        """Variables of the pool's packages, once all are there. Raises Failed with `UNKNOWN` while they cannot be had."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(event.wait()) for event in (self._ready, self._hopeless)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._ready.is_set():
            return self._variables(self._pool)
        why = "" if self._failed is None else f": {self._failed.info.message}"
        raise Failed("preprocessing", failure(UNKNOWN, f"The node lacks application packages of its pool{why}", SERVER))

    async def of_start_task(self) -> dict[str, str]:
        """The same for the start task, which runs nowhere else: it fails with what is wrong."""
        try:
            return await self.of_pool()
        except Failed as failed:
            raise self._failed or failed from None

    async def of_task(self, packages: Sequence[Package], job_id: str) -> dict[str, str]:
        """Variables of a task's own packages, once all are there. Raises Failed, Cancelled."""
        for package in packages:
            if package.directory:
                self._refer(package.directory, job_id)
        await self._have(packages)
        return self._variables(packages)

    def removed(self, directory: str) -> None:
        """A directory is gone: packages to which only its job referred go too."""
        if any(directory.startswith(places.job_directory(job_id)) for jobs in self._jobs.values() for job_id in jobs):
            with _logged("package not removed"):
                self._sweep()

    async def close(self) -> None:
        """Give up what is on its way."""
        self._stop.set()
        for task in (self._bringing, *self._coming.values()):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _bring_pool(self) -> None:
        while True:
            try:
                await self._have(self._pool)
            except Failed as failed:
                log.error("application packages of the pool cannot be had", reason=failed.info.message)
                self._failed = failed
                self._changed.set()
                await asyncio.sleep(_AGAIN_S)
                continue
            except Cancelled:
                return
            if self._failed is not None:
                self._failed = None
                self._hopeless.clear()
                self._changed.set()
            self._ready.set()
            return

    async def _have(self, packages: Sequence[Package]) -> None:
        tasks = [self._bring(package) for package in packages]
        if tasks:
            await asyncio.wait(tasks)  # whoever waits may be ended, and what comes comes for others
        for task in tasks:
            task.result()

    def _bring(self, package: Package) -> asyncio.Task[None]:
        """The one bringing of a package; one that failed is forgotten, so that the next who needs it tries again."""
        name = package.directory or f"{package.application}/{package.asked}"
        known = self._coming.get(name)
        if known is None or (known.done() and not os.path.isdir(self._shelf.path(package))):
            known = self._coming[name] = asyncio.create_task(self._in_thread(package))
            known.add_done_callback(lambda done: self._forget(name, done))
        return known

    def _forget(self, name: str, done: asyncio.Task[None]) -> None:
        if (done.cancelled() or done.exception() is not None) and self._coming.get(name) is done:
            del self._coming[name]

    async def _in_thread(self, package: Package) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._shelf.bring, package, self._limits, self._stop)

    def _refer(self, name: str, job_id: str) -> None:
        jobs = self._jobs.setdefault(name, set())
        if job_id not in jobs:
            jobs.add(job_id)
            with _logged("the job of a package not noted"):
                self._shelf.note_job(name, job_id)

    def _sweep(self) -> None:
        """Remove what nothing refers to and nobody waits for."""
        kept = {package.directory for package in self._pool}
        for name in [*self._jobs]:
            for job_id in [job_id for job_id in self._jobs[name] if not os.path.isdir(f"{self._root}/{places.job_directory(job_id)}")]:
                self._jobs[name].discard(job_id)
                self._shelf.forget_job(name, job_id)
        for name in self._shelf.names():
            coming = self._coming.get(name)
            if name not in kept and not self._jobs.get(name) and (coming is None or coming.done()):
                self._coming.pop(name, None)
                self._jobs.pop(name, None)
                self._shelf.remove(name)
                log.info("application package removed", directory=name)

    def _variables(self, packages: Sequence[Package]) -> dict[str, str]:
        return {name: self._shelf.path(each) for each in packages for name in rules.variables(each.application, each.asked)}


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """An error of the disk here ends nothing: it is tried again with the next occasion."""
    try:
        yield
    except OSError as error:
        log.warning(what, reason=str(error))
