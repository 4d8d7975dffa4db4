"""`az` as its users have it: the unmodified program, three variables, no login, a configuration directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.conftest import wait_for

PATIENCE_S = 60


class Server(Protocol):
    """What these tests need of the fixture `server`."""

    endpoint: str
    account: str
    key: str


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Az:
    """The Azure CLI. Many commands share one process; `alone` runs one as a user does."""

    def __init__(self, server: Server, home: Path) -> None:
        self._program = os.environ.get("BATCHYARD_AZ", "")
        if not self._program:
            pytest.skip("BATCHYARD_AZ is not set (make test-az sets it)")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AZURE_BATCH_ACCOUNT": server.account,
            "AZURE_BATCH_ACCESS_KEY": server.key,
            "AZURE_BATCH_ENDPOINT": server.endpoint,
            "AZURE_CONFIG_DIR": str(home / "config"),
            "AZURE_CORE_COLLECT_TELEMETRY": "no",
        }
        loop = [str(Path(self._program).with_name("python")), str(Path(__file__).with_name("az_loop.py"))]
        self._process = subprocess.Popen(loop, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment, cwd=home)

    def run(self, *words: str | Path) -> Done:
        """A command of `az batch`, given without these two words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(["batch", *map(str, words)]), file=self._process.stdin, flush=True)
        return Done(*json.loads(self._process.stdout.readline()))

    def alone(self, *words: str) -> Done:
        """The same in a process of its own."""
        done = subprocess.run(
            [self._program, "batch", *words], capture_output=True, text=True, env=self._environment, timeout=60, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def __call__(self, *words: str | Path) -> Any:
        """What a command that succeeds prints, decoded; None when it prints nothing."""
        done = self.run(*words)
        assert done.code == 0, (words, done)
        return json.loads(done.out) if done.out.strip() else None

    def until(self, wanted: object, *words: str) -> None:
        """Ask until the answer is `wanted`."""
        wait_for(lambda: self(*words) == wanted, f"{words} to give {wanted!r}", PATIENCE_S)

    def close(self) -> None:
        """End the shared process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture(scope="session")
def az(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Az]:
    """`az` without a login."""
    program = Az(server, tmp_path_factory.mktemp("az"))
    yield program
    program.close()
