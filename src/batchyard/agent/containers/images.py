"""Images of the node: each is pulled once, however many tasks wait for it, and goes by least recent use when the disk is full."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

import structlog

from batchyard.agent.containers.podman import Podman
from batchyard.agent.health.health import is_tight
from batchyard.agent.transfer.failures import SERVER, USER, Failed, failure
from batchyard.disk.space import sample
from batchyard.model.common import ContainerRegistry
from batchyard.rules import containers as rules

log = structlog.get_logger()

_TRIES = 3
_PAUSE_S = 1.0
_PULL_S = 3600.0
_REASON = 500
_REFUSED = ("unauthorized", "authentication required", "denied", "invalid username/password", "incorrect username or password")
_MISSING = ("manifest unknown", "name unknown", "not found", "invalid reference", "repository name not known", "no such image")
_FULL = "no space left on device"


class Said(NamedTuple):
    """How a command of the engine ended, and what it printed."""

    code: int
    out: str
    err: str


Ask = Callable[..., Awaitable[Said]]
"""Runs a command of the engine's: `ask(*words, limit_s=...)`."""


class Images:
    """All methods are called from the agent's loop."""

    def __init__(self, engine: Podman, ask: Ask) -> None:
        self._engine, self._ask = engine, ask
        self._used: dict[str, None] = {}
        """Images that are there, the one that was used last at the end."""
        self._coming: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        """Each for those alone who gave the same user and password."""
        self._going: dict[str, asyncio.Task[Said]] = {}
        self._held: dict[str, int] = {}
        """How many attempts need each."""

    async def look(self) -> None:
        """Find what is there from an earlier life."""
        said = await self._ask("images", "--format", "json", limit_s=60)
        found = json.loads(said.out or "[]") if said.code == 0 else []
        by_age = sorted(found, key=lambda each: each.get("Created") or 0)
        self._used = dict.fromkeys(name for each in by_age for name in each.get("Names") or ())

    async def have(self, image: str, login: ContainerRegistry | None) -> None:
        """Wait until an image is there, pulled by the first who needs it. Raises Failed."""
        while (going := self._going.get(image)) is not None:
            await asyncio.wait({going})
        if image in self._used:
            self._use(image)
            return
        key = (image, *_whose(login))
        task = self._coming.get(key)
        if task is None:
            task = self._coming[key] = asyncio.create_task(self._pull(image, login))
            task.add_done_callback(lambda _: self._coming.pop(key, None))
        await asyncio.wait({task})  # whoever waits may be ended, and what comes comes for others
        task.result()

    def hold(self, image: str) -> None:
        """Somebody needs an image: once it is there it stays."""
        self._held[image] = self._held.get(image, 0) + 1

    def release(self, image: str) -> None:
        """Whoever held it needs it no more."""
        self._held[image] -= 1
        if not self._held[image]:
            del self._held[image]

    def close(self) -> None:
        """Give up what is on its way."""
        for task in self._coming.values():
            task.cancel()

    async def relieve(self, kept: Collection[str]) -> None:
        """Remove images by least recent use while the disk is nearly full, but for those that are `kept` or held."""
        for image in [*self._used]:
            if not is_tight(sample(self._engine.home)):
                return
            if image in kept or image in self._held or image in self._going:
                continue
            self._used.pop(image, None)
            said = await self._remove(image)
            log.info("image removed, for the disk is nearly full", image=image, removed=said.code == 0)

    async def _remove(self, image: str) -> Said:
        """Whoever needs it meanwhile waits, and pulls it again: a removal that overtook the pull would take what was pulled."""
        self._going[image] = going = asyncio.ensure_future(self._ask("rmi", image, limit_s=600))
        try:
            return await going
        finally:
            del self._going[image]

    def _use(self, image: str) -> None:
        self._used.pop(image, None)
        self._used[image] = None

    async def _pull(self, image: str, login: ContainerRegistry | None) -> None:
        """Pull an image; a refusal is final, anything else is tried again. Raises Failed."""
        for left in reversed(range(_TRIES)):
            said = await self._try(image, login)
            if said.code == 0:
                self._use(image)
                log.info("image pulled", image=image)
                return
            code = _code(said.err)
            if left == 0 or code != "ContainerMiscError":
                raise Failed("preprocessing", _failure(code, image, said.err))
            log.warning("image not pulled yet", image=image, reason=_reason(said.err))
            await asyncio.sleep(_PAUSE_S)

    async def _try(self, image: str, login: ContainerRegistry | None) -> Said:
        host, words = rules.host_of(image), ["pull", "--quiet"]
        path = f"{self._engine.home}/files/{secrets.token_hex(8)}.json"
        words += ["--authfile", path]
        if rules.is_loopback(host):
            words.append("--tls-verify=false")
        auths: dict[str, Any] = {}
        if login is not None and login.username and login.password is not None:
            auths[host] = {"auth": base64.b64encode(f"{login.username}:{login.password}".encode()).decode()}
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump({"auths": auths}, file)
        try:
            return await self._ask(*words, image, limit_s=_PULL_S)
        finally:
            os.unlink(path)


def _whose(login: ContainerRegistry | None) -> tuple[str, str]:
    """User of a registry, and a digest of the password."""
    if login is None:
        return "", ""
    return login.username or "", hashlib.sha256((login.password or "").encode()).hexdigest()


def _code(text: str) -> str:
    """What a failed pull is to clients (contract 3.3)."""
    words = text.lower()
    if _FULL in words:
        return "DiskFull"
    if any(each in words for each in _REFUSED):
        return "ContainerInvalidRegistry"
    return "ContainerInvalidImage" if any(each in words for each in _MISSING) else "ContainerMiscError"


_SENTENCES = {
    "DiskFull": "The disk of the node is full",
    "ContainerInvalidRegistry": "The container registry refused the image, or the user and password for it",
    "ContainerInvalidImage": "The container image does not exist in its registry",
    "ContainerMiscError": "The container image could not be pulled",
}


def _failure(code: str, image: str, text: str) -> Any:
    category = SERVER if code == "ContainerMiscError" else USER
    return failure(code, _SENTENCES[code], category, ImageName=image, Message=_reason(text))


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_REASON] if lines else "the engine did not say why"
