"""The README's commands and links exist; test_pages.py follows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


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
        assert not re.search(r'"resolved"|\bregistry\b', lock.read_text()), lock
