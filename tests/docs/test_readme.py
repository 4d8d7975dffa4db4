"""The README is true: its sessions are run against a live server, its commands and links exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SDK14_PYTHON = "BATCHYARD_SDK14_PYTHON"


class Server(Protocol):
    """What these tests need of the fixture `server`."""

    endpoint: str
    account: str
    key: str
    storage_connection_string: str


def block(kind: str, name: str) -> str:
    """The fenced block that follows the comment `<!-- kind: name -->`."""
    found = re.search(rf"<!-- {kind}: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no {kind} block named {name}"
    return found[1]


@pytest.mark.parametrize("sdk", ["sdk15", "sdk14"])
def test_session_runs_as_it_is_printed(sdk: str, server: Server, tmp_path: Path) -> None:
    interpreter = sys.executable if sdk == "sdk15" else os.environ.get(SDK14_PYTHON)
    if not interpreter:
        pytest.skip(f"{SDK14_PYTHON} is not set (make test sets it)")
    environment = {
        **os.environ,
        "AZURE_BATCH_ACCOUNT": server.account,
        "AZURE_BATCH_ACCESS_KEY": server.key,
        "AZURE_BATCH_ENDPOINT": server.endpoint,
        "AZURE_STORAGE_CONNECTION_STRING": server.storage_connection_string,
    }
    session = tmp_path / "session.py"
    session.write_text(block("session", sdk), "utf-8")
    done = subprocess.run([interpreter, session], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, block("output", sdk)), done.stderr


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:^    |`)make ([a-z0-9-]+)", (ROOT / document).read_text("utf-8"), re.MULTILINE))
        assert named
        assert named <= set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE)), document


def test_commands_exist() -> None:
    from batchyard.cli import table

    guide = (ROOT / "docs/install.md").read_text("utf-8")
    named = set(re.findall(r"batchyard ([a-z]+)", README))
    assert named >= {"up", "env", "status", "down", "serve"}
    named |= set(re.findall(r"`batchyard ([a-z]+)", guide))
    assert named <= {verb.name for verb in table.COMMANDS} | {noun.name for noun in table.NOUNS}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/install.md"])
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / document).read_text("utf-8")):
        assert (ROOT / document).parent.joinpath(target).exists(), target


def test_every_dependency_has_its_reason() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    reasons = (ROOT / "docs/decisions/0001-dependencies.md").read_text()
    for wish in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        assert re.match(r"[\w-]+", wish)[0] in reasons, wish  # type: ignore[index]


def test_locks_name_no_registry() -> None:
    for lock in (ROOT / "requirements").rglob("*.txt"):
        assert not re.search(r"://|^\s*--|find-links|index-url", lock.read_text(), re.MULTILINE), lock
    for lock in (ROOT / "requirements").rglob("*.json"):
        assert not re.search(r'"resolved"|registry', lock.read_text()), lock
