"""Containers of the node: an engine that was tried, the pool's images, and what earlier containers left.

A pool that wants none costs nothing. What is asked of the engine is run by the spawners like a task, so it ends with the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor

import structlog

from batchyard.agent.containers import boxes, podman
from batchyard.agent.containers.boxes import Box, Wish
from batchyard.agent.containers.images import Images, Said
from batchyard.agent.containers.podman import Podman
from batchyard.agent.places.layout import Layout
from batchyard.agent.process.process import Command, NotLaunched, SpawnerLost, Spawners
from batchyard.agent.transfer.failures import SERVER, USER, Failed, failure
from batchyard.model.common import ContainerSettings
from batchyard.model.sync import UNKNOWN, NodeContainers, NodeNews, NodeProblem
from batchyard.rules import containers as rules

log = structlog.get_logger()

CODE = "NodePreparationError"
_AGAIN_S = 60.0
"""After so long it is tried again to have what the pool needs, and the disk is looked at."""
_TRIAL_S = 60.0
_REMOVE_S = 60.0
_NONE = "The pool has no containerConfiguration, so its tasks run in no containers"
_NEEDED = "The pool has a containerConfiguration, so its tasks and job managers need containerSettings"


class Containers:
    """`changed` is set when `problems` are others, `news` hears what happened. All methods are called from the agent's loop."""

    def __init__(
        self, layout: Layout, threads: Executor, changed: asyncio.Event, news: Callable[[NodeNews], None], next_key: Callable[[], int]
    ) -> None:
        self._layout, self._threads, self._changed, self._news, self._next_key = layout, threads, changed, news, next_key
        self._wanted: NodeContainers | None = None
        self._spawners: Spawners | None = None
        self._engine: Podman | None = None
        self._images: Images | None = None
        self._having: asyncio.Task[None] | None = None
        self._ready, self._hopeless = asyncio.Event(), asyncio.Event()
        self._failed: Failed | None = None
        self._chores: set[asyncio.Task[None]] = set()

    def learn(self, wanted: NodeContainers | None, spawners: Spawners) -> None:
        """The node has joined: what its pool needs is brought. Raises nothing."""
        self._wanted, self._spawners, self._failed = wanted, spawners, None
        self._ready, self._hopeless = asyncio.Event(), asyncio.Event()
        if self._having is not None:
            self._having.cancel()
        self._having = None if wanted is None else asyncio.create_task(self._have(wanted))
        self._changed.set()

    def problems(self) -> list[NodeProblem]:
        """What the node lacks of what its pool says of containers."""
        if self._failed is None:
            return []
        info = self._failed.info
        details = {pair.name or "": pair.value or "" for pair in info.details or ()} | {"ContainerError": info.code or ""}
        return [NodeProblem(code=CODE, message=info.message or CODE, details=details, blocking=True)]

    def told(self, problems: Collection[NodeProblem]) -> None:
        """The server will hear of these problems with the next word: tasks that came too early may be given back."""
        if self._failed is not None and any(problem.code == CODE for problem in problems):
            self._hopeless.set()

    def suits(self, settings: ContainerSettings | None, *, optional: bool) -> None:
        """Refuse a container on a pool without, and none on one with them unless it is `optional`. Raises Failed."""
        if settings is not None and self._wanted is None:
            raise Failed("preprocessing", failure("ContainerInvalidSettings", _NONE, USER))
        if settings is None and self._wanted is not None and not optional:
            raise Failed("preprocessing", failure("ContainerInvalidSettings", _NEEDED, USER))

    async def wait(self, *, start: bool) -> None:
        """Wait until all is there that the pool needs. Raises Failed, with `UNKNOWN` unless it is a start task."""
        if self._wanted is None:
            return
        waits: list[asyncio.Task[bool]] = [asyncio.create_task(event.wait()) for event in (self._ready, self._hopeless)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._ready.is_set():
            return
        if start and self._failed is not None:
            raise self._failed
        why = "" if self._failed is None else f": {self._failed.info.message}"
        raise Failed("preprocessing", failure(UNKNOWN, f"The node lacks what its pool needs for containers{why}", SERVER))

    async def image(self, settings: ContainerSettings) -> str:
        """Full name of a task's image, once it is there, held until it is given to `let_go`. Raises Failed."""
        assert self._images is not None, "no engine was found"
        try:
            image = rules.reference(settings.image_name)
        except ValueError as error:
            raise Failed("preprocessing", failure("ContainerInvalidImage", str(error), USER)) from error
        registries = self._wanted.registries if self._wanted is not None else []
        self._images.hold(image)
        try:
            await self._images.have(image, rules.login(image, settings.registry, registries))
        except BaseException:
            self._images.release(image)
            raise
        return image

    def let_go(self, image: str) -> None:
        """An attempt does not need its image any more."""
        assert self._images is not None, "no engine was found"
        self._images.release(image)

    async def box(self, wish: Wish, image: str, options: Sequence[str]) -> Box:
        """The container of an attempt, to be run once and given back by `done`. Raises Failed, OSError."""
        engine = self._engine
        assert engine is not None, "no engine was found"

        def prepare() -> Box:
            return boxes.box(engine, self._layout, wish, image, boxes.allowed(engine, self._layout, options, wish))

        return await asyncio.get_running_loop().run_in_executor(self._threads, prepare)

    def done(self, box: Box, *, clean: bool) -> None:
        """A container's run is over; unless it ended by itself the engine still has it in its books."""
        box.forget()
        if not clean:
            self._begin(self._remove(box.name))

    async def close(self) -> None:
        """Give up what is on its way."""
        if self._images is not None:
            self._images.close()
        for task in (self._having, *self._chores):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    def leave(self) -> None:
        """The node is gone: remove what lies outside of its root."""
        if self._engine is not None:
            shutil.rmtree(self._engine.run, ignore_errors=True)

    async def _have(self, wanted: NodeContainers) -> None:
        """Bring what the pool needs, however often that fails; then look after the disk."""
        while True:
            try:
                await self._bring(wanted)
            except (Failed, OSError) as error:
                info = error if isinstance(error, Failed) else Failed("preprocessing", failure("ContainerMiscError", str(error), SERVER))
                log.error("the pool's containers cannot be had", reason=info.info.message)
                self._failed = info
                self._changed.set()
                await asyncio.sleep(_AGAIN_S)
                continue
            break
        if self._failed is not None:
            self._failed = None
            self._hopeless.clear()
            self._changed.set()
        self._ready.set()
        kept = {rules.reference(name) for name in wanted.images}
        while True:
            await asyncio.sleep(_AGAIN_S)
            with contextlib.suppress(OSError):
                await self.relieve(kept)

    async def relieve(self, kept: Collection[str]) -> None:
        """Remove what can be pulled again while the disk is nearly full."""
        if self._images is not None:
            await self._images.relieve(kept)

    async def _bring(self, wanted: NodeContainers) -> None:
        """Raises Failed, OSError."""
        if self._images is None:
            self._engine, runtime = await self._probe()
            self._images = Images(self._engine, self._ask)
            await self._images.look()
            self._news(NodeNews(happened="container engine", cause=f"podman with {os.path.basename(runtime)}"))
        images = self._images
        names = [rules.reference(name) for name in wanted.images]
        pulls = [asyncio.create_task(images.have(name, rules.login(name, None, wanted.registries))) for name in dict.fromkeys(names)]
        if pulls:
            await asyncio.wait(pulls)
        for pull in pulls:
            pull.result()

    async def _probe(self) -> tuple[Podman, str]:
        """An engine that runs a container here, with what starts its processes. Raises Failed, OSError."""
        engine = podman.find(self._layout)
        if engine is None:
            raise Failed(
                "preprocessing", failure("ContainerMiscError", "The node has no container engine: install podman on its machine", SERVER)
            )
        assert self._spawners is not None, "nothing was learnt yet"
        if not self._spawners.holds_groups:
            text = "The node cannot end all that a container starts: there is no cgroup that its agent may write to"
            raise Failed("preprocessing", failure("ContainerMiscError", text, SERVER))
        self._engine, said = engine, Said(0, "", "neither crun nor runc is installed")
        shutil.rmtree(engine.run, ignore_errors=True)  # as behind a reboot: whatever an earlier agent ran was ended
        for runtime in engine.runtimes():
            engine.configure(runtime)
            held = ("--runtime", podman.HELD) if engine.root else ()
            said = await self._ask(
                *held,
                "run",
                "--rm",
                "--network=host",
                "--cgroups=disabled",
                "--cap-drop=all",
                "--log-driver=none",
                "--rootfs",
                "/:O",
                "true",
                limit_s=_TRIAL_S,
            )
            if said.code == 0:
                await self._ask("rm", "--force", "--all", "--time=0", "--volumes", limit_s=_REMOVE_S)
                await self._ask("volume", "prune", "--force", limit_s=_REMOVE_S)
                return engine, runtime
            log.warning("containers do not run by this", runtime=runtime, reason=said.err.strip()[-300:])
        text = "The node has podman and cannot run containers by it"
        raise Failed("preprocessing", failure("ContainerMiscError", text, SERVER, Message=said.err.strip()[-300:]))

    async def _remove(self, name: str) -> None:
        said = await self._ask("rm", "--force", "--time=0", "--ignore", "--volumes", name, limit_s=_REMOVE_S)
        if said.code != 0:
            log.warning("container not removed", name=name, reason=said.err.strip()[-300:])

    def _begin(self, chore: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(chore)  # type: ignore[arg-type]
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _ask(self, *words: str, limit_s: float) -> Said:
        """Run a command of the engine's. Raises OSError."""
        assert self._spawners is not None and self._engine is not None, "nothing was learnt yet"  # noqa: PT018
        engine, key = self._engine, self._next_key()
        files = f"{engine.home}/files/{secrets.token_hex(8)}"
        command = Command(engine.command(*words), engine.environment, "/", f"{files}.out", f"{files}.err", -1, limit_s)
        try:
            done = await self._spawners.run(key, command)
            return Said(done.code, _read(f"{files}.out"), _read(f"{files}.err"))
        except (NotLaunched, SpawnerLost) as error:
            return Said(-1, "", str(error))
        except asyncio.CancelledError:
            self._spawners.kill(key)
            raise
        finally:
            for path in (f"{files}.out", f"{files}.err"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
